"""Breaks down a V model's error: by kind of frame, by state of the simulator. Also measures of mu and of samples."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8

from world_models.envs.car_frames import Columns, kinds
from world_models.runs.score_parts import AggregatePosterior, Bins, KindError

NUM_BINS = 5
NUM_DREAMS = 512
NEAR_FRAMES = 25

AnyFrames = UInt8[np.ndarray, "_ 64 64 3"]


def by_kind(sse: Float[np.ndarray, " frames"], telemetry: Columns) -> dict[str, KindError]:
    """Share of the frames and mean SSE of each kind that occurs."""
    return {
        kind: KindError(share=float(frames.mean()), sse=float(sse[frames].mean()))
        for kind, frames in kinds(telemetry).items()
        if frames.any()
    }


def by_telemetry(sse: Float[np.ndarray, " frames"], telemetry: Columns) -> dict[str, Bins]:
    """Mean SSE in up to five bins of each column of telemetry. The bins of a column hold about equally many frames."""
    binned = {}
    for name, values in telemetry.items():
        edges = np.unique(np.quantile(values, np.linspace(0, 1, NUM_BINS + 1), method="lower"))
        if len(edges) > 1:
            which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
            means = [float(sse[which == index].mean()) for index in range(len(edges) - 1)]
            binned[name] = Bins(edges.tolist(), means)
    return binned


def worst(sse: Float[np.ndarray, " frames"], count: int = 16) -> list[int]:
    """Positions of the frames with the largest errors, the largest first.

    Two chosen frames are more than 25 positions apart, because neighbouring frames look the same.
    """
    chosen: list[int] = []
    for index in np.argsort(-sse, kind="stable").tolist():
        if all(abs(index - other) > NEAR_FRAMES for other in chosen):
            chosen.append(index)
        if len(chosen) == count:
            break
    return chosen


def unsteadiness(episodes: Sequence[Float[np.ndarray, "_ z"]]) -> list[float]:
    """Change of each dimension of mu from frame to frame: the mean squared change over twice the variance.

    0 means that the dimension is constant, 1 that it changes as much as between two random frames.
    """
    changes = np.concatenate([np.diff(mu.astype(np.float64), axis=0) for mu in episodes])
    variance = np.concatenate(episodes).var(0, dtype=np.float64)
    return (np.square(changes).mean(0) / np.maximum(2 * variance, 1e-12)).tolist()


def aggregate_posterior(
    mu: Float[np.ndarray, "frames z"], variance: Float[np.ndarray, "frames z"]
) -> AggregatePosterior:
    """Mean and standard deviation of z over all frames and samples; those of the prior are 0 and 1.

    Args:
        mu: posterior mean of each frame.
        variance: posterior variance of each frame, sigma squared.
    """
    total = mu.var(0, dtype=np.float64) + variance.mean(0, dtype=np.float64)
    return AggregatePosterior(mu.mean(0, dtype=np.float64).tolist(), np.sqrt(total).tolist())


def plausible_share(dreams: AnyFrames, training: AnyFrames, held_out: AnyFrames) -> float:
    """Share of dreamed frames that are like held-out frames in two ways.

    First, they are as close to the nearest training frame as 99 of 100 held-out frames are. Second, their edges are as
    strong as those of the middle 98 of 100 held-out frames. This excludes blurred frames, which are close to all.

    Args:
        dreams: frames decoded from samples of the prior.
        training: training frames.
        held_out: frames that were not trained on.
    """
    dream_sse, held_out_sse = np.split(_nearest_sse(np.concatenate([dreams, held_out]), training), [len(dreams)])
    near = dream_sse <= np.quantile(held_out_sse, 0.99)
    least, most = np.quantile(_edges(held_out), [0.01, 0.99])
    edges = _edges(dreams)
    return float((near & (least <= edges) & (edges <= most)).mean())


def _edges(frames: AnyFrames) -> Float[np.ndarray, " _"]:
    """Strength of the edges of each frame: squared differences of neighbouring pixels, summed over the frame."""
    values = frames.astype(np.float32) / 255
    down, across = (np.square(np.diff(values, axis=axis)).sum((1, 2, 3)) for axis in (1, 2))
    return down + across


def _nearest_sse(frames: AnyFrames, others: AnyFrames) -> Float[np.ndarray, " _"]:
    # scikit-learn's neighbours give the same share of plausible frames, but take 1.6 times the processor time.
    other_values = torch.from_numpy(others).flatten(1).float().div_(255)
    parts = (part.float().div_(255) for part in torch.from_numpy(frames).flatten(1).split(512))
    return torch.cat([torch.cdist(part, other_values).min(1).values.square() for part in parts]).numpy()
