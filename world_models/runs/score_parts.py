"""The parts of eval.json that hold several numbers, such as what a memory model foresees. No torch in here."""

import dataclasses
from collections.abc import Mapping, Sequence

R2 = Mapping[str, float | None]
"""R2 of a probe by column of telemetry; None where the column never varies."""


@dataclasses.dataclass(frozen=True)
class KindError:
    """Frames of one kind: their share of all frames, and their mean SSE."""

    share: float
    sse: float


@dataclasses.dataclass(frozen=True)
class Bins:
    """Mean SSE of the frames in bins of a column of telemetry; `edges` are one more."""

    edges: Sequence[float]
    sse: Sequence[float]


@dataclasses.dataclass(frozen=True)
class AggregatePosterior:
    """Mean and standard deviation of z over all frames, by dimension; the prior's are 0 and 1."""

    mean: Sequence[float]
    std: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Foreseen:
    """SSE some steps ahead of a memory model's predictions, and of what tells their worth.

    Attributes:
        foreseen: of the decoded prediction, mean over the memory's seeds.
        foreseen_by_seed: of each.
        sampled: of the mean of decoded random futures.
        stays: where the frame is repeated.
        z_stays: where the current z is decoded.
        reconstructed: where the frame that came is reconstructed.
        pca: of the prediction by the same memory on principal components.
    """

    foreseen: float | None = None
    foreseen_by_seed: Sequence[float] | None = None
    sampled: float | None = None
    stays: float | None = None
    z_stays: float | None = None
    reconstructed: float | None = None
    pca: float | None = None


@dataclasses.dataclass(frozen=True)
class Drive:
    """Sums of rewards over the tracks that a linear controller on mu drove.

    Attributes:
        mean: over the tracks.
        std: over the tracks.
        median: over the tracks.
        laps: how many were finished.
        tracks: how many there were.
        pca_mean: of the same controller on PCA's coefficients.
        expert_mean: of the expert.
    """

    mean: float | None = None
    std: float | None = None
    median: float | None = None
    laps: int | None = None
    tracks: int | None = None
    pca_mean: float | None = None
    expert_mean: float | None = None


@dataclasses.dataclass(frozen=True)
class SampleQuality:
    """How good sampled digits are, by a classifier.

    Attributes:
        confident_share: share of images of which it gives one digit more than 0.9.
        class_entropy_nats: of the digits over all images; ln 10 = 2.30 where each is as frequent.
        digit_shares: share of each digit.
    """

    confident_share: float
    class_entropy_nats: float
    digit_shares: Sequence[float]
