"""The types of policies and of the environment that they may use, and the random generator of a policy."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

Policy = Callable[[UInt8[np.ndarray, "64 64 3"]], Any]


@runtime_checkable
class Drivable(Protocol):
    """The part of an environment that a policy may use."""

    action_space: spaces.Space
    telemetry_names: tuple[str, ...]
    env: Any

    def telemetry(self) -> Float32[np.ndarray, " S"]:
        """The simulator's state at the current frame."""
        ...


PolicyFactory = Callable[[Any, int], Policy]

FOR_ANY_ACTIONS = "use random or repeated, which take any actions, as in --policy repeated"
"""What to do if a policy does not fit the actions of an environment."""


def generator(seed: int) -> np.random.Generator:
    """The random generator of a policy, made of the episode's seed. Its stream differs from that of the track."""
    return np.random.default_rng([seed, 0x706F6C696379])  # "policy"
