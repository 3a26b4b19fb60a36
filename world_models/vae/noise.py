"""Random numbers of a training step. They depend neither on the device, nor on the processes, nor on resuming.

There are two generators:

- *mersenne*: PyTorch's generator of the CPU, a Mersenne Twister. Its numbers are copied to the device.
- *philox*: `philox.py`, which computes on the device.

A run uses the same one from its first step to its last.
"""

import abc
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from world_models.runtime.gpu import to_device
from world_models.vae import philox

BINARISATION = 1  # part of its seed, so that it differs from the noise of the same step
MAX_STEPS_AHEAD = 64
MAX_NUMBERS_AHEAD = 1 << 20

Generator = Literal["mersenne", "philox"]
GENERATORS: tuple[Generator, ...] = ("mersenne", "philox")


def noise(seed: int, step: int, batch_size: int, noise_dim: int) -> Tensor:
    """Standard normal noise of a step, (batch_size, noise_dim). A row belongs to a position in the whole batch."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.randn(batch_size, noise_dim, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))


def binarised(
    frames: UInt8[Tensor, "part height width channels"],
    seed: int,
    step: int,
    rows: Int64[Tensor, " part"] | None = None,
    batch_size: int | None = None,
) -> UInt8[Tensor, "part height width channels"]:
    """Dynamic binarisation: each pixel becomes white with its grey value as probability, else black, in every step.

    Args:
        frames: a batch, or this process's part of it.
        seed: seed of the random numbers, together with `step`.
        step: number of the training step.
        rows: positions of the frames in the whole batch; None if `frames` is the whole batch.
        batch_size: number of frames of the whole batch; None if `frames` is the whole batch.
    """
    size = len(frames) if batch_size is None else batch_size
    drawn = _thresholds(seed, step, size, frames.shape[1:])
    return black_and_white(frames, (drawn if rows is None else drawn[rows]).to(frames.device))


def _thresholds(seed: int, step: int, batch_size: int, frame_shape: tuple[int, ...]) -> Tensor:
    state = np.random.SeedSequence([seed, step, BINARISATION]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    return torch.randint(0, 255, (batch_size, *frame_shape), generator=generator, dtype=torch.uint8)


def black_and_white(
    frames: UInt8[Tensor, "part height width channels"], thresholds: UInt8[Tensor, "part height width channels"]
) -> UInt8[Tensor, "part height width channels"]:
    """Make each value white (255) if it exceeds its threshold, else black (0)."""
    return (frames > thresholds).to(torch.uint8) * 255


class Draws(NamedTuple):
    """The random numbers of a training step, on the device.

    Attributes:
        normal: standard normal noise of each frame.
        thresholds: a threshold of each value of each frame, for `black_and_white`; None without binarisation.
    """

    normal: Shaped[Tensor, "part noise"]
    thresholds: UInt8[Tensor, "part height width channels"] | None


class StepNoise(abc.ABC):
    """The random numbers of all steps of a run.

    Args:
        seed: seed of the run.
        noise_dim: number of normal numbers of each frame.
        frame_shape: shape of a frame, for thresholds; None for no thresholds.
        device: the device that trains.
    """

    def __init__(self, seed: int, noise_dim: int, frame_shape: tuple[int, int, int] | None, device: torch.device):
        self.seed, self.noise_dim, self.frame_shape, self.device = seed, noise_dim, frame_shape, device

    @abc.abstractmethod
    def draw(self, step: int, rows: Int64[Tensor, " part"], batch_size: int) -> Draws:
        """The random numbers of the frames at the positions `rows` in the whole batch of a step."""


class MersenneNoise(StepNoise):
    """Random numbers of PyTorch's generator of the CPU."""

    def draw(self, step: int, rows: Int64[Tensor, " part"], batch_size: int) -> Draws:
        """The numbers of `noise` and `binarised`."""
        normal, shape = noise(self.seed, step, batch_size, self.noise_dim)[rows], self.frame_shape
        thresholds = None if shape is None else _thresholds(self.seed, step, batch_size, shape)[rows]
        return Draws(to_device(normal, self.device), None if thresholds is None else to_device(thresholds, self.device))


class PhiloxNoise(StepNoise):
    """Random numbers of `philox.py`, drawn on the device for several steps at once."""

    def __init__(self, seed: int, noise_dim: int, frame_shape: tuple[int, int, int] | None, device: torch.device):
        super().__init__(seed, noise_dim, frame_shape, device)
        self._normal = _Ahead(philox.normal, seed, noise_dim, device)
        self._thresholds = _Ahead(philox.thresholds, seed, math.prod(frame_shape or ()), device)

    def draw(self, step: int, rows: Int64[Tensor, " part"], batch_size: int) -> Draws:
        """The numbers of this step in the tables. They stay the same until a step of another table is drawn."""
        place = None if len(rows) == batch_size else to_device(rows, self.device)

        def of(table: "_Ahead") -> Tensor:
            whole = table.at(step, batch_size)
            return whole if place is None else whole.index_select(0, place)

        shape = self.frame_shape
        return Draws(of(self._normal), None if shape is None else of(self._thresholds).unflatten(1, shape))


class _Ahead:
    """A table of the random numbers of several steps. The generator has 150 operations, so it is called rarely."""

    def __init__(self, draw: Callable[..., Tensor], seed: int, width: int, device: torch.device):
        self._draw, self._seed, self._width, self._device = draw, seed, width, device
        self._first_step, self._table = 0, torch.empty(0, 0)

    def at(self, step: int, num_rows: int) -> Shaped[Tensor, "rows width"]:
        place = step - self._first_step
        if not (0 <= place < len(self._table) and num_rows <= self._table.shape[1]):
            affordable = MAX_NUMBERS_AHEAD // max(1, num_rows * self._width)
            num_steps = max(1, min(MAX_STEPS_AHEAD, affordable))
            self._table = self._draw(self._seed, step, num_steps, num_rows, self._width, self._device)
            self._first_step, place = step, 0
        return self._table[place, :num_rows]


def of_steps(
    generator: Generator,
    seed: int,
    noise_dim: int,
    frame_shape: tuple[int, int, int] | None,
    device: torch.device,
) -> StepNoise:
    """The random numbers of a run by a generator; the other arguments are those of `StepNoise`.

    Example:
        >>> run = of_steps("philox", seed=0, noise_dim=3, frame_shape=None, device=torch.device("cpu"))
        >>> whole = run.draw(step=7, rows=torch.arange(5), batch_size=5).normal
        >>> part = run.draw(step=7, rows=torch.tensor([1, 4]), batch_size=5).normal
        >>> torch.equal(part, whole[[1, 4]])
        True
    """
    kind = MersenneNoise if generator == "mersenne" else PhiloxNoise
    return kind(seed, noise_dim, frame_shape, device)
