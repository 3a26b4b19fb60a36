"""Episodes of other people's data, and the interface of a module that reads them.

A reader gives pictures of any size in time order, and what is known of actions, rewards and ends. It decides which
action follows which picture: `actions[t]` is the action that was chosen after seeing picture t, as in our rollouts.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped

from world_models.runtime.typed_json import Json

MEND = "mend it, or leave such episodes out by --skip_broken true"
MAX_PIXELS = 100_000_000
"""Largest number of pixels of a picture. It keeps a small broken file from taking all memory."""


class BrokenEpisodeError(ValueError):
    """An episode cannot be read.

    Args:
        reason: what was found and what was wanted, without the path.
        file: the broken file, if the episode is a folder of files.
    """

    def __init__(self, reason: str, file: str = ""):
        super().__init__(reason, file)
        self.reason, self.file = reason, file

    def __str__(self) -> str:
        return self.reason


@dataclasses.dataclass(frozen=True)
class ForeignEpisode:
    """One episode of other people's data: T + 1 pictures and T transitions.

    Attributes:
        pictures: x_0 .. x_T, each uint8 (height, width, channels), where 3 channels are RGB and 1 is grey. They are
            read one after the other, so a long video needs little memory. Reading may raise `BrokenEpisodeError`.
        actions: a_0 .. a_{T-1}; None if the source has none.
        rewards: the reward of each action; None if the source has none.
        terminated: whether the last action terminated the episode; otherwise it truncated it.
        truncated: whether the last action also truncated the episode if it terminated it.
        telemetry: simulator state at each picture; None if the source has none.
    """

    pictures: Iterator[np.ndarray]
    actions: Float32[np.ndarray, "T A"] | None = None
    rewards: Float32[np.ndarray, " T"] | None = None
    terminated: bool = False
    truncated: bool = False
    telemetry: Float32[np.ndarray, "T+1 S"] | None = None


@runtime_checkable  # so that tests can check annotations
class Reader(Protocol):
    """Reads the episodes of a source. It is a small frozen dataclass, because each task of a worker holds a copy."""

    @property
    def num_actions(self) -> int:
        """Number of columns of `actions`; 0 without actions."""
        ...

    def only(self, names: Sequence[str]) -> "Reader":
        """A reader of these episodes alone, which is as small as it can be."""
        ...

    def count(self, name: str) -> int:
        """Number of pictures of an episode, without decoding them. It may be an estimate.

        Raises:
            BrokenEpisodeError: the episode cannot be read.
        """
        ...

    def open_episode(self, name: str) -> ForeignEpisode:
        """Open an episode.

        Raises:
            BrokenEpisodeError: the episode cannot be read.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Source:
    """Other people's data that was found at a path.

    Attributes:
        root: the folder.
        names: path of each episode in it, in natural order; `.` is the folder itself.
        reader: reads them.
        description: what they are, such as "videos".
        env: id of the environment that the pictures come from; None if it is unknown.
        action_space: description of the action space, as in rollouts; None if it is unknown.
        telemetry: name of each column of telemetry.
    """

    root: Path
    names: tuple[str, ...]
    reader: Reader
    description: str
    env: str | None = None
    action_space: Mapping[str, Json] | None = None
    telemetry: tuple[str, ...] = ()

    def only(self, names: Sequence[str]) -> "Source":
        """The source of these episodes alone."""
        return dataclasses.replace(self, names=tuple(names), reader=self.reader.only(names))


def as_float32(name: str, found: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Numbers as float32. Only floating point numbers may be rounded.

    Args:
        name: name of the array, for messages.
        found: numbers or booleans.

    Raises:
        BrokenEpisodeError: float32 cannot hold them.

    Example:
        >>> as_float32("actions", np.array([1, 2]))
        array([1., 2.], dtype=float32)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = found.astype(np.float32)
    if not np.isfinite(values).all():
        raise BrokenEpisodeError(f"{name} holds numbers that are not finite in float32")
    if found.dtype.kind != "f" and (values.astype(np.float64) != found).any():
        raise BrokenEpisodeError(f"{name} holds whole numbers that are too large for float32")
    return values
