"""Random numbers of a training step. They depend neither on the device, nor on the processes, nor on resuming."""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

BINARISATION = 1  # part of its seed, so that it differs from the noise of the same step


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
    state = np.random.SeedSequence([seed, step, BINARISATION]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    size = len(frames) if batch_size is None else batch_size
    thresholds = torch.randint(0, 255, (size, *frames.shape[1:]), generator=generator, dtype=torch.uint8)
    thresholds = thresholds if rows is None else thresholds[rows]
    return (frames > thresholds.to(frames.device)).to(torch.uint8) * 255
