"""Discrete actions are found by the description of the action space, and everything else is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models.data.discrete_actions import DiscreteActions

PATH = Path("latents")


def test_the_number_of_actions_is_that_of_the_action_space():
    assert DiscreteActions.described_by({"type": "Discrete", "n": 4, "start": -1}, 1, PATH) == DiscreteActions(4, -1)


def test_one_hot_has_one_column_for_each_action():
    found = DiscreteActions(3, start=-1).one_hot(np.array([[-1.0], [0.0], [1.0]], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.eye(3))


@pytest.mark.parametrize("number", [-1.0, 3.0, 0.5, np.nan])
def test_a_number_that_is_no_index_gives_zeros(number: float):
    assert not DiscreteActions(3).one_hot(np.array([[number]], np.float32)).any()


@pytest.mark.parametrize(
    ("space", "num_columns", "said"),
    [
        ({}, 1, "latents: an older version made it, without action_space; delete it and run encode again"),
        ({"type": "Box", "shape": [3]}, 3, "its actions are of type Box, one_hot takes Discrete ones; leave one_hot"),
        ({"type": "MultiDiscrete", "shape": [1]}, 1, "of type MultiDiscrete, one_hot takes Discrete"),
        ({"type": "Discrete", "n": 3}, 1, "1 columns for n 3, start None; one_hot takes one column for 1 to 10,000"),
        ({"type": "Discrete", "n": 0, "start": 0}, 1, "for n 0, start 0"),
        ({"type": "Discrete", "n": 10**12, "start": 0}, 1, "for n 1000000000000, start 0"),
        ({"type": "Discrete", "n": "3", "start": 0}, 1, "for n 3, start 0"),
        ({"type": "Discrete", "n": 3, "start": 10**30}, 1, "start 1000"),
        ({"type": "Discrete", "n": 3, "start": 0}, 2, "2 columns for n 3"),
    ],
    ids=str,
)
def test_other_actions_are_refused_in_one_line(space: dict[str, Any], num_columns: int, said: str):
    with pytest.raises(ValueError, match=said) as refused:
        DiscreteActions.described_by(space, num_columns, PATH)
    assert "\n" not in str(refused.value)
