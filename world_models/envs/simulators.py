"""What is special about a simulator: its telemetry, who can draw it faster, a bar in its picture.

Generic code asks this and nothing else. A simulator that we know has a module of its own with a class made of
`Simulator`, and a line in `KNOWN`; every other environment is a plain `Simulator`.
"""

import importlib
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium
import numpy as np
from jaxtyping import Float32

from world_models.envs.making import Recipe

KNOWN = {"CarRacing": "world_models.envs.car_simulator"}
"""Where each simulator that we know is described, by the name of its class.

`simulator(env)` of that module returns the `Simulator`, or None if another class only has the same name.
"""

RendererName = Literal["auto", "c", "pygame", "gymnasium"]


class MismatchError(Exception):
    """A renderer drew another frame than Gymnasium."""


@runtime_checkable
class Telemetry(Protocol):
    """Reads the state of one episode."""

    def is_of_this_episode(self) -> bool:
        """Whether the environment still drives the episode that this was made for."""
        ...

    def __call__(self) -> Float32[np.ndarray, " S"]:
        """The state at the current frame."""
        ...


class Simulator:
    """An environment of which we know nothing special: no telemetry, drawn by itself, no bar.

    Args:
        env: the environment, wrapped or not.

    Attributes:
        telemetry_names: what the telemetry holds, with units.
    """

    telemetry_names: tuple[str, ...] = ()

    def __init__(self, env: gymnasium.Env):
        self.env = env

    def telemetry(self) -> Telemetry:
        """The reader of the episode that has just begun."""
        return _NoTelemetry()

    def auto_crop(self, make: Recipe) -> tuple[int, int] | None:
        """The rows that `--crop auto` keeps; None keeps them all.

        Args:
            make: makes such environments, for a trial.
        """
        return None

    @property
    def renderer(self) -> str:
        """Who draws the observations; `gymnasium` is the environment itself."""
        return "gymnasium"

    @property
    def renderer_note(self) -> str:
        """In a line, which renderer was taken and why; empty where there was no choice."""
        return ""

    def draw_by(self, renderer: str, make: Recipe) -> None:
        """Have the observations drawn by a renderer that gives the same pixels.

        Args:
            renderer: as in `make_env`.
            make: makes such environments, for a trial.

        Raises:
            ValueError: the renderer was asked for by name, and does not draw this environment.
        """
        if renderer not in ("auto", "gymnasium"):
            known = " and ".join(KNOWN)
            raise ValueError(f"renderer {renderer} draws {known}, not {make.env_id}; leave it out, or give gymnasium")

    @property
    def caution(self) -> int:
        """How many times the usual number of frames has to be compared with the environment's own."""
        return 1

    @property
    def num_checked(self) -> int:
        """How many observations were compared with the environment's own."""
        return 0

    def check_next_frame(self) -> None:
        """Have the next observation compared with the environment's own, where another renderer is at work."""

    def stop_drawing(self) -> None:
        """Show black pictures from now on, if a fast renderer draws. It saves time where no policy looks at frames."""

    def free(self) -> None:
        """Free what the environment holds after it was closed."""


class _NoTelemetry:
    def is_of_this_episode(self) -> bool:
        return True

    def __call__(self) -> Float32[np.ndarray, " 0"]:
        return np.zeros(0, np.float32)


def simulator_of(env: gymnasium.Env) -> Simulator:
    """What is special about an environment, whatever its id and its wrappers. Classes made of a known one are known."""
    for kind in type(env.unwrapped).__mro__:
        if kind.__name__ in KNOWN:
            module: Any = importlib.import_module(KNOWN[kind.__name__])
            if found := module.simulator(env):
                return found
    return Simulator(env)
