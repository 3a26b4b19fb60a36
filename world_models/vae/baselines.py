"""Baselines for a V model: the mean frame, principal components, and the previous frame."""

import dataclasses
from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from world_models.vae.metrics import Frames, batches

PCA_MAX_FRAMES = 20_000
PCA_ITERATIONS = 8
PCA_OVERSAMPLING = 16
POWERS_OF_TWO = tuple(2**power for power in range(13))


@dataclasses.dataclass(frozen=True)
class BaselineErrors:
    """SSE of the baselines, mean over the frames.

    Attributes:
        mean_sse: SSE of the mean frame.
        pca_sse: SSE of the reconstruction from all principal components.
        pca_sse_by_components: SSE of the reconstruction from the first 1, 2, 4, ... components, by their number.
    """

    mean_sse: float
    pca_sse: float
    pca_sse_by_components: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Baselines:
    """The mean frame and the principal components of the training frames; a model should have lower errors.

    Attributes:
        mean: mean of the frames' values in [0, 1].
        components: k orthonormal components.
    """

    mean: Float[Tensor, " values"]
    components: Float[Tensor, "k values"]

    @property
    def mean_frame(self) -> UInt8[Tensor, "64 64 3"]:
        """The mean frame of CarRacing as uint8."""
        return (self.mean * 255).round().to(torch.uint8).reshape(64, 64, 3)

    def reconstruct(self, frames: UInt8[Tensor, "batch height width channels"]) -> Float[Tensor, "batch values"]:
        """Reconstruct frames from their components; values in [0, 1]."""
        return self.mean + ((_flat(frames) - self.mean) @ self.components.T) @ self.components

    def measure(self, frames: Frames) -> BaselineErrors:
        """Measure the SSE of the baselines on frames."""
        mean_sse = pca_sse = 0.0
        explained = torch.zeros(len(self.components), dtype=torch.float64)
        for batch in batches(frames):
            centred = _flat(batch) - self.mean
            coefficients = centred @ self.components.T
            mean_sse += float(centred.square().sum(dtype=torch.float64))
            pca_sse += float((centred - coefficients @ self.components).square().sum(dtype=torch.float64))
            explained += coefficients.square().sum(0, dtype=torch.float64)
        unexplained = (mean_sse - explained.cumsum(0)) / len(frames)
        counts = [count for count in POWERS_OF_TWO if count <= len(self.components)]
        by_components = {str(count): float(unexplained[count - 1]) for count in counts}
        return BaselineErrors(mean_sse / len(frames), pca_sse / len(frames), by_components)

    def coefficients(self, frames: UInt8[Tensor, "batch height width channels"]) -> Float[Tensor, "batch k"]:
        """The coefficients of each frame in the basis of the components."""
        return (_flat(frames) - self.mean) @ self.components.T


def _flat(frames: UInt8[Tensor, "batch height width channels"]) -> Float[Tensor, "batch values"]:
    return frames.flatten(1).float() / 255


def fit_baselines(frames: Frames, num_components: int) -> Baselines:
    """Compute the mean, and the principal components by subspace iteration (Halko et al. 2011, algorithm 4.4).

    Frames stay uint8 in memory. The computation runs on the CPU with its own random numbers, so the result does not
    depend on the device that trains.
    """
    num_values = frames[0].size
    k = min(num_components, len(frames), num_values)
    mean = sum(
        (_flat(batch).sum(0, dtype=torch.float64) for batch in batches(frames, 512)), torch.zeros(num_values)
    ) / len(frames)
    mean = mean.float()
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(
        torch.randn(num_values, min(k + PCA_OVERSAMPLING, len(frames), num_values), generator=generator)
    ).Q
    for _ in range(PCA_ITERATIONS):
        basis = torch.linalg.qr(_covariance_times(frames, mean, basis)).Q
    _, rotation = torch.linalg.eigh(basis.T @ _covariance_times(frames, mean, basis))
    return Baselines(mean, (basis @ rotation.flip(1)[:, :k]).T.contiguous())


def _covariance_times(frames: Frames, mean: Float[Tensor, " values"], basis: Float[Tensor, "values k"]) -> Tensor:
    product = torch.zeros_like(basis)
    for batch in batches(frames, 512):
        centred = _flat(batch) - mean
        product += centred.T @ (centred @ basis)
    return product / len(frames)


def previous_frame_sse(frames: Frames) -> float:
    """SSE of predicting each frame by the one before it, for consecutive frames."""
    pairs = zip(batches(frames[:-1]), batches(frames[1:]), strict=True)
    return sum(float((_flat(a) - _flat(b)).square().sum(dtype=torch.float64)) for a, b in pairs) / (len(frames) - 1)


def previous_sse(episodes: Iterable[Frames]) -> float:
    """SSE of predicting each frame by the one before it, mean over the steps of whole episodes."""
    total = steps = 0
    for frames in episodes:
        total += (len(frames) - 1) * previous_frame_sse(frames)
        steps += len(frames) - 1
    return total / steps
