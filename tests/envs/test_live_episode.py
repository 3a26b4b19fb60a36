"""Errors in an episode name the policy, its line and the step, or the environment and the step."""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import registered_envs
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

from world_models.collect import command
from world_models.collect.command import CollectConfig, Job
from world_models.collect.recording import record_shard
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.envs import live_episode
from world_models.runtime import cli
from world_models.runtime.errors import Stopped

SOURCE = """
import numpy as np

def {name}(env, seed):
    steps = iter(range(1, 1000))
    def act(frame):
        step = next(steps)
        return {wrong} if (seed, step) == (5, 17) else {right}
    return act
"""


class Steered(gymnasium.Env):
    """Shows noise, and gives the rewards that a test sets."""

    observation_space = spaces.Box(0, 255, (48, 40, 3), np.uint8)
    action_space: spaces.Space = spaces.Box(-1.0, 1.0, (2,))
    rewards: dict[tuple[int, int], float] = {}  # noqa: RUF012
    sizes: dict[tuple[int, int], int] = {}  # noqa: RUF012
    errors: dict[tuple[int, int], BaseException] = {}  # noqa: RUF012
    taken: list[Any] = []  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.now = (seed or 0, 0)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.taken.append(action)
        self.now = self.now[0], self.now[1] + 1
        return self.observe(), self.rewards.get(self.now, 1.0), False, False, {}

    def observe(self) -> np.ndarray:
        if self.now in self.errors:
            raise self.errors[self.now]
        return self.np_random.integers(0, 256, (48, self.sizes.get(self.now, 40), 3), np.uint8)


class Chosen(Steered):
    action_space = spaces.Discrete(3, start=1)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Steered, "taken", [])
    with registered_envs(Steered, Chosen):
        yield


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Prepares two shards of two episodes, seeds 4 to 7; step 17 of seed 5, in the first shard, may be a wrong one."""
    monkeypatch.syspath_prepend(tmp_path)

    def prepared(wrong: str = "right", right: str = "[0.0, 0.0]", env: str = "Steered-v0") -> Job:
        name = f"policy_{abs(hash((wrong, right, env)))}"
        body = SOURCE.format(name=name, wrong=right if wrong == "right" else wrong, right=right)
        (tmp_path / f"{name}.py").write_text(body)
        job = command.prepare(
            CollectConfig(
                str(tmp_path / "out"),
                num_episodes=4,
                max_steps=20,
                env=env,
                policy=f"{name}:{name}",
                seed=4,
                executor="serial",
                episodes_per_shard=2,
            )
        )
        assert isinstance(job, Job)
        return job

    return prepared


# --- the policy


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("[np.nan, 0]", "must be finite"),
        ("[0, np.inf]", "must be finite"),
        ("None", "is no array of real numbers"),
        ("['0', '1']", "is no array of real numbers"),
        ("[0.0]", "an action of 1 values"),
        ("[[0.0], [1, 2]]", "is no array"),
    ],
)
def test_an_action_that_cannot_be_stored_ends_the_collection_by_name(start: Callable[..., Job], wrong: str, said: str):
    name = r"^policy 'policy_\d+:policy_\d+' at step 17 of the episode of seed 5: .*"
    with pytest.raises(Stopped, match=name + said):
        command.collect(start(wrong))


@pytest.mark.parametrize("wrong", ["0", "4", "1.5", "np.nan"])
def test_a_discrete_action_outside_its_space_ends_the_collection_by_name(start: Callable[..., Job], wrong: str):
    with pytest.raises(Stopped, match=r"^policy '.*' at step 17 of the episode of seed 5: the policy gave"):
        command.collect(start(wrong, "1", "Chosen-v0"))


def test_a_shard_with_a_wrong_action_is_not_kept_and_finished_ones_stay(start: Callable[..., Job], tmp_path: Path):
    job = start("[np.nan, 0]")
    (tmp_path / "out").mkdir()
    record_shard(job.tasks[1], lambda units: None)
    before = shard_path(tmp_path / "out", 1).read_bytes()
    with pytest.raises(Stopped):
        command.collect(job)
    assert not shard_path(tmp_path / "out", 0).exists() and not list((tmp_path / "out").glob("*.partial"))
    assert shard_path(tmp_path / "out", 1).read_bytes() == before


def test_an_error_of_a_policy_during_a_collection_is_reported_with_its_line(start: Callable[..., Job]):
    said = r"^policy '.*' fails at step 17 of the episode of seed 5: ZeroDivisionError: .* \(.*policy_\d+.py, line 8\)"
    with pytest.raises(Stopped, match=said + "; fix it"):
        command.collect(start("1 // 0"))


def test_a_policy_that_cannot_be_made_for_a_later_episode_is_named(
    start: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "fussy_policy.py").write_text("def make(env, seed):\n    return [lambda frame: [0, 0]][seed]\n")
    settings = CollectConfig(str(tmp_path / "out"), 2, 5, "Steered-v0", policy="fussy_policy:make", executor="serial")
    with pytest.raises(
        Stopped, match=r"fails when it is made for the episode of seed 1: IndexError: .*fussy_policy.py, line 2\)"
    ):
        command.collect(command.prepare(settings))


def test_an_error_of_a_built_in_policy_is_not_caught(start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch):
    def random(env: Any, seed: int) -> Any:
        return lambda frame: 1 // 0

    monkeypatch.setitem(live_episode.policies.BUILTIN, "random", random)
    settings = CollectConfig("unused", 2, 5, "Steered-v0", policy="random")
    with pytest.raises(ZeroDivisionError):
        command.prepare(settings)


def test_a_wrong_action_in_a_worker_ends_the_command_in_one_line(tmp_path: Path):
    (tmp_path / "late_policy.py").write_text(SOURCE.format(name="seven", wrong="7", right="step % 2"))
    usual = "--env CartPole-v1 --policy late_policy:seven --seed 4 --num_episodes 3 --max_steps 20 --num_workers 2"
    done = subprocess.run(
        [sys.executable, "-m", "world_models.collect", "--out", str(tmp_path / "out"), *usual.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = (
        "policy 'late_policy:seven' at step 17 of the episode of seed 5: the policy gave 7, which is not in Discrete(2)"
    )
    assert done.stderr.splitlines()[-1] == f"python -m world_models.collect: {said}"


# --- actions outside a Box


def test_an_action_outside_its_box_is_stored_as_the_env_got_it(start: Callable[..., Job], tmp_path: Path):
    command.collect(start("[3, -0.5]", "[0.25, -7]"))
    data = Rollouts(tmp_path / "out")
    stored = np.concatenate([episode.actions for episode in data])
    np.testing.assert_array_equal(stored, Steered.taken[-80:])
    expected = np.tile(np.array([0.25, -1], np.float32), (20, 1))
    np.testing.assert_array_equal(data[0].actions, expected)
    expected[16] = [1, -0.5]
    np.testing.assert_array_equal(data[1].actions, expected)


def test_the_last_line_counts_the_clipped_actions(start: Callable[..., Job], capsys: pytest.CaptureFixture[str]):
    command.collect(start("[0, 1.001]", "[-1, 1]"))
    assert "1 of 80 actions lay outside the action space and were clipped to it" in capsys.readouterr().out


def test_no_line_about_clipping_is_printed_if_no_action_was_clipped(
    start: Callable[..., Job], capsys: pytest.CaptureFixture[str]
):
    command.collect(start())
    assert "clipped" not in capsys.readouterr().out


# --- the environment


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf, 1e39])
def test_a_reward_that_float32_cannot_hold_ends_the_collection_by_name(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, reward: float
):
    monkeypatch.setattr(Steered, "rewards", {(6, 9): reward})
    with pytest.raises(Stopped, match=r"^Steered-v0: the reward is .* at step 9 of the episode of seed 6; "):
        command.collect(start())


@pytest.mark.parametrize(("step", "when"), [(12, "step 12"), (0, "reset")])
def test_a_picture_of_another_size_ends_the_collection_by_name(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, step: int, when: str
):
    monkeypatch.setattr(Steered, "sizes", {(6, step): 41})
    said = "Steered-v0: the observation gave 48x41x3, not 48x40x3; fix the environment"
    with pytest.raises(Stopped, match=f"^{when} of the episode of seed 6: {said}$"):
        command.collect(start())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no contact\nlast forces: 1 2 3"), "RuntimeError: no contact"),
        (KeyError(), "KeyError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize(("step", "when"), [(12, "step 12"), (0, "reset")])
def test_an_env_that_raises_ends_the_collection_by_name_and_finished_shards_stay(
    start: Callable[..., Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    when: str,
    error: BaseException,
    said: str,
):
    monkeypatch.setattr(Steered, "errors", {(6, step): error})
    place = rf"\({re.escape(__file__)}, line \d+\)"
    line = rf"^{when} of the episode of seed 6: Steered-v0 fails, {said} {place}; fix it \(WORLD_MODELS_TRACEBACK=1 "
    with pytest.raises(Stopped, match=line):
        command.collect(start())
    assert [path.name for path in (tmp_path / "out").glob("*.h5")] == ["shard-00000.h5"]


def test_an_env_that_cannot_draw_is_named_with_the_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(CartPoleEnv, "render", lambda self: 1 // 0)
    settings = CollectConfig(str(tmp_path / "out"), 1, 5, "CartPole-v1", policy="random")
    with pytest.raises(ValueError, match=r"^reset of the episode of seed 0: CartPole-v1 fails, ZeroDivisionError"):
        command.prepare(settings)


def test_in_python_the_error_of_an_env_is_the_cause_of_the_exception(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
):
    own = RuntimeError("no contact")
    monkeypatch.setattr(Steered, "errors", {(6, 3): own})
    with pytest.raises(Stopped) as stopped:
        command.collect(start())
    assert stopped.value.__cause__ is not None and stopped.value.__cause__.__cause__ is own


def test_an_env_that_raises_in_its_trial_is_refused_before_work(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(Steered, "errors", {(4, 2): RuntimeError("no contact")})
    with pytest.raises(ValueError, match=r"^step 2 of the episode of seed 4: Steered-v0 fails, RuntimeError"):
        start()
    assert not (tmp_path / "out").exists()


def test_an_env_that_raises_in_its_warm_up_is_named_with_the_step(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
):
    settings = dataclasses.replace(start().config, warmup_steps=3)
    monkeypatch.setattr(Steered, "errors", {(4, 2): RuntimeError("no contact")})
    with pytest.raises(ValueError, match=r"^warm-up step 2 of the episode of seed 4: Steered-v0 fails, RuntimeError"):
        command.prepare(settings)


def test_an_env_that_can_no_longer_be_made_ends_the_collection_in_a_line(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
):
    job = start()

    def no_more(self: Any) -> None:
        raise OSError("no display")

    monkeypatch.setattr(Steered, "__init__", no_more)
    with pytest.raises(Stopped, match=r"^env 'Steered-v0' cannot be made: OSError: no display \("):
        command.collect(job)


def test_an_env_that_cannot_be_closed_ends_the_collection_in_a_line(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
):
    job = start()
    monkeypatch.setattr(Steered, "close", lambda self: 1 // 0)
    with pytest.raises(Stopped, match=r"^the end of an episode: Steered-v0 fails, ZeroDivisionError"):
        command.collect(job)


OWN_ENV = """
import gymnasium
import numpy as np

class Failing(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (48, 40, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return np.full((48, 40, 3), 99, np.uint8), {}

    def step(self, action):
        self.now += 1
        return np.full((48, 40, 3), 99, np.uint8), ([0.0] * 10)[self.now], False, False, {}

gymnasium.register("Failing-v0", Failing)
"""


@pytest.mark.slow
@pytest.mark.parametrize("traceback", ["", "0", "1"])
def test_the_traceback_of_an_env_in_a_worker_is_shown_if_asked_for(tmp_path: Path, traceback: str):
    (tmp_path / "failing_env.py").write_text(OWN_ENV)
    usual = "--env failing_env:Failing-v0 --policy random --num_episodes 1 --max_steps 20 --num_workers 1"
    done = subprocess.run(
        [sys.executable, "-m", "world_models.collect", "--out", str(tmp_path / "out"), *usual.split()],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), cli.TRACEBACK: traceback},
    )
    assert done.returncode == 1 and ('failing_env.py", line 15, in step' in done.stderr) == (traceback == "1")
    place = f"({tmp_path / 'failing_env.py'}, line 15)"
    said = f"step 10 of the episode of seed 0: Failing-v0 fails, IndexError: list index out of range {place}; fix it ("
    assert done.stderr.splitlines()[-1].startswith(f"python -m world_models.collect: {said}")


# --- warm-up


def test_an_action_space_without_zero_has_no_warm_up(tmp_path: Path):
    settings = CollectConfig(str(tmp_path / "out"), 2, 5, "Chosen-v0", policy="random", warmup_steps=1)
    with pytest.raises(ValueError, match="Chosen-v0 has no action 0 for the warm-up; give no --warmup_steps"):
        command.prepare(settings)


# --- what was stored before


@pytest.mark.parametrize(("column", "wrong"), [("actions", np.nan), ("actions", -np.inf), ("rewards", np.inf)])
def test_verify_refuses_stored_numbers_that_are_not_finite(
    start: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, wrong: float
):
    job = start()
    act, step = live_episode.LiveEpisode.act, live_episode.LiveEpisode.step

    def acts(self: Any) -> np.ndarray:
        action = act(self)
        action[1] = wrong if column == "actions" and (self.seed, self.steps) == (7, 9) else 0
        return action

    def steps(self: Any, action: Any) -> tuple[float, bool, bool]:
        _, terminated, truncated = step(self, action)
        return (wrong if column == "rewards" and (self.seed, self.steps) == (7, 9) else 0.0), terminated, truncated

    monkeypatch.setattr(live_episode.LiveEpisode, "act", acts)
    monkeypatch.setattr(live_episode.LiveEpisode, "step", steps)
    command.collect(job)
    said = rf"shard-00001.h5: {column} holds numbers that are not finite, the first in row 29 "
    with pytest.raises(ValueError, match=said + r"\(step 9 of the episode of seed 7, driven by policy_"):
        command.prepare(CollectConfig(verify=str(tmp_path / "out")))
