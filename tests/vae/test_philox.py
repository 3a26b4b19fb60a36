"""Philox-4x32-10: its authors' numbers, the same ones in any order and on any device, and their distributions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from world_models.vae import philox

CPU = torch.device("cpu")
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
ONES = (0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2
KNOWN = [  # of Random123, the code of the paper's authors: counter and key, then the words
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (*ONES, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (*PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(*numbers: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    c0, c1, c2, c3 = (torch.tensor([number]) for number in numbers)
    return c0, c1, c2, c3


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_words_are_those_of_the_papers_authors(counter: tuple[int, ...], key: tuple[int, int], words: str):
    assert " ".join(f"{int(word):08x}" for word in philox.philox(_words(*counter), key)) == words


def _by_hand(counter: list[int], key: list[int]) -> list[int]:
    """The definition, in whole numbers of any size."""
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            *(second >> 32 ^ counter[1] ^ key[0], second % 2**32),
            *(first >> 32 ^ counter[3] ^ key[1], first % 2**32),
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def test_normal_numbers_follow_the_documented_counter():
    seed, step, row, column = 2**40 + 7, 2**35 + 3, 4, 6
    found = philox.normal(seed, step - 1, 2, row + 1, column + 1, CPU)[1, row, column]
    words = _by_hand([column // 4, row, step % 2**32, step >> 32], [seed % 2**32, seed >> 32])
    radius = math.sqrt(-2 * math.log((words[2] + 1) / 2**32))
    assert found.item() == pytest.approx(radius * math.cos(2 * math.pi * words[3] / 2**32), abs=1e-6)


def test_thresholds_follow_the_documented_counter():
    found = philox.thresholds(5, 9, 1, 3, 2, CPU)[0, 2, 1]
    assert found.item() == _by_hand([0, 2, 9, 1 << 16], [5, 0])[1] * 255 >> 32


@pytest.mark.parametrize("draw", [philox.normal, philox.thresholds])
def test_numbers_depend_only_on_seed_step_row_and_column(draw):
    whole = draw(3, 10, 6, 9, 11, CPU)
    assert torch.equal(draw(3, 12, 2, 4, 7, CPU), whole[2:4, :4, :7])
    assert torch.equal(draw(3, 10, 6, 9, 11, CPU), whole)


@pytest.mark.parametrize("draw", [philox.normal, philox.thresholds])
def test_another_seed_step_row_or_column_gives_other_numbers(draw):
    one = draw(3, 10, 2, 2, 64, CPU)
    for other in (
        draw(4, 10, 2, 2, 64, CPU),
        draw(3 + 2**32, 10, 2, 2, 64, CPU),
        one.flip(0),
        one.flip(1),
        one.flip(2),
    ):
        assert (one == other).float().mean() < 0.05


def test_normal_numbers_are_standard_normal():
    numbers = philox.normal(0, 0, 8, 256, 256, CPU).flatten().double()  # half a million
    assert abs(numbers.mean()) < 0.005 and abs(numbers.var() - 1) < 0.01
    expected = torch.special.ndtri(torch.linspace(0.01, 0.99, 99, dtype=torch.float64))
    found = torch.from_numpy(np.quantile(numbers.numpy(), np.linspace(0.01, 0.99, 99)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    assert numbers.isfinite().all() and numbers.abs().max() < 6.7


def test_neighbouring_normal_numbers_are_uncorrelated():
    numbers = philox.normal(0, 0, 4, 128, 128, CPU)
    for axis in range(3):
        for distance in (1, 2):
            first = numbers.narrow(axis, 0, numbers.shape[axis] - distance)
            assert abs((first * numbers.narrow(axis, distance, first.shape[axis])).mean()) < 0.02


def test_thresholds_are_equally_likely_from_0_to_254():
    counts = philox.thresholds(1, 0, 4, 255, 255, CPU).flatten().bincount(minlength=256)
    assert counts[255] == 0
    assert ((counts[:255] - 1020).abs() < 200).all()  # six standard deviations


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_words_and_the_same_normal_numbers_to_a_millionth():
    gpu, counter = torch.device("cuda"), torch.arange(100_000) * 42_949
    words = philox.philox((counter, counter + 1, counter + 2, counter + 3), (7, 8))
    on_gpu = philox.philox(tuple((counter + n).to(gpu) for n in range(4)), (7, 8))  # type: ignore[arg-type]: four
    assert all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(on_gpu, words, strict=True))
    assert torch.equal(philox.thresholds(3, 9, 8, 16, 784, gpu).cpu(), philox.thresholds(3, 9, 8, 16, 784, CPU))
    ours, theirs = philox.normal(3, 9, 64, 256, 32, gpu).cpu(), philox.normal(3, 9, 64, 256, 32, CPU)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
