"""What we know about a simulator: its telemetry, its fast renderers, and a bar in its picture.

Generic code uses only `Simulator`. A known simulator has a module with a subclass of `Simulator`, and a line in
`KNOWN`. Every other environment is a plain `Simulator`.
"""

import importlib
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from jaxtyping import Float32, Float64

from world_models.envs.making import Recipe

KNOWN = {"CarRacing": "world_models.envs.car_simulator"}
"""The module of each known simulator, by the name of the environment's class.

`simulator(env)` of that module returns the `Simulator`, or None if the class has the same name but is another one.
"""


class MismatchError(Exception):
    """A renderer drew a frame that differs from the environment's own."""


@runtime_checkable
class Telemetry(Protocol):
    """Reads the state of one episode."""

    def is_of_this_episode(self) -> bool:
        """Whether the environment is still in the episode that this reader was made for."""
        ...

    def __call__(self) -> Float32[np.ndarray, " S"]:
        """The state at the current frame."""
        ...


class Simulator:
    """An unknown environment: it has no telemetry, no fast renderer, and no bar. Subclasses describe known ones.

    Args:
        env: the environment, wrapped or not.

    Attributes:
        telemetry_names: names of the telemetry's values, with units.
    """

    telemetry_names: tuple[str, ...] = ()

    def __init__(self, env: gymnasium.Env):
        self.env = env

    def telemetry(self) -> Telemetry:
        """A reader of the state of the episode that has just begun."""
        return _NoTelemetry()

    def centre_line_m(self) -> Float64[np.ndarray, "points 2"]:
        """The centre line of this episode's road, x and y; no points if there is no road."""
        return np.zeros((0, 2))

    def is_goal(self, last_reward: float) -> bool:
        """Whether an episode that ended with this reward has reached its goal, such as a finished lap."""
        return False

    def auto_crop(self, make: Recipe) -> tuple[int, int] | None:
        """The rows that `--crop auto` keeps: the first, and one past the last. None keeps all.

        Args:
            make: makes environments like this one, for a trial.
        """
        return None

    @property
    def renderer(self) -> str:
        """Name of the renderer; `gymnasium` is the environment itself."""
        return "gymnasium"

    @property
    def renderer_note(self) -> str:
        """Which renderer was chosen and why, in one line; empty if there was no choice."""
        return ""

    def use_renderer(self, renderer: str, make: Recipe) -> None:
        """Use a renderer that gives the same pixels as the environment.

        Args:
            renderer: as in `make_env`.
            make: makes environments like this one, for a trial.

        Raises:
            ValueError: the renderer has another name than auto, and cannot draw this environment.
        """
        if renderer not in ("auto", "gymnasium"):
            known = " and ".join(KNOWN)
            raise ValueError(f"renderer {renderer} draws {known}, not {make.env_id}; leave it out, or give gymnasium")

    @property
    def check_factor(self) -> int:
        """The usual number of frames to compare with the environment's own is multiplied by this."""
        return 1

    @property
    def num_checked(self) -> int:
        """Number of observations that were compared with the environment's own."""
        return 0

    def check_next_frame(self) -> None:
        """Compare the next observation with the environment's own, if another renderer draws."""

    def stop_drawing(self) -> None:
        """Show black pictures from now on, to save time if no policy looks at frames. Only fast renderers do so."""

    def free(self) -> None:
        """Free memory that the environment still holds after `close`."""


class _NoTelemetry:
    def is_of_this_episode(self) -> bool:
        return True

    def __call__(self) -> Float32[np.ndarray, " 0"]:
        return np.zeros(0, np.float32)


def simulator_of(env: gymnasium.Env) -> Simulator:
    """The `Simulator` of an environment, wrapped or not. A subclass of a known class is known too."""
    for kind in type(env.unwrapped).__mro__:
        if kind.__name__ in KNOWN:
            module: Any = importlib.import_module(KNOWN[kind.__name__])
            if found := module.simulator(env):
                return found
    return Simulator(env)
