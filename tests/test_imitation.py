"""Imitation: the regression, the controller, who holds the wheel, and what is chosen."""

from collections.abc import Sequence

import numpy as np
import pytest

from world_models import imitation
from world_models.imitation import Controller, Driven, Lesson, Lessons, Plan
from world_models.lockstep import Seen, Tracks

RNG = np.random.default_rng(0)
NOBODY = Controller(np.zeros((1, 3)), np.zeros(3))


def ignore(steps: int) -> None:
    pass


class Slope(Tracks):
    """Tracks without a simulator: a car that drifts to the right, is pushed by the steering, and ends by and by.

    A frame's first pixel tells where the car is: 100 in the middle. The reward is 1 within 3 m of the middle.
    """

    def __init__(self, length: int = 20, last_reward: float = 1.0):
        self.length, self.last_reward, self.begun = length, last_reward, []

    def begin(self, seeds: Sequence[int], drawn: bool = True) -> Seen:
        self.begun.append(list(seeds))
        self.at_m = np.array([seed % 3 - 1.0 for seed in seeds])
        self.rounds = np.zeros(len(seeds), int)
        return self._seen(np.zeros(len(seeds)))

    def step(self, actions: np.ndarray) -> Seen:
        going = self.rounds < self.length
        self.rounds += going
        self.at_m = np.where(going, self.at_m + 0.5 - actions[:, 0], self.at_m)
        near = np.where(np.abs(self.at_m) < 3, 1.0, 0.0)
        return self._seen(np.where(going, np.where(self.rounds == self.length, self.last_reward, near), 0.0))

    def _seen(self, rewards: np.ndarray) -> Seen:
        frames = np.zeros((len(self.at_m), 64, 64, 3), np.uint8)
        frames[:, 0, 0, 0] = np.clip(100 + 10 * self.at_m, 0, 255).astype(np.uint8)
        advice = np.zeros((len(self.at_m), 3), np.float32)
        advice[:, 0] = np.clip(0.5 + 0.3 * self.at_m, -1, 1)
        positions = np.stack([self.at_m, self.rounds], 1).astype(np.float64)
        return Seen(frames, advice, positions, self.at_m, rewards, self.rounds == self.length)


def read(frames: np.ndarray) -> np.ndarray:
    return frames[:, 0, 0, :1].astype(np.float64)


def test_regression_finds_the_linear_law_that_made_the_actions():
    z = RNG.normal(3, 2, (500, 4))
    weights, bias = RNG.normal(size=(4, 3)), RNG.normal(size=3)
    lessons = Lessons(4)
    for part in np.array_split(z, 7):
        lessons.add(part, (part @ weights + bias).astype(np.float32))
    fitted = lessons.fit()
    np.testing.assert_allclose(fitted.weights, weights, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(z @ fitted.weights + fitted.bias, z @ weights + bias, atol=0.05)


def test_a_feature_that_never_varies_gets_no_weight():
    z = np.concatenate([RNG.normal(size=(50, 1)), np.full((50, 1), 7.3)], 1)
    lessons = Lessons(2)
    lessons.add(z, np.repeat(z[:, :1], 3, 1).astype(np.float32))
    fitted = lessons.fit()
    np.testing.assert_array_equal(fitted.weights[1], 0)
    np.testing.assert_allclose(fitted.weights[0], 1, rtol=0.01)


def test_actions_are_clipped_to_the_cars_box():
    controller = Controller(np.array([[1.0, 1.0, 1.0]]), np.zeros(3))
    np.testing.assert_array_equal(controller.act(np.array([[-5.0], [0.5], [5.0]])), [[-1, 0, 0], [0.5] * 3, [1] * 3])


def test_a_rows_action_does_not_depend_on_the_other_rows():
    controller, z = Controller(RNG.normal(size=(32, 3)), RNG.normal(size=3)), RNG.normal(size=(100, 32))
    np.testing.assert_array_equal(controller.act(z)[17:18], controller.act(z[17:18]))


def test_moving_towards_another_controller_takes_a_share_of_the_difference():
    moved = NOBODY.towards(Controller(np.full((1, 3), 4.0), np.full(3, 8.0)), 0.25)
    assert (moved.weights.tolist(), moved.bias.tolist()) == ([[1.0] * 3], [2.0] * 3)


def test_returns_add_up_the_rewards_to_each_tracks_end():
    driven = imitation.drive(Slope(length=5), range(3), 100, imitation.by_expert, ignore)
    np.testing.assert_array_equal(driven.returns, [5, 5, 5])
    assert driven.finished.all()


def test_an_episode_is_cut_off_after_its_steps():
    driven = imitation.drive(Slope(length=5), range(3), 4, imitation.by_expert, ignore)
    np.testing.assert_array_equal(driven.returns, [4, 4, 4])
    assert not driven.finished.any()


def test_leaving_the_field_finishes_no_lap():
    tracks = Slope(length=5, last_reward=-100.0)
    driven = imitation.drive(tracks, range(3), 100, imitation.by_expert, ignore)
    assert not driven.finished.any()


def test_progress_counts_all_steps_that_were_planned():
    told: list[int] = []
    imitation.drive(Slope(length=5), range(3), 9, imitation.by_expert, told.append)
    assert sum(told) == 27


def test_path_begins_at_the_start_and_has_a_place_for_each_round():
    driven = imitation.drive(Slope(length=5), range(3), 4, imitation.by_expert, ignore)
    assert driven.paths_m.shape == (5, 3, 2)
    np.testing.assert_array_equal(driven.paths_m[0, :, 0], [-1, 0, 1])


def _held(lesson: Lesson, offset_m: float) -> bool:
    """Whether the expert holds the wheel at this distance from the middle."""
    tracks = Slope()
    tracks.begin([1])
    tracks.at_m = np.array([offset_m])
    return bool(lesson(tracks._seen(np.zeros(1)), np.array([0]))[0, 0] != 0)


def test_the_expert_takes_the_wheel_off_the_road_and_gives_it_back_near_the_middle():
    lesson = Lesson(NOBODY, read, Lessons(1), 1)
    assert [_held(lesson, at) for at in (0.0, 4.0, -5.5, -4.0, -2.0, -4.0)] == [False, False, True, True, False, False]


def test_what_is_earned_with_help_does_not_count_in_practice():
    tracks, lesson = Slope(length=30), Lesson(NOBODY, read, Lessons(1), 3)
    driven = imitation.drive(tracks, range(3), 30, lesson, ignore)
    assert (driven.returns > lesson.unaided).all()
    # Without steering the car drifts 0.5 m a step from -1, 0 and 1 m: 3 m off nothing is earned, 5 m off comes help.
    np.testing.assert_array_equal(lesson.unaided, [7, 5, 3])


def test_every_state_that_is_come_into_is_a_lesson_until_the_track_ends():
    lessons = Lessons(1)
    imitation.drive(Slope(length=5), range(4), 9, Lesson(None, read, lessons, 4), ignore)
    assert lessons.count == 20


def test_a_controller_learns_to_drive_as_the_expert_does():
    tracks = Slope(length=40)
    controller = imitation.learn(tracks, read, 1, Plan(3, 6, 40, 0), ignore)
    driven = imitation.drive(tracks, range(9), 40, imitation.by(controller, read), ignore)
    np.testing.assert_array_equal(driven.returns, 40)


def test_each_round_practises_on_tracks_of_its_own():
    tracks = Slope()
    imitation.learn(tracks, read, 1, Plan(3, 2, 5, 100), ignore)
    assert tracks.begun == [[100, 101], [102, 103], [104, 105]]


def test_the_controller_that_did_best_in_practice_is_chosen(monkeypatch: pytest.MonkeyPatch):
    returns, drivers = iter([99.0, 3.0, 8.0, 5.0]), []

    def drive(tracks, seeds, num_steps, lesson, report) -> Driven:
        lesson.unaided[:] = next(returns)
        drivers.append(lesson._controller)
        lesson._lessons.add(RNG.normal(size=(5, 1)), RNG.normal(size=(5, 3)).astype(np.float32))
        return Driven(np.zeros(2), np.zeros(2, bool), np.zeros((1, 2, 2)))

    monkeypatch.setattr(imitation, "drive", drive)
    chosen = imitation.learn(Slope(), read, 1, Plan(4, 2, 5, 0), ignore)
    assert chosen is drivers[2]  # the first round was the expert's
