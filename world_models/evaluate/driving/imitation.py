"""A linear controller that learns by imitation: it drives, the expert says what it would have done, ridge regression.

The controller is the paper's C without the memory model's h: steer, gas and brake are linear in what it sees of one
frame. What it learns from are the states that it comes into itself (DAgger, Ross et al. 2011): round by round it
drives new tracks, every state is labelled by the expert, and it is fitted anew to all states so far.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from world_models.evaluate.driving.lockstep import Car, Choose, Place, Read, drive, look
from world_models.runtime.workers import Report

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

    @property
    def total_steps(self) -> int:
        """Steps in all rounds."""
        return self.num_rounds * self.num_tracks * self.num_steps

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
        # By hand: scikit-learn's Ridge needs all rows, where sums serve, and takes twice as long for the same weights.
        mean, mean_action = self._inputs / self.count, self._actions / self.count
        covariance = self._products / self.count - np.outer(mean, mean)
        std = np.sqrt(np.maximum(covariance.diagonal(), 0))
        scale = np.where(std > 1e-9 * (1 + np.abs(mean)), 1 / np.maximum(std, 1e-300), 0)
        correlation = scale[:, None] * covariance * scale + RIDGE * np.eye(len(mean))
        cross = scale[:, None] * (self._cross / self.count - np.outer(mean, mean_action))
        weights = scale[:, None] * np.linalg.solve(correlation, cross)
        return Controller(weights, mean_action - mean @ weights)


def by(controller: Controller, read: Read, rows: int) -> Choose:
    """The controller drives, by what it reads in the frames; `rows` of them at once."""
    return lambda cars: list(controller.act(look(cars, read, rows)))


class Lesson:
    """One round of learning: the controller drives, the expert labels, and takes the wheel where the road is lost.

    Args:
        controller: drives; None for the expert.
        read: what the controller sees of frames.
        lessons: takes in every state.
        rows: cars that drive.
    """

    def __init__(self, controller: Controller | None, read: Read, lessons: Lessons, rows: int):
        self._controller, self._read, self._lessons, self._rows = controller, read, lessons, rows
        self._helped: set[Car] = set()

    def __call__(self, cars: Sequence[Car]) -> list[Float32[np.ndarray, " 3"]]:
        """The actions; what was seen and advised is added to the lessons."""
        z, advice = look(cars, self._read, self._rows), [car.advice() for car in cars]
        self._lessons.add(z, np.stack(advice))
        if self._controller is None:
            return advice
        driven = self._controller.act(z)
        return [advice[row] if self._helps(car) else driven[row] for row, car in enumerate(cars)]

    def _helps(self, car: Car) -> bool:
        """Whether the expert holds the wheel: from where the road is lost until the car is back on it."""
        if car.distance_m() <= (RETURNS_M if car in self._helped else LEAVES_M):
            self._helped.discard(car)
            return False
        self._helped.add(car)
        return True


def learn(place: Place, read: Read, z_dim: int, plan: Plan, report: Report) -> Controller:
    """Learn to drive, round by round; the first is the expert's.

    Args:
        place: the environment.
        read: what the controller sees of frames.
        z_dim: how many numbers that is.
        plan: how much it practises, and where.
        report: is told the steps taken so far.

    Returns:
        the mean of the second half of the rounds' controllers. Each of them leans towards the tracks of its rounds, in
        its speed above all; their mean does so less.
    """
    lessons, controllers = Lessons(z_dim), list[Controller]()
    for index in range(plan.num_rounds):
        lesson = Lesson(controllers[-1] if controllers else None, read, lessons, plan.num_tracks)
        before = index * plan.num_tracks * plan.num_steps
        drive(place, plan.seeds(index), plan.num_steps, lesson, lambda steps, before=before: report(before + steps))
        fitted = lessons.fit()
        controllers.append(controllers[-1].towards(fitted, STEP) if controllers else fitted)
    return _mean(controllers[len(controllers) // 2 :])


def _mean(controllers: Sequence[Controller]) -> Controller:
    weights, bias = (np.mean([getattr(each, of) for each in controllers], 0) for of in ("weights", "bias"))
    return Controller(weights, bias)
