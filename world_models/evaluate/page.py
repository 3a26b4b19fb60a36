"""The report page of one run: a self-contained HTML file with the numbers and the figures, and their explanations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from world_models.data.rollouts import Rollouts
from world_models.drawing import charts, grids, model_views, pages
from world_models.evaluate import breakdown
from world_models.evaluate.evaluation import Figures
from world_models.runs.records import read_lines
from world_models.runs.scores import RolloutScores
from world_models.vae.baselines import Baselines
from world_models.vae.metrics import USED_KL_NATS, Frames, FrameScores, MeanScores
from world_models.vae.model import VAE


def draw(vae: VAE, data: Rollouts, frames: Frames, baselines: Baselines, mean_scores: MeanScores) -> Figures:
    """Draw most of the report's figures: pictures as arrays, the clip as the bytes of a GIF."""
    kl = np.array(mean_scores.kl_per_dim)
    order = np.argsort(kl)[::-1]
    return {
        "reconstructions": model_views.reconstructions(vae, frames),
        "comparison": model_views.comparison(vae, baselines, frames),
        "clip": model_views.clip(vae, data),
        "samples": model_views.samples(vae),
        "traversal": model_views.traversal(vae, frames, mean_scores.kl_per_dim, min(12, max(1, mean_scores.dims_used))),
        "interpolation": model_views.interpolation(vae, frames),
        "kl_per_dim": charts.bars(kl[order], order.tolist(), "latent dimension", "KL (nats)"),
    }


def draw_breakdown(
    vae: VAE, frames: Frames, frame_scores: FrameScores, columns: breakdown.Columns, scores: RolloutScores
) -> Figures:
    """Draw the figures that break down the error, and those of mu along the telemetry."""
    figures = {
        "error_map": charts.heat_map(frame_scores.error_map, "squared error per pixel"),
        "worst": model_views.worst(vae, frames[breakdown.worst(frame_scores.sse)]),
    }
    binned = scores.sse_by_telemetry or {}
    most = sorted(binned, key=lambda name: min(binned[name].sse) - max(binned[name].sse))[:6]
    drawn = [charts.bins(binned[name].edges, binned[name].sse, name, "SSE") for name in most]
    if drawn:
        figures["telemetry"] = np.concatenate([np.concatenate(row, 1) for row in _rows_of_3(drawn)])
    known = {name: r2 for name, r2 in (scores.probe_r2 or {}).items() if r2 is not None}
    best = sorted(known, key=lambda name: -known[name])[:6]
    if best:
        figures["arithmetic"] = model_views.along_telemetry(
            vae, frame_scores.mu, {name: columns[name] for name in best}
        )
    return figures


def _rows_of_3(drawn: Sequence[grids.Picture]) -> list[list[grids.Picture]]:
    blank = np.full_like(drawn[0], grids.WHITE)
    padded = [*drawn, *[blank] * (-len(drawn) % 3)]
    return [padded[start : start + 3] for start in range(0, len(padded), 3)]


def draw_curves(run: Path, scores: RolloutScores) -> Figures:
    """Draw the curves of the run's validations, if there are any."""
    names = ("val/sse", "val/kl_nats")
    lines = [line for line in read_lines(run) if line.keys() >= set(names)]
    levels = {} if scores.pca_sse is None else {"PCA": scores.pca_sse}
    return {"curves": charts.curves(lines, names, {"val/sse": levels})} if lines else {}


def page(name: str, scores: RolloutScores, figures: Figures) -> str:
    """Make the report as HTML."""
    return pages.render(
        "report.html",
        name=name,
        scores=scores,
        summary=scores.summary(),
        figures=figures,
        median_unsteadiness=_median_unsteadiness,
        num_dreams=breakdown.NUM_DREAMS,
    )


def _median_unsteadiness(kl_per_dim: Sequence[float], unsteadiness: Sequence[float]) -> float | None:
    """The median unsteadiness of the used dimensions; None if no dimension is used."""
    used = [change for kl, change in zip(kl_per_dim, unsteadiness, strict=True) if kl > USED_KL_NATS]
    return float(np.median(used)) if used else None
