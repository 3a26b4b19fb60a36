"""Random numbers of a training step: the same on every device, in every number of processes, after a resume."""

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

BINARISATION = 1  # sets its random numbers apart from the noise of the same step


def noise(seed: int, step: int, batch_size: int, noise_dim: int) -> Tensor:
    """Standard normal noise of a step, by position in the batch: the same on every device and after a resume."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.randn(batch_size, noise_dim, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))


def binarised(
    frames: UInt8[Tensor, "part height width channels"],
    seed: int,
    step: int,
    rows: Int64[Tensor, " part"] | None = None,
    batch_size: int | None = None,
) -> UInt8[Tensor, "part height width channels"]:
    """Black or white pixels, drawn anew each step: white with the grey value as probability (dynamic binarisation).

    Args:
        frames: a batch, or this process's part of it.
        seed: decides what is drawn, with the step.
        step: of the training.
        rows: where the part's frames stand in the whole batch.
        batch_size: frames of the whole batch.
    """
    state = np.random.SeedSequence([seed, step, BINARISATION]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    size = len(frames) if batch_size is None else batch_size
    thresholds = torch.randint(0, 255, (size, *frames.shape[1:]), generator=generator, dtype=torch.uint8)
    thresholds = thresholds if rows is None else thresholds[rows]
    return (frames > thresholds.to(frames.device)).to(torch.uint8) * 255
