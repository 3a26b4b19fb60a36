"""Observations to frames: a batch of any shape gives the same frames as single pictures; others are refused."""

import doctest
from typing import Any

import numpy as np
import pytest

from world_models.envs import preprocessing
from world_models.envs.preprocessing import Preprocess, preprocess

CROPPED, WHOLE = Preprocess((0, 84)), Preprocess()


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("how", [CROPPED, WHOLE], ids=["cropped", "whole"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [(1,), (5,), (2, 3), (2, 1, 3)])
def test_a_batch_gives_what_its_pictures_give_one_by_one(batch: tuple[int, ...], channels: int, how: Preprocess):
    given = pictures(*batch, 96, 97, channels)
    frames = preprocess(given, how)
    assert frames.shape == (*batch, 64, 64, 3) and frames.dtype == np.uint8
    for index in np.ndindex(batch):
        np.testing.assert_array_equal(frames[index], preprocess(given[index], how))


def test_a_batch_of_no_pictures_gives_no_frames():
    assert preprocess(pictures(0, 96, 96, 3), WHOLE).shape == (0, 64, 64, 3)
    assert preprocess(pictures(4, 0, 96, 96, 1), WHOLE).shape == (4, 0, 64, 64, 3)


@pytest.mark.parametrize(
    "view",
    [
        lambda wide: wide[:, ::2, 1::3],
        lambda wide: wide[::-1, :, ::-1],
        lambda wide: wide[..., ::-1],
        lambda wide: np.moveaxis(np.ascontiguousarray(np.moveaxis(wide, -1, 1)), 1, -1),
        lambda wide: np.broadcast_to(wide[:1], wide.shape),
    ],
    ids=["steps", "flipped", "BGR", "channels first in memory", "repeated"],
)
def test_the_memory_order_of_pictures_does_not_change_frames(view: Any):
    seen = view(pictures(3, 192, 200, 3))
    np.testing.assert_array_equal(preprocess(seen, CROPPED), preprocess(seen.copy(), CROPPED))
    np.testing.assert_array_equal(preprocess(seen[1], CROPPED), preprocess(seen[1].copy(), CROPPED))


def test_read_only_pictures_are_accepted():
    given = pictures(2, 96, 96, 3)
    given.setflags(write=False)
    np.testing.assert_array_equal(preprocess(given, WHOLE), preprocess(given.copy(), WHOLE))


def test_frames_are_no_view_of_the_observations():
    given = pictures(2, 64, 64, 3)
    assert not np.shares_memory(preprocess(given, WHOLE), given)
    assert not np.shares_memory(preprocess(given[0], WHOLE), given)


def test_an_array_of_two_axes_is_a_grey_picture_and_one_of_three_a_colour_picture():
    grey = pictures(96, 90)
    np.testing.assert_array_equal(preprocess(grey, WHOLE), preprocess(grey[..., None], WHOLE))
    assert preprocess(pictures(96, 3), WHOLE).shape == (64, 64, 3)
    assert preprocess(pictures(5, 96, 3), WHOLE).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("shape", "found", "remedy"),
    [
        ((96, 96, 4), r"axis 2 \(channels\).* holds 4", r"alpha channel by observations\[\.\.\., :3\]"),
        ((5, 96, 96, 4), r"axis 3 \(channels\).* holds 4", "alpha"),
        ((2, 5, 96, 96, 2), r"axis 4 \(channels\).* holds 2", r"observations\[\.\.\., None\]"),
        ((3, 96, 90), r"axis 2 \(channels\).* holds 90", r"move the channels of axis 0 .*np\.moveaxis"),
        ((7, 3, 96, 90), r"axis 3 \(channels\).* holds 90", "move the channels of axis 1 "),
        ((7, 96, 90), r"axis 2 \(channels\).* holds 90", r"observations\[\.\.\., None\]"),
        ((96, 90, 0), r"axis 2 \(channels\).* holds 0", ""),
        ((0, 96, 3), r"axis 0 \(height\).* is empty", ""),
        ((5, 96, 0, 3), r"axis 2 \(width\).* is empty", ""),
        ((0, 96), r"axis 0 \(height\).* is empty", ""),
        ((96,), r"observations of shape \(96,\)", r"give pictures: \(\.\.\., height, width, channels\)"),
        ((), r"observations of shape \(\)", ""),
    ],
    ids=str,
)
def test_arrays_that_are_no_pictures_are_refused_by_their_wrong_axis(shape: tuple[int, ...], found: str, remedy: str):
    with pytest.raises(ValueError, match=rf"^{found}[^\n]*{remedy}[^\n]*$"):
        preprocess(np.zeros(shape, np.uint8), WHOLE)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int8", "uint16", "bool", "object"])
def test_pictures_that_are_not_uint8_are_refused_by_their_dtype(dtype: str):
    with pytest.raises(ValueError, match=rf"^observations are {dtype}; give a NumPy array of uint8"):
        preprocess(np.zeros((96, 96, 3), dtype), WHOLE)


@pytest.mark.parametrize("shape", [(80, 96, 3), (80, 96)])
def test_fewer_rows_than_the_crop_keeps_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"crop keeps rows to 84, the picture has 80 \(axis 0\); crop fewer"):
        preprocess(pictures(*shape), CROPPED)
    with pytest.raises(ValueError, match=r"the picture has 80 \(axis 2\)"):
        preprocess(pictures(2, 5, 80, 96, 3), CROPPED)


def test_the_examples_run():
    assert doctest.testmod(preprocessing).attempted and not doctest.testmod(preprocessing).failed
