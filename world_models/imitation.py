"""A linear controller that learns by imitation: it drives, the expert says what it would have done, ridge regression.

The controller is the paper's C without the memory model's h: steer, gas and brake are linear in what it sees of one
frame. What it learns from are the states that it comes into itself (DAgger, Ross et al. 2011): round by round it
drives new tracks, every state is labelled by the expert, and it is fitted anew to all states so far.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8

from world_models.executors import Report
from world_models.lockstep import Seen, Tracks

LOW, HIGH = np.array([-1.0, 0.0, 0.0]), np.ones(3)
RIDGE = 1e-3
"""Weight of the penalty, in units of a standardised feature's variance."""
LEAVES_M, RETURNS_M = 5.0, 3.0
"""In training the expert takes the wheel this far from the centre line, and gives it back so near to it."""

STEP = 0.5
"""Share of the way that a round moves the controller to the regression's.

No frame shows the speed. So the regression after a slow round asks for more gas in all states, and that after a fast
round for less; a whole step each time would not settle.
"""
LEFT_THE_FIELD = -100.0
"""CarRacing's reward for the step that ends an episode beyond the playing field."""

Read = Callable[[UInt8[np.ndarray, "tracks 64 64 3"]], Float[np.ndarray, "tracks z"]]
"""What a controller sees of frames: mu of a V model, or PCA's coefficients."""


@dataclasses.dataclass(frozen=True)
class Controller:
    """Actions that are linear in z, clipped to CarRacing's box.

    Attributes:
        weights: of each number of z for steer, gas and brake.
        bias: added to them.
    """

    weights: Float[np.ndarray, "z 3"]
    bias: Float[np.ndarray, " 3"]

    def act(self, z: Float[np.ndarray, "tracks z"]) -> Float32[np.ndarray, "tracks 3"]:
        """Steer, gas and brake for each row; sums in a fixed order, whatever the number of rows and threads."""
        wanted = np.einsum("nz,za->na", z.astype(np.float64), self.weights) + self.bias
        return np.clip(wanted, LOW, HIGH).astype(np.float32)

    def towards(self, other: "Controller", share: float) -> "Controller":
        """This controller moved that share of the way to another one."""
        return Controller(
            self.weights + share * (other.weights - self.weights), self.bias + share * (other.bias - self.bias)
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much a controller practises.

    Attributes:
        num_rounds: rounds of driving; the expert drives the first.
        num_tracks: in each round, all of them new.
        num_steps: after which an episode is cut off.
        first_seed: of the first track.
    """

    num_rounds: int
    num_tracks: int
    num_steps: int
    first_seed: int

    def seeds(self, index: int) -> range:
        """Seeds of a round's tracks."""
        first = self.first_seed + index * self.num_tracks
        return range(first, first + self.num_tracks)


class Lessons:
    """States and what the expert does in them, as the sums that a regression needs."""

    def __init__(self, z_dim: int):
        self.count = 0
        self._inputs, self._products = np.zeros(z_dim), np.zeros((z_dim, z_dim))
        self._actions, self._cross = np.zeros(3), np.zeros((z_dim, 3))

    def add(self, z: Float[np.ndarray, "rows z"], actions: Float32[np.ndarray, "rows 3"]) -> None:
        """Take in rows of what was seen, and the expert's actions for them."""
        z, actions = z.astype(np.float64), actions.astype(np.float64)
        self.count += len(z)
        self._inputs += z.sum(0)
        self._actions += actions.sum(0)
        # einsum does not hand small products to threads, which would sum in another order on another machine.
        self._products += np.einsum("ni,nj->ij", z, z)
        self._cross += np.einsum("ni,na->ia", z, actions)

    def fit(self) -> Controller:
        """Ridge regression with the bias left free, on features brought to variance 1; a constant one gets weight 0."""
        mean, mean_action = self._inputs / self.count, self._actions / self.count
        covariance = self._products / self.count - np.outer(mean, mean)
        std = np.sqrt(np.maximum(covariance.diagonal(), 0))
        scale = np.where(std > 1e-9 * (1 + np.abs(mean)), 1 / np.maximum(std, 1e-300), 0)
        correlation = scale[:, None] * covariance * scale + RIDGE * np.eye(len(mean))
        cross = scale[:, None] * (self._cross / self.count - np.outer(mean, mean_action))
        weights = scale[:, None] * np.linalg.solve(correlation, cross)
        return Controller(weights, mean_action - mean @ weights)


@dataclasses.dataclass(frozen=True)
class Driven:
    """What came of driving tracks, a row each.

    Attributes:
        returns: sum of the rewards.
        finished: whether the lap was finished.
        paths_m: where the car was after each round, x and y.
    """

    returns: Float64[np.ndarray, " tracks"]
    finished: Bool[np.ndarray, " tracks"]
    paths_m: Float64[np.ndarray, "rounds tracks 2"]


Choose = Callable[[Seen, Int64[np.ndarray, " going"]], Float32[np.ndarray, "going 3"]]
"""Actions for the tracks of these rows, which are still driven."""


def drive(
    tracks: Tracks, seeds: Sequence[int], num_steps: int, choose: Choose, report: Report, drawn: bool = True
) -> Driven:
    """Drive the tracks of these seeds to their ends, or for that many steps.

    Args:
        tracks: the simulators.
        seeds: of the episodes.
        num_steps: after which an episode is cut off.
        choose: who drives.
        report: is told the steps of each round.
        drawn: whether there are frames to look at.
    """
    seen = tracks.begin(seeds, drawn)
    returns, finished = np.zeros(len(seeds)), np.zeros(len(seeds), bool)
    paths_m = [seen.positions_m]
    for _ in range(num_steps):
        going = np.flatnonzero(~seen.ended)
        actions = np.zeros((len(seeds), 3), np.float32)
        if len(going):
            actions[going] = choose(seen, going)
            seen = tracks.step(actions)
            returns += seen.rewards
            finished[going] = seen.ended[going] & (seen.rewards[going] > LEFT_THE_FIELD)
            paths_m.append(seen.positions_m)
        report(len(seeds))
    return Driven(returns, finished, np.stack(paths_m))


def by_expert(seen: Seen, going: Int64[np.ndarray, " going"]) -> Float32[np.ndarray, "going 3"]:
    """The expert drives."""
    return seen.advice[going]


def by(controller: Controller, read: Read) -> Choose:
    """The controller drives, by what it reads in the frames."""
    return lambda seen, going: controller.act(read(seen.frames[going]))


class Lesson:
    """One round of learning: the controller drives, the expert labels, and takes the wheel where the road is lost.

    Attributes:
        unaided: what each track earned before the expert first took the wheel, the step under way not counted.
    """

    def __init__(self, controller: Controller | None, read: Read, lessons: Lessons, num_tracks: int):
        self._controller, self._read, self._lessons = controller, read, lessons
        self._helped = np.zeros(num_tracks, bool)
        self._alone = np.ones(num_tracks, bool)
        self.unaided = np.zeros(num_tracks)

    def __call__(self, seen: Seen, going: Int64[np.ndarray, " going"]) -> Float32[np.ndarray, "going 3"]:
        """The actions; what was seen and advised is added to the lessons."""
        z, advice = self._read(seen.frames[going]), seen.advice[going]
        self._lessons.add(z, advice)
        self.unaided += seen.rewards * self._alone
        if self._controller is None:
            return advice
        off_m = np.abs(seen.offsets_m)
        self._helped = off_m > np.where(self._helped, RETURNS_M, LEAVES_M)
        self._alone &= ~self._helped
        return np.where(self._helped[going, None], advice, self._controller.act(z))


def learn(tracks: Tracks, read: Read, z_dim: int, plan: Plan, report: Report) -> Controller:
    """Learn to drive, round by round; the first is the expert's.

    Args:
        tracks: the simulators.
        read: what the controller sees of a frame.
        z_dim: how many numbers that is.
        plan: how much it practises, and where.
        report: is told the steps of each round.

    Returns:
        the controller that earned most on the tracks it practised on, before it first needed help.
    """
    lessons, controller = Lessons(z_dim), None
    tried: list[tuple[float, Controller]] = []
    for index in range(plan.num_rounds):
        lesson = Lesson(controller, read, lessons, plan.num_tracks)
        drive(tracks, plan.seeds(index), plan.num_steps, lesson, report)
        if controller is not None:
            tried.append((float(lesson.unaided.mean()), controller))
        fitted = lessons.fit()
        controller = fitted if controller is None else controller.towards(fitted, STEP)
    return max(tried, key=lambda each: each[0])[1]
