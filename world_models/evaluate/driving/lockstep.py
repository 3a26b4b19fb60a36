"""Tracks of CarRacing driven in lock-step: a step on each, then the frames of all are read at once.

A V model reads twenty frames in a third of the time that it takes to read them one by one. So a process drives twenty
tracks side by side; other processes drive others.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from world_models import envs
from world_models.envs.expert import Expert
from world_models.runtime.workers import Report

Read = Callable[[UInt8[torch.Tensor, "tracks 64 64 3"]], Float[torch.Tensor, "tracks z"]]
"""What a controller sees of frames: mu of a V model, or PCA's coefficients."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Which environment is driven.

    Attributes:
        env: its id, CarRacing or one like it.
        env_args: arguments that it is made with.
        crop: rows of the observation to keep, as `--crop` takes them.
    """

    env: str
    env_args: Mapping[str, Any]
    crop: str

    def make(self) -> envs.FrameEnv:
        """Make it.

        Raises:
            ValueError: it cannot be made, or its observations do not fit the crop.
        """
        return envs.make_env(self.env, self.crop, env_args=self.env_args)

    def check(self) -> None:
        """Refuse a place where the expert cannot drive.

        Raises:
            ValueError: it cannot be made, or there is no expert for it.
        """
        with envs.off_screen(), contextlib.closing(self.make()) as env:
            Expert(env, 0)


class Car:
    """A car on its track, with the expert as co-driver.

    Args:
        place: the environment.
        seed: of the episode, which makes the track.
        drawn: whether frames are drawn; they are black otherwise, which is much faster.

    Attributes:
        frame: what a controller sees now (64, 64, 3).
        total: sum of the rewards so far.
        ended: whether the episode is over.
        finished: whether it is over because the lap is finished.
        path_m: where the car has been, x and y after each step.
    """

    def __init__(self, place: Place, seed: int, drawn: bool = True):
        self._env = place.make()
        if not drawn:
            self._env.simulator.stop_drawing()
        self.frame = self._env.reset(seed)
        self._expert = Expert(self._env, seed)
        names = self._env.telemetry_names
        self._x, self._y, self._offset = map(names.index, ("position_x_m", "position_y_m", "center_distance_m"))
        self.total, self.ended, self.finished = 0.0, False, False
        self.path_m = [self._position_m()]

    def advice(self) -> Float32[np.ndarray, " 3"]:
        """What the expert would do now: steer, gas and brake."""
        return self._expert(None)

    def distance_m(self) -> float:
        """From the car to the centre line."""
        return abs(float(self._env.telemetry()[self._offset]))

    def step(self, action: Float32[np.ndarray, " 3"]) -> None:
        """Take a step."""
        self.frame, reward, *ends = self._env.step(action)
        self.total += reward
        self.ended = any(ends)
        self.finished = self.ended and self._env.simulator.is_goal(reward)
        self.path_m.append(self._position_m())

    def outline_m(self) -> Float64[np.ndarray, "points 2"]:
        """The track's centre line, x and y."""
        return self._env.simulator.centre_line_m()

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _position_m(self) -> tuple[float, float]:
        state = self._env.telemetry()
        return float(state[self._x]), float(state[self._y])


Choose = Callable[[Sequence[Car]], Sequence[Float32[np.ndarray, " 3"]]]
"""An action for each of the cars that still drive."""


@dataclasses.dataclass(frozen=True)
class Driven:
    """What came of driving tracks.

    Attributes:
        returns: sum of the rewards of each.
        finished: whether the lap was finished.
        paths_m: where each car was, x and y after each step.
        outlines_m: the centre line of each track.
    """

    returns: Float64[np.ndarray, " tracks"]
    finished: Bool[np.ndarray, " tracks"]
    paths_m: Sequence[Float64[np.ndarray, "_ 2"]]
    outlines_m: Sequence[Float64[np.ndarray, "_ 2"]]

    @staticmethod
    def together(parts: Sequence["Driven"]) -> "Driven":
        """Several as one, in their order."""
        return Driven(
            np.concatenate([part.returns for part in parts]),
            np.concatenate([part.finished for part in parts]),
            [path for part in parts for path in part.paths_m],
            [outline for part in parts for outline in part.outlines_m],
        )


@envs.off_screen()
@envs.gymnasium_warnings()  # which the collection of the training data said
def drive(  # where, what, how long, by whom; the last two are for progress and speed
    place: Place, seeds: Sequence[int], num_steps: int, choose: Choose, report: Report, drawn: bool = True
) -> Driven:
    """Drive the tracks of these seeds to their ends, or for that many steps.

    Args:
        place: the environment.
        seeds: of the episodes.
        num_steps: after which an episode is cut off.
        choose: who drives.
        report: is told the steps taken so far, those after an early end included.
        drawn: whether there are frames to look at.
    """
    with contextlib.ExitStack() as opened:
        # Each is made anew, since a simulator may carry something over from one episode to the next.
        cars = [opened.enter_context(contextlib.closing(Car(place, seed, drawn))) for seed in seeds]
        for step in range(num_steps):
            going = [car for car in cars if not car.ended]
            for car, action in zip(going, choose(going) if going else (), strict=True):
                car.step(action)
            report((step + 1) * len(cars))
        return Driven(
            np.array([car.total for car in cars]),
            np.array([car.finished for car in cars]),
            [np.array(car.path_m) for car in cars],
            [car.outline_m() for car in cars],
        )


def by_expert(cars: Sequence[Car]) -> list[Float32[np.ndarray, " 3"]]:
    """The expert drives."""
    return [car.advice() for car in cars]


def look(cars: Sequence[Car], read: Read, rows: int) -> Float[np.ndarray, "tracks z"]:
    """What is read in the cars' frames.

    Args:
        cars: at most `rows`.
        read: reads frames.
        rows: frames that are read at once, black ones added: always as many, or a frame's sums would depend on how
            many other episodes have ended.
    """
    frames = np.zeros((rows, 64, 64, 3), np.uint8)
    frames[: len(cars)] = [car.frame for car in cars]
    return read(torch.from_numpy(frames))[: len(cars)].numpy()
