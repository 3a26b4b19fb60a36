"""Collecting stores exactly what happened, and refuses bad input before the work begins."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import h5py
import numpy as np
import pytest
from conftest import registered_envs
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing
from PIL import Image

from world_models.collect import command
from world_models.collect.command import CollectConfig, Job, prepare, shard_task
from world_models.collect.recording import ShardResult, ShardTask, record_shard
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.envs import Preprocess, policies, preprocess
from world_models.runtime import executors, files, locks, progress
from world_models.runtime.errors import Stopped


def picture(seed: int, step: int) -> np.ndarray:
    return np.random.default_rng([seed, step]).integers(0, 256, (48, 40, 3), np.uint8)


class Pictures(gymnasium.Env):
    """Shows a new picture at each step and pays the step's number; ends by itself after `LAST` steps."""

    observation_space = spaces.Box(0, 255, (48, 40, 3), np.uint8)
    action_space: spaces.Space = spaces.Discrete(3)
    LAST: ClassVar[tuple[int, bool, bool]] = (1000, False, False)
    taken: ClassVar[list[Any]] = []

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.seed, self.now = seed or 0, 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.taken.append(action)
        self.now += 1
        last, terminated, truncated = self.LAST
        return self.observe(), float(self.now), self.now == last and terminated, self.now == last and truncated, {}

    def observe(self) -> np.ndarray:
        return picture(self.seed, self.now)


class GreyPictures(Pictures):
    observation_space = spaces.Box(0, 255, (48, 40, 1), np.uint8)

    def observe(self) -> np.ndarray:
        return picture(self.seed, self.now)[:, :, :1]


class SteeredPictures(Pictures):
    action_space = spaces.Box(-1.0, 1.0, (2,))


class DictOfPictures(Pictures):
    observation_space: spaces.Space = spaces.Dict(
        screen=spaces.Box(0, 255, (48, 40, 3), np.uint8), health=spaces.Box(0, 100, (1,), np.float32)
    )

    def observe(self) -> Any:
        return {"screen": picture(self.seed, self.now), "health": np.zeros(1, np.float32)}


class TwoPictures(Pictures):
    observation_space: spaces.Space = spaces.Dict(left=Pictures.observation_space, right=Pictures.observation_space)


class NoPicture(Pictures):
    observation_space: spaces.Space = spaces.Dict(health=spaces.Box(0, 100, (1,), np.float32))


class Finishing(Pictures):
    LAST = (7, True, False)


class Limited(Pictures):
    LAST = (7, False, True)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    Pictures.taken.clear()
    with registered_envs(
        *(Pictures, GreyPictures, SteeredPictures, DictOfPictures, TwoPictures, NoPicture, Finishing, Limited)
    ):
        yield


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def gather(out: Path) -> Callable[..., Rollouts]:
    """Runs the command in this process, and reads what it made."""

    def run(flags: str = "", env: str = "Pictures-v0", policy: str = "random") -> Rollouts:
        usual = f"--out {out} --env {env} --policy {policy} --num_episodes 2 --max_steps 10 --executor serial"
        command.main([*usual.split(), *flags.split()])
        return Rollouts(out, verify=True)

    return run


@pytest.fixture
def copied(rollouts_dir: Path, tmp_path: Path) -> CollectConfig:
    """The config of a copy of `rollouts_dir`, which a test may damage."""
    shutil.copytree(rollouts_dir, tmp_path / "copied")
    return there(tmp_path / "copied")


def there(path: Path) -> CollectConfig:
    """The config that collected `rollouts_dir`."""
    return CollectConfig(str(path), num_episodes=6, max_steps=40, episodes_per_shard=2, executor="serial")


# --- what is stored


def test_frame_t_is_the_frame_before_action_t_and_the_last_frame_is_stored(gather: Callable[..., Rollouts]):
    for episode in gather():
        expected = [preprocess(picture(episode.seed, t), Preprocess()) for t in range(len(episode) + 1)]
        np.testing.assert_array_equal(episode.frames, expected)


def test_reward_t_is_the_reward_of_action_t(gather: Callable[..., Rollouts]):
    np.testing.assert_array_equal(gather()[0].rewards, np.arange(1, 11))


def test_the_final_row_has_no_action_reward_or_end(gather: Callable[..., Rollouts]):
    gather()
    with h5py.File(shard_path(gather().path, 0)) as file:
        final = [np.asarray(file[name])[10].item() for name in ("actions", "rewards", "terminated", "truncated")]  # type: ignore[index]
    assert final == [0, 0, False, False]


def test_seeds_count_up_from_the_first(gather: Callable[..., Rollouts]):
    assert gather("--seed 70 --num_episodes 3 --episodes_per_shard 2").seeds.tolist() == [70, 71, 72]


def test_each_shard_has_the_requested_number_of_episodes(gather: Callable[..., Rollouts]):
    data = gather("--num_episodes 5 --episodes_per_shard 2")
    assert [len(shard.starts) for shard in data.shards] == [2, 2, 1]


def test_discrete_actions_are_stored_unchanged(gather: Callable[..., Rollouts]):
    actions = [episode.actions for episode in gather()]
    assert np.concatenate(actions)[:, 0].tolist() == Pictures.taken[-20:]  # before them come those of the trial


def test_continuous_actions_are_the_float32_values_that_the_env_took(gather: Callable[..., Rollouts]):
    data = gather(env="SteeredPictures-v0", policy="brownian")
    assert all(action.dtype == np.float32 for action in Pictures.taken)
    np.testing.assert_array_equal(np.concatenate([episode.actions for episode in data]), Pictures.taken[-20:])


def test_car_racing_takes_exactly_the_stored_actions(gather: Callable[..., Rollouts], monkeypatch: pytest.MonkeyPatch):
    taken: list[np.ndarray] = []
    step: Any = car_racing.CarRacing.step

    def watched(self: Any, action: Any) -> Any:
        if action is not None:  # its own reset
            taken.append(np.array(action))
        return step(self, action)

    monkeypatch.setattr(car_racing.CarRacing, "_render", lambda self, mode: np.zeros((96, 96, 3), np.uint8))
    monkeypatch.setattr(car_racing.CarRacing, "step", watched)
    data = gather("--renderer gymnasium", env="CarRacing-v3", policy="mixture")
    np.testing.assert_array_equal(np.concatenate([episode.actions for episode in data]), taken[-20:])


def test_an_episode_is_truncated_at_max_steps(gather: Callable[..., Rollouts]):
    episode = gather()[0]
    assert episode.truncated.tolist() == [False] * 9 + [True] and not episode.terminated.any()


@pytest.mark.parametrize(("env", "ends"), [("Finishing-v0", (True, False)), ("Limited-v0", (False, True))])
def test_an_episode_ends_if_its_environment_ends_it(gather: Callable[..., Rollouts], env: str, ends: tuple[bool, bool]):
    episode = gather(env=env)[0]
    assert (len(episode), (episode.terminated[-1], episode.truncated[-1])) == (7, ends)


def test_an_episode_that_terminates_at_max_steps_is_also_truncated(gather: Callable[..., Rollouts]):
    episode = gather("--max_steps 7", env="Finishing-v0")[0]
    assert (episode.terminated[-1], episode.truncated[-1]) == (True, True)


def test_the_picture_of_a_dict_is_stored_like_a_picture_alone(
    gather: Callable[..., Rollouts], capsys: pytest.CaptureFixture[str]
):
    in_dicts = gather(env="DictOfPictures-v0", policy="repeated")
    assert "frames: observations['screen'] 48x40x3 -> 64x64; " in capsys.readouterr().out
    assert in_dicts.action_space == {"type": "Discrete", "n": 3, "start": 0} and in_dicts.num_actions == 1
    for episode in in_dicts:
        shown = [picture(episode.seed, step) for step in range(11)]
        np.testing.assert_array_equal(episode.frames, preprocess(np.stack(shown), in_dicts.preprocess))


def test_cart_pole_is_collected_as_rendered_pictures(gather: Callable[..., Rollouts]):
    drawing = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    drawing.reset(seed=0)
    drawn: Any = drawing.render()
    np.testing.assert_array_equal(gather(env="CartPole-v1")[0].frames[0], preprocess(drawn, Preprocess()))


def test_grey_observations_become_three_equal_channels(gather: Callable[..., Rollouts]):
    frames = gather(env="GreyPictures-v0")[0].frames
    assert frames.std() > 5 and (frames == frames[..., :1]).all()


@pytest.mark.parametrize("env", ["CartPole-v1", "Pictures-v0"])
def test_an_env_without_telemetry_has_an_empty_column(gather: Callable[..., Rollouts], env: str):
    data = gather(env=env)
    assert (data.telemetry_names, data[0].telemetry.shape) == ((), (len(data[0]) + 1, 0))


def test_car_racing_has_its_telemetry_at_every_frame(rollouts_dir: Path):
    data = Rollouts(rollouts_dir)
    assert data[0].telemetry.shape == (41, len(data.telemetry_names)) == (41, 19)


@pytest.mark.parametrize(
    ("env", "described"),
    [("Pictures-v0", {"type": "Discrete", "n": 3, "start": 0}), ("SteeredPictures-v0", {"type": "Box", "shape": [2]})],
)
def test_the_action_space_is_described(gather: Callable[..., Rollouts], env: str, described: dict[str, Any]):
    assert gather(env=env).action_space.items() >= described.items()


def test_the_crop_is_recorded(gather: Callable[..., Rollouts]):
    assert gather("--crop 4:40").preprocess == {"crop": [4, 40], "size": 64, "interpolation": "INTER_AREA"}


def test_collecting_with_the_stored_config_gives_the_same_data_set(
    gather: Callable[..., Rollouts], out: Path, tmp_path: Path
):
    data = gather("--seed 5")
    (tmp_path / "config.yaml").write_text(str(data.shards[0].attributes["config"]))
    command.main(["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "again")])
    assert Rollouts(tmp_path / "again").digest() == data.digest()


# --- warm-up


def test_warm_up_takes_zero_actions_that_are_not_stored(gather: Callable[..., Rollouts]):
    data = gather("--warmup_steps 3 --num_episodes 1", env="SteeredPictures-v0", policy="brownian")
    collected = Pictures.taken[-13:]  # before them come those of the trial
    np.testing.assert_array_equal(collected, np.concatenate([np.zeros((3, 2)), data[0].actions]))


def test_warm_up_comes_before_the_first_frame(gather: Callable[..., Rollouts]):
    frames = gather("--warmup_steps 3")[0].frames
    np.testing.assert_array_equal(frames[0], preprocess(picture(0, 3), Preprocess()))


def test_warm_up_does_not_count_as_steps(gather: Callable[..., Rollouts]):
    assert len(gather("--warmup_steps 3")[0]) == 10


def test_warm_up_is_recorded(gather: Callable[..., Rollouts]):
    assert gather("--warmup_steps 3").shards[0].attributes["warmup_steps"] == 3


@pytest.mark.parametrize("env", ["Finishing-v0", "Limited-v0"])
def test_episodes_that_all_end_in_their_warm_up_are_refused_before_any_work(
    gather: Callable[..., Rollouts], out: Path, env: str
):
    said = r"each of the 2 episodes \(seeds 0 to 1\) ended within 7 warm-up steps; give fewer --warmup_steps"
    with pytest.raises(ValueError, match=said):
        gather("--warmup_steps 7", env=env)
    assert not out.exists()


# --- who drives


def test_a_mixture_distributes_its_policies_over_the_episodes(rollouts_dir: Path):
    assert Rollouts(rollouts_dir).policies == ("brownian", "driver") * 3


def test_the_weights_of_a_mixture_can_be_given_as_a_flag(out: Path):
    flags = f"--out {out} --env SteeredPictures-v0 --num_episodes 4 --max_steps 2 --executor serial".split()
    command.main([*flags, "--mixture", '{"brownian": 3, "random": 1}'])
    assert sorted(Rollouts(out).policies) == ["brownian"] * 3 + ["random"]


def test_the_policies_of_a_mixture_do_not_depend_on_the_size_of_shards(out: Path):
    flags = f"--out {out} --env SteeredPictures-v0 --num_episodes 4 --episodes_per_shard 1 --max_steps 2".split()
    command.main([*flags, "--executor", "serial", "--mixture", '{"brownian": 1, "random": 1}'])
    assert Rollouts(out).policies == ("brownian", "random") * 2


def test_a_policy_of_the_user_can_drive(
    gather: Callable[..., Rollouts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "collecting_policy.py").write_text("def two(env, seed):\n    return lambda frame: 2\n")
    data = gather(policy="collecting_policy:two")
    assert data.policies == ("collecting_policy:two",) * 2 and (data[0].actions == 2).all()


# --- what is refused


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_episodes", 0),
        ("max_steps", 0),
        ("episodes_per_shard", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("warmup_steps", -1),
        ("num_workers", -1),
        ("mixture", {}),
        ("mixture", {"driver": 0.0}),
        ("mixture", {"driver": 1.0, "random": -1.0}),
        ("mixture", {"driver": float("nan")}),
        ("mixture", {"driver": float("inf")}),
    ],
)
def test_a_value_out_of_bounds_is_refused(name: str, value: Any):
    with pytest.raises(ValueError, match=f"^{name} is .*; give "):
        CollectConfig(**{name: value})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("seed", 1, "seed 0, not 1"),
        ("max_steps", 41, "max_steps 40, not 41"),
        ("episodes_per_shard", 3, "episodes_per_shard 2, not 3"),
        ("policy", "driver", "policy mixture, not driver"),
        ("mixture", {"brownian": 1.0, "driver": 2.0}, "mixture "),
        ("warmup_steps", 1, "warmup_steps 0, not 1"),
        ("crop", "none", "preprocess "),
        ("env", "SteeredPictures-v0", "env CarRacing-v3, not SteeredPictures-v0"),
    ],
)
def test_another_data_set_in_the_same_folder_is_refused(rollouts_dir: Path, field: str, value: Any, said: str):
    others = {"policy": "random"} if field == "env" else {}
    with pytest.raises(ValueError, match=f"holds a data set of .*{said}.*choose another --out"):
        prepare(dataclasses.replace(there(rollouts_dir), **{field: value}, **others))


@pytest.mark.parametrize(
    ("field", "value"), [("num_workers", 3), ("executor", "processes"), ("crop", "0:84"), ("num_episodes", 6)]
)
def test_settings_that_do_not_change_the_data_set_are_accepted_for_an_existing_one(
    rollouts_dir: Path, field: str, value: Any
):
    job = prepare(dataclasses.replace(there(rollouts_dir), **{field: value}))
    assert isinstance(job, Job) and job.tasks == ()


def test_the_order_in_which_a_mixture_is_written_does_not_change_its_policies(rollouts_dir: Path):
    turned = dataclasses.replace(there(rollouts_dir), num_episodes=8, mixture={"driver": 1.0, "brownian": 1.0})
    asked = prepare(dataclasses.replace(turned, mixture={"brownian": 1.0, "driver": 1.0}))
    try:
        got = prepare(turned)
    except ValueError:
        return  # a refusal is right, too
    assert isinstance(got, Job) and isinstance(asked, Job)
    assert [task.policies for task in got.tasks] == [task.policies for task in asked.tasks]


def test_fewer_episodes_than_are_there_are_refused(rollouts_dir: Path):
    with pytest.raises(
        ValueError, match="holds more than 5 episodes: give a larger --num_episodes, or choose another --out"
    ):
        prepare(dataclasses.replace(there(rollouts_dir), num_episodes=5))


def test_more_episodes_add_only_the_missing_shards(rollouts_dir: Path):
    job = prepare(dataclasses.replace(there(rollouts_dir), num_episodes=9))
    assert isinstance(job, Job) and [(task.path.stem, len(task.policies)) for task in job.tasks] == [
        ("shard-00003", 2),
        ("shard-00004", 1),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"env": "Nowhere-v0"}, "env 'Nowhere-v0' cannot be made"),
        ({"policy": "brwnian"}, "policy 'brwnian' is none of"),
        ({"policy": "no_such_module:drive"}, "cannot be imported"),
        ({"mixture": {"brownian": 1.0, "nobody": 1.0}}, "policy 'nobody' is none of"),
        ({"env": "CartPole-v1", "policy": "brownian"}, "brownian needs bounded"),
        ({"env": "CartPole-v1", "policy": "driver"}, "driver needs"),
        ({"env": "CartPole-v1", "policy": "random", "crop": "500:600"}, "400"),
        ({"env": "CartPole-v1", "policy": "random", "crop": "0:1000"}, "400"),
        ({"env": "Pictures-v0"}, "brownian needs bounded .*use random or repeated, which take any actions"),
        ({"env": "TwoPictures-v0", "policy": "repeated"}, "TwoPictures-v0 observes 2 pictures: left, right; choose"),
        (
            {"env": "NoPicture-v0", "policy": "repeated"},
            "NoPicture-v0 has neither .*observations are a Dict of health;",
        ),
        ({"env": "not_there.envs:Doom-v1"}, "No module named 'not_there'; install it, or give an id"),
        ({"crop": "0:97"}, "keeps rows to 97"),
        ({"crop": "top"}, "crop is 'top'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_work_begins(out: Path, changes: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        prepare(CollectConfig(str(out), **changes))


def test_a_policy_of_the_wrong_size_is_refused_before_work_begins(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "short_policy.py").write_text("def one(env, seed):\n    return lambda frame: [0.0]\n")
    with pytest.raises(ValueError, match="the policy gave an action of 1 values"):
        prepare(CollectConfig(str(out), policy="short_policy:one"))


def test_an_executor_that_is_not_installed_is_refused_before_work_begins(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="ray"):
        prepare(CollectConfig(str(out), executor="ray"))


def test_a_full_disk_is_refused_before_work_begins(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_blocks=9000, f_bavail=1000, f_frsize=4096))
    with pytest.raises(ValueError, match=r"0\.0342 GB are needed and 0\.0041 GB are free"):
        prepare(CollectConfig(str(out)))


def test_a_finished_data_set_needs_no_room(rollouts_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_blocks=9000, f_bavail=0, f_frsize=4096))
    assert isinstance(prepare(there(rollouts_dir)), Job)


def test_a_damaged_shard_is_named(copied: CollectConfig):
    damaged = shard_path(Path(copied.out), 1)
    os.truncate(damaged, 1000)
    with pytest.raises(ValueError, match=f"{damaged}: damaged .*; delete it and make it again"):
        prepare(copied)


@pytest.mark.parametrize("config", ["renderer: fast\n", "[1, 2]\n", "num_episodes: -1\n", "a: b: c\n", ""])
def test_a_shard_of_an_unknown_config_is_refused(copied: CollectConfig, config: str):
    with h5py.File(shard_path(Path(copied.out), 0), "r+") as file:
        file.attrs["config"] = config
    with pytest.raises(ValueError):
        prepare(copied)


def test_a_file_is_refused_as_the_output_folder_before_work_begins(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises((ValueError, OSError), match="file"):
        prepare(CollectConfig(str(tmp_path / "file")))


def test_preparing_writes_no_files(out: Path):
    prepare(CollectConfig(str(out)))
    assert not out.exists()


# --- going on


def test_running_again_writes_no_shards(copied: CollectConfig):
    before = {path: path.stat().st_mtime_ns for path in Path(copied.out).iterdir()}
    command.collect(prepare(copied))
    assert {path: path.stat().st_mtime_ns for path in Path(copied.out).iterdir()} == before


def test_running_again_says_that_all_shards_exist(copied: CollectConfig, capsys: pytest.CaptureFixture[str]):
    command.collect(prepare(copied))
    assert capsys.readouterr().out == f"{copied.out}: 6 episodes, 246 frames in 3 shards, all finished before\n"


def test_a_missing_shard_is_collected_again(copied: CollectConfig):
    shard_path(Path(copied.out), 1).unlink()
    job = prepare(copied)
    assert isinstance(job, Job) and [task.path.stem for task in job.tasks] == ["shard-00001"]


def test_unfinished_files_of_a_killed_run_are_removed(
    gather: Callable[..., Rollouts], out: Path, leave_partial: Callable[[Path], Path]
):
    out.mkdir()
    leave_partial(out / "shard-00007.h5")
    gather()
    assert sorted(path.name for path in out.iterdir()) == ["first_frames.png", "shard-00000.h5"]


def test_a_second_collector_is_refused(gather: Callable[..., Rollouts], out: Path):
    out.mkdir()
    with locks.only_writer(out), pytest.raises(Stopped, match="is being written by another process"):
        gather()


def test_a_refused_second_collector_does_not_change_the_first_ones_files(
    copied: CollectConfig, leave_partial: Callable[[Path], Path]
):
    job = prepare(dataclasses.replace(copied, num_episodes=7))
    partial = leave_partial(Path(copied.out) / "shard-00003.h5")
    with locks.only_writer(Path(copied.out)), pytest.raises(Stopped):
        command.collect(job)
    assert partial.exists()


@pytest.fixture
def interrupted(
    gather: Callable[..., Rollouts], monkeypatch: pytest.MonkeyPatch, leave_partial: Callable[[Path], Path]
) -> None:
    """A collection of two shards that Ctrl-C interrupts during the second one."""
    make = command.record_shard

    def press(task: ShardTask, report: executors.Report) -> ShardResult:
        if task.path.name == "shard-00001.h5":
            leave_partial(task.path)  # like a killed worker
            raise KeyboardInterrupt
        return make(task, report)

    monkeypatch.setattr(command, "record_shard", press)
    with pytest.raises(KeyboardInterrupt):
        gather("--episodes_per_shard 1")


def test_only_complete_shards_remain_after_ctrl_c(interrupted: None, out: Path):
    assert sorted(path.name for path in out.iterdir()) == ["first_frames.png", "shard-00000.h5"]


# --- progress


@pytest.mark.parametrize("env", ["Pictures-v0", "Finishing-v0"])
def test_the_progress_bar_ends_full_and_counts_all_steps(
    gather: Callable[..., Rollouts], monkeypatch: pytest.MonkeyPatch, env: str
):
    bars, bar = [], progress.bar
    monkeypatch.setattr(progress, "bar", lambda *args: bars.append(bar(*args)) or bars[-1])
    data = gather("--num_episodes 3 --episodes_per_shard 2", env=env)
    steps = sum(map(len, data))
    assert [(bar.n, bar.total) for bar in bars] == [(steps, steps)]


def test_a_shard_reports_its_steps_while_it_is_recorded(out: Path):
    out.mkdir()
    seen: list[int] = []
    config = CollectConfig(str(out), env="Pictures-v0", policy="random", max_steps=20)
    recorded = record_shard(shard_task(config, 0, ("random", "random"), "auto"), seen.append)
    assert (recorded, seen) == (ShardResult(40), [16, 20, 36, 40])


# --- verify


def test_verify_prints_the_contents_of_a_data_set(copied: CollectConfig, capsys: pytest.CaptureFixture[str]):
    command.main(["--verify", copied.out])
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "CarRacing-v3, complete, every digest correct",
        "episodes 6 in 3 shards, seeds 0..5",
        "frames 246,",
        "steps 40..40 an episode",
        'preprocess {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}',
        "telemetry position_x_m, position_y_m,",
        "brownian 3 episodes, return ",
        "driver 3 episodes, return ",
    ):
        assert words in said


def test_verify_prints_the_minimum_median_and_maximum_return(copied: CollectConfig, capsys: pytest.CaptureFixture[str]):
    command.main(["--verify", copied.out])
    low, middle, high = sorted(e.rewards.astype(float).sum() for e in Rollouts(copied.out) if e.policy == "driver")
    assert f"driver     3 episodes, return {low:.1f} .. {middle:.1f} .. {high:.1f}" in capsys.readouterr().out


def test_verify_prints_none_for_data_without_telemetry(
    gather: Callable[..., Rollouts], out: Path, capsys: pytest.CaptureFixture[str]
):
    gather()
    command.main(["--verify", str(out)])
    assert "  telemetry  none\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", [".", "shard-00000.h5"])
def test_verify_draws_a_contact_sheet_beside_the_shards(copied: CollectConfig, name: str):
    command.main(["--verify", str(Path(copied.out) / name)])
    with Image.open(Path(copied.out) / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG" and np.asarray(sheet.convert("L")).std() > 5


def test_verify_changes_no_shard(copied: CollectConfig):
    before = {path: files.file_sha256(path) for path in Path(copied.out).glob("*.h5")}
    command.main(["--verify", copied.out])
    assert {path: files.file_sha256(path) for path in Path(copied.out).glob("*.h5")} == before


@pytest.mark.parametrize("column", ["frames", "actions", "rewards", "telemetry", "episode_seed"])
def test_verify_refuses_damaged_data(copied: CollectConfig, column: str):
    with h5py.File(shard_path(Path(copied.out), 2), "r+") as file:
        data: Any = file[column]
        data[0] = data[0] + 1
    with pytest.raises(ValueError, match=f"{column} differs from its digest"):
        command.main(["--verify", copied.out])


def test_verify_refuses_a_folder_without_shards(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nothing: no such file or folder"):
        command.main(["--verify", str(tmp_path / "nothing")])


# --- a worker is light


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The modules and the memory that a new process needed to collect a shard."""
    source = """if True:
        import json, re, sys
        from pathlib import Path
        from world_models.collect.command import CollectConfig, shard_task
        from world_models.collect.recording import record_shard
        task = shard_task(CollectConfig(sys.argv[1], max_steps=60), 0, ("brownian", "driver"), "auto")
        steps = record_shard(task, lambda units: None).steps
        status = Path("/proc/self/status").read_text()  # ru_maxrss would include the process that started this one
        peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024
        print(json.dumps({"steps": steps, "modules": list(sys.modules), "peak_mb": peak}))"""
    out = tmp_path_factory.mktemp("worker")
    done = subprocess.run([sys.executable, "-c", source, str(out)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", ["torch", "torchvision", "matplotlib", "wandb"])
def test_a_worker_never_imports_what_it_does_not_need(worker: dict[str, Any], package: str):
    assert worker["steps"] == 120 and package not in worker["modules"]


def test_a_worker_stays_below_250_mb(worker: dict[str, Any]):
    assert worker["peak_mb"] < 250


def test_a_policy_may_reuse_its_action_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = """
import numpy as np

def make(env, seed):
    action = np.zeros(3, np.float32)

    def act(frame):
        action[1] += 0.01
        return action

    return act
"""
    (tmp_path / "reusing_policy.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "rollouts"
    command.main(f"--out {out} --num_episodes 1 --max_steps 4 --executor serial --policy reusing_policy:make".split())
    assert Rollouts(out)[0].actions[:, 1] == pytest.approx([0.01, 0.02, 0.03, 0.04])


@pytest.mark.parametrize("body", ["def make(env): pass", "def make(env, seed): return lambda frame: 1 / 0", "x = ("])
def test_a_policy_that_fails_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str):
    name = f"failing_policy_{len(body)}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=name):
        command.prepare(command.CollectConfig(out=str(tmp_path / "rollouts"), policy=f"{name}:make"))


def test_a_warm_up_that_outlasts_the_episode_is_refused_before_any_work(tmp_path: Path):
    asked = command.CollectConfig(str(tmp_path / "x"), env="CartPole-v1", policy="random", warmup_steps=500)
    with pytest.raises(ValueError, match="fewer --warmup_steps"):
        command.prepare(asked)


def test_a_data_set_in_a_read_only_folder_is_shown_without_a_contact_sheet(
    make_rollouts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = make_rollouts([3, 3])
    monkeypatch.setattr("world_models.collect.overview.os.access", lambda path, mode: False)
    command.main(["--verify", str(folder)])
    assert "is not writable" in capsys.readouterr().out
    assert not (folder / "contact_sheet.png").exists()


def test_a_failing_policy_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "raising_policy.py").write_text("def make(env, seed):\n    raise ValueError('oops')\n")
    monkeypatch.syspath_prepend(tmp_path)
    asked = command.CollectConfig(out=str(tmp_path / "rollouts"), policy="raising_policy:make")
    with pytest.raises(
        ValueError, match=r"'raising_policy:make' fails .* ValueError: oops \(.*raising_policy\.py, line 2\)"
    ):
        command.prepare(asked)


# numbers beyond all use


@pytest.mark.parametrize("name", ["num_episodes", "max_steps", "episodes_per_shard", "warmup_steps", "num_workers"])
def test_an_absurdly_large_number_is_refused(name: str):
    with pytest.raises(ValueError, match=rf"^{name} is 1000000000000000000; give [\d,]+ at most$"):
        dataclasses.replace(CollectConfig(), **{name: 10**18})


def test_weights_whose_sum_is_infinite_are_refused():
    with pytest.raises(ValueError, match="give each policy a weight above 0, 1,000,000,000 at most"):
        CollectConfig(mixture={"random": 1e308, "driver": 1e308})


def test_millions_of_episodes_are_refused_before_they_are_planned(out: Path, monkeypatch: pytest.MonkeyPatch):
    def never(*arguments: object) -> None:
        raise AssertionError("planned")

    monkeypatch.setattr(policies, "deal", never)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_blocks=9000, f_bavail=1000, f_frsize=4096))
    with pytest.raises(ValueError, match=r"needed and 0\.0041 GB are free"):
        prepare(CollectConfig(str(out), num_episodes=2_999_999))


def test_disk_space_is_needed_only_for_missing_shards(rollouts_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_blocks=9000, f_bavail=0, f_frsize=4096))
    with pytest.raises(ValueError, match=r"about 0\.000169 GB are needed"):  # 2 * 41 frames and a shard
        prepare(dataclasses.replace(there(rollouts_dir), num_episodes=8))


def test_the_existing_data_set_is_found_under_a_path_with_dots(make_rollouts: Callable[..., Path], tmp_path: Path):
    """`new/../old` means `old`, although `new` does not exist yet."""
    make_rollouts([3, 3], name="old")
    with pytest.raises(ValueError, match=f"{tmp_path / 'old'}"):
        prepare(CollectConfig(str(tmp_path / "new/../old"), seed=77))
    assert not (tmp_path / "new").exists()
