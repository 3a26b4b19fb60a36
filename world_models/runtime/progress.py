"""Progress bars, and the rate of training."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

CURSOR_UP = "\x1b[A"  # tqdm writes it after a bar that is below another one


class _OneStateALine:
    """A log file for a bar. Each state of the bar becomes a line. On a terminal it overwrites the state before."""

    def __init__(self, log: Any):
        self._log = log

    def write(self, text: str) -> None:
        if state := text.replace(CURSOR_UP, "").strip():
            self._log.write(f"{state}\n")

    def flush(self) -> None:
        self._log.flush()


def bar(total: int, unit: str, label: str, start: int = 0, shown: bool = True) -> tqdm:
    """A progress bar with rate and remaining time. Without a terminal it prints a line every 30 s.

    Args:
        total: number of units in all.
        unit: name of a unit.
        label: text before the bar.
        start: number of units that are done already.
        shown: whether to show the bar.
    """
    quiet = not sys.stderr.isatty()
    return tqdm(
        file=_OneStateALine(sys.stderr) if quiet else sys.stderr,
        total=total,
        initial=min(start, total),
        unit=f" {unit}",
        desc=label,
        mininterval=30 if quiet else 0.1,
        smoothing=0.05,
        unit_scale=total >= 100_000,
        ascii=quiet,
        disable=not (total and shown),
    )


def move(bar: tqdm, done: int) -> None:
    """Move a bar to a number of units. It may be lower than before, if work is done again."""
    bar.update(done - bar.n)


class Meter:
    """Measures frames/s of training, without the time of validations."""

    def __init__(self, frames_seen: int):
        self._frames_seen, self._since = frames_seen, time.perf_counter()

    def frames_per_s(self, frames_seen: int) -> float:
        """The rate since the last call, where `frames_seen` is the number of frames so far."""
        now = time.perf_counter()
        rate = (frames_seen - self._frames_seen) / (now - self._since)
        self._frames_seen, self._since = frames_seen, now
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of this block."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start
