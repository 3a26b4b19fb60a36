"""One batch of frames on the device, or this process's part of it."""

from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor


class Batch(NamedTuple):
    """This process's part of a batch.

    Attributes:
        frames: the frames, on the device.
        rows: positions of these frames in the whole batch, ascending.
        size: number of frames of the whole batch.
        labels: classes of the frames, on the device; all 0 if the data set has no classes.
    """

    frames: UInt8[Tensor, "part height width channels"]
    rows: Int64[Tensor, " part"]
    size: int
    labels: Int64[Tensor, " part"]

    @classmethod
    def whole(cls, frames: UInt8[Tensor, "batch height width channels"]) -> "Batch":
        """A whole batch of frames without classes."""
        rows = torch.arange(len(frames))
        return cls(frames, rows, len(frames), torch.zeros_like(rows, device=frames.device))

    def cut(self, size: int) -> "Batch":
        """The batch with only its first `size` frames."""
        if size >= self.size:
            return self
        kept = int((self.rows < size).sum())
        return Batch(self.frames[:kept], self.rows[:kept], size, self.labels[:kept])


class HeldBatch(NamedTuple):
    """This process's part of a batch, by position among the frames that the device holds.

    `frames` and `labels` gather it. A CUDA graph gathers it by itself.

    Attributes:
        held: all frames of this process, on the device.
        held_labels: their classes.
        positions: positions in `held` of the batch's frames, on the device.
        rows: positions of these frames in the whole batch, ascending.
        size: number of frames of the whole batch.
    """

    held: UInt8[Tensor, "_ height width channels"]
    held_labels: Int64[Tensor, " _"]
    positions: Int64[Tensor, " part"]
    rows: Int64[Tensor, " part"]
    size: int

    @property
    def frames(self) -> UInt8[Tensor, "part height width channels"]:
        """The frames, on the device."""
        # Six times as fast as held[positions]. They are 64-bit numbers, because 10 million frames exceed 2^31 bytes.
        return self.held.index_select(0, self.positions)

    @property
    def labels(self) -> Int64[Tensor, " part"]:
        """Classes of the frames."""
        return self.held_labels.index_select(0, self.positions)

    def cut(self, size: int) -> "HeldBatch":
        """The batch with only its first `size` frames."""
        if size >= self.size:
            return self
        kept = int((self.rows < size).sum())
        return self._replace(positions=self.positions[:kept], rows=self.rows[:kept], size=size)


AnyBatch = Batch | HeldBatch
