"""A linear controller that learns by imitation of the expert, with ridge regression.

The controller is the paper's C without the memory model's h: steer, gas and brake are linear in the features of one
frame. It learns from states that it reaches itself (DAgger, Ross et al. 2011). In each round it drives new tracks. The
expert labels every state with its own action, and the controller is fitted again to all states so far.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from world_models.evaluate.driving.lockstep import Car, ChooseActions, EnvSettings, ReadFeatures, drive, features_of
from world_models.runtime.workers import Report

LOW, HIGH = np.array([-1.0, 0.0, 0.0]), np.ones(3)
RIDGE = 1e-3
"""Weight of the penalty, in units of a standardised feature's variance."""
EXPERT_TAKES_OVER_M, EXPERT_HANDS_BACK_M = 5.0, 3.0
"""In training, the expert drives from the first distance from the centre line on, until the second is reached."""

STEP = 0.5
"""A round moves the controller by this share towards the solution of the regression.

A frame does not show the speed. So the regression gives more gas in all states after a slow round, and less after a
fast round. With full steps the speed would not converge.
"""


@dataclasses.dataclass(frozen=True)
class Controller:
    """Actions that are linear in z, clipped to CarRacing's box.

    Attributes:
        weights: weights of each number of z for steer, gas and brake.
        bias: bias of steer, gas and brake.
    """

    weights: Float[np.ndarray, "z 3"]
    bias: Float[np.ndarray, " 3"]

    def act(self, z: Float[np.ndarray, "tracks z"]) -> Float32[np.ndarray, "tracks 3"]:
        """Steer, gas and brake for each row. The order of the sums depends neither on the rows nor on the threads."""
        wanted = np.einsum("nz,za->na", z.astype(np.float64), self.weights) + self.bias
        return np.clip(wanted, LOW, HIGH).astype(np.float32)

    @classmethod
    def mean(cls, controllers: Sequence["Controller"]) -> "Controller":
        """The controller whose weights are the mean of the others'."""
        return cls(np.mean([each.weights for each in controllers], 0), np.mean([each.bias for each in controllers], 0))

    def towards(self, other: "Controller", share: float) -> "Controller":
        """This controller moved that share of the way to another one."""
        return Controller(
            self.weights + share * (other.weights - self.weights), self.bias + share * (other.bias - self.bias)
        )


@dataclasses.dataclass(frozen=True)
class PracticePlan:
    """The practice of a controller.

    Attributes:
        num_rounds: number of rounds; the expert drives the first.
        num_tracks: number of tracks in each round, all of them new.
        num_steps: number of steps after which an episode is cut off.
        first_seed: seed of the first track.
    """

    num_rounds: int
    num_tracks: int
    num_steps: int
    first_seed: int

    @property
    def total_steps(self) -> int:
        """Number of steps in all rounds."""
        return self.num_rounds * self.num_tracks * self.num_steps

    def seeds(self, index: int) -> range:
        """Seeds of a round's tracks."""
        first = self.first_seed + index * self.num_tracks
        return range(first, first + self.num_tracks)


class RegressionSums:
    """Features of states and the expert's actions in them, kept as the sums that a regression needs."""

    def __init__(self, z_dim: int):
        self.count = 0
        self._inputs, self._products = np.zeros(z_dim), np.zeros((z_dim, z_dim))
        self._actions, self._cross = np.zeros(3), np.zeros((z_dim, 3))

    def add(self, z: Float[np.ndarray, "rows z"], actions: Float32[np.ndarray, "rows 3"]) -> None:
        """Add rows of features and the expert's actions for them."""
        z, actions = z.astype(np.float64), actions.astype(np.float64)
        self.count += len(z)
        self._inputs += z.sum(0)
        self._actions += actions.sum(0)
        # einsum computes small products in one thread. Several threads would sum in another order on another machine.
        self._products += np.einsum("ni,nj->ij", z, z)
        self._cross += np.einsum("ni,na->ia", z, actions)

    def fit(self) -> Controller:
        """Ridge regression on features scaled to variance 1, without penalty on the bias. Constant features get 0."""
        # scikit-learn's Ridge needs all rows instead of sums, and takes twice as long for the same weights.
        mean, mean_action = self._inputs / self.count, self._actions / self.count
        covariance = self._products / self.count - np.outer(mean, mean)
        std = np.sqrt(np.maximum(covariance.diagonal(), 0))
        scale = np.where(std > 1e-9 * (1 + np.abs(mean)), 1 / np.maximum(std, 1e-300), 0)
        correlation = scale[:, None] * covariance * scale + RIDGE * np.eye(len(mean))
        cross = scale[:, None] * (self._cross / self.count - np.outer(mean, mean_action))
        weights = scale[:, None] * np.linalg.solve(correlation, cross)
        return Controller(weights, mean_action - mean @ weights)


def controller_actions(controller: Controller, read: ReadFeatures, rows: int) -> ChooseActions:
    """A `ChooseActions` with which the controller drives; it reads `rows` frames at once."""
    return lambda cars: list(controller.act(features_of(cars, read, rows)))


class PracticeRound:
    """One round of practice: the controller drives, and the expert labels its states. Off the road, the expert drives.

    Args:
        controller: the controller that drives; None for the expert.
        read: gives the features of frames.
        sums: every state is added to them.
        rows: number of cars.
    """

    def __init__(self, controller: Controller | None, read: ReadFeatures, sums: RegressionSums, rows: int):
        self._controller, self._read, self._sums, self._rows = controller, read, sums, rows
        self._helped: set[Car] = set()

    def __call__(self, cars: Sequence[Car]) -> list[Float32[np.ndarray, " 3"]]:
        """The actions of the cars. The features and the expert's actions are added to the sums."""
        z, advice = features_of(cars, self._read, self._rows), [car.advice() for car in cars]
        self._sums.add(z, np.stack(advice))
        if self._controller is None:
            return advice
        driven = self._controller.act(z)
        return [advice[row] if self._helps(car) else driven[row] for row, car in enumerate(cars)]

    def _helps(self, car: Car) -> bool:
        """Whether the expert drives this car: it takes over far from the centre line, and hands back near to it."""
        if car.distance_m() <= (EXPERT_HANDS_BACK_M if car in self._helped else EXPERT_TAKES_OVER_M):
            self._helped.discard(car)
            return False
        self._helped.add(car)
        return True


def train_controller(
    env_settings: EnvSettings, read: ReadFeatures, z_dim: int, plan: PracticePlan, report: Report
) -> Controller:
    """Train a controller, round by round. The expert drives the first round.

    Args:
        env_settings: the environment.
        read: gives the features of frames.
        z_dim: number of features.
        plan: rounds, tracks and steps.
        report: called with the number of steps so far.

    Returns:
        The mean of the controllers of the second half of the rounds. Each of them is fitted too much to the tracks of
        its rounds, most of all in its speed. Their mean is less so.
    """
    sums, controllers = RegressionSums(z_dim), list[Controller]()
    for index in range(plan.num_rounds):
        practice_round = PracticeRound(controllers[-1] if controllers else None, read, sums, plan.num_tracks)
        before = index * plan.num_tracks * plan.num_steps
        drive(
            env_settings,
            plan.seeds(index),
            plan.num_steps,
            practice_round,
            lambda steps, before=before: report(before + steps),
        )
        fitted = sums.fit()
        controllers.append(controllers[-1].towards(fitted, STEP) if controllers else fitted)
    return Controller.mean(controllers[len(controllers) // 2 :])
