"""What a policy is, what it may ask of its environment, and where its random numbers come from."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

Policy = Callable[[UInt8[np.ndarray, "64 64 3"]], Any]


@runtime_checkable
class Drivable(Protocol):
    """What a policy may ask of its environment."""

    action_space: spaces.Space
    telemetry_names: tuple[str, ...]
    env: Any

    def telemetry(self) -> Float32[np.ndarray, " S"]:
        """The simulator's state at the current frame."""
        ...


PolicyFactory = Callable[[Any, int], Policy]


def generator(seed: int) -> np.random.Generator:
    """Random numbers of a policy: derived from the episode's seed, yet not the stream that made its track."""
    return np.random.default_rng([seed, 0x706F6C696379])  # "policy"
