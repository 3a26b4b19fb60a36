"""One result of the benchmark: a variant of a stage, compared with the stage's baseline."""

import dataclasses
import resource
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from world_models.bench.measuring import Samples
from world_models.runtime import files, host

GFLOP_PER_FRAME = {"train": 0.2297, "encode": 0.0296}
"""Multiplications and additions of the paper's layers, for the stages that matrix products limit."""


class Limit(NamedTuple):
    """A rate that a stage cannot exceed, as long as it does the same operations.

    Attributes:
        name: what limits it.
        frames_per_s: the rate.
    """

    name: str
    frames_per_s: float


MinMedianMax = tuple[float, float, float]
"""Minimum, median and maximum."""


@dataclasses.dataclass(frozen=True)
class Result:
    """An object of the list that `--json` writes.

    Attributes:
        stage: the stage.
        variant: the way of computing it.
        baseline: name of the baseline.
        frames_per_s: rate of the variant.
        baseline_frames_per_s: rate of the baseline, in the same rounds.
        ratio: rate of the variant divided by that of the baseline, median over the rounds.
        gflop_per_s: rate of the paper's operations at the variant's median rate; None for stages without a known limit.
        limit: what limits the variant: a large matrix product (GEMM), those of the layers (layer GEMM), or a copy of
            the frames (memory copy, PCIe copy); None for stages without a known limit.
        limit_fraction: the variant's rate divided by its rate at this limit; None for stages without a known limit.
        device: name of the GPU, or number of cores of the CPU.
        dtype: dtype of the computation.
        quiet: whether the machine was otherwise idle in all counted rounds.
        dropped: number of rounds that were dropped because other processes were busy.
        peak_memory_gb: peak memory of the GPU, or of the process since its start, in 10^9 bytes.
        versions: versions of the measured programs.
        default: whether this variant is the default on this device.
        parts_us: time of each part of a step, in microseconds; only in the first result of `collect`.
    """

    stage: str
    variant: str
    baseline: str
    frames_per_s: MinMedianMax
    baseline_frames_per_s: MinMedianMax
    ratio: float
    gflop_per_s: float | None
    limit: str | None
    limit_fraction: float | None
    device: str
    dtype: str
    quiet: bool
    dropped: int
    peak_memory_gb: float
    versions: Mapping[str, str]
    default: bool = False
    parts_us: Mapping[str, float] | None = None

    def as_json(self) -> dict[str, object]:
        """The object of the list; without `parts_us` if it is None."""
        values = vars(self)
        return {name: value for name, value in values.items() if name != "parts_us" or value is not None}

    def line(self) -> str:
        """The result as one line of text."""
        low, middle, high = self.frames_per_s
        limit = f", {self.limit_fraction:.0%} of the {self.limit} limit" if self.limit_fraction else ""
        busy = f", {self.dropped} busy rounds dropped" if self.dropped else ""
        busy = busy if self.quiet else ", machine was busy"
        rate = f"{middle:10,.0f} frames/s ({low:,.0f} .. {high:,.0f})"
        baseline = f"{self.ratio:6.2f}x {self.baseline} ({self.baseline_frames_per_s[1]:,.0f})"
        return f"{self.stage:9} {self.variant:22} {rate}, {baseline}{limit}{busy}"


def of_samples(names: tuple[str, str, str], samples: Samples, limit: Limit | None, device: torch.device) -> Result:
    """Make the result of interleaved rounds.

    Args:
        names: stage, variant and baseline.
        samples: the rounds.
        limit: what limits the variant; None if it is not known.
        device: the device of the stage.
    """
    stage, variant, baseline = names
    ours, theirs = [s.ours for s in samples.pairs], [s.theirs for s in samples.pairs]
    gflop = GFLOP_PER_FRAME.get(stage)
    return Result(
        stage=stage,
        variant=variant,
        baseline=baseline,
        frames_per_s=_min_median_max(ours),
        baseline_frames_per_s=_min_median_max(theirs),
        ratio=statistics.median(s.ours / s.theirs for s in samples.pairs),
        gflop_per_s=statistics.median(ours) * gflop if gflop else None,
        limit=limit.name if limit else None,
        limit_fraction=statistics.median(ours) / limit.frames_per_s if limit else None,
        device=_device_name(device),
        dtype=str(dtype(stage, device)).removeprefix("torch."),
        quiet=samples.quiet,
        dropped=samples.dropped,
        peak_memory_gb=_peak_memory_gb(device),
        versions=files.versions(),
    )


def dtype(stage: str, device: torch.device) -> torch.dtype:
    """The default dtype of a stage's computation."""
    return torch.bfloat16 if stage == "train" and device.type == "cuda" else torch.float32


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {host.available_cores()} cores"


def _peak_memory_gb(device: torch.device) -> float:
    """Peak memory of the GPU if it computes, else of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _min_median_max(values: Sequence[float]) -> MinMedianMax:
    return min(values), statistics.median(values), max(values)
