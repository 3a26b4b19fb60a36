"""Merging copies what is kept entirely, writes again what is kept in part, and refuses data sets that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from world_models import collect
from world_models.convert import command, merging
from world_models.convert.config import ConvertConfig
from world_models.data.rollouts import Rollouts, write_rollouts
from world_models.data.shards import shard_path

COLUMNS = ("frames", "actions", "rewards", "terminated", "truncated", "telemetry")


@pytest.fixture
def merge(tmp_path: Path) -> Callable[..., Rollouts]:
    def run(*sources: Path, flags: tuple[str, ...] = ()) -> Rollouts:
        data = f"[{','.join(map(str, sources))}]"
        command.main(["--data", data, "--out", f"{tmp_path}/out", "--executor", "serial", *flags])
        return Rollouts(tmp_path / "out", verify=True)

    return run


@pytest.fixture
def refused(merge: Callable[..., Rollouts], tmp_path: Path) -> Callable[..., str]:
    def run(*sources: Path, flags: tuple[str, ...] = ()) -> str:
        with pytest.raises(ValueError) as refusal:
            merge(*sources, flags=flags)
        assert not (tmp_path / "out").exists()
        return str(refusal.value)

    return run


def assert_same(merged: Rollouts, source: Rollouts, pairs: list[tuple[int, int]]) -> None:
    """Check that episodes, as (number in the merged data set, number in the source), are equal."""
    for number, other in pairs:
        episode, original = merged[number], source[other]
        assert (episode.seed, episode.policy) == (original.seed, original.policy)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(episode, name), getattr(original, name))


def prepared(sources: tuple[str, ...], tmp_path: Path, **settings) -> merging.MergeJob:
    job = command.prepare(ConvertConfig(sources, str(tmp_path / "out"), executor="serial", **settings))
    assert isinstance(job, merging.MergeJob)
    return job


# --- what is kept


def test_shards_that_are_kept_entirely_are_the_same_files(merge, make_rollouts):
    first, second = make_rollouts([3, 4], [5]), make_rollouts([6], name="b", seed=100)
    merged = merge(first, second)
    sources = [*sorted(first.glob("*.h5")), *sorted(second.glob("*.h5"))]
    assert [shard.path.read_bytes() for shard in merged.shards] == [path.read_bytes() for path in sources]
    assert merged.lengths.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        (("--keep", "seed=1,4"), [1, 4]),
        (("--drop", "seed=1,4"), [0, 2, 3]),
        (("--drop", "policy=brownian"), [1, 3]),
        (("--keep", "length>=5"), [2, 3, 4]),
        (("--keep", "[length>=4, policy=driver]"), [1, 3]),
        (("--drop", "[length>=6, policy=driver]"), [0, 2]),
        (("--keep", "length>=4", "--drop", "seed=2"), [1, 3, 4]),
    ],
)
def test_conditions_choose_episodes(merge, make_rollouts, flags, kept):
    source = Rollouts(make_rollouts([3, 4], [5], [6, 7]))
    merged = merge(source.path, flags=flags)
    assert merged.seeds.tolist() == kept
    assert_same(merged, source, list(enumerate(kept)))
    assert merged.telemetry_names == source.telemetry_names


def test_a_return_is_the_sum_of_rewards(merge, make_rollouts):
    source = Rollouts(make_rollouts([3, 4], [5, 6]))
    limit = float(np.median(source.returns()))
    merged = merge(source.path, flags=("--drop", f"return<{limit}"))
    assert merged.seeds.tolist() == np.flatnonzero(source.returns() >= limit).tolist()


def test_an_episode_longer_than_a_block_is_copied_in_full(merge, make_rollouts, monkeypatch):
    monkeypatch.setattr(merging, "BLOCK_ROWS", 7)
    source = Rollouts(make_rollouts([20, 14, 3]))
    assert_same(merge(source.path, flags=("--drop", "seed=2")), source, [(0, 0), (1, 1)])


def test_a_shard_that_is_written_again_keeps_its_attributes(merge, make_rollouts):
    source = Rollouts(make_rollouts([3, 4]))
    merged = merge(source.path, flags=("--drop", "seed=0"))
    for name in ("env", "preprocess", "action_space", "warmup_steps"):
        assert merged.shards[0].attributes[name] == source.shards[0].attributes[name]
    assert "drop:" in str(merged.shards[0].attributes["config"])


def test_imported_episodes_keep_the_names_of_their_files(merge, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for index in range(3):
        obs = rng.integers(0, 256, (4 + index, 16, 16, 3), np.uint8)
        np.savez(tmp_path / f"in/{index}.npz", obs=obs, action=np.zeros(4 + index))
    command.main(f"--data {tmp_path}/in --out {tmp_path}/imported --executor serial".split())
    merged = merge(tmp_path / "imported", flags=("--drop", "length=4"))
    assert json.loads(str(merged.shards[0].attributes["sources"])) == ["0.npz", "2.npz"]


def test_collect_refuses_to_extend_a_filtered_data_set(merge, make_rollouts):
    merged = merge(make_rollouts([3, 4]), flags=("--drop", "seed=0"))
    before = merged.shards[0].path.read_bytes()
    with pytest.raises(ValueError, match=r"shard-00000\.h5: collected by another program"):
        collect.main(f"--out {merged.path} --num_episodes 2 --executor serial".split())
    assert merged.shards[0].path.read_bytes() == before


def test_the_command_prints_how_many_episodes_were_kept(merge, make_rollouts, tmp_path, capsys):
    folder = make_rollouts([3, 4])
    merge(folder, flags=("--keep", "seed=1"))
    merge(folder, flags=("--keep", "seed=1"))
    line = f"{tmp_path}/out: kept 1 of 2 episodes, 5 frames in 1 shards"
    assert capsys.readouterr().out.splitlines() == [line, f"{line}, all finished before"]


# --- continuing


def test_an_interrupted_merging_continues(merge, make_rollouts, tmp_path):
    sources = make_rollouts([3, 4], [5]), make_rollouts([6], name="b", seed=100)
    whole = merge(*sources, flags=("--drop", "seed=0"))
    (tmp_path / "out/shard-00001.h5").unlink()
    job = prepared(tuple(map(str, sources)), tmp_path, drop="seed=0")
    assert [task.path.name for task in job.tasks] == ["shard-00001.h5"]
    assert job.num_frames == 6 and not job.is_finished
    job.run()
    assert Rollouts(tmp_path / "out", verify=True).digest() == whole.digest()
    assert prepared(tuple(map(str, sources)), tmp_path, drop="seed=0").is_finished


@pytest.mark.parametrize("flags", [("--drop", "seed=1"), ("--drop", "length>0")])
def test_other_episodes_in_the_same_folder_are_refused(merge, make_rollouts, flags):
    sources = make_rollouts([3, 4], [5]), make_rollouts([6], name="b", seed=100)
    merge(*sources)
    with pytest.raises(ValueError, match=r"holds other episodes than these settings choose|none of the 4 episodes"):
        merge(*sources, flags=flags)


def test_more_shards_than_are_planned_are_refused(merge, make_rollouts):
    sources = make_rollouts([3, 4], [5]), make_rollouts([6], name="b", seed=100)
    merge(*sources)
    with pytest.raises(ValueError, match=r"shard-00002.h5: holds other episodes"):
        merge(*sources, flags=("--drop", "seed=100"))


# --- what does not fit


def other_data(tmp_path: Path, **changed) -> Path:
    """A data set like that of `make_rollouts`, but for some attributes, columns or names."""
    folder = tmp_path / "other"
    folder.mkdir()
    attributes = {
        "env": "Synthetic-v0",
        "preprocess": json.dumps({"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}),
        "action_space": json.dumps({"type": "Box", "shape": [3]}),
        "warmup_steps": 0,
        "config": "seed: 0\n",
    }
    num_actions = changed.pop("num_actions", 3)
    telemetry = changed.pop("telemetry", ("speed_m_per_s", "heading_rad"))
    frame, state = np.zeros((64, 64, 3), np.uint8), np.zeros(len(telemetry), np.float32)
    with write_rollouts(shard_path(folder, 0), num_actions, telemetry, attributes | changed) as rollouts:
        rollouts.step(frame, state, np.zeros(num_actions, np.float32), 0.0, False, True)
        rollouts.end_episode(frame, state, 10**6, "random")
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"env": "Other-v0"}, "its env is Other-v0, that of"),
        ({"preprocess": json.dumps({"crop": None, "size": 64, "interpolation": "INTER_AREA"})}, "its preprocess is"),
        ({"action_space": json.dumps({"type": "Discrete"})}, "its action_space is"),
        ({"warmup_steps": 50}, "its warmup_steps is 50"),
        ({"env_args": json.dumps({"domain_randomize": True})}, 'its env_args is {"domain_randomize": true}'),
        ({"num_actions": 2}, "its number of action columns is 2, that of"),
        ({"telemetry": ()}, "its telemetry is empty, that of"),
    ],
)
def test_data_sets_that_do_not_fit_are_refused_by_name(refused, make_rollouts, tmp_path, changed, said):
    first, second = make_rollouts([3]), other_data(tmp_path, **changed)
    line = refused(first, second)
    assert f"{second}: {said}" in line
    assert "only data sets that agree in it can be merged" in line


def test_data_sets_that_fit_are_merged(merge, make_rollouts, tmp_path):
    assert len(merge(make_rollouts([3]), other_data(tmp_path))) == 2


def test_a_seed_in_two_data_sets_is_refused(refused, merge, make_rollouts):
    first, second = make_rollouts([3, 4]), make_rollouts([5], name="b", seed=1)
    assert f"1 seeds, such as 1, are in {first} and in {second}" in refused(first, second)
    assert merge(first, second, flags=("--drop", "length=4")).seeds.tolist() == [0, 1]


def test_one_data_set_without_a_condition_is_refused(refused, make_rollouts):
    assert "name several data sets to merge them, --keep or --drop to choose" in refused(make_rollouts([3]))


def test_conditions_that_keep_no_episode_are_refused(refused, make_rollouts):
    assert "none of the 2 episodes meets the conditions" in refused(make_rollouts([3, 4]), flags=("--keep", "seed=9"))


@pytest.mark.parametrize(
    "flags",
    [("--env", "x"), ("--crop", "0:3"), ("--every", "2"), ("--skip_broken", "true"), ("--episodes_per_shard", "3")],
)
def test_settings_of_an_import_are_refused(refused, make_rollouts, flags):
    assert f"{flags[0][2:]} is given, but" in refused(make_rollouts([3, 4]), flags=("--keep", "seed=0", *flags))
