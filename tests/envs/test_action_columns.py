"""A policy's action becomes finite numbers of the action space, exactly, or is refused in one line."""

import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from world_models.envs import clipped, from_columns, to_columns

STEER = spaces.Box(-1.0, 1.0, (3,))
WIDE = spaces.Box(-np.inf, np.inf, (2,))
BYTES = spaces.Box(0, 255, (2,), np.uint8)
GRID = spaces.Box(-1.0, 1.0, (2, 3))


class Ungraspable:
    """An array on another device, like a tensor on a GPU."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __repr__(self) -> str:
        return "Ungraspable()"


@pytest.mark.parametrize(
    ("space", "action", "columns"),
    [
        (STEER, [0.5, -1, 1], [0.5, -1, 1]),
        (STEER, np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.3], np.float32)),
        (STEER, np.zeros((1, 3)), [0, 0, 0]),
        (GRID, np.arange(6).reshape(2, 3) / 8, np.arange(6) / 8),
        (GRID, np.arange(6) / 8, np.arange(6) / 8),
        (spaces.Box(-1.0, 1.0, (1,)), 0.5, [0.5]),
        (spaces.Box(-1.0, 1.0, ()), [0.5], [0.5]),
        (spaces.Discrete(3), np.array([2]), [2]),
        (spaces.Discrete(3), 2.0, [2]),
        (spaces.Discrete(2), True, [1]),
        (spaces.Discrete(3, start=-1), -1, [-1]),
        (spaces.MultiDiscrete([3, 4]), (2, 3), [2, 3]),
        (spaces.MultiBinary(3), [True, False, True], [1, 0, 1]),
        (BYTES, [0, 255], [0, 255]),
    ],
    ids=str,
)
def test_an_action_of_the_space_is_not_changed(space: spaces.Space, action: Any, columns: Any):
    np.testing.assert_array_equal(to_columns(space, action), np.asarray(columns, np.float32))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("space", [STEER, WIDE, BYTES, spaces.MultiDiscrete([3, 4])], ids=str)
def test_an_action_that_is_not_finite_in_float32_is_refused(space: spaces.Space, wrong: float):
    assert space.shape
    action = [0.0] * space.shape[0]
    action[1] = wrong
    with warnings.catch_warnings(), pytest.raises(ValueError, match="must be finite in float32"):
        warnings.simplefilter("error")
        to_columns(space, action)


@pytest.mark.parametrize(
    "action", ["left", ["0", "1", "0"], None, [None] * 3, [1j, 0, 0], [[0.0], [1, 2]], {"steer": 0}, Ungraspable()]
)
def test_an_action_that_is_no_array_of_real_numbers_is_refused(action: Any):
    with pytest.raises(ValueError, match=r"the policy gave .* which is no array") as refused:
        to_columns(STEER, action)
    assert "\n" not in str(refused.value)


def test_a_long_action_is_shortened_in_the_message():
    with pytest.raises(ValueError) as refused:
        to_columns(STEER, ["much too long"] * 1000)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (STEER, [0.0, 1.0]),
        (STEER, 0.0),
        (STEER, np.zeros((2, 3))),
        (GRID, np.zeros((3, 2))),
        (spaces.Discrete(3), [0, 1, 0]),
        (spaces.MultiBinary(3), [True]),
    ],
    ids=str,
)
def test_an_action_of_another_shape_is_refused(space: spaces.Space, action: Any):
    with pytest.raises(ValueError, match=r"the policy gave an action of \d values, shape \(.*\), .* takes \d, shape"):
        to_columns(space, action)


def test_a_large_space_is_named_in_one_line():
    with pytest.raises(ValueError, match=r"^the policy gave .* takes 300") as refused:
        to_columns(spaces.Box(np.arange(300, dtype=np.float32), np.arange(1, 301, dtype=np.float32)), [0.0])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Discrete(3), 3),
        (spaces.Discrete(3), -1),
        (spaces.Discrete(3, start=1), 0),
        (spaces.Discrete(3, start=1), 4),
        (spaces.MultiDiscrete([3, 4]), [0, 4]),
        (spaces.MultiDiscrete([3, 4]), [-1, 0]),
        (spaces.MultiDiscrete([3, 4], start=[1, 1]), [1, 0]),
        (spaces.MultiDiscrete(np.array([[3, 4], [5, 6]])), [[2, 3], [4, 6]]),
        (spaces.MultiBinary(2), [0, 2]),
    ],
    ids=str,
)
def test_a_whole_number_outside_its_space_is_refused(space: spaces.Space, action: Any):
    with pytest.raises(ValueError, match="which is not in"):
        to_columns(space, action)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.MultiDiscrete([3]), spaces.MultiBinary(1), BYTES], ids=str
)
def test_a_fraction_is_refused_as_a_discrete_action(space: spaces.Space):
    with pytest.raises(ValueError, match="takes whole numbers"):
        to_columns(space, [0.5] * ((space.shape or (1,))[0]))


def test_a_whole_number_that_float32_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="cannot hold exactly"):
        to_columns(spaces.Discrete(2**25), 2**24 + 1)


@pytest.mark.parametrize(
    ("space", "columns", "inside"),
    [
        (STEER, [2.0, -7.0, 0.5], [1.0, -1.0, 0.5]),
        (spaces.Box(np.array([0, -np.inf], np.float32), np.array([1, 0], np.float32)), [-1.0, 9.0], [0.0, 0.0]),
        (BYTES, [-1, 256], [0, 255]),
    ],
    ids=str,
)
def test_an_action_outside_a_box_is_clipped_to_its_border(space: spaces.Space, columns: Any, inside: Any):
    found = clipped(space, np.array(columns, np.float32))
    assert (found.dtype, found.tolist()) == (np.float32, inside)
    assert space.contains(from_columns(space, found))


def test_an_action_inside_a_box_is_not_changed():
    inside = np.array([-0.0, 1.0, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    assert clipped(spaces.Box(0.0, 1.0, (3,)), inside) is inside


@pytest.mark.parametrize("bound", [0.1, 0.3, 1 / 3])
def test_an_action_at_a_float64_border_is_not_clipped_after_rounding_to_float32(bound: float):
    space = spaces.Box(-bound, bound, (2,), np.float64)
    columns = to_columns(space, np.array([-bound, bound]))
    assert clipped(space, columns) is columns


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(2)], ids=str)
def test_only_a_box_is_clipped(space: spaces.Space):
    columns = np.array([7, 7], np.float32)
    assert clipped(space, columns) is columns
