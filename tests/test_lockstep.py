"""Tracks in lock-step: the same episodes as one by one, whoever holds them, seen or not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from world_models import envs, lockstep
from world_models.lockstep import Place, Tracks

CAR_RACING = Place("CarRacing-v3", {}, "0:84")
Here = Callable[..., Tracks]
GAS = np.array([0.1, 0.8, 0.0], np.float32)


def test_a_track_is_the_episode_that_an_environment_of_its_seed_gives(tracks_here: Here):
    tracks, env = tracks_here(CAR_RACING), envs.make_env("CarRacing-v3")
    seen, frame = tracks.begin([3, 4]), env.reset(4)
    np.testing.assert_array_equal(seen.frames[1], frame)
    for _ in range(5):
        seen = tracks.step(np.stack([GAS, GAS]))
        frame, reward, _, _ = env.step(GAS)
        np.testing.assert_array_equal(seen.frames[1], frame)
        assert seen.rewards[1] == reward
    telemetry = dict(zip(env.telemetry_names, env.telemetry().tolist(), strict=True))
    assert seen.positions_m[1].tolist() == [telemetry["position_x_m"], telemetry["position_y_m"]]
    assert seen.offsets_m[1] == telemetry["center_distance_m"]
    env.close()


def test_advice_is_what_the_expert_does(tracks_here: Here):
    tracks, env = tracks_here(CAR_RACING), envs.make_env("CarRacing-v3")
    seen, _ = tracks.begin([7]), env.reset(7)
    np.testing.assert_array_equal(seen.advice[0], lockstep.Expert(env, 7)(None))
    env.close()


def test_who_does_not_look_gets_black_frames_and_the_same_drive(tracks_here: Here):
    drawn, blind = tracks_here(CAR_RACING), tracks_here(CAR_RACING)
    drawn.begin([3])
    assert not blind.begin([3], drawn=False).frames.any()
    steps = [(drawn.step(GAS[None]), blind.step(GAS[None])) for _ in range(5)]
    assert not any(unseen.frames.any() for _, unseen in steps)
    seen, unseen = steps[-1]
    np.testing.assert_array_equal(seen.rewards, unseen.rewards)
    np.testing.assert_array_equal(seen.positions_m, unseen.positions_m)


def test_a_track_that_has_ended_stays_as_it_was(tracks_here: Here, monkeypatch: pytest.MonkeyPatch):
    step, ends = envs.FrameEnv.step, iter([False, True])

    def step_to_end(self: envs.FrameEnv, action: np.ndarray) -> tuple[Any, float, bool, bool]:
        frame, reward, *_ = step(self, action)
        return frame, reward, next(ends), False

    monkeypatch.setattr(envs.FrameEnv, "step", step_to_end)
    tracks = tracks_here(CAR_RACING)
    tracks.begin([3])
    assert not tracks.step(GAS[None]).ended[0]
    at_end = tracks.step(GAS[None])
    assert at_end.ended[0] and at_end.rewards[0] != 0
    after = tracks.step(GAS[None])
    assert after.ended[0] and after.rewards[0] == 0
    np.testing.assert_array_equal(after.positions_m, at_end.positions_m)


def test_outlines_are_the_centre_lines_in_the_order_of_the_seeds(tracks_here: Here):
    whole, parts = tracks_here(CAR_RACING), tracks_here(CAR_RACING, 2)
    whole.begin([3, 4, 5], drawn=False)
    parts.begin([3, 4, 5], drawn=False)
    for one, other in zip(whole.outlines(), parts.outlines(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [outline.shape[1] for outline in whole.outlines()] == [2, 2, 2]


def test_beginning_again_is_beginning_anew(tracks_here: Here):
    tracks = tracks_here(CAR_RACING)
    first = tracks.begin([3])
    tracks.step(GAS[None])
    np.testing.assert_array_equal(tracks.begin([3]).frames, first.frames)


def test_processes_drive_as_this_process_does(tracks_here: Here):
    here = tracks_here(CAR_RACING)
    with lockstep.opened(CAR_RACING, 2) as there:
        for one, other in (
            (here.begin([3, 4], drawn=False), there.begin([3, 4], drawn=False)),
            (here.step(np.stack([GAS, -GAS])), there.step(np.stack([GAS, -GAS]))),
        ):
            np.testing.assert_array_equal(one.positions_m, other.positions_m)
            np.testing.assert_array_equal(one.rewards, other.rewards)


def test_a_place_without_an_expert_is_refused():
    with pytest.raises(ValueError, match="no expert for this environment"):
        Place("CarRacing-v3", {"continuous": False}, "0:84").check()


def test_a_place_with_an_expert_is_not_refused():
    CAR_RACING.check()


def test_arguments_that_the_environment_does_not_take_are_refused():
    with pytest.raises(ValueError, match="env_args holds colour"):
        Place("CarRacing-v3", {"colour": 1}, "0:84").check()
