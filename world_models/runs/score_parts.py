"""The parts of eval.json that hold several numbers, such as the errors of a memory model. It imports no torch."""

import dataclasses
from collections.abc import Mapping, Sequence

R2 = Mapping[str, float | None]
"""R2 of a probe by column of telemetry; None if the column is constant."""


@dataclasses.dataclass(frozen=True)
class KindError:
    """The share of one kind of frames among all frames, and their mean SSE."""

    share: float
    sse: float


@dataclasses.dataclass(frozen=True)
class Bins:
    """Mean SSE of the frames in bins of a column of telemetry.

    Attributes:
        edges: edges of the bins, one more than bins.
        sse: mean SSE of each bin.
    """

    edges: Sequence[float]
    sse: Sequence[float]


@dataclasses.dataclass(frozen=True)
class AggregatePosterior:
    """Mean and standard deviation of each dimension of z over all frames; those of the prior are 0 and 1."""

    mean: Sequence[float]
    std: Sequence[float]


@dataclasses.dataclass(frozen=True)
class ForesightErrors:
    """SSE of a memory model's predictions some steps ahead, and of baselines.

    Attributes:
        foreseen: SSE of the decoded prediction, mean over the memory's seeds.
        foreseen_by_seed: SSE of the decoded prediction of each seed.
        sampled: SSE of the mean of decoded random futures.
        stays: SSE of repeating the current frame, a lower bar.
        z_stays: SSE of decoding the current z.
        reconstructed: SSE of reconstructing the true future frame, an upper bar.
        pca: SSE of the prediction by the same memory on principal components.
    """

    foreseen: float | None = None
    foreseen_by_seed: Sequence[float] | None = None
    sampled: float | None = None
    stays: float | None = None
    z_stays: float | None = None
    reconstructed: float | None = None
    pca: float | None = None


@dataclasses.dataclass(frozen=True)
class DriveScores:
    """Returns (sums of rewards) of a linear controller that reads mu.

    Attributes:
        mean: mean over the tracks.
        std: standard deviation over the tracks.
        median: median over the tracks.
        laps: number of finished laps.
        tracks: number of tracks.
        pca_mean: mean return of the same controller on PCA's coefficients.
        expert_mean: mean return of the expert.
    """

    mean: float | None = None
    std: float | None = None
    median: float | None = None
    laps: int | None = None
    tracks: int | None = None
    pca_mean: float | None = None
    expert_mean: float | None = None


@dataclasses.dataclass(frozen=True)
class DataScores:
    """The main scores of a model on one of several data sets. They mean the same as in `RolloutScores`."""

    sse: float | None
    psnr_db: float | None
    ssim: float | None
    kl_nats: float | None
    active_units: int | None
    elbo_nats: float | None
    mean_sse: float | None
    pca_sse: float | None
    frames: int | None
    episodes: int | None
    trained_on_episodes: int | None
    data: str | None
    data_digest: str | None


@dataclasses.dataclass(frozen=True)
class SampleQuality:
    """Quality of sampled digits, judged by a classifier.

    Attributes:
        confident_share: share of images for which one digit has a probability above 0.9.
        class_entropy_nats: entropy of the digits over all images; ln 10 = 2.30 if all are equally frequent.
        digit_shares: share of each digit among the images.
    """

    confident_share: float
    class_entropy_nats: float
    digit_shares: Sequence[float]
