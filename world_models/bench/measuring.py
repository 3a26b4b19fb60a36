"""Timing two pieces of work side by side, on a machine that may not be idle."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

BUSY_CORES = 0.2
"""Others using more of the cores than this disturb a measurement."""

Work = Callable[[], int | tuple[int, float]]
"""Does a sample of work and returns its number of frames, and the seconds it took where not all of its time counts."""

MAX_ROUNDS = 3
"""Rounds that are tried for each one asked for: those of a busy machine are dropped."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A pair of rates measured one after the other."""

    ours: float
    theirs: float


@dataclasses.dataclass(frozen=True)
class Samples:
    """What a variant and its baseline reached, a pair a round.

    Attributes:
        pairs: of quiet rounds; of all rounds if none was quiet.
        dropped: rounds that were left out because other processes were busy.
        quiet: whether other processes left the machine alone.
    """

    pairs: tuple[Sample, ...]
    dropped: int
    quiet: bool


def interleave(works: Mapping[str, Work], repeats: int) -> dict[str, Samples]:
    """Rates of each work beside those of the first, the baseline, in rounds after a warm-up; another begins each time.

    Rounds are repeated until as many as asked for were quiet, or three times as many were tried.

    Returns:
        For every work but the baseline its samples.
    """
    baseline, *ours = works
    for work in works.values():
        work()
    quiet, loud = [], []
    for repeat in range(MAX_ROUNDS * repeats):
        names = [*works][repeat % len(works) :] + [*works][: repeat % len(works)]
        with others_busy() as busy:
            rates = {name: _rate(works[name]) for name in names}
        (quiet if busy[0] < BUSY_CORES else loud).append(rates)
        if len(quiet) == repeats:
            break
    kept = quiet or loud
    dropped = len(loud) if quiet else 0
    return {
        name: Samples(tuple(Sample(rates[name], rates[baseline]) for rates in kept), dropped, bool(quiet))
        for name in ours
    }


def _rate(work: Work) -> float:
    start = time.perf_counter()
    done = work()
    frames, seconds = done if isinstance(done, tuple) else (done, time.perf_counter() - start)
    return frames / seconds


@contextlib.contextmanager
def others_busy() -> Iterator[list[float]]:
    """Cores that other processes used during the block, in the list that it gives."""

    def used() -> tuple[float, float, float]:
        fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle = fields[3] + fields[4]
        return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4]), time.perf_counter()

    busy = [0.0]
    before = used()
    yield busy
    everyone, self, seconds = (after - start for after, start in zip(used(), before, strict=True))
    busy[0] = max(0.0, everyone - self) / seconds


def gemm_gflop_per_s(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """What a large matrix product reaches, the best of five."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    torch.mm(a, a)
    return 2 * size**3 / min(seconds_of(lambda: torch.mm(a, a), device) for _ in range(5)) / 1e9


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """How long the device takes for what the work gives it; a GPU's own clock is asked, by CUDA events."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def steps_for(
    step: Callable[[Any], Any],
    batches: Iterator[Any],
    size: Callable[[Any], int],
    seconds: float,
    device: torch.device,
) -> Work:
    """Training steps, as many as there is time for; `size` counts a batch's frames."""

    def steps() -> Iterator[int]:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            batch = next(batches)
            step(batch)
            yield size(batch)

    def work() -> tuple[int, float]:
        seen: list[int] = []
        taken = seconds_of(lambda: seen.extend(steps()), device)
        return sum(seen), taken

    return work
