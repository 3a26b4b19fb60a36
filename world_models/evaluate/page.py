"""The report page of one run: a self-contained HTML file, with the numbers, the figures and what each means."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_models.data.rollouts import Rollouts
from world_models.drawing import charts, grids, model_views
from world_models.drawing.html import STYLE, figure, row
from world_models.evaluate import breakdown
from world_models.runs.layout import FIGURES, REPORT_FILE
from world_models.runs.records import read_lines
from world_models.runtime import files
from world_models.vae.baselines import Baselines
from world_models.vae.metrics import Frames, Scored
from world_models.vae.model import USED_KL_NATS, VAE

CAPTIONS = {
    "reconstructions": "Held-out frames (first and third row) over what the V model makes of them from z = mu.",
    "comparison": "Frames over the V model's reconstruction, that of as many principal components, and the mean frame.",
    "clip": "A held-out episode (left) beside its reconstruction (right), every other frame.",
    "dream": "100 held-out frames as they came, as the V model reconstructs them, and as the memory models dream them "
    "from the frame before on, told the actions alone: the one that predicts z, then the one that predicts its change.",
    "samples": "Frames decoded from the prior N(0, I), as a memory model may dream them.",
    "traversal": "What each dimension says: one moves from -3 to 3, the others stay at the frame's mu; by falling KL.",
    "interpolation": "From one held-out frame to another along a straight line in z.",
    "arithmetic": "The most usual frame plus -1.5 to 1.5 times the mean mu of frames where a column of telemetry is "
    "high, less that of frames where it is low: what the model changes with it. The six columns that mu tells best.",
    "worst": "The 16 held-out stretches with the largest error, the worst frame of each over its reconstruction.",
    "error_map": "Where in the image the error lies: squared error per pixel, mean over frames.",
    "telemetry": "Mean SSE where a column of telemetry is low to high, in up to five bins of about as many frames, for "
    "the six columns over which the error varies most.",
    "rate_distortion": "What the latents cost (KL, to the left is cheaper) and what the frames lose (SSE, lower is "
    "better); hollow, of a validation on other frames. Dashed, PCA by its number of components.",
    "kl_per_dim": "KL of each latent dimension in nats per frame. Dimensions near zero say nothing about the frame.",
    "drive": "The controller on mu drives: 20 of the tracks from the worst to the best, each with its score. The "
    "road is grey, the path blue, the start a green dot, the end a red cross.",
    "curves": "Validation over the frames seen in training; dashed, PCA with as many components on the frames scored "
    "here, which are others.",
}
CHARTS = {"drive", "error_map", "telemetry", "rate_distortion", "kl_per_dim", "curves"}

TABLE = {
    "sse": "SSE of decode(mu)",
    "pca_sse": "SSE of PCA-{pca_components}",
    "mean_sse": "SSE of the mean frame",
    "previous_sse": "SSE of the previous frame (in 20 episodes at most)",
    "psnr_db": "PSNR (dB)",
    "ssim": "SSIM",
    "kl_nats": "KL (nats per frame)",
    "active_units": "active units (variance of mu above 0.01)",
    "dims_used": "dimensions used (KL above 0.05 nats)",
    "elbo_nats": "ELBO (nats per frame)",
}

BOUND = "importance-weighted bound, k = {k} (nats; on {of:,} frames, whose ELBO is that of k = 1)"

Shown = Mapping[str, grids.Picture | bytes]


def draw(vae: VAE, data: Rollouts, frames: Frames, baselines: Baselines, scores: Mapping[str, Any]) -> Shown:
    """The report's figures: PNG pictures as arrays, the clip as a GIF's bytes."""
    order = np.argsort(scores["kl_per_dim"])[::-1]
    return {
        "reconstructions": model_views.reconstructions(vae, frames),
        "comparison": model_views.comparison(vae, baselines, frames),
        "clip": model_views.clip(vae, data),
        "samples": model_views.samples(vae),
        "traversal": model_views.traversal(vae, frames, scores["kl_per_dim"], min(12, max(1, scores["dims_used"]))),
        "interpolation": model_views.interpolation(vae, frames),
        "kl_per_dim": charts.bars(
            np.array(scores["kl_per_dim"])[order], order.tolist(), "latent dimension", "KL (nats)"
        ),
    }


def draw_breakdown(
    vae: VAE, frames: Frames, scored: Scored, columns: breakdown.Columns, scores: Mapping[str, Any]
) -> Shown:
    """The figures on where the error lies, and on what mu does with the telemetry."""
    shown = {
        "error_map": charts.heat_map(scored.error_map, "squared error per pixel"),
        "worst": model_views.worst(vae, frames[breakdown.worst(scored.sse)]),
    }
    binned = scores["sse_by_telemetry"]
    most = sorted(binned, key=lambda name: min(binned[name]["sse"]) - max(binned[name]["sse"]))[:6]
    drawn = [charts.bins(binned[name]["edges"], binned[name]["sse"], name, "SSE") for name in most]
    if drawn:
        shown["telemetry"] = np.concatenate([np.concatenate(row, 1) for row in _rows_of_3(drawn)])
    known = {name: r2 for name, r2 in (scores["probe_r2"] or {}).items() if r2 is not None}
    told = sorted(known, key=lambda name: -known[name])[:6]
    if told:
        shown["arithmetic"] = model_views.along_telemetry(vae, scored.mu, {name: columns[name] for name in told})
    return shown


def _rows_of_3(drawn: Sequence[grids.Picture]) -> list[list[grids.Picture]]:
    blank = np.full_like(drawn[0], grids.WHITE)
    padded = [*drawn, *[blank] * (-len(drawn) % 3)]
    return [padded[start : start + 3] for start in range(0, len(padded), 3)]


def draw_curves(run: Path, scores: Mapping[str, Any]) -> Shown:
    """The run's validations, if there are any."""
    names = ("val/sse", "val/kl_nats")
    lines = [line for line in read_lines(run) if line.keys() >= set(names)]
    return {"curves": charts.curves(lines, names, {"val/sse": {"PCA": scores["pca_sse"]}})} if lines else {}


def write(run: Path, scores: Mapping[str, Any], shown: Shown) -> None:
    """Write the figures under figures/ and report.html, which holds them all in itself."""
    grids.save_all(run / FIGURES, shown)
    files.write_text(run / REPORT_FILE, page(run.name, scores, shown))


def page(name: str, scores: Mapping[str, Any], shown: Shown) -> str:
    """The report as HTML."""
    title = html.escape(f"V model {name}")
    rows = [row(label.format_map(scores), _number(scores[key])) for key, label in TABLE.items()]
    rows += [row(BOUND.format(k=k, of=scores["iwae_frames"]), f"{v:,.1f}") for k, v in scores["iwae_nats"].items()]
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{html.escape(summary(scores))}.</p>",
        f"<p>Scored on {scores['frames']:,} frames of {scores['episodes']} episodes, {_novelty(scores)}, in "
        f"{html.escape(scores['data'])}. Errors are summed over a frame's 12,288 values in [0, 1].</p>",
        f"<table>{''.join(rows)}</table>",
        _latents(scores),
        _kind_table(scores["sse_by_kind"]),
        _probe_tables(scores),
        _foresight_tables(scores["foresight"]),
        _drive_table(scores["drive"]),
        *(figure(key, shown[key], caption, key in CHARTS) for key, caption in CAPTIONS.items() if key in shown),
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


def _latents(scores: Mapping[str, Any]) -> str:
    """What a memory model has to know of z, in words."""
    posterior, unsteadiness = scores["aggregate_posterior"], scores["unsteadiness"]
    used = [index for index, kl in enumerate(scores["kl_per_dim"]) if kl > USED_KL_NATS]
    moved = f"{np.median([unsteadiness[index] for index in used]):.3f}" if used else "nothing"
    share = scores["plausible_share"]
    plausible = "" if share is None else PLAUSIBLE.format(count=breakdown.NUM_DREAMS, share=share)
    return (
        f"<p>Over all frames, z has means between {min(posterior['mean']):.2f} and {max(posterior['mean']):.2f} and "
        f"standard deviations between {min(posterior['std']):.2f} and {max(posterior['std']):.2f}; the prior's are 0 "
        f"and 1. From one frame to the next (in 20 episodes at most), mu moves by {moved} of what lies between any two "
        "frames (median of the squared change of the dimensions used; 0 is still, 1 unrelated)."
        f"{plausible}</p>"
    )


def _kind_table(by_kind: Mapping[str, Mapping[str, float]]) -> str:
    if not by_kind:
        return ""
    rows = [row(kind, f"{of['sse']:.2f}", f"{of['share']:.0%}") for kind, of in by_kind.items()]
    return f"<h2>Error by kind of frame</h2><table>{row('frames', 'SSE', 'share of all')}{''.join(rows)}</table>"


FORESIGHT = (
    "<h2>What a memory model foresees</h2><p>SSE per frame of decoded predictions on held-out episodes, without a look "
    "at the frames between. The memory model is the paper's: an LSTM of 256 units, five normal distributions for each "
    "dimension of z. It was trained on these latents in two forms: one predicts z, the other how z changes. Lower bar: "
    "repeat the current frame, or decode the current z again. Upper bar: reconstruct the frame that came. Samples: the "
    "mean of decoded random futures. PCA: the same memory model on principal components.</p>"
)
FORESEEN = {
    "foreseen": "foreseen",
    "foreseen_by_seed": "by seed of the memory",
    "sampled": "by samples",
    "stays": "the frame stays",
    "z_stays": "z stays",
    "reconstructed": "reconstructed",
    "pca": "PCA foreseen",
}
FORM_TITLES = {"predicts_z": "predicts z", "predicts_change": "predicts the change of z"}


def _foresight_tables(foreseen: Mapping[str, Mapping[str, Mapping[str, Any]]] | None) -> str:
    if not foreseen:
        return ""
    return FORESIGHT + "".join(
        f"<h3>The memory {title}</h3><table>{row('steps ahead', *FORESEEN.values())}"
        + "".join(row(ahead, *(_errors(of[key]) for key in FORESEEN)) for ahead, of in foreseen[form].items())
        + "</table>"
        for form, title in FORM_TITLES.items()
    )


def _errors(value: float | Sequence[float]) -> str:
    return ", ".join(f"{each:.2f}" for each in (value if isinstance(value, Sequence) else [value]))


DRIVE = (
    "<h2>What a controller does with mu</h2><p>Sum of rewards on {tracks} tracks of 1,000 steps that nothing was "
    "fitted to. The controller is linear in mu of one frame and learned by imitating the expert, which sees the "
    "simulator's state; beside it the same controller on PCA's coefficients, and the expert itself.</p>"
)
DRIVEN = "on mu: median {median:.0f}, standard deviation over tracks {std:.0f}, {laps} laps finished"
DRIVERS = {"mean": "on mu", "pca_mean": "on PCA", "expert_mean": "expert"}


def _drive_table(driven: Mapping[str, Any] | None) -> str:
    if not driven:
        return ""
    rows = [row(label, f"{driven[key]:.0f}") for key, label in DRIVERS.items()]
    return f"{DRIVE.format_map(driven)}<table>{''.join(rows)}</table><p>{DRIVEN.format_map(driven)}.</p>"


PLAUSIBLE = (
    " Of {count} frames dreamed from the prior {share:.0%} are plausible: no farther from the nearest of 4,000 "
    "training frames (or of all, if there are fewer) than 99 of 100 held-out frames are, with edges as strong as those "
    "of the middle 98 of 100."
)
READINGS = {
    "mu_linear": "mu, linear",
    "mu_mlp": "mu, network",
    "pca_linear": "PCA, linear",
    "pca_mlp": "PCA, network",
    "pixels_linear": "pixels, linear",
}


def _probe_tables(scores: Mapping[str, Any]) -> str:
    if scores["probes"] is None:
        return "<p>No probes: there is no training data to fit them on, or no telemetry.</p>"
    on_road = scores["probes_on_road"]
    return (
        "<h2>What mu knows of the simulator</h2><p>R2 on held-out episodes of probes to each column of telemetry, "
        "fitted on training episodes: 1 is perfect, 0 no better than the mean. Linear is ridge regression, network has "
        "two hidden layers; PCA has as many components as the model has dimensions; pixels are the raw frame.</p>"
        + _probe_table(scores["probes"])
        + (
            "<p>On frames that show the car driving along the road, with all wheels on it, the opening zoom over:</p>"
            + _probe_table(on_road)
            if on_road
            else ""
        )
    )


def _probe_table(probes: Mapping[str, Mapping[str, float | None]]) -> str:
    rows = [
        row(name, *("never varies" if r2 is None else f"{r2:.3f}" for r2 in (probes[key][name] for key in READINGS)))
        for name in probes["mu_linear"]
    ]
    return f"<table>{row('telemetry', *READINGS.values())}{''.join(rows)}</table>"


def summary(scores: Mapping[str, Any]) -> str:
    """The result in a line."""
    return (
        f"SSE {scores['sse']:.2f} per frame (PCA-{scores['pca_components']} {scores['pca_sse']:.2f}, "
        f"mean frame {scores['mean_sse']:.2f}), KL {scores['kl_nats']:.1f} nats, "
        f"{scores['active_units']} active units of {len(scores['kl_per_dim'])}"
        + (f", drives to {scores['drive']['mean']:.0f}" if scores["drive"] else "")
    )
