"""A shard names its renderer and the number of checked frames. A shard with a wrong frame is never kept."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing

from world_models.collect import command, recording
from world_models.collect.recording import CHECKED_FRAMES, ShardResult, ShardTask, record_shard
from world_models.data.rollouts import FORMAT, Rollouts
from world_models.data.shards.reader import Shard
from world_models.envs import car_renderer, renderer_choice
from world_models.envs.car_renderer import CRenderer

pytestmark = pytest.mark.skipif(
    find_spec("world_models.envs._car_canvas") is None, reason="the C renderer is not built"
)

STEPS = 12
POLICIES = ("brownian", "driver")
MISMATCH = "renderer c drew 1 of 9216 pixels unlike Gymnasium; please report it with these versions: gymnasium "


class Pictures(gymnasium.Env):
    """Shows noise; no renderer of ours draws it."""

    observation_space = spaces.Box(0, 255, (48, 40, 3), np.uint8)
    action_space: spaces.Space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.observe(), 0.0, False, False, {}

    def observe(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (48, 40, 3), np.uint8)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    kind: Any = Pictures
    gymnasium.register("Pictures-v0", kind)
    yield
    del gymnasium.registry["Pictures-v0"]


@pytest.fixture
def chosen_anew() -> Iterator[None]:
    """Forget which renderer was chosen, before a test and after it."""
    caches: list[Any] = [renderer_choice.choose, renderer_choice.problem_of]
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def ignore(units: int) -> None:
    pass


@pytest.fixture
def task(tmp_path: Path) -> ShardTask:
    """Two short episodes of CarRacing, drawn by the C library."""
    return task_of(tmp_path / "shard-00000.h5", "c")


def task_of(path: Path, renderer: str) -> ShardTask:
    return ShardTask(path, "CarRacing-v3", {}, "auto", renderer, 0, STEPS, 7, POLICIES, "seed: 7\n")


@pytest.fixture
def record(task: ShardTask) -> Callable[..., Shard]:
    """Records the task with some changes, and reads the shard."""

    def make(**changes: Any) -> Shard:
        changed = dataclasses.replace(task, **changes)
        record_shard(changed, ignore)
        return Shard(changed.path, FORMAT, verify=True)

    return make


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, float]]:
    """Which frames are compared: the episode's track, its time step, the car's place."""
    for name in ("c", "pygame"):
        renderer_choice.choose(name)  # its trial compares frames once in each process
    found = []

    def compare(renderer: Any, frame: np.ndarray, env: Any) -> None:
        found.append((len(env.track), round(env.t * 50) - 1, float(env.car.hull.position[0])))

    monkeypatch.setattr(renderer_choice, "compare", compare)
    return found


@pytest.fixture
def every_frame_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough random frames that none of a shard is left out."""
    monkeypatch.setattr(recording, "CHECKED_FRAMES", 1000)


@pytest.fixture
def wrong_later(monkeypatch: pytest.MonkeyPatch, every_frame_checked: None) -> None:
    """The C renderer, tried and found good, draws a wrong pixel in the middle of every episode."""
    renderer_choice.choose("c")
    draw = CRenderer.draw

    def wrong(self: CRenderer, env: car_racing.CarRacing) -> np.ndarray:
        frame = draw(self, env)
        frame[40, 40, 0] ^= env.t > 0.11
        return frame

    monkeypatch.setattr(CRenderer, "draw", wrong)


# --- what a shard tells


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shard]:
    """The same shard, drawn by each renderer."""
    folder = tmp_path_factory.mktemp("drawn")
    shards = {}
    for name in ("c", "pygame", "gymnasium"):
        record_shard(task_of(folder / f"{name}.h5", name), ignore)
        shards[name] = Shard(folder / f"{name}.h5", FORMAT, verify=True)
    return shards


def test_a_shard_names_its_renderer(drawn: dict[str, Shard]):
    assert {name: shard.attributes["renderer"] for name, shard in drawn.items()} == {name: name for name in drawn}


def test_a_shard_names_the_renderer_that_auto_chose(record: Callable[..., Shard]):
    assert record(renderer="auto").attributes["renderer"] == renderer_choice.choose("auto")[0]


@pytest.mark.parametrize("renderer", ["c", "pygame"])
def test_a_shard_counts_the_frames_that_were_checked(record: Callable[..., Shard], compared: list[Any], renderer: str):
    shard = record(renderer=renderer)
    assert shard.attributes["renderer_frames_checked"] == len(compared) > 1


def test_frames_that_gymnasium_draws_are_not_checked(record: Callable[..., Shard], compared: list[Any]):
    assert record(renderer="gymnasium").attributes["renderer_frames_checked"] == 0 == len(compared)


@pytest.mark.parametrize("env", ["Pictures-v0", "CartPole-v1"])
def test_an_environment_without_a_fast_renderer_draws_itself(
    record: Callable[..., Shard], compared: list[Any], env: str
):
    attributes = record(env=env, renderer="gymnasium", policies=("random", "random")).attributes
    assert (attributes["renderer"], attributes["renderer_frames_checked"]) == ("gymnasium", 0) and compared == []


def test_all_renderers_give_the_same_columns(drawn: dict[str, Shard]):
    assert drawn["c"].digests == drawn["pygame"].digests == drawn["gymnasium"].digests


def test_checking_frames_does_not_change_the_columns(
    record: Callable[..., Shard], tmp_path: Path, every_frame_checked: None, monkeypatch: pytest.MonkeyPatch
):
    often = record()
    monkeypatch.setattr(recording, "CHECKED_FRAMES", 0)
    assert often.digests == record(path=tmp_path / "never.h5").digests


def test_the_renderer_is_stored_in_the_attributes(record: Callable[..., Shard]):
    with h5py.File(record().path) as file:
        assert (file.attrs["renderer"], int(file.attrs["renderer_frames_checked"]) > 0) == (b"c", True)  # type: ignore[arg-type]


# --- which frames are checked


@pytest.mark.parametrize("first_seed", range(3))
def test_the_first_frame_of_a_shard_is_always_checked(
    record: Callable[..., Shard], compared: list[Any], first_seed: int
):
    record(first_seed=first_seed)
    assert compared[0][1] == 0


def test_the_same_task_checks_the_same_frames(record: Callable[..., Shard], compared: list[Any], tmp_path: Path):
    record()
    first = compared[:]
    compared.clear()
    record(path=tmp_path / "again.h5")
    assert compared == first


def test_other_shards_check_other_frames(record: Callable[..., Shard], compared: list[Any], tmp_path: Path):
    checked = set()
    for first_seed in (0, 10, 20):
        compared.clear()
        record(first_seed=first_seed, path=tmp_path / f"{first_seed}.h5")
        checked.add(tuple(step for _, step, _ in compared))
    assert len(checked) == 3


def test_frames_of_all_episodes_of_a_shard_are_checked(
    record: Callable[..., Shard], compared: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recording, "CHECKED_FRAMES", 40)
    record(policies=("driver",) * 4)
    steps = [step for _, step, _ in compared]
    assert sum(later <= earlier for earlier, later in itertools.pairwise(steps)) == 3  # three new episodes began


def test_more_frames_are_checked_with_versions_that_were_never_tested(
    record: Callable[..., Shard], compared: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(renderer_choice.metadata, "version", lambda package: "99.0")
    record(max_steps=100)
    most = 1 + CHECKED_FRAMES * renderer_choice.UNTESTED_CHECK_FACTOR
    assert most / 2 < len(compared) <= most


def test_the_first_frame_is_checked_before_the_warm_up(record: Callable[..., Shard], compared: list[Any]):
    record(warmup_steps=3)
    assert compared[0][1] == 0 and max(step for _, step, _ in compared) < STEPS + 3


# --- a frame drawn wrong


def test_after_a_mismatch_the_shard_is_recorded_again_with_gymnasium(
    task: ShardTask, record: Callable[..., Shard], tmp_path: Path, wrong_later: None
):
    again = record()
    plain = record(renderer="gymnasium", path=tmp_path / "plain.h5")
    assert again.digests == plain.digests
    assert {**again.attributes, "digests": ""} == {**plain.attributes, "digests": ""}


def test_a_shard_that_was_recorded_again_names_gymnasium_and_zero_checks(
    record: Callable[..., Shard], wrong_later: None
):
    attributes = record().attributes
    assert (attributes["renderer"], attributes["renderer_frames_checked"]) == ("gymnasium", 0)


def test_a_mismatch_is_reported_with_versions(task: ShardTask, wrong_later: None):
    recorded = record_shard(task, ignore)
    assert recorded.steps == 2 * STEPS and recorded.mismatch is not None
    assert recorded.mismatch.startswith(MISMATCH) and "SDL" in recorded.mismatch


def test_no_mismatch_is_reported_if_all_frames_are_right(task: ShardTask, every_frame_checked: None):
    assert record_shard(task, ignore) == ShardResult(2 * STEPS, None)


def test_no_file_of_a_wrong_shard_is_kept(task: ShardTask, wrong_later: None, monkeypatch: pytest.MonkeyPatch):
    write, there = recording.write_rollouts, []

    def watched(path: Path, *args: Any) -> Any:
        there.append([path.name for path in task.path.parent.iterdir()])
        return write(path, *args)

    monkeypatch.setattr(recording, "write_rollouts", watched)
    record_shard(task, ignore)
    assert there == [[], []]  # before the first attempt, and before the second
    assert [path.name for path in task.path.parent.iterdir()] == ["shard-00000.h5"]


def test_an_older_shard_is_kept_until_the_new_one_is_complete(
    task: ShardTask, wrong_later: None, monkeypatch: pytest.MonkeyPatch
):
    def crash(self: Any, env: Any) -> Any:
        raise KeyboardInterrupt

    record_shard(dataclasses.replace(task, renderer="gymnasium"), ignore)
    before = task.path.read_bytes()
    monkeypatch.setattr(car_renderer.GymnasiumRenderer, "draw", crash)
    with pytest.raises(KeyboardInterrupt):
        record_shard(task, ignore)
    assert task.path.read_bytes() == before


def test_progress_of_a_shard_that_is_recorded_again_starts_at_zero(
    task: ShardTask, every_frame_checked: None, monkeypatch: pytest.MonkeyPatch
):
    renderer_choice.choose("c")
    draw, seen = CRenderer.draw, []

    def wrong_after_a_report(self: CRenderer, env: car_racing.CarRacing) -> np.ndarray:
        frame = draw(self, env)
        frame[40, 40, 0] ^= len(seen) > 0
        return frame

    monkeypatch.setattr(CRenderer, "draw", wrong_after_a_report)
    record_shard(task, seen.append)
    assert seen == [STEPS, STEPS, 2 * STEPS]


def test_a_wrong_frame_is_not_noticed_if_it_is_not_checked(
    record: Callable[..., Shard], wrong_later: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recording, "CHECKED_FRAMES", 0)  # only the first frame, which is right
    assert record().attributes["renderer"] == "c"


# --- the command


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def gather(out: Path) -> Callable[..., Rollouts]:
    """Runs the command in this process, and reads what it made."""

    def run(flags: str = "", num_episodes: int = 2) -> Rollouts:
        usual = f"--out {out} --num_episodes {num_episodes} --max_steps {STEPS} --episodes_per_shard 2"
        command.main([*usual.split(), "--executor", "serial", *flags.split()])
        return Rollouts(out, verify=True)

    return run


def renderers(data: Rollouts) -> list[str]:
    return [str(shard.attributes["renderer"]) for shard in data.shards]


def test_collect_names_the_shard_that_was_recorded_again(
    gather: Callable[..., Rollouts], wrong_later: None, capsys: pytest.CaptureFixture[str]
):
    assert renderers(gather("--renderer c")) == ["gymnasium"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "again" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"shard-00000.h5 was made again, drawn by Gymnasium: {MISMATCH}")


def test_collect_reports_no_repetition_if_all_frames_are_right(
    gather: Callable[..., Rollouts], capsys: pytest.CaptureFixture[str]
):
    gather()
    assert "again" not in capsys.readouterr().out


@pytest.mark.parametrize("renderer", ["pygame", "gymnasium"])
def test_collect_uses_the_requested_renderer(gather: Callable[..., Rollouts], renderer: str):
    assert renderers(gather(f"--renderer {renderer}")) == [renderer]


@pytest.mark.slow
def test_a_data_set_can_be_extended_with_another_renderer(gather: Callable[..., Rollouts], tmp_path: Path):
    gather("--renderer gymnasium", num_episodes=2)
    gather("--renderer c", num_episodes=4)
    data = gather("--renderer pygame", num_episodes=6)
    assert renderers(data) == ["gymnasium", "c", "pygame"]
    flags = f"--num_episodes 6 --max_steps {STEPS} --episodes_per_shard 2 --executor serial"
    command.main(["--out", str(tmp_path / "one"), *flags.split()])
    assert data.digest() == Rollouts(tmp_path / "one").digest()


def test_a_finished_data_set_stays_finished_with_another_renderer(
    gather: Callable[..., Rollouts], capsys: pytest.CaptureFixture[str]
):
    gather("--renderer c")
    gather("--renderer gymnasium")
    assert capsys.readouterr().out.endswith("all finished before\n")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--env CartPole-v1 --policy random --renderer c", "renderer c draws CarRacing, not CartPole-v1"),
        ("--env Pictures-v0 --policy random --renderer pygame", "renderer pygame draws CarRacing, not Pictures-v0"),
        ("--renderer fast", "fast"),
    ],
)
def test_a_renderer_that_cannot_draw_the_environment_is_refused(
    gather: Callable[..., Rollouts], out: Path, flags: str, said: str
):
    with pytest.raises(ValueError, match=said):
        gather(flags)
    assert not out.exists()


def test_a_renderer_that_was_not_built_is_refused(
    gather: Callable[..., Rollouts], chosen_anew: None, monkeypatch: pytest.MonkeyPatch
):
    def load() -> Any:
        raise ImportError("the C renderer was not built")

    monkeypatch.setattr(car_renderer, "load_library", load)
    with pytest.raises(ValueError, match="renderer c cannot be used: the C renderer was not built"):
        gather("--renderer c")


@pytest.mark.parametrize("flags", ["", "--env world_models/CarRacing-v3"])
def test_collect_prints_the_renderer_that_auto_chose(
    gather: Callable[..., Rollouts], flags: str, capsys: pytest.CaptureFixture[str]
):
    gather(flags)
    name, reason = renderer_choice.choose("auto")
    assert capsys.readouterr().out.startswith(f"CarRacing is drawn by {name}: {reason}\n")


@pytest.mark.parametrize(
    "flags",
    [
        "--renderer c",
        "--renderer gymnasium",
        "--env world_models/CarRacing-v3 --renderer gymnasium",
        "--env CartPole-v1 --policy random",
        "--env Pictures-v0 --policy random",
    ],
)
def test_collect_prints_no_renderer_if_there_was_no_choice(
    gather: Callable[..., Rollouts], flags: str, capsys: pytest.CaptureFixture[str]
):
    gather(flags)
    assert "drawn" not in capsys.readouterr().out


def test_collect_prints_no_renderer_if_all_shards_exist(
    gather: Callable[..., Rollouts], capsys: pytest.CaptureFixture[str]
):
    gather()
    capsys.readouterr()
    gather()
    assert "drawn" not in capsys.readouterr().out


@pytest.mark.parametrize("env", ["world_models/CarRacing-v3", "world_models:world_models/CarRacing-v3"])
def test_our_environment_gives_the_same_rollouts_as_car_racing(tmp_path: Path, env: str):
    collected = []
    for env_id in ("CarRacing-v3", env):
        out = tmp_path / str(len(collected))
        command.main(f"--out {out} --env {env_id} --num_episodes 1 --max_steps 3 --executor serial".split())
        collected.append(Rollouts(out))
    plain, ours = collected
    assert (ours.env, ours.preprocess) == (plain.env, plain.preprocess)
    assert ours.digest() == plain.digest()


def test_workers_use_the_renderer_that_the_trial_chose(out: Path, chosen_anew: None, monkeypatch: Any):
    monkeypatch.setattr(renderer_choice, "RENDERERS", {k: v for k, v in renderer_choice.RENDERERS.items() if k != "c"})
    job = command.prepare(command.CollectConfig(str(out)))
    assert isinstance(job, command.Job) and {task.renderer for task in job.tasks} == {"pygame"}
