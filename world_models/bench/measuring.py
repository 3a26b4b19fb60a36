"""Times pieces of work in interleaved rounds, on a machine that may not be idle."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

BUSY_CORES = 0.2
"""A round is dropped if other processes use more cores than this."""

Work = Callable[[], int | tuple[int, float]]
"""Does a sample of work. Returns its number of frames, and its seconds if not all of the time counts."""

MAX_ROUNDS = 3
"""Largest number of rounds for each requested round, because rounds on a busy machine are dropped."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A pair of rates from one round: of a variant (`ours`) and of the baseline (`theirs`), in frames/s."""

    ours: float
    theirs: float


@dataclasses.dataclass(frozen=True)
class Samples:
    """The rates of a variant and its baseline, one pair per round.

    Attributes:
        pairs: pairs from quiet rounds; from all rounds if none was quiet.
        dropped: number of rounds that were left out because other processes were busy.
        quiet: whether `pairs` are from quiet rounds.
    """

    pairs: tuple[Sample, ...]
    dropped: int
    quiet: bool


def interleave(works: Mapping[str, Work], repeats: int) -> dict[str, Samples]:
    """Measure all works in rounds, after a warm-up. The first is the baseline. Each round begins with another work.

    Rounds are repeated until `repeats` of them were quiet, but at most `MAX_ROUNDS * repeats` times.

    Returns:
        The samples of every work except the baseline.
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
    """Measure how many cores other processes use during the block. The yielded list holds the number afterwards."""

    def used() -> tuple[float, float, float]:
        fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle = fields[3] + fields[4]
        return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4]), time.perf_counter()

    busy = [0.0]
    before = used()
    yield busy
    all_s, own_s, seconds = (after - start for after, start in zip(used(), before, strict=True))
    busy[0] = max(0.0, all_s - own_s) / seconds


def gemm_gflop_per_s(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """The rate of a large matrix product in GFLOP/s, the best of five."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    torch.mm(a, a)
    return 2 * size**3 / min(seconds_of(lambda: torch.mm(a, a), device) for _ in range(5)) / 1e9


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The seconds that the device takes for the work. On a GPU they are measured by CUDA events."""
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
    """A sample of steps for `seconds`.

    Args:
        step: one step, which takes a batch.
        batches: endless batches.
        size: gives the number of frames of a batch.
        seconds: duration of a sample.
        device: the device that computes.
    """

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
