"""Environments that yield 64x64x3 uint8 frames and a named telemetry vector, whatever is underneath."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

from world_models.envs.making import FAST_CAR_RACING as FAST_CAR_RACING
from world_models.envs.making import check_arguments as check_arguments
from world_models.envs.making import draw_fast, has_indicator_bar, is_car_racing, recipe
from world_models.envs.making import fault as fault
from world_models.envs.making import gymnasium_warnings as gymnasium_warnings
from world_models.envs.making import off_screen as off_screen
from world_models.envs.preprocessing import Preprocess as Preprocess
from world_models.envs.preprocessing import parse_crop as parse_crop
from world_models.envs.preprocessing import preprocess as preprocess

Frame = UInt8[np.ndarray, "64 64 3"]


class FrameEnv:
    """A Gymnasium environment seen as the data set sees it.

    Attributes:
        env: the Gymnasium environment underneath.
        action_space: its action space.
        preprocess: how its observations become frames.
        telemetry_names: what `telemetry()` holds, with units; empty where the simulator is unknown.
    """

    def __init__(self, env: gymnasium.Env, from_render: bool, how: Preprocess):
        self.env, self.preprocess = env, how
        self.action_space: spaces.Space[Any] = env.action_space
        self._from_render = from_render
        self._fast: Any = env.unwrapped if hasattr(env.unwrapped, "check_next_frame") else None
        self._telemetry_class = _telemetry_class(env)
        self._state: np.ndarray | None = None
        self.telemetry_names: tuple[str, ...] = self._telemetry_class.NAMES if self._telemetry_class else ()

    def reset(self, seed: int) -> Frame:
        """Begin the episode that the seed determines; returns x_0."""
        observation, _ = self.env.reset(seed=seed)
        self._telemetry = self._telemetry_class(self.env.unwrapped) if self._telemetry_class else None
        self._state = None
        return self._frame(observation)

    def step(self, action: Float32[np.ndarray, " A"]) -> tuple[Frame, float, bool, bool]:
        """Take the action given as stored columns; returns the next frame, reward, terminated, truncated."""
        observation, reward, terminated, truncated, _ = self.env.step(from_columns(self.action_space, action))
        self._state = None
        return self._frame(observation), float(reward), bool(terminated), bool(truncated)

    def telemetry(self) -> Float32[np.ndarray, " S"]:
        """The simulator's state at the current frame."""
        if self._state is None:
            self._state = self._telemetry() if self._telemetry else np.zeros(0, np.float32)
            self._state.flags.writeable = False  # the recorder and the policy both get it
        return self._state

    @property
    def renderer(self) -> str:
        """Who draws the observations: `gymnasium`, or one of CarRacing's fast renderers."""
        return self._fast.renderer.name if self._fast else "gymnasium"

    @property
    def renderer_note(self) -> str:
        """In a line, which renderer was taken and why; empty where there was no choice."""
        reason = getattr(self.env.unwrapped, "renderer_reason", None)
        return f"CarRacing is drawn by {self.renderer}: {reason}" if reason else ""

    @property
    def num_checked(self) -> int:
        """How many observations were compared with those that Gymnasium draws."""
        return self._fast.num_checked if self._fast else 0

    def check_next_frame(self) -> None:
        """Have the next observation compared with Gymnasium's, where another renderer is at work."""
        if self._fast:
            self._fast.check_next_frame = True

    def close(self) -> None:
        """Free what the environment holds."""
        self.env.close()

    def _frame(self, observation: Any) -> Frame:
        return preprocess(self.env.render() if self._from_render else observation, self.preprocess)  # type: ignore[arg-type]


def _telemetry_class(env: gymnasium.Env):
    """Who reads this simulator, None if nobody here knows it."""
    if is_car_racing(env):
        from world_models.envs.car_racing import CarTelemetry

        return CarTelemetry
    return None


def make_env(
    env_id: str, crop: str = "auto", renderer: str = "auto", env_args: Mapping[str, Any] | None = None
) -> FrameEnv:
    """Make an environment by its Gymnasium id.

    Frames are the observations where those are images, else what `render_mode="rgb_array"` draws. The id's own time
    limit is left out: `max_steps` of the collection takes its place.

    Args:
        env_id: the id; CarRacing-v3 is made with the fast renderer, which gives the same observations.
        crop: rows to keep, see `parse_crop`.
        renderer: who draws CarRacing, or a class made of it: auto, c, pygame or gymnasium.
        env_args: arguments for the environment.

    Raises:
        ValueError: unknown id, a missing package, arguments that the environment does not take, no images to be had,
            actions that do not fit flat columns, or a renderer that this environment or this machine does not have.
    """
    make = recipe(env_id, renderer, env_args or {})
    env = make()
    image = _is_image(env.observation_space)
    how = Preprocess(parse_crop(crop, image and has_indicator_bar(env, make)))
    if not image:
        if "rgb_array" not in env.metadata.get("render_modes", ()):
            raise ValueError(
                f"{env_id} has neither image observations nor render_mode rgb_array; choose an env with images"
            )
        env.close()
        env = make(render_mode="rgb_array")
    elif how.crop is not None and how.crop[1] > env.observation_space.shape[0]:  # type: ignore[index]
        raise ValueError(f"crop {crop} keeps rows to {how.crop[1]}, {env_id} has {env.observation_space.shape[0]}")  # type: ignore[index]
    num_columns(env.action_space)
    draw_fast(env, renderer, make)
    return FrameEnv(env, not image, how)


def _is_image(space: spaces.Space) -> bool:
    shape = space.shape or ()
    return space.dtype == np.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


def num_columns(space: spaces.Space) -> int:
    """How many float32 columns an action takes: A.

    Raises:
        ValueError: actions of this space are not a vector of numbers.
    """
    if isinstance(space, spaces.Discrete):
        return 1
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return math.prod(space.shape or ())
    raise ValueError(f"actions are {space}; only Box, Discrete, MultiDiscrete and MultiBinary fit columns of numbers")


def to_columns(space: spaces.Space, action: Any) -> Float32[np.ndarray, " A"]:
    """An action of the space as the columns that are stored.

    Raises:
        ValueError: the action has another number of values than the space.
    """
    columns = np.array(action, np.float32).reshape(-1)  # a copy: the policy may use its array again
    if len(columns) != num_columns(space):
        raise ValueError(f"the policy gave an action of {len(columns)} values, {space} takes {num_columns(space)}")
    return columns


def from_columns(space: spaces.Space, columns: Float32[np.ndarray, " A"]) -> Any:
    """The stored columns as the action that `env.step` takes: exactly those float32 values."""
    if isinstance(space, spaces.Discrete):
        return int(columns[0])
    return columns.reshape(space.shape or ()).astype(space.dtype)


def describe_space(space: spaces.Space) -> dict[str, Any]:
    """The action space as JSON, for the attribute `action_space`."""
    kind = type(space).__name__
    if isinstance(space, spaces.Discrete):
        return {"type": kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Box):
        low, high = (
            [float(x) if np.isfinite(x) else None for x in bound.reshape(-1)] for bound in (space.low, space.high)
        )
        return {"type": kind, "shape": list(space.shape), "low": low, "high": high}
    return {"type": kind, "shape": list(space.shape or ())}


def spec(how: Preprocess) -> dict[str, Any]:
    """The preprocess as JSON, for the attribute `preprocess`."""
    return dataclasses.asdict(how)
