"""Drives several tracks of CarRacing in lock-step: one step on each, then all frames are read in one batch.

A V model reads a batch of twenty frames in a third of the time of twenty single frames. So each process drives twenty
tracks at the same time.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from world_models import envs
from world_models.envs.expert import Expert
from world_models.runtime.typed_json import Json
from world_models.runtime.workers import Report

ReadFeatures = Callable[[UInt8[torch.Tensor, "tracks 64 64 3"]], Float[torch.Tensor, "tracks z"]]
"""Gives the features of frames that a controller reads: mu of a V model, or PCA's coefficients."""


@dataclasses.dataclass(frozen=True)
class EnvSettings:
    """How to make the environment that is driven.

    Attributes:
        env: its id, CarRacing or one like it.
        env_args: its arguments.
        crop: rows of the observation to keep, in the form of `--crop`.
    """

    env: str
    env_args: Mapping[str, Json]
    crop: str

    def make(self) -> envs.FrameEnv:
        """Make the environment.

        Raises:
            ValueError: it cannot be made, or its observations do not fit the crop.
        """
        return envs.make_env(self.env, self.crop, env_args=self.env_args)

    def check(self) -> None:
        """Check that the expert can drive here.

        Raises:
            ValueError: the environment cannot be made, or there is no expert for it.
        """
        with envs.off_screen(), contextlib.closing(self.make()) as env:
            Expert(env, 0)


class Car:
    """A car on its track, with the advice of the expert.

    Args:
        env_settings: the environment.
        seed: seed of the episode, which determines the track.
        drawn: whether frames are drawn. Otherwise they are black, which is much faster.

    Attributes:
        frame: the current frame (64, 64, 3).
        total: sum of the rewards so far.
        ended: whether the episode has ended.
        finished: whether it has ended because the lap is finished.
        path_m: positions of the car, x and y after each step.
    """

    def __init__(self, env_settings: EnvSettings, seed: int, drawn: bool = True):
        self._env = env_settings.make()
        if not drawn:
            self._env.simulator.stop_drawing()
        self.frame = self._env.reset(seed)
        self._expert = Expert(self._env, seed)
        names = self._env.telemetry_names
        self._x, self._y, self._offset = map(names.index, ("position_x_m", "position_y_m", "center_distance_m"))
        self.total, self.ended, self.finished = 0.0, False, False
        self.path_m = [self._position_m()]

    def advice(self) -> Float32[np.ndarray, " 3"]:
        """The expert's action for the current state: steer, gas and brake."""
        return self._expert(None)

    def distance_m(self) -> float:
        """Distance from the car to the centre line, in metres."""
        return abs(float(self._env.telemetry()[self._offset]))

    def step(self, action: Float32[np.ndarray, " 3"]) -> None:
        """Take a step."""
        self.frame, reward, *ends = self._env.step(action)
        self.total += reward
        self.ended = any(ends)
        self.finished = self.ended and self._env.simulator.is_goal(reward)
        self.path_m.append(self._position_m())

    def outline_m(self) -> Float64[np.ndarray, "points 2"]:
        """The track's centre line, x and y, in metres."""
        return self._env.simulator.centre_line_m()

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _position_m(self) -> tuple[float, float]:
        state = self._env.telemetry()
        return float(state[self._x]), float(state[self._y])


ChooseActions = Callable[[Sequence[Car]], Sequence[Float32[np.ndarray, " 3"]]]
"""Chooses an action for each of the cars that still drive."""


@dataclasses.dataclass(frozen=True)
class DriveResult:
    """The result of driving some tracks.

    Attributes:
        returns: sum of the rewards on each track.
        finished: whether the lap was finished, for each track.
        paths_m: positions of each car, x and y after each step.
        outlines_m: the centre line of each track.
    """

    returns: Float64[np.ndarray, " tracks"]
    finished: Bool[np.ndarray, " tracks"]
    paths_m: Sequence[Float64[np.ndarray, "_ 2"]]
    outlines_m: Sequence[Float64[np.ndarray, "_ 2"]]

    @staticmethod
    def concatenated(parts: Sequence["DriveResult"]) -> "DriveResult":
        """Join several results in their order."""
        return DriveResult(
            np.concatenate([part.returns for part in parts]),
            np.concatenate([part.finished for part in parts]),
            [path for part in parts for path in part.paths_m],
            [outline for part in parts for outline in part.outlines_m],
        )


@envs.off_screen()
@envs.gymnasium_warnings()  # the collection of the training data has printed them
def drive(  # the environment, the tracks, the steps, the driver; the last two are for progress and speed
    env_settings: EnvSettings,
    seeds: Sequence[int],
    num_steps: int,
    choose: ChooseActions,
    report: Report,
    drawn: bool = True,
) -> DriveResult:
    """Drive the tracks of these seeds, each until its episode ends, or for `num_steps` steps.

    Args:
        env_settings: the environment.
        seeds: seeds of the episodes.
        num_steps: number of steps after which an episode is cut off.
        choose: chooses the actions.
        report: called with the number of steps so far. An episode that has ended counts as if it continued.
        drawn: whether frames are drawn.
    """
    with contextlib.ExitStack() as opened:
        # Each car has a new environment, because a simulator may carry state over from one episode to the next.
        cars = [opened.enter_context(contextlib.closing(Car(env_settings, seed, drawn))) for seed in seeds]
        for step in range(num_steps):
            going = [car for car in cars if not car.ended]
            for car, action in zip(going, choose(going) if going else (), strict=True):
                car.step(action)
            report((step + 1) * len(cars))
        return DriveResult(
            np.array([car.total for car in cars]),
            np.array([car.finished for car in cars]),
            [np.array(car.path_m) for car in cars],
            [car.outline_m() for car in cars],
        )


def expert_actions(cars: Sequence[Car]) -> list[Float32[np.ndarray, " 3"]]:
    """A `ChooseActions` with which the expert drives."""
    return [car.advice() for car in cars]


def features_of(cars: Sequence[Car], read: ReadFeatures, rows: int) -> Float[np.ndarray, "tracks z"]:
    """The features of the cars' frames.

    Args:
        cars: the cars, at most `rows`.
        read: gives the features of frames.
        rows: number of frames in the batch; it is filled with black frames. With a fixed size, the sums for a frame do
            not depend on the number of episodes that have ended.
    """
    frames = np.zeros((rows, 64, 64, 3), np.uint8)
    frames[: len(cars)] = [car.frame for car in cars]
    return read(torch.from_numpy(frames))[: len(cars)].numpy()
