"""Statistics of episodes and of a data set, in the form in which LeRobot's policies normalise by them.

LeRobot gives each feature of an episode a smallest and a largest value, mean, standard deviation, five quantiles, and
the number of rows. Those of the data set are made of those of its episodes: quantiles are their mean, weighted by rows.
Pixels are in [0, 1] there, and each channel has a shape of its own, (3, 1, 1).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Shaped, UInt8

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NUM_VALUES = 256

Stats = Mapping[str, np.ndarray]
"""Values of one feature by the name of the statistic."""


def of_numbers(values: Shaped[np.ndarray, "rows width"]) -> Stats:
    """The statistics of an episode's rows of numbers.

    Example:
        >>> found = of_numbers(np.array([[0.0], [1.0]]))
        >>> found["mean"], found["count"]
        (array([0.5]), array([2]))
    """
    numbers = values.astype(np.float64)
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": numbers.mean(0),
        "std": numbers.std(0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, np.quantile(numbers, list(QUANTILES.values()), axis=0), strict=True)),
    }


class Pixels:
    """Counts the values of an episode's pixels, so that memory does not grow with the number of frames."""

    def __init__(self):
        self._counts = np.zeros((3, NUM_VALUES), np.int64)
        self._num_frames = 0

    def add(self, frames: UInt8[np.ndarray, "frames height width 3"]) -> None:
        """Count the pixels of some frames."""
        self._num_frames += len(frames)
        for channel, counts in enumerate(self._counts):
            counts += np.bincount(frames[..., channel].reshape(-1), minlength=NUM_VALUES)

    def stats(self) -> Stats:
        """The statistics of all frames so far, which are one or more."""
        found = [_of_counts(counts) for counts in self._counts]
        shaped = {name: np.array([channel[name] for channel in found]).reshape(3, 1, 1) for name in found[0]}
        return {**shaped, "count": np.array([self._num_frames])}


def _of_counts(counts: Int64[np.ndarray, " values"]) -> dict[str, float]:
    """The statistics of values in [0, 1], of which each of 0/255, 1/255, ... occurs so many times."""
    values = np.arange(NUM_VALUES) / (NUM_VALUES - 1)
    present, total, below = np.flatnonzero(counts), counts.sum(), counts.cumsum()
    mean = float(values @ counts / total)
    return {
        "min": float(values[present[0]]),
        "max": float(values[present[-1]]),
        "mean": mean,
        "std": float(np.sqrt((values - mean) ** 2 @ counts / total)),
        **{name: float(values[np.searchsorted(below, share * total)]) for name, share in QUANTILES.items()},
    }


class Total:
    """The statistics of a feature in all episodes, from those of each."""

    def __init__(self):
        self._sums: dict[str, Any] = {}
        self._low: Any = np.inf
        self._high: Any = -np.inf

    def add(self, stats: Stats) -> None:
        """Add those of one episode."""
        count = int(stats["count"][0])
        mean = np.asarray(stats["mean"], np.float64)
        parts = {"count": count, "square": (np.asarray(stats["std"]) ** 2 + mean**2) * count}
        parts |= {name: np.asarray(stats[name], np.float64) * count for name in ("mean", *QUANTILES)}
        self._sums = {name: self._sums.get(name, 0) + value for name, value in parts.items()}
        self._low, self._high = np.minimum(self._low, stats["min"]), np.maximum(self._high, stats["max"])

    def stats(self) -> Stats:
        """Those of all episodes so far, which are one or more."""
        count = self._sums["count"]
        means = {name: self._sums[name] / count for name in ("mean", *QUANTILES)}
        variance: Float64[np.ndarray, ...] = np.maximum(0, self._sums["square"] / count - means["mean"] ** 2)
        return {"min": self._low, "max": self._high, "std": np.sqrt(variance), "count": np.array([count]), **means}


def total(episodes: Iterable[Mapping[str, Stats]]) -> dict[str, Stats]:
    """The statistics of all features in all episodes.

    Args:
        episodes: of each episode, the statistics of each feature.
    """
    totals: dict[str, Total] = {}
    for episode in episodes:
        for feature, stats in episode.items():
            totals.setdefault(feature, Total()).add(stats)
    return {feature: each.stats() for feature, each in totals.items()}
