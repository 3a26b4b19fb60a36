"""A shard depends only on the config and the shard's number, and an episode only on its seed and policy."""

import dataclasses
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import world_models
from world_models import envs
from world_models.collect import command
from world_models.collect.command import CollectConfig, shard_task
from world_models.collect.recording import record_shard
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.envs import policies
from world_models.runtime.executors import Executor

WARMUP_STEPS = 5
DOOM = Path(__file__).parents[2] / "configs/doom/collect.yaml"


def digests(path: Path) -> list[dict[str, str]]:
    """Digests of every column of every shard."""
    return [shard.digests for shard in Rollouts(path, verify=True).shards]


def config(out: Path, num_episodes: int = 6, executor: Executor = "serial", num_workers: int = 0) -> CollectConfig:
    """The flags with which `rollouts_dir` was collected, for another folder."""
    return CollectConfig(
        str(out), num_episodes, max_steps=40, episodes_per_shard=2, executor=executor, num_workers=num_workers
    )


def gather(settings: CollectConfig) -> Path:
    command.collect(command.prepare(settings))
    return Path(settings.out)


@pytest.fixture(scope="module")
def warmed_up_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of 30 steps after some steps of warm-up."""
    out = tmp_path_factory.mktemp("warmed_up")
    return gather(CollectConfig(str(out), 2, max_steps=30, warmup_steps=WARMUP_STEPS, executor="serial"))


# --- shards


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_and_one_process_collect_the_same_columns(
    rollouts_dir: Path, tmp_path: Path, num_workers: int
):
    out = gather(config(tmp_path, executor="processes", num_workers=num_workers))
    assert digests(out) == digests(rollouts_dir)


def test_collecting_twice_gives_the_same_columns(rollouts_dir: Path, tmp_path: Path):
    assert digests(gather(config(tmp_path))) == digests(rollouts_dir)


@pytest.mark.parametrize("index", [0, 2])
def test_a_shard_does_not_depend_on_the_other_shards(rollouts_dir: Path, tmp_path: Path, index: int):
    record_shard(shard_task(config(tmp_path), index, ("brownian", "driver"), "auto"), lambda units: None)
    alone = Rollouts(shard_path(tmp_path, index)).shards[0]
    assert alone.digests == digests(rollouts_dir)[index]


def test_another_seed_gives_other_columns(rollouts_dir: Path, tmp_path: Path):
    other = gather(dataclasses.replace(config(tmp_path, num_episodes=2), seed=100))
    kept = {"episode_start", "episode_length", "episode_policy", "terminated", "truncated"}
    first, second = digests(rollouts_dir)[0], digests(other)[0]
    assert {name for name in first if first[name] == second[name]} == kept


def test_an_extended_data_set_equals_one_that_was_collected_at_once(rollouts_dir: Path, tmp_path: Path):
    gather(config(tmp_path, num_episodes=4))
    assert digests(gather(config(tmp_path))) == digests(rollouts_dir)


def test_extending_does_not_change_complete_shards(rollouts_dir: Path, tmp_path: Path):
    shutil.copytree(rollouts_dir, tmp_path / "copy")
    before = [shard_path(tmp_path / "copy", index).stat().st_mtime_ns for index in range(3)]
    gather(config(tmp_path / "copy", num_episodes=7))
    assert [shard_path(tmp_path / "copy", index).stat().st_mtime_ns for index in range(3)] == before


def test_extending_completes_a_partial_last_shard_to_the_same_columns(rollouts_dir: Path, tmp_path: Path):
    gather(config(tmp_path, num_episodes=5))
    assert digests(gather(config(tmp_path))) == digests(rollouts_dir)


def test_a_partial_last_shard_begins_with_the_same_episodes(rollouts_dir: Path, tmp_path: Path):
    partial, whole = Rollouts(gather(config(tmp_path, num_episodes=1)))[0], Rollouts(rollouts_dir)[0]
    np.testing.assert_array_equal(partial.frames, whole.frames)


@pytest.mark.slow
def test_doom_is_collected_with_the_same_columns_by_two_processes_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """ViZDoom reads the settings of the picture from a file in the working folder, unless the recipe forbids it."""
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed; pip install 'world_models[doom]'")
    for name, flags in {"one": "--executor serial", "two": "--executor processes --num_workers 2"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "_vizdoom.ini").write_text(f"[GlobalSettings]\nr_fakecontrast={int(name == 'two')}\n")
        monkeypatch.chdir(tmp_path / name)
        command.main([*f"--config {DOOM} --out rollouts --num_episodes 4 --episodes_per_shard 2 {flags}".split()])
    one, two = (Rollouts(tmp_path / name / "rollouts") for name in ("one", "two"))
    assert digests(one.path) == digests(two.path)
    assert one.num_actions == 1 and {*np.concatenate([episode.actions[:, 0] for episode in one])} == {0, 1, 2}
    frames = np.concatenate([episode.frames[:-1] for episode in one])
    assert (frames.reshape(len(frames), -1).std(axis=1) > 0).all()  # only the final ones are black


# --- episodes


@pytest.mark.parametrize("episode", range(4))
def test_stored_actions_replay_the_episode_bit_for_bit(rollouts_dir: Path, episode: int):
    replay(Rollouts(rollouts_dir), episode, warmup_steps=0)


@pytest.mark.parametrize("episode", range(2))
def test_stored_actions_replay_the_episode_after_its_warm_up(warmed_up_dir: Path, episode: int):
    data = Rollouts(warmed_up_dir)
    replay(data, episode, warmup_steps=int(str(data.shards[0].attributes["warmup_steps"])))


def replay(data: Rollouts, index: int, warmup_steps: int) -> None:
    """Take the stored actions in Gymnasium's own environment and compare frames, rewards and ends exactly."""
    episode, env = data[index], gymnasium.make("CarRacing-v3")
    observation, _ = env.reset(seed=episode.seed)
    for _ in range(warmup_steps):
        observation, *_ = env.step(np.zeros(3, np.float32))
    frames, rewards, ends = [world_models.preprocess(observation, data.preprocess)], [], []
    for action in episode.actions:
        observation, reward, terminated, _, _ = env.step(action)
        frames.append(world_models.preprocess(observation, data.preprocess))
        rewards.append(reward)
        ends.append(terminated)
    env.close()
    np.testing.assert_array_equal(episode.frames, frames)
    np.testing.assert_array_equal(episode.rewards, np.array(rewards, np.float32))
    np.testing.assert_array_equal(episode.terminated, ends)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("warmup_steps", [0, WARMUP_STEPS])
def test_seed_and_policy_reproduce_the_actions(rollouts_dir: Path, warmed_up_dir: Path, warmup_steps: int, index: int):
    episode = Rollouts(warmed_up_dir if warmup_steps else rollouts_dir)[index]
    env = envs.make_env("CarRacing-v3")
    frame = env.reset(episode.seed)
    for _ in range(warmup_steps):
        frame, *_ = env.step(np.zeros(3, np.float32))
    policy = policies.load_policy(episode.policy)(env, episode.seed)
    actions = []
    for _ in range(len(episode)):
        actions.append(envs.to_columns(env.action_space, policy(frame)))
        frame, *_ = env.step(actions[-1])
    np.testing.assert_array_equal(actions, episode.actions)


def test_a_warm_up_changes_the_first_frame(rollouts_dir: Path, warmed_up_dir: Path):
    assert not np.array_equal(Rollouts(rollouts_dir)[0].frames[0], Rollouts(warmed_up_dir)[0].frames[0])
