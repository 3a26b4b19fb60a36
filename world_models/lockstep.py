"""Many tracks of CarRacing driven in lock-step: processes step the simulators, and one action for each comes from here.

A controller that sees frames through a network is fast only with many frames at once, and the simulators are fast only
in several processes. So each process holds some of the tracks; in a round it takes one step on each. The processes
know the expert too, and nothing of torch.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from world_models import envs, executors, workers
from world_models.expert import Expert

PLACED_BY = ("position_x_m", "position_y_m", "center_distance_m")


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


@dataclasses.dataclass(frozen=True)
class Seen:
    """The tracks after a round, a row each; where an episode has ended the row stays as it was.

    Attributes:
        frames: what a controller sees.
        advice: what the expert would do: steer, gas and brake.
        positions_m: of the car, x and y.
        offsets_m: of the car from the centre line, left is positive.
        rewards: of the round; 0 after the end.
        ended: whether the episode has ended, now or before.
    """

    frames: UInt8[np.ndarray, "tracks 64 64 3"]
    advice: Float32[np.ndarray, "tracks 3"]
    positions_m: Float64[np.ndarray, "tracks 2"]
    offsets_m: Float64[np.ndarray, " tracks"]
    rewards: Float64[np.ndarray, " tracks"]
    ended: Bool[np.ndarray, " tracks"]


@dataclasses.dataclass(frozen=True)
class Begin:
    """Ask a process to begin episodes of these seeds; frames are left black where nobody looks at them."""

    seeds: tuple[int, ...]
    drawn: bool


@dataclasses.dataclass(frozen=True)
class Outlines:
    """Ask a process for the centre lines of its tracks."""


class Stable:
    """The tracks of one process."""

    def __init__(self, place: Place):
        self._place = place
        self._envs: list[envs.FrameEnv] = []

    @envs.off_screen()
    @envs.gymnasium_warnings()  # which the collection of the training data said
    def __call__(self, request: Any, report: executors.Report) -> Any:
        """Begin new episodes; take a step in each with the action of its row; or tell the centre lines."""
        if isinstance(request, Outlines):
            return [np.array(env.env.unwrapped.track, np.float64)[:, 2:4] for env in self._envs]  # type: ignore[attr-defined]
        if isinstance(request, Begin):
            self._begin(request)
        else:
            for index, action in enumerate(request):
                self._step(index, action)
        return self._seen()

    def _begin(self, request: Begin) -> None:
        self.close()
        # Each is made anew, since a simulator may carry something over from one episode to the next.
        self._envs, count = [self._place.make() for _ in request.seeds], len(request.seeds)
        for env in self._envs if not request.drawn else ():
            env.stop_drawing()
        self._frames = [env.reset(seed) for env, seed in zip(self._envs, request.seeds, strict=True)]
        self._experts = [Expert(env, seed) for env, seed in zip(self._envs, request.seeds, strict=True)]
        self._advice = [expert(None) for expert in self._experts]
        self._rewards, self._ended = [0.0] * count, [False] * count

    def _step(self, index: int, action: Float32[np.ndarray, " 3"]) -> None:
        self._rewards[index] = 0.0
        if not self._ended[index]:
            self._frames[index], self._rewards[index], *ends = self._envs[index].step(action)
            self._advice[index], self._ended[index] = self._experts[index](None), any(ends)

    def _seen(self) -> Seen:
        columns = [self._envs[0].telemetry_names.index(name) for name in PLACED_BY]
        placed = np.array([env.telemetry()[columns] for env in self._envs], np.float64)
        return Seen(
            np.stack(self._frames),
            np.stack(self._advice),
            placed[:, :2],
            placed[:, 2],
            np.array(self._rewards, np.float64),
            np.array(self._ended, bool),
        )

    def close(self) -> None:
        """Free the simulators."""
        for env in self._envs:
            env.close()


Ask = Callable[[Sequence[Any]], list[Any]]


class Tracks:
    """All tracks, whichever process holds them.

    Args:
        ask: gives each process its request and returns their answers.
        num_workers: how many processes there are.
    """

    def __init__(self, ask: Ask, num_workers: int):
        self._ask, self._num_workers = ask, num_workers

    def begin(self, seeds: Sequence[int], drawn: bool = True) -> Seen:
        """Begin the episodes of these seeds, all anew."""
        return self._all([Begin(tuple(map(int, part)), drawn) for part in self._parts(np.array(seeds))])

    def step(self, actions: Float32[np.ndarray, "tracks 3"]) -> Seen:
        """Take one step on each track, with the action of its row."""
        return self._all(self._parts(actions))

    def outlines(self) -> list[Float64[np.ndarray, "points 2"]]:
        """The centre line of each track, in metres."""
        return [line for part in self._ask([Outlines()] * self._num_workers) for line in part]

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        return np.array_split(rows, self._num_workers)

    def _all(self, requests: Sequence[Any]) -> Seen:
        parts = self._ask(requests)
        names = [field.name for field in dataclasses.fields(Seen)]
        return Seen(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@contextlib.contextmanager
def opened(place: Place, num_workers: int) -> Iterator[Tracks]:
    """Processes that hold tracks, for the block.

    Args:
        place: which environment.
        num_workers: how many processes; no more than there are tracks.

    Raises:
        Stopped: from what is done in the block, if a process died.
    """
    with workers.team(Stable(place), num_workers) as ask:
        yield Tracks(ask, num_workers)
