"""The report page of one run: a self-contained HTML file, with the numbers, the figures and what each means."""

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from world_models import figures, files
from world_models.metrics import Baselines, Frames
from world_models.rollouts import Rollouts
from world_models.tracking import METRICS_FILE
from world_models.vae import VAE, to_frames

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100%; image-rendering: pixelated }
figure { margin: 2rem 0 } figcaption { color: #555; max-width: 48rem }
"""

CAPTIONS = {
    "reconstructions": "Held-out frames (first and third row) over what the V model makes of them from 32 numbers.",
    "comparison": "From top to bottom: the frame, the V model's reconstruction, that of as many principal components, and the mean frame.",
    "samples": "Frames decoded from the prior N(0, I): what a memory model may dream of. They should look like CarRacing.",
    "traversal": "One latent dimension a row, by falling KL, from -3 to 3 while the others stay at the frame's mu: what each dimension says.",
    "interpolation": "From one held-out frame to another along a straight line in z.",
    "kl_per_dim": "KL of each latent dimension, in nats per frame, by size. Dimensions near zero say nothing about the frame.",
    "curves": "Validation over the frames seen in training.",
    "clip": "A held-out episode (left) beside its reconstruction, frame by frame (right).",
}

TABLE = {
    "sse": "SSE per frame of decode(mu)",
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


def draw(vae: VAE, data: Rollouts, frames: Frames, baselines: Baselines, scores: dict[str, Any]) -> dict[str, figures.Picture | bytes]:
    """The report's figures: PNG pictures as arrays, the clip as a GIF's bytes."""
    chosen = torch.from_numpy(frames[np.linspace(0, len(frames) - 1, 18).astype(int)[1:-1]])
    mu = vae.encode(chosen).mu
    decoded, shown = vae.decode(mu).cpu().numpy(), chosen.numpy()
    prior = torch.randn(64, vae.config.z_dim, generator=torch.Generator().manual_seed(0))
    pca = to_frames(baselines.reconstruct(chosen[:8]).reshape(-1, 64, 64, 3).permute(0, 3, 1, 2)).numpy()
    mean = baselines.mean_frame.numpy()[None].repeat(8, 0)
    order = np.argsort(scores["kl_per_dim"])[::-1]
    return {
        "reconstructions": figures.grid([shown[:8], decoded[:8], shown[8:], decoded[8:]]),
        "comparison": figures.labelled(figures.grid([shown[:8], decoded[:8], pca, mean]), ["frame", "V model", "PCA", "mean frame"], 90),
        "clip": _clip(vae, data),
        "samples": figures.sheet(vae.decode(prior).cpu().numpy()),
        "traversal": _traversal(vae, mu[8], order[: max(1, min(12, scores["dims_used"]))].tolist(), scores["kl_per_dim"]),
        "interpolation": figures.grid([vae.decode(_line(mu[0], mu[-1], 12)).cpu().numpy()]),
        "kl_per_dim": figures.bars(np.array(scores["kl_per_dim"])[order], order.tolist(), "latent dimension", "KL (nats)"),
    }


def _line(start: Float[Tensor, " z"], end: Float[Tensor, " z"], count: int) -> Float[Tensor, "count z"]:
    weights = torch.linspace(0, 1, count, device=start.device)[:, None]
    return start + weights * (end - start)


def _traversal(vae: VAE, mu: Float[Tensor, " z"], dims: list[int], kl_per_dim: list[float]) -> figures.Picture:
    values = torch.linspace(-3, 3, 9)
    rows = []
    for dim in dims:
        z = mu.repeat(len(values), 1).clone()
        z[:, dim] = values.to(z)
        rows.append(vae.decode(z).cpu().numpy())
    return figures.labelled(figures.grid(rows), [f"z[{dim}]\n{kl_per_dim[dim]:.2f} nats" for dim in dims], 90)


def _clip(vae: VAE, data: Rollouts, num_frames: int = 100) -> bytes:
    """Every other frame of the middle of the episode that earned most."""
    episode = data[int(np.argmax(data.returns()))]
    first = max(0, (len(episode) - 2 * num_frames) // 2)
    frames = episode.frames[first : first + 2 * num_frames : 2]
    decoded = vae.decode(vae.encode(frames).mu).cpu().numpy()
    return figures.clip_gif(frames, decoded)


def write(run: Path, scores: dict[str, Any], pictures: dict[str, figures.Picture | bytes]) -> None:
    """Write the figures under figures/ and report.html, which holds them all in itself."""
    curves = figures.curves(_validation_lines(run), ("val/sse", "val/kl_nats"), {"val/sse": {"PCA": scores["pca_sse"]}})
    shown = pictures | ({"curves": curves} if curves is not None else {})
    for name, picture in shown.items():
        if isinstance(picture, bytes):
            with files.whole(run / "figures" / f"{name}.gif") as temporary:
                temporary.write_bytes(picture)
        else:
            figures.save(run / "figures" / f"{name}.png", picture)
    files.write_text(run / "report.html", page(run.name, scores, shown))


def _validation_lines(run: Path) -> list[dict[str, Any]]:
    path = run / METRICS_FILE
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
    return [line for line in lines if "val/sse" in line]


def page(name: str, scores: dict[str, Any], pictures: dict[str, figures.Picture | bytes]) -> str:
    """The report as HTML."""
    numbers = "".join(f'<tr><td>{label}</td><td class="number">{scores[key]:,.4g}</td></tr>' for key, label in TABLE.items())
    bounds = "".join(
        f'<tr><td>importance-weighted bound, {k} samples (nats per frame)</td><td class="number">{value:,.1f}</td></tr>'
        for k, value in scores["iwae_nats"].items()
    )
    shown = "".join(_figure(key, pictures[key]) for key in CAPTIONS if key in pictures)
    title = html.escape(name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body>'
        f"<h1>V model {title}</h1><p>{html.escape(summary(scores))}</p>"
        f"<p>Scored on {scores['frames']:,} frames of {scores['episodes']} held-out episodes in "
        f"{html.escape(scores['data'])}. Errors are summed over a frame's 12,288 values in [0, 1].</p>"
        f"<table>{numbers}{bounds}</table>{_probe_table(scores['probe_r2'])}{shown}</body></html>\n"
    )


def _figure(key: str, picture: figures.Picture | bytes) -> str:
    gif = isinstance(picture, bytes)
    url = figures.data_url(picture, "image/gif") if gif else figures.data_url(figures.png(picture), "image/png")
    return f'<figure><img src="{url}" alt="{key}"><figcaption>{CAPTIONS[key]}</figcaption></figure>'


def _probe_table(probes: dict[str, float | None] | None) -> str:
    if probes is None:
        return ""
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="number">{"never varies" if r2 is None else f"{r2:.3f}"}</td></tr>'
        for name, r2 in probes.items()
    )
    return (
        "<h2>What mu knows of the simulator</h2><p>R2 on held-out episodes of a linear probe from mu to each telemetry column, "
        f"fitted on training episodes: 1 is perfect, 0 is the mean, below 0 is worse than the mean.</p><table>{rows}</table>"
    )


def summary(scores: dict[str, Any]) -> str:
    """The result in a line."""
    return (
        f"SSE {scores['sse']:.2f} per frame (PCA {scores['pca_sse']:.2f}, mean frame {scores['mean_sse']:.2f}), "
        f"KL {scores['kl_nats']:.1f} nats, {scores['active_units']} active units of {len(scores['kl_per_dim'])}"
    )
