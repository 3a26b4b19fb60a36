"""Frames and their classes as one value, so that they stay together on the way to a model."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

BATCH = 128

Frames = UInt8[np.ndarray, "frames height width channels"]
Labels = Int64[np.ndarray, " frames"]


@dataclasses.dataclass(frozen=True)
class LabelledFrames:
    """Frames, and the class of each frame, which a conditional model needs.

    Attributes:
        frames: the frames.
        labels: their classes. All are 0 if the data set has no classes.
    """

    frames: Frames
    labels: Labels

    @classmethod
    def of_one_class(cls, frames: Frames) -> "LabelledFrames":
        """Frames of data without classes."""
        return cls(frames, np.zeros(len(frames), np.int64))

    def __len__(self) -> int:
        return len(self.frames)

    def at(self, positions: Int64[np.ndarray, " some"]) -> "LabelledFrames":
        """The frames at these positions."""
        return LabelledFrames(self.frames[positions], self.labels[positions])

    def batches(
        self, size: int = BATCH
    ) -> Iterator[tuple[UInt8[Tensor, "batch height width channels"], Int64[Tensor, " batch"]]]:
        """The frames and their labels in order, in batches of `size`."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield torch.from_numpy(self.frames[rows]), torch.from_numpy(self.labels[rows])
