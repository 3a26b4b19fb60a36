"""Makes any Gymnasium environment one that gives 64x64x3 uint8 frames and a telemetry vector with names.

`FrameEnv` and `make_env` are in this file. The other files are:

making           makes an environment from its id and arguments
observations     tells which observations are pictures
preprocessing    turns an observation into a frame
action_columns   turns actions into columns of numbers, and back
simulators       what is known about a simulator: telemetry, renderers, a bar in the picture
policies         the policies that drive; drivable has their types, car_driver and expert drive CarRacing
live_episode     one episode while it is driven
telemetry_info   a wrapper that puts the simulator's state into `info`
car_racing       CarRacing with a fast renderer, and its telemetry
car_simulator    the `Simulator` of CarRacing
car_dynamics     a faster car
car_scene        what the renderers draw
car_renderer     the renderers: in C (`_car_canvas.c`), by pygame, by Gymnasium
renderer_choice  chooses the renderer for this machine
car_names        names of our CarRacing
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

from world_models.envs import observations
from world_models.envs.action_columns import clipped, describe_space, from_columns, num_columns, to_columns
from world_models.envs.car_names import FAST_CAR_RACING, RendererName
from world_models.envs.making import (
    HOW_TO_FIX,
    check_arguments,
    describe_error,
    gymnasium_warnings,
    off_screen,
    recipe,
)
from world_models.envs.observations import EnvError, PictureError
from world_models.envs.preprocessing import Preprocess, parse_crop, preprocess
from world_models.envs.simulators import MismatchError, Telemetry, simulator_of
from world_models.runtime.typed_json import Json

__all__ = [
    "FAST_CAR_RACING",
    "HOW_TO_FIX",
    "EnvError",
    "Frame",
    "FrameEnv",
    "MismatchError",
    "PictureError",
    "Preprocess",
    "RendererName",
    "check_arguments",
    "clipped",
    "describe_error",
    "describe_space",
    "from_columns",
    "gymnasium_warnings",
    "make_env",
    "num_columns",
    "off_screen",
    "parse_crop",
    "preprocess",
    "preprocess_spec",
    "to_columns",
]

Frame = UInt8[np.ndarray, "64 64 3"]


class FrameEnv:
    """A Gymnasium environment that gives frames, actions as columns, and telemetry, as a data set stores them.

    Attributes:
        env: the wrapped Gymnasium environment.
        simulator: what we know about this kind of environment.
        action_space: the action space of `env`.
        preprocess: how observations become frames.
        telemetry_names: names of the values of `telemetry()`, with units; empty if the simulator is unknown.
        from_render: whether frames are made of what `render()` draws, instead of the observations.
        picture_name: name of the picture in a dict observation; None if the observations are no dicts, or not used.
        picture: the picture that the current frame was made of; None before the first reset.
    """

    def __init__(self, env: gymnasium.Env, from_render: bool, preprocessing: Preprocess):
        self.env, self.preprocess = env, preprocessing
        self.action_space: spaces.Space[Any] = env.action_space
        self.from_render = from_render
        name, self._picture_space = observations.picture_in(env.observation_space)
        self.picture_name = None if from_render else name
        self.picture: UInt8[np.ndarray, "height width *channels"] | None = None
        self._shape: tuple[int, ...] | None = None
        self.simulator = simulator_of(env)
        self._telemetry: Telemetry | None = None
        self._state: np.ndarray | None = None
        self.telemetry_names = self.simulator.telemetry_names

    def reset(self, seed: int) -> Frame:
        """Begin the episode of this seed and return its first frame, x_0.

        Raises:
            EnvError: the environment raises an error. `step` and `close` raise it too.
            PictureError: the environment shows no picture of the promised kind and size. `step` raises it too.
        """
        with self._as_env_errors():
            observation, _ = self.env.reset(seed=seed)
        self._telemetry = self.simulator.telemetry()
        self._state = None
        self._shape = None if self.from_render else self._picture_space.shape
        return self._frame(observation)

    def step(self, action: Float32[np.ndarray, " A"]) -> tuple[Frame, float, bool, bool]:
        """Take an action, given as stored columns. Returns the next frame, reward, terminated, truncated."""
        with self._as_env_errors():
            observation, earned, terminated, truncated, _ = self.env.step(from_columns(self.action_space, action))
            reward, terminated, truncated = float(earned), bool(terminated), bool(truncated)
        self._state = None
        return self._frame(observation), reward, terminated, truncated

    def telemetry(self) -> Float32[np.ndarray, " S"]:
        """The simulator's state at the current frame."""
        if self._state is None:
            assert self._telemetry is not None, "call reset first"
            state = self._telemetry()
            state.flags.writeable = False  # the recorder and the policy share this array
            self._state = state
        return self._state

    @property
    def name(self) -> str:
        """The environment's id."""
        return self.env.spec.id if self.env.spec else type(self.env.unwrapped).__name__

    def close(self) -> None:
        """Close the environment and free its memory."""
        with self._as_env_errors():
            self.env.close()
            self.simulator.free()

    @contextlib.contextmanager
    def _as_env_errors(self) -> Iterator[None]:
        """Raise errors of the environment's own code as `EnvError`, even if it tries to end the process."""
        try:
            yield
        except MismatchError:  # raised by our own renderer
            raise
        except (Exception, SystemExit) as error:
            raise EnvError(f"{self.name} fails, {describe_error(error)}; {HOW_TO_FIX}") from error

    def _drawn(self) -> Any:
        with self._as_env_errors():
            return self.env.render()

    @property
    def _source(self) -> str:
        if self.from_render:
            return "render()"
        return "the observation" if self.picture_name is None else f"{self.picture_name!r} of the observation"

    def _frame(self, observation: Any) -> Frame:
        picture: Any = self._drawn() if self.from_render else observations.picture_of(observation, self.picture_name)
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape == self._shape):
            self._shape = observations.check_picture(
                f"{self.name}: {self._source}", picture, self._shape, self.preprocess.crop
            )
        self.picture = picture
        return preprocess(picture, self.preprocess)


def make_env(
    env_id: str, crop: str = "auto", renderer: str = "auto", env_args: Mapping[str, Json] | None = None
) -> FrameEnv:
    """Make an environment by its Gymnasium id.

    Frames are made of the observations if those are images, or dicts with one image: the only RGB image or, if there is
    none, the only grey one. Other frames are made of what `render_mode="rgb_array"` draws. The environment is made
    without its time limit, because a collection has its own limit, `max_steps`.

    Args:
        env_id: the id; CarRacing-v3 is made with the fast renderer, which gives the same observations.
        crop: rows to keep, see `parse_crop`.
        renderer: renderer of CarRacing and of its subclasses: auto, c, pygame or gymnasium.
        env_args: arguments for the environment.

    Raises:
        ValueError: the id is unknown, a package is missing, the environment does not take the arguments, it shows no
            images or several, its actions do not fit flat columns, or the renderer cannot draw it on this machine.

    Example:
        >>> env = make_env("CarRacing-v3")
        >>> frame = env.reset(seed=0)
        >>> frame.shape, frame.dtype
        ((64, 64, 3), dtype('uint8'))
        >>> frame, reward, terminated, truncated = env.step(np.array([0, 1, 0], np.float32))
        >>> env.close()
    """
    make = recipe(env_id, renderer, env_args or {})
    env = make()
    with contextlib.ExitStack() as if_refused:
        if_refused.callback(lambda: env.close())  # of the variable, which may hold another environment by then
        no_pictures = _why_drawn(env_id, env)
        preprocessing = Preprocess(parse_crop(crop, None if no_pictures else simulator_of(env).auto_crop(make)))
        if no_pictures:
            env.close()
            env = make(render_mode="rgb_array")
        elif preprocessing.crop is not None:
            _, space = observations.picture_in(env.observation_space)
            rows, last = space.shape[0], preprocessing.crop[1]  # type: ignore[index]
            if last > rows:
                raise ValueError(f"crop {crop} keeps rows to {last}, {env_id} has {rows}")
        num_columns(env.action_space)
        frames = FrameEnv(env, bool(no_pictures), preprocessing)
        if not make.renderer:  # otherwise `make` has passed it to the environment
            frames.simulator.use_renderer(renderer, make)
        if_refused.pop_all()
    return frames


def _why_drawn(env_id: str, env: gymnasium.Env) -> str | None:
    """What the environment observes instead of a picture, so that frames are made of what it draws; else None.

    Raises:
        ValueError: it observes several pictures, or it neither observes nor draws one.
    """
    if len(names := observations.pictures_in(env.observation_space)) > 1:
        raise ValueError(
            f"{env_id} observes {len(names)} pictures: {', '.join(names)}; choose an env that observes one of them, "
            "for example by gymnasium.wrappers.FilterObservation"
        )
    no_pictures = observations.why_no_pictures(env)
    if no_pictures and "rgb_array" not in env.metadata.get("render_modes", ()):
        raise ValueError(
            f"{env_id} has neither image observations nor render_mode rgb_array: its observations are {no_pictures}; "
            f"choose an env that observes {observations.WANTED}"
        )
    return no_pictures


def preprocess_spec(preprocessing: Preprocess) -> dict[str, Json]:
    """The preprocessing as JSON values, for the attribute `preprocess`."""
    return dataclasses.asdict(preprocessing)
