"""Statistics of z for the page: KL and spread of each dimension, principal components, directions of telemetry."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from world_models.envs import car_frames
from world_models.explore.shown import Sample, column
from world_models.runtime import threads
from world_models.runtime.errors import Stopped
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.metrics import ACTIVE_VARIANCE, USED_KL_NATS
from world_models.vae.model import VAE
from world_models.vae.posterior import Posterior

RIDGE = 1e-3
"""Strength of ridge regression, per frame, on z in standard deviations."""

FOLDS = 5
"""Number of parts of the cross-validation."""

MIN_R2 = 0.1
MIN_FRAMES = 20
LARGEST_TELEMETRY = 1e15
MIN_SPREAD = 1e-6

Mu = Float32[np.ndarray, "frames z"]


def encode(vae: VAE, data: LabelledFrames, run: Path) -> Posterior:
    """Encode frames, in batches; the posterior is on the CPU.

    Raises:
        Stopped: the model gives numbers that are not finite.
    """
    parts = threads.in_threads(lambda batch: vae.encode(*batch), [*data.batches()])
    mu, logvar = (torch.cat([getattr(part, name) for part in parts]).cpu() for name in ("mu", "logvar"))
    found = dataclasses.replace(parts[0], mu=mu, logvar=logvar)
    if not bool(found.mu.isfinite().all() and found.kl_nats_per_dim().isfinite().all()):
        raise Stopped(f"{run}: the model gives numbers that are not finite for some frames; train it again")
    return found


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """The dimensions of z over some frames.

    Attributes:
        kl_nats: mean KL of each; zeros for a plain autoencoder.
        order: their numbers, those with the highest KL first; for a plain autoencoder, those with the largest spread.
        used: whether each is in use.
        mean, std: mean and standard deviation of z, sampled once for each frame; for the prior they are 0 and 1.
    """

    kl_nats: list[float]
    order: list[int]
    used: list[bool]
    mean: list[float]
    std: list[float]


def dimensions(vae: VAE, posterior: Posterior) -> Dimensions:
    """Describe the dimensions of z."""
    mu, variance = posterior.mu.double(), posterior.logvar.double().exp()
    kl, std = posterior.kl_nats_per_dim().double().mean(0), (mu.var(0, correction=0) + variance.mean(0)).sqrt()
    is_point = vae.config.posterior == "point"
    used = std.square() > ACTIVE_VARIANCE if is_point else kl > USED_KL_NATS
    order = (std if is_point else kl).argsort(descending=True, stable=True)
    return Dimensions(kl.tolist(), order.tolist(), used.tolist(), mu.mean(0).tolist(), std.tolist())


@dataclasses.dataclass(frozen=True)
class Map:
    """The plane of z with the largest variance.

    Attributes:
        mean: its origin.
        components: its two directions, of length 1; the second is zero if z has one dimension.
        explained: share of the variance along each.
    """

    mean: list[float]
    components: list[list[float]]
    explained: list[float]


def plane(mu: Mu) -> Map:
    """The first two principal components of mu. The largest weight of each is positive."""
    mean = mu.mean(0, dtype=np.float64)
    centred = mu - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(mu))
    components, explained = np.zeros((2, mu.shape[1])), np.zeros(2)
    for row in range(min(2, len(values))):
        vector = vectors[:, -1 - row]
        components[row] = vector * np.sign(vector[np.abs(vector).argmax()])
        explained[row] = max(values[-1 - row], 0) / max(values.clip(0).sum(), 1e-300)
    return Map(mean.tolist(), components.tolist(), explained.tolist())


@dataclasses.dataclass(frozen=True)
class Direction:
    """A direction of z along which a column of telemetry changes.

    A linear regression predicts the column: `intercept` plus the sum of `weights` times z. Adding `vector` to z raises
    the prediction by 1. Of all such vectors it is the most likely change of z under the data's covariance.

    Attributes:
        name: the column.
        unit: its unit.
        vector: the change of z.
        weights: the regression's weights.
        intercept: its prediction at z = 0.
        mean, std: mean and standard deviation of the column.
        r2: share of the column's variance that such a regression predicts on episodes that it was not fitted on.
    """

    name: str
    unit: str
    vector: list[float]
    weights: list[float]
    intercept: float
    mean: float
    std: float
    r2: float


def directions(mu: Mu, sample: Sample, names: Sequence[str]) -> list[Direction]:
    """The directions of the columns that can be predicted, the best first.

    A regression is fitted on all frames, and for CarRacing another one on the frames along the road. The better one is
    taken.

    Args:
        mu: z of the sampled frames.
        sample: the frames, with their telemetry.
        names: names of the columns of telemetry, as the data name them.
    """
    columns = dict(zip(names, sample.telemetry.astype(np.float64).T, strict=True))
    everywhere, on_road = np.ones(len(mu), bool), car_frames.along_the_road(columns)
    choices = [everywhere] if on_road is None else [everywhere, on_road]
    z = mu.astype(np.float64)
    found = [
        max(fits, key=lambda each: each.r2)
        for name, values in columns.items()
        if (fits := [fit for rows in choices if (fit := _fit(z[rows], values[rows], sample.episodes[rows], name))])
    ]
    return sorted((each for each in found if each.r2 >= MIN_R2), key=lambda each: -each.r2)


def _fit(
    z: Float64[np.ndarray, "frames z"],
    values: Float64[np.ndarray, " frames"],
    episodes: Int64[np.ndarray, " frames"],
    name: str,
) -> Direction | None:
    """The direction of a column; None if there are few frames, or the column is constant or not finite."""
    if len(z) < MIN_FRAMES or not (np.abs(values) < LARGEST_TELEMETRY).all() or values.std() < MIN_SPREAD:
        return None
    weights, intercept = _ridge(z, values)
    across = np.cov(z.T, ddof=0).reshape(z.shape[1], z.shape[1]) @ weights
    head = column(name)
    return Direction(
        name=head.name,
        unit=head.unit,
        vector=(across / max(float(weights @ across), 1e-300)).tolist(),
        weights=weights.tolist(),
        intercept=intercept,
        mean=float(values.mean()),
        std=float(values.std()),
        r2=_cross_validated_r2(z, values, episodes),
    )


def _cross_validated_r2(
    z: Float64[np.ndarray, "frames z"], values: Float64[np.ndarray, " frames"], episodes: Int64[np.ndarray, " frames"]
) -> float:
    """R2 on frames of episodes that the regression was not fitted on. A single episode is cut into five parts."""
    found, numbers = np.unique(episodes, return_inverse=True)
    parts = numbers % FOLDS if len(found) > 1 else np.arange(len(z)) * FOLDS // len(z)
    missed = 0.0
    for part in np.unique(parts):
        held_out = parts == part
        weights, intercept = _ridge(z[~held_out], values[~held_out])
        missed += float(np.square(values[held_out] - z[held_out] @ weights - intercept).sum())
    return 1 - missed / float(np.square(values - values.mean()).sum())


def _ridge(
    z: Float64[np.ndarray, "frames z"], values: Float64[np.ndarray, " frames"]
) -> tuple[Float64[np.ndarray, " z"], float]:
    """Weights and intercept of a ridge regression on standardised z."""
    mean, scale = z.mean(0), z.std(0) + 1e-8
    rows = (z - mean) / scale
    matrix = rows.T @ rows + RIDGE * len(z) * np.eye(z.shape[1])
    weights = np.linalg.solve(matrix, rows.T @ (values - values.mean())) / scale
    return weights, float(values.mean() - mean @ weights)
