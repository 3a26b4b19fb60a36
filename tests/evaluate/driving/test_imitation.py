"""Imitation: the regression, the controller, when the expert drives, and which controller is chosen."""

import numpy as np
import pytest
import torch

from world_models.evaluate.driving import imitation, lockstep
from world_models.evaluate.driving.imitation import Controller, PracticePlan, PracticeRound, RegressionSums
from world_models.evaluate.driving.lockstep import EnvSettings

RNG = np.random.default_rng(0)
NOBODY = Controller(np.zeros((1, 3)), np.zeros(3))
SLOPE = EnvSettings("Slope", {}, "none")


def ignore(steps: int) -> None:
    pass


class Car(lockstep.Car):
    """A car without a simulator: it drifts 0.5 m to the right each step, and is pushed by the steering.

    A frame's first pixel tells where it is: 100 in the middle. The reward is 1 within 3 m of the middle. Episodes end
    after 40 steps.
    """

    def __init__(self, place: EnvSettings, seed: int, drawn: bool = True):
        self.at_m, self.total = seed % 3 - 1.0, 0.0
        self.ended = self.finished = False
        self.path_m = [(self.at_m, 0.0)]

    @property
    def frame(self) -> np.ndarray:  # type: ignore[override]
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[0, 0, 0] = np.clip(100 + 10 * self.at_m, 0, 255)
        return frame

    def advice(self) -> np.ndarray:
        return np.array([np.clip(0.5 + 0.3 * self.at_m, -1, 1), 0, 0], np.float32)

    def distance_m(self) -> float:
        return abs(self.at_m)

    def step(self, action: np.ndarray) -> None:
        self.at_m += 0.5 - float(action[0])
        self.total += 1.0 if abs(self.at_m) < 3 else 0.0
        self.path_m.append((self.at_m, 0.0))
        self.ended = self.finished = len(self.path_m) == 41

    def outline_m(self) -> np.ndarray:
        return np.zeros((1, 2))

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def slope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockstep, "Car", Car)


def read(frames: torch.Tensor) -> torch.Tensor:
    return frames[:, 0, 0, :1].float()


def test_regression_finds_the_linear_controller_that_made_the_actions():
    z = RNG.normal(3, 2, (500, 4))
    weights, bias = RNG.normal(size=(4, 3)), RNG.normal(size=3)
    sums = RegressionSums(4)
    for part in np.array_split(z, 7):
        sums.add(part, (part @ weights + bias).astype(np.float32))
    fitted = sums.fit()
    np.testing.assert_allclose(fitted.weights, weights, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(z @ fitted.weights + fitted.bias, z @ weights + bias, atol=0.05)


def test_a_feature_that_never_varies_gets_no_weight():
    z = np.concatenate([RNG.normal(size=(50, 1)), np.full((50, 1), 7.3)], 1)
    sums = RegressionSums(2)
    sums.add(z, np.repeat(z[:, :1], 3, 1).astype(np.float32))
    fitted = sums.fit()
    np.testing.assert_array_equal(fitted.weights[1], 0)
    np.testing.assert_allclose(fitted.weights[0], 1, rtol=0.01)


def test_actions_are_clipped_to_the_cars_box():
    controller = Controller(np.array([[1.0, 1.0, 1.0]]), np.zeros(3))
    np.testing.assert_array_equal(controller.act(np.array([[-5.0], [0.5], [5.0]])), [[-1, 0, 0], [0.5] * 3, [1] * 3])


def test_the_action_of_a_row_does_not_depend_on_other_rows():
    controller, z = Controller(RNG.normal(size=(32, 3)), RNG.normal(size=3)), RNG.normal(size=(100, 32))
    np.testing.assert_array_equal(controller.act(z)[17:18], controller.act(z[17:18]))


def test_a_controller_moves_towards_another_by_a_share_of_the_difference():
    moved = NOBODY.towards(Controller(np.full((1, 3), 4.0), np.full(3, 8.0)), 0.25)
    assert (moved.weights.tolist(), moved.bias.tolist()) == ([[1.0] * 3], [2.0] * 3)


def _held(practice_round: PracticeRound, car: Car, offset_m: float) -> bool:
    """Whether the expert drives at this distance from the middle."""
    car.at_m = offset_m
    return bool(practice_round([car])[0][0] != 0)


def test_the_expert_drives_off_the_road_until_the_car_is_near_the_middle():
    practice_round, car = PracticeRound(NOBODY, read, RegressionSums(1), 1), Car(SLOPE, 1)
    held = [_held(practice_round, car, at) for at in (0.0, 4.0, -5.5, -4.0, -2.0, -4.0)]
    assert held == [False, False, True, True, False, False]


def test_every_visited_state_is_an_example_until_the_track_ends():
    sums = RegressionSums(1)
    lockstep.drive(SLOPE, range(4), 60, PracticeRound(None, read, sums, 4), ignore)
    assert sums.count == 4 * 40


def test_a_controller_learns_to_drive_as_the_expert_does():
    controller = imitation.train_controller(SLOPE, read, 1, PracticePlan(3, 6, 40, 0), ignore)
    driven = lockstep.drive(SLOPE, range(9), 40, imitation.controller_actions(controller, read, 9), ignore)
    np.testing.assert_array_equal(driven.returns, 40)


def test_each_round_uses_tracks_of_its_own(monkeypatch: pytest.MonkeyPatch):
    begun, drive = [], imitation.drive
    monkeypatch.setattr(
        imitation, "drive", lambda place, seeds, *rest: begun.append(seeds) or drive(place, seeds, *rest)
    )
    imitation.train_controller(SLOPE, read, 1, PracticePlan(3, 2, 5, 100), ignore)
    assert [list(seeds) for seeds in begun] == [[100, 101], [102, 103], [104, 105]]


def test_progress_continues_from_round_to_round():
    told: list[int] = []
    plan = PracticePlan(3, 2, 4, 0)
    imitation.train_controller(SLOPE, read, 1, plan, told.append)
    assert told == list(range(2, 25, 2)) and plan.total_steps == 24


def test_the_learned_controller_is_the_mean_of_the_second_half_of_the_rounds(monkeypatch: pytest.MonkeyPatch):
    fitted = iter([Controller(np.full((1, 3), value), np.full(3, -value)) for value in (8.0, 0.0, 8.0, 0.0)])
    monkeypatch.setattr(RegressionSums, "fit", lambda self: next(fitted))
    learned = imitation.train_controller(SLOPE, read, 1, PracticePlan(4, 2, 5, 0), ignore)
    # Half-way to each fit: 8, 4, 6, 3. The last two count.
    np.testing.assert_array_equal(learned.weights, np.full((1, 3), 4.5))
    np.testing.assert_array_equal(learned.bias, np.full(3, -4.5))
