"""The report page of one run: a self-contained HTML file, with the numbers, the figures and what each means."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from world_models import figures, files, pictures
from world_models.metrics import Baselines, Frames
from world_models.rollouts import Rollouts
from world_models.tracking import METRICS_FILE
from world_models.vae import VAE

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
td { padding: .25rem .8rem; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; image-rendering: pixelated }
figure { margin: 2rem 0 }
figcaption { color: #555; max-width: 48rem }
"""

CAPTIONS = {
    "reconstructions": "Held-out frames (first and third row) over what the V model makes of them from z = mu.",
    "comparison": "Frames over the V model's reconstruction, that of as many principal components, and the mean frame.",
    "clip": "A held-out episode (left) beside its reconstruction (right), frame by frame.",
    "samples": "Frames decoded from the prior N(0, I), as a memory model may dream them.",
    "traversal": "What each dimension says: one moves from -3 to 3, the others stay at the frame's mu; by falling KL.",
    "interpolation": "From one held-out frame to another along a straight line in z.",
    "kl_per_dim": "KL of each latent dimension in nats per frame. Dimensions near zero say nothing about the frame.",
    "curves": "Validation over the frames seen in training; dashed, PCA with as many components.",
}

TABLE = {
    "sse": "SSE of decode(mu)",
    "pca_sse": "SSE of PCA with as many components",
    "mean_sse": "SSE of the mean frame",
    "previous_sse": "SSE of the previous frame",
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "kl_nats": "KL (nats per frame)",
    "active_units": "active units (variance of mu above 0.01)",
    "dims_used": "dimensions used (KL above 0.05 nats)",
    "elbo_nats": "ELBO (nats per frame)",
}

Shown = Mapping[str, figures.Picture | bytes]


def draw(vae: VAE, data: Rollouts, frames: Frames, baselines: Baselines, scores: Mapping[str, Any]) -> Shown:
    """The report's figures: PNG pictures as arrays, the clip as a GIF's bytes."""
    order = np.argsort(scores["kl_per_dim"])[::-1]
    return {
        "reconstructions": pictures.reconstructions(vae, frames),
        "comparison": pictures.comparison(vae, baselines, frames),
        "clip": pictures.clip(vae, data),
        "samples": pictures.samples(vae),
        "traversal": pictures.traversal(vae, frames, scores["kl_per_dim"], min(12, max(1, scores["dims_used"]))),
        "interpolation": pictures.interpolation(vae, frames),
        "kl_per_dim": figures.bars(
            np.array(scores["kl_per_dim"])[order], order.tolist(), "latent dimension", "KL (nats)"
        ),
    }


def write(run: Path, scores: Mapping[str, Any], shown: Shown) -> None:
    """Write the figures under figures/ and report.html, which holds them all in itself."""
    lines = _validation_lines(run)
    if lines:
        levels = {"val/sse": {"PCA": scores["pca_sse"]}}
        shown = {**shown, "curves": figures.curves(lines, ("val/sse", "val/kl_nats"), levels)}
    for name, picture in shown.items():
        if isinstance(picture, bytes):
            files.write_bytes(run / "figures" / f"{name}.gif", picture)
        else:
            figures.save(run / "figures" / f"{name}.png", picture)
    files.write_text(run / "report.html", page(run.name, scores, shown))


def _validation_lines(run: Path) -> list[dict[str, Any]]:
    path = run / METRICS_FILE
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
    return [line for line in lines if "val/sse" in line]


def page(name: str, scores: Mapping[str, Any], shown: Shown) -> str:
    """The report as HTML."""
    title = html.escape(f"V model {name}")
    rows = [_row(label, _number(scores[key])) for key, label in TABLE.items()]
    rows += [
        _row(f"importance-weighted bound, {k} samples (nats)", f"{v:,.1f}") for k, v in scores["iwae_nats"].items()
    ]
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{html.escape(summary(scores))}.</p>",
        f"<p>Scored on {scores['frames']:,} frames of {scores['episodes']} episodes, {_novelty(scores)}, in "
        f"{html.escape(scores['data'])}. Errors are summed over a frame's 12,288 values in [0, 1].</p>",
        f"<table>{''.join(rows)}</table>",
        _probe_table(scores["probe_r2"]),
        *(_figure(key, shown[key]) for key in CAPTIONS if key in shown),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _novelty(scores: Mapping[str, Any]) -> str:
    trained_on = scores["trained_on_episodes"]
    return (
        f"{trained_on} of which it was trained on, so that the scores flatter"
        if trained_on
        else "none of them trained on"
    )


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _row(label: str, value: str) -> str:
    return f'<tr><td>{html.escape(label)}</td><td class="number">{value}</td></tr>'


def _figure(key: str, picture: figures.Picture | bytes) -> str:
    if isinstance(picture, bytes):
        url = figures.data_url(picture, "image/gif")
    else:
        url = figures.data_url(figures.png(picture), "image/png")
    return f'<figure><img src="{url}" alt="{key}"><figcaption>{CAPTIONS[key]}</figcaption></figure>'


def _probe_table(probes: Mapping[str, float | None] | None) -> str:
    if probes is None:
        return "<p>No probes: the training data is not there, has changed, or has no telemetry.</p>"
    rows = [_row(name, "never varies" if r2 is None else f"{r2:.3f}") for name, r2 in probes.items()]
    return (
        "<h2>What mu knows of the simulator</h2><p>R2 on held-out episodes of a linear probe from mu to each column of "
        "telemetry, fitted on training episodes: 1 is perfect, 0 no better than the mean.</p>"
        f"<table>{''.join(rows)}</table>"
    )


def summary(scores: Mapping[str, Any]) -> str:
    """The result in a line."""
    return (
        f"SSE {scores['sse']:.2f} per frame (PCA-{scores['pca_components']} {scores['pca_sse']:.2f}, "
        f"mean frame {scores['mean_sse']:.2f}), KL {scores['kl_nats']:.1f} nats, "
        f"{scores['active_units']} active units of {len(scores['kl_per_dim'])}"
    )
