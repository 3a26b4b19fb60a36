"""Tracks in lock-step give the same episodes as single ones, with or without drawing, and end at the right step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from world_models import envs
from world_models.evaluate.driving import lockstep
from world_models.evaluate.driving.lockstep import Car, DriveResult, EnvSettings

CAR_RACING = EnvSettings("CarRacing-v3", {}, "0:84")
GAS = np.array([0.1, 0.8, 0.0], np.float32)


def full_gas(cars: Sequence[Car]) -> list[np.ndarray]:
    return [GAS] * len(cars)


def ignore(steps: int) -> None:
    pass


def test_a_track_is_the_episode_of_an_environment_with_its_seed():
    frames: list[np.ndarray] = []

    def watched(cars: Sequence[Car]) -> list[np.ndarray]:
        frames.append(cars[1].frame)
        return full_gas(cars)

    driven = lockstep.drive(CAR_RACING, [3, 4], 5, watched, ignore)
    env, total = envs.make_env("CarRacing-v3"), 0.0
    frame = env.reset(4)
    for seen in frames:
        np.testing.assert_array_equal(seen, frame)
        frame, reward, _, _ = env.step(GAS)
        total += reward
    telemetry = dict(zip(env.telemetry_names, env.telemetry().tolist(), strict=True))
    assert driven.returns[1] == total
    assert driven.paths_m[1][-1].tolist() == [telemetry["position_x_m"], telemetry["position_y_m"]]
    env.close()


def test_the_advice_is_the_experts_action_and_the_distance_is_to_the_centre_line():
    car, env = Car(CAR_RACING, 7), envs.make_env("CarRacing-v3")
    env.reset(7)
    for _ in range(3):
        car.step(GAS)
        env.step(GAS)
    np.testing.assert_array_equal(car.advice(), lockstep.Expert(env, 7)(None))
    assert car.distance_m() == abs(env.telemetry()[env.telemetry_names.index("center_distance_m")])
    car.close()
    env.close()


def test_without_drawing_frames_are_black_and_the_drive_is_the_same():
    blind = Car(CAR_RACING, 3, drawn=False)
    assert not blind.frame.any()
    blind.close()
    drawn, undrawn = (lockstep.drive(CAR_RACING, [3], 20, full_gas, ignore, shown) for shown in (True, False))
    np.testing.assert_array_equal(drawn.returns, undrawn.returns)
    np.testing.assert_array_equal(drawn.paths_m[0], undrawn.paths_m[0])


def _ending(monkeypatch: pytest.MonkeyPatch, last_reward: float) -> None:
    """Episodes that end after the second step."""
    step, ends = envs.FrameEnv.step, iter([False, True])

    def step_to_end(self: envs.FrameEnv, action: np.ndarray) -> tuple[Any, float, bool, bool]:
        frame, *_ = step(self, action)
        end = next(ends)
        return frame, last_reward if end else 1.0, end, False

    monkeypatch.setattr(envs.FrameEnv, "step", step_to_end)


def test_a_car_stops_when_its_track_has_ended(monkeypatch: pytest.MonkeyPatch):
    _ending(monkeypatch, 5.0)
    driven = lockstep.drive(CAR_RACING, [3], 9, full_gas, ignore)
    assert (driven.returns.tolist(), driven.finished.tolist(), len(driven.paths_m[0])) == ([6.0], [True], 3)


def test_leaving_the_field_does_not_count_as_a_finished_lap(monkeypatch: pytest.MonkeyPatch):
    _ending(monkeypatch, -100.0)
    assert not lockstep.drive(CAR_RACING, [3], 9, full_gas, ignore).finished.any()


def test_a_truncated_episode_does_not_count_as_a_finished_lap():
    assert not lockstep.drive(CAR_RACING, [3], 2, full_gas, ignore).finished.any()


def test_progress_counts_all_steps_that_were_planned(monkeypatch: pytest.MonkeyPatch):
    _ending(monkeypatch, 5.0)
    told: list[int] = []
    lockstep.drive(CAR_RACING, [3], 4, full_gas, told.append)
    assert told == [1, 2, 3, 4]


def test_outlines_are_the_centre_lines_of_the_tracks():
    car = Car(CAR_RACING, 3, drawn=False)
    outline, start = car.outline_m(), car.path_m[0]
    assert outline.shape[1] == 2
    assert np.linalg.norm(outline - start, axis=1).min() < 10
    car.close()


def test_results_of_parts_are_joined_in_their_order():
    one, other = (
        DriveResult(np.array([value]), np.array([value > 1]), [np.zeros((1, 2))], [np.ones((1, 2))])
        for value in (1.0, 2.0)
    )
    both = DriveResult.concatenated([one, other])
    assert (both.returns.tolist(), both.finished.tolist()) == ([1, 2], [False, True])
    assert len(both.paths_m) == len(both.outlines_m) == 2


def test_the_batch_that_a_model_reads_has_a_fixed_size():
    cars, sizes = [Car(CAR_RACING, seed) for seed in (3, 4)], []

    def read(frames: torch.Tensor) -> torch.Tensor:
        sizes.append(len(frames))
        return frames[:, 40, 40].float()

    z = lockstep.features_of(cars, read, 5)
    np.testing.assert_array_equal(z, np.stack([car.frame[40, 40] for car in cars]))
    assert sizes == [5]
    for car in cars:
        car.close()


def test_an_environment_without_an_expert_is_refused():
    with pytest.raises(ValueError, match="no expert for this environment"):
        EnvSettings("CarRacing-v3", {"continuous": False}, "0:84").check()


def test_an_environment_with_an_expert_is_accepted():
    CAR_RACING.check()


def test_arguments_that_the_environment_does_not_take_are_refused():
    with pytest.raises(ValueError, match="env_args holds colour"):
        EnvSettings("CarRacing-v3", {"colour": 1}, "0:84").check()
