"""Philox-4x32-10: random numbers by counting (Salmon et al. 2011), the same on every device.

The random numbers at a counter are a function of the counter and the key alone. So numbers of any step and any row can
be computed on any device, in any order. `normal` and `thresholds` count the four words of a counter as follows:

- word 0: four neighbouring numbers of a row,
- word 1: the row, a frame's position in the whole batch,
- word 2: the lower 32 bits of the step,
- word 3: the upper bits of the step, plus 2^16 for thresholds.

The key is the seed.
"""

import math

import torch
from jaxtyping import Float32, Int64, Shaped, UInt8
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
NORMAL, THRESHOLDS = 0, 1 << 16

Word = Int64[Tensor, "..."]
Words = tuple[Word, Word, Word, Word]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """The four random words of each counter. Words are integers from 0 to 2^32 - 1; the counter's shapes broadcast.

    Example:
        >>> zero = torch.zeros((), dtype=torch.int64)
        >>> [f"{int(word):08x}" for word in philox((zero, zero, zero, zero), (0, 0))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The product of two words has 64 bits. As a signed number it may be negative, but its bits are the same.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        high0, high1 = (product0 >> 32) & WORD, (product1 >> 32) & WORD
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & WORD, high0 ^ c3 ^ k1, product0 & WORD
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def normal(
    seed: int, first_step: int, num_steps: int, num_rows: int, width: int, device: torch.device
) -> Float32[Tensor, "steps rows width"]:
    """Standard normal numbers, by the method of Box and Muller (1958).

    Args:
        seed: seed of the run, from 0 to 2^63 - 1.
        first_step: number of the first training step.
        num_steps: number of steps.
        num_rows: number of frames of each step.
        width: number of random numbers of each frame.
        device: the device that computes. CPU and GPU agree to 1e-6: they compute in float64, and round at the end.

    Example:
        >>> several = normal(seed=0, first_step=0, num_steps=3, num_rows=5, width=8, device=torch.device("cpu"))
        >>> later = normal(seed=0, first_step=2, num_steps=1, num_rows=2, width=8, device=torch.device("cpu"))
        >>> torch.equal(several[2:, :2], later)
        True
    """
    words = _words(seed, first_step, num_steps, num_rows, width, NORMAL, device)
    pairs = zip(words[::2], words[1::2], strict=True)
    numbers = [number for first, second in pairs for number in _box_muller(first, second)]
    return _in_columns(numbers, width).float()


def _box_muller(first: Word, second: Word) -> tuple[Tensor, Tensor]:
    """Two independent standard normal numbers of two random words."""
    radius = torch.sqrt(-2 * torch.log((first + 1).double() * 2.0**-32))  # of numbers above 0, up to 1
    angle = second.double() * (2 * math.pi * 2.0**-32)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def thresholds(
    seed: int, first_step: int, num_steps: int, num_rows: int, width: int, device: torch.device
) -> UInt8[Tensor, "steps rows width"]:
    """Equally likely integers from 0 to 254; the arguments are those of `normal`.

    A grey value of 0 exceeds none of them, and one of 255 exceeds all.

    Example:
        >>> thresholds(0, 0, 1, 2, 4, torch.device("cpu")).shape
        torch.Size([1, 2, 4])
    """
    words = _words(seed, first_step, num_steps, num_rows, width, THRESHOLDS, device)
    return _in_columns([(word * 255) >> 32 for word in words], width).to(torch.uint8)


def _words(  # the seed, and what the counter counts
    seed: int, first_step: int, num_steps: int, num_rows: int, width: int, purpose: int, device: torch.device
) -> Words:
    """Random words for a quarter of the columns each, (steps, rows, width / 4)."""
    steps = torch.arange(first_step, first_step + num_steps, device=device)[:, None, None]
    rows = torch.arange(num_rows, device=device)[:, None]
    fours = torch.arange(-(-width // 4), device=device)
    return philox((fours, rows, steps & WORD, (steps >> 32) + purpose), (seed & WORD, seed >> 32))


def _in_columns(quarters: list[Tensor], width: int) -> Shaped[Tensor, "steps rows width"]:
    """Put the four numbers of a counter into neighbouring columns."""
    return torch.stack(quarters, -1).flatten(-2)[..., :width]
