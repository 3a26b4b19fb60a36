"""Episodes of other people's data, and the interface of a module that reads them.

A reader lists its episodes without decoding them, and opens one of them at a time. It gives pictures of any size in
time order, and what is known of actions, rewards and ends. It decides which action follows which picture: `actions[t]`
is the action that was chosen after seeing picture t, as in our rollouts.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from jaxtyping import Float32, UInt8
import numpy as np

from world_models.runtime.typed_json import Json

Picture = UInt8[np.ndarray, "height width channels"]


class BrokenEpisodeError(ValueError):
    """An episode cannot be read. The message names its file, and says what was found and what was wanted."""


@dataclasses.dataclass(frozen=True)
class ForeignEpisode:
    """One episode of other people's data: T + 1 pictures and T transitions.

    Attributes:
        pictures: x_0 .. x_T, uint8, height x width x channels (3 is RGB, 1 is grey). They are read one after the other,
            so a long video needs little memory. Reading may raise `BrokenEpisodeError`.
        actions: a_0 .. a_{T-1}, float32 (T, A); None if the source has none.
        rewards: the reward of each action, float32 (T,); None if the source has none.
        terminated: whether the last action terminated the episode; otherwise it is truncated.
    """

    pictures: Iterable[Picture]
    actions: Float32[np.ndarray, "T A"] | None = None
    rewards: Float32[np.ndarray, " T"] | None = None
    terminated: bool = False


class Reader(Protocol):
    """A format of other people's data. It is a frozen dataclass, since workers get a copy of it."""

    @property
    def env(self) -> str:
        """Name of the environment for the attribute `env`; the format's name if the source does not say."""
        ...

    @property
    def num_actions(self) -> int:
        """Number of columns of `actions`; 0 without actions."""
        ...

    @property
    def action_space(self) -> dict[str, Json]:
        """Description of the action space, as `envs.describe_space` gives it."""
        ...

    @property
    def episodes(self) -> Sequence[str]:
        """A name for each episode, in order, such as its file's path within the source."""
        ...

    def open_episode(self, name: str) -> ForeignEpisode:
        """Open one episode.

        Raises:
            BrokenEpisodeError: it cannot be read.
        """
        ...
