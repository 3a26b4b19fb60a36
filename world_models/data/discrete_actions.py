"""Discrete actions as a memory model reads them: a column for each action, instead of one column with the index."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json

MAX_ACTIONS = 10_000
"""Largest number of actions. A damaged file may state any number, and each action takes a column of memory."""
MAX_START = 2**53
"""Largest first action. Up to this number, a comparison with the stored float32 numbers is exact."""


@dataclasses.dataclass(frozen=True)
class DiscreteActions:
    """The actions start, start + 1, .. start + num - 1, as in Gymnasium's `Discrete`.

    Example:
        >>> DiscreteActions(num=3).one_hot(np.array([[[2.0], [0.0]]], np.float32)).tolist()
        [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """

    num: int
    start: int = 0

    @classmethod
    def described_by(cls, space: Mapping[str, Json], num_columns: int, path: Path) -> "DiscreteActions":
        """The actions of a data set.

        Args:
            space: the data set's `action_space`; empty if it has none.
            num_columns: number of columns of its `actions`.
            path: the data set; messages begin with it.

        Raises:
            ValueError: the actions are not discrete, or are not described.

        Example:
            >>> DiscreteActions.described_by({"type": "Discrete", "n": 3, "start": 0}, 1, Path("latents/doom"))
            DiscreteActions(num=3, start=0)
        """
        found_in = printable(str(path))
        if not space:
            raise ValueError(
                f"{found_in}: an older version made it, without action_space; delete it and run encode again"
            )
        if space.get("type") != "Discrete":
            kind = printable(str(space.get("type")))
            raise ValueError(
                f"{found_in}: its actions are of type {kind}, one_hot takes Discrete ones; leave one_hot out"
            )
        num, start = space.get("n"), space.get("start")
        if (
            not (isinstance(num, int) and 1 <= num <= MAX_ACTIONS)
            or not (isinstance(start, int) and abs(start) <= MAX_START)
            or num_columns != 1
        ):
            found = printable(f"{num_columns} columns for n {num}, start {start}")
            raise ValueError(
                f"{found_in}: actions have {found}; one_hot takes one column for 1 to {MAX_ACTIONS:,} actions"
            )
        return cls(num, start)

    def one_hot(self, indices: Float32[np.ndarray, "*batch 1"]) -> Float32[np.ndarray, "*batch actions"]:
        """A row for each index: 1 in the action's column, 0 elsewhere. A number that is no index gives zeros."""
        return (indices == np.arange(self.start, self.start + self.num)).astype(np.float32)
