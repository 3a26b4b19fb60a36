"""A step whose inputs are in fixed memory of the device, so that a CUDA graph can repeat it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from world_models.data.batch import AnyBatch, HeldBatch
from world_models.runtime.gpu import Captured, GraphMemory
from world_models.vae.model import VAE
from world_models.vae.noise import Draws


class Rates(NamedTuple):
    """The numbers that change from step to step. In fixed memory they are tensors.

    Attributes:
        lr: learning rate of Adam.
        beta_share: beta is multiplied by this.
        variance: weight of the batch's error in the moving average that is the likelihood's variance.
    """

    lr: float | Float[Tensor, ""]
    beta_share: float | Float[Tensor, ""]
    variance: float | Float[Tensor, ""]


Update = Callable[[Tensor, Tensor, int, Draws, Rates], None]
"""`Learner.update`."""


class FixedStep:
    """The step of a learner on whole batches of one size.

    A CUDA graph works on the same memory each time. So a call copies the batch's inputs into fixed memory, and repeats
    the graph. None of this waits for the device. Of a `HeldBatch` only the positions are copied, and the graph gathers
    the frames. Of a `Batch` the frames are copied.

    Args:
        update: the step.
        batch: a batch like all others.
        draws: random numbers like all others.
        vae: the model, for device and dtype.
    """

    def __init__(self, update: Update, batch: AnyBatch, draws: Draws, vae: VAE):
        self._update, self._size = update, batch.size
        if isinstance(batch, HeldBatch):
            self._frames, self._labels = batch.held, batch.held_labels
        else:
            self._frames, self._labels = torch.empty_like(batch.frames), torch.empty_like(batch.labels)
        self._is_held = isinstance(batch, HeldBatch)
        self._positions = torch.arange(batch.size, device=vae.device)
        self._draws = Draws(
            torch.empty_like(draws.normal), None if draws.thresholds is None else torch.empty_like(draws.thresholds)
        )
        self._rates = torch.zeros(len(Rates._fields), dtype=vae.variance.dtype, device=vae.device)
        self._repeat = Captured(self._step, GraphMemory(vae.device))

    def suits(self, batch: AnyBatch) -> bool:
        """Whether the batch has the size and the kind of the first one, and is held in the same memory."""
        is_held = isinstance(batch, HeldBatch)
        return (batch.size, is_held) == (self._size, self._is_held) and (not is_held or batch.held is self._frames)

    def __call__(self, batch: AnyBatch, draws: Draws, rates: Rates) -> None:
        """Take one step on a batch."""
        if isinstance(batch, HeldBatch):
            self._positions.copy_(batch.positions)
        else:
            self._frames.copy_(batch.frames)
            self._labels.copy_(batch.labels)
        self._draws.normal.copy_(draws.normal)
        if self._draws.thresholds is not None and draws.thresholds is not None:
            self._draws.thresholds.copy_(draws.thresholds)
        for fixed, rate in zip(self._rates, rates, strict=True):
            fixed.fill_(rate)
        self._repeat()

    def _step(self) -> None:
        frames, labels = (each.index_select(0, self._positions) for each in (self._frames, self._labels))
        self._update(frames, labels, self._size, self._draws, Rates(*self._rates))
