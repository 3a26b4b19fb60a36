import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from world_models.data.rollouts import FRAME_BYTES, FRAME_SHAPE, Rollouts, RolloutWriter, write_rollouts
from world_models.data.shards import shard_path
from world_models.runtime import files

Make = Callable[..., Path]

# What DESIGN section 3 says of each column: dtype, shape of one row.
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "frames": ("uint8", (64, 64, 3)),
    "actions": ("float32", (3,)),
    "rewards": ("float32", ()),
    "terminated": ("bool", ()),
    "truncated": ("bool", ()),
    "telemetry": ("float32", (2,)),
}
EPISODE_COLUMNS = {"episode_start": "int64", "episode_length": "int32", "episode_seed": "int64"}
ATTRIBUTES = {
    "env": "Synthetic-v0",
    "preprocess": json.dumps({"crop": None, "size": 64, "interpolation": "INTER_AREA"}),
    "action_space": json.dumps({"type": "Box", "shape": [2]}),
    "warmup_steps": 0,
    "config": "seed: 0\n",
}


def frame_of(row: int) -> np.ndarray:
    return np.full(FRAME_SHAPE, row, np.uint8)


def telemetry_of(row: int) -> np.ndarray:
    return np.array([row / 4], np.float32)


def write_episode(rollouts: RolloutWriter, steps: int, first: int = 0, seed: int = 5) -> None:
    """Frames count the rows, actions and rewards the steps; the end is by truncation."""
    for t in range(steps):
        action = np.array([t + 1, -t - 1], np.float32)
        rollouts.step(frame_of(first + t), telemetry_of(first + t), action, t + 0.5, False, t == steps - 1)
    rollouts.end_episode(frame_of(first + steps), telemetry_of(first + steps), seed, "driver")


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """One shard: an episode of 4 steps, rows 0..4, and one of 2 steps, rows 5..7."""
    with write_rollouts(shard_path(tmp_path, 0), 2, ["speed_m_per_s"], ATTRIBUTES) as rollouts:
        write_episode(rollouts, 4)
        write_episode(rollouts, 2, first=5, seed=6)
    return tmp_path


@pytest.fixture
def columns(counted: Path) -> dict[str, np.ndarray]:
    with h5py.File(shard_path(counted, 0)) as file:
        return {name: dataset[:] for name, dataset in file.items()}  # type: ignore[index]


# alignment, as stored


def test_an_episode_of_t_steps_has_t_plus_1_rows(columns: dict[str, np.ndarray]):
    assert columns["episode_start"].tolist() == [0, 5]
    assert columns["episode_length"].tolist() == [5, 3]
    assert {len(columns[name]) for name in COLUMNS} == {8}


def test_row_t_holds_the_frame_before_action_t_and_the_reward_of_action_t(columns: dict[str, np.ndarray]):
    assert columns["frames"][:, 0, 0, 0].tolist() == list(range(8))
    assert columns["telemetry"][:, 0].tolist() == [row / 4 for row in range(8)]
    assert columns["actions"][:4].tolist() == [[1, -1], [2, -2], [3, -3], [4, -4]]
    assert columns["rewards"][:4].tolist() == [0.5, 1.5, 2.5, 3.5]


@pytest.mark.parametrize("name", ["actions", "rewards", "terminated", "truncated"])
def test_the_final_row_of_an_episode_has_no_action_reward_or_end(columns: dict[str, np.ndarray], name: str):
    assert not columns[name][[4, 7]].any()


def test_the_row_before_the_last_carries_the_end_flag(columns: dict[str, np.ndarray]):
    assert np.flatnonzero(columns["truncated"]).tolist() == [3, 6]
    assert not columns["terminated"].any()


@pytest.mark.parametrize(("terminated", "truncated"), [(True, False), (False, True), (True, True)])
def test_the_kind_of_end_of_an_episode_is_stored(tmp_path: Path, terminated: bool, truncated: bool):
    with write_rollouts(tmp_path / "a.h5", 1, [], ATTRIBUTES) as rollouts:
        none = np.zeros(0, np.float32)
        rollouts.step(frame_of(0), none, np.zeros(1, np.float32), 0.0, terminated, truncated)
        rollouts.end_episode(frame_of(1), none, 0, "random")
    episode = Rollouts(tmp_path / "a.h5", verify=True)[0]
    assert (episode.terminated.tolist(), episode.truncated.tolist()) == ([terminated], [truncated])


# the file


@pytest.mark.parametrize("name", COLUMNS)
def test_row_columns_have_the_documented_dtypes_and_shapes(make_rollouts: Make, name: str):
    dtype, row_shape = COLUMNS[name]
    with h5py.File(shard_path(make_rollouts([3, 4]), 0)) as file:
        column: Any = file[name]
        assert (str(column.dtype), column.shape) == (dtype, (9, *row_shape))


def test_episode_columns_have_the_documented_dtypes_and_shapes(make_rollouts: Make):
    with h5py.File(shard_path(make_rollouts([3, 4]), 0)) as file:
        found: dict[str, Any] = {name: file[name] for name in (*EPISODE_COLUMNS, "episode_policy")}
        assert {name: str(found[name].dtype) for name in EPISODE_COLUMNS} == EPISODE_COLUMNS
        assert h5py.check_string_dtype(found["episode_policy"].dtype).encoding == "utf-8"
        assert {column.shape for column in found.values()} == {(2,)}


def test_a_file_has_the_documented_columns_and_no_others(columns: dict[str, np.ndarray]):
    assert set(columns) == {*COLUMNS, *EPISODE_COLUMNS, "episode_policy"}


@pytest.mark.parametrize("name", COLUMNS)
def test_row_columns_are_compressed_only_by_gzip_and_shuffle(make_rollouts: Make, name: str):
    with h5py.File(shard_path(make_rollouts([3]), 0)) as file:
        column: Any = file[name]
        plist = column.id.get_create_plist()
        filters = {plist.get_filter(index)[0] for index in range(plist.get_nfilters())}
    assert filters == {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}


def test_a_chunk_of_frames_is_smaller_than_a_megabyte(make_rollouts: Make):
    with h5py.File(shard_path(make_rollouts([3]), 0)) as file:
        frames: Any = file["frames"]
        assert frames.chunks[1:] == FRAME_SHAPE
        assert frames.chunks[0] * FRAME_BYTES < 1 << 20


def test_attributes_are_the_documented_ones(counted: Path):
    with h5py.File(shard_path(counted, 0)) as file:
        stored: dict[str, Any] = dict(file.attrs)
    found = {name: value.decode() if isinstance(value, bytes) else value for name, value in stored.items()}
    assert set(found) == {*ATTRIBUTES, "format", "format_version", "versions", "complete", "digests"}
    assert {name: found[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert (found["format"], found["format_version"]) == ("world_models.rollouts", 1)
    assert found["complete"]
    assert json.loads(found["versions"]) == files.versions()


def test_the_telemetry_dataset_names_its_columns(make_rollouts: Make):
    with h5py.File(shard_path(make_rollouts([3]), 0)) as file:
        names: Any = file["telemetry"].attrs["names"]
    assert list(names) == [b"speed_m_per_s", b"heading_rad"]


def test_digests_are_the_sha256_of_the_raw_little_endian_bytes(make_rollouts: Make):
    with h5py.File(shard_path(make_rollouts([700, 500], [3]), 0)) as file:
        text: Any = file.attrs["digests"]
        columns: dict[str, Any] = {name: dataset[:] for name, dataset in file.items()}  # type: ignore[index]
    policies = columns.pop("episode_policy")
    wanted = {
        name: hashlib.sha256(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes()).hexdigest()
        for name, column in columns.items()
    }
    wanted["episode_policy"] = hashlib.sha256(b"\0".join(policies)).hexdigest()
    assert json.loads(text) == wanted


def test_an_exception_in_the_block_leaves_no_file(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), write_rollouts(tmp_path / "a.h5", 2, ["x"], ATTRIBUTES) as rollouts:
        write_episode(rollouts, 3)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_exception_in_the_block_leaves_the_old_shard(counted: Path):
    before = shard_path(counted, 0).read_bytes()
    with pytest.raises(RuntimeError), write_rollouts(shard_path(counted, 0), 2, ["x"], ATTRIBUTES):
        raise RuntimeError
    assert [path.name for path in counted.iterdir()] == ["shard-00000.h5"]
    assert shard_path(counted, 0).read_bytes() == before


def test_an_unfinished_episode_is_an_error_and_leaves_no_file(tmp_path: Path):
    with pytest.raises((AssertionError, ValueError)), write_rollouts(tmp_path / "a.h5", 2, ["x"], ATTRIBUTES) as out:
        out.step(frame_of(0), telemetry_of(0), np.zeros(2, np.float32), 0.0, False, False)
    assert list(tmp_path.iterdir()) == []


def test_rows_after_the_last_episode_are_an_error_and_leave_no_file(tmp_path: Path):
    with pytest.raises((AssertionError, ValueError)), write_rollouts(tmp_path / "a.h5", 2, ["x"], ATTRIBUTES) as out:
        write_episode(out, 3)
        out.step(frame_of(0), telemetry_of(0), np.zeros(2, np.float32), 0.0, False, False)
    assert list(tmp_path.iterdir()) == []


# the reader


def test_an_episode_has_t_transitions_and_t_plus_1_frames(counted: Path):
    episode = Rollouts(counted)[0]
    assert len(episode) == 4
    assert episode.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.telemetry[:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert episode.actions.tolist() == [[1, -1], [2, -2], [3, -3], [4, -4]]
    assert episode.rewards.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert episode.truncated.tolist() == [False, False, False, True]
    assert episode.terminated.tolist() == [False] * 4
    assert (episode.seed, episode.policy) == (5, "driver")


def test_an_episode_begins_where_the_previous_one_ended(counted: Path):
    episode = Rollouts(counted)[1]
    assert episode.frames[:, 0, 0, 0].tolist() == [5, 6, 7]
    assert episode.actions.tolist() == [[1, -1], [2, -2]]
    assert episode.seed == 6


def test_a_data_set_is_a_sequence_of_episodes_over_its_shards(make_rollouts: Make):
    rollouts = Rollouts(make_rollouts([3, 5], [4]))
    assert len(rollouts) == 3
    assert [len(episode) for episode in rollouts] == [3, 5, 4]
    assert [episode.seed for episode in rollouts[1:]] == [1, 2]
    assert [episode.policy for episode in rollouts[::-2]] == ["brownian", "brownian"]
    assert rollouts[-1].seed == 2
    assert rollouts[3:] == []


@pytest.mark.parametrize("index", [3, -4])
def test_a_missing_episode_is_an_index_error(make_rollouts: Make, index: int):
    with pytest.raises(IndexError):
        Rollouts(make_rollouts([3, 5], [4]))[index]


def test_the_reader_gives_the_facts_about_the_data_set(make_rollouts: Make):
    rollouts = Rollouts(make_rollouts([3, 5], [4]))
    assert rollouts.env == "Synthetic-v0"
    assert rollouts.preprocess == {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}
    assert rollouts.action_space == {"type": "Box", "shape": [3]}
    assert rollouts.num_actions == 3
    assert rollouts.telemetry_names == ("speed_m_per_s", "heading_rad")
    assert rollouts.num_rows == 15


def test_returns_are_the_sums_of_each_episodes_rewards(make_rollouts: Make):
    rollouts = Rollouts(make_rollouts([3, 5], [4]))
    wanted = [episode.rewards.astype(np.float64).sum() for episode in rollouts]
    np.testing.assert_allclose(rollouts.returns(), wanted, rtol=1e-12)


def test_a_single_shard_is_a_data_set(make_rollouts: Make):
    folder = make_rollouts([3, 5], [4])
    assert [len(episode) for episode in Rollouts(shard_path(folder, 1))] == [4]


def test_an_env_without_telemetry_has_a_telemetry_column_of_width_zero(tmp_path: Path):
    with write_rollouts(tmp_path / "a.h5", 2, [], ATTRIBUTES) as out:
        out.step(frame_of(0), np.zeros(0, np.float32), np.ones(2, np.float32), 1.0, True, False)
        out.end_episode(frame_of(1), np.zeros(0, np.float32), 0, "random")
    rollouts = Rollouts(tmp_path / "a.h5", verify=True)
    assert rollouts.telemetry_names == ()
    assert rollouts[0].telemetry.shape == (2, 0)


@pytest.mark.parametrize("names", [None, ["speed_m_per_s"], ["a", "b", "c"]])
def test_telemetry_without_a_name_for_each_column_is_refused_by_name(make_rollouts: Make, names: list[str] | None):
    path = shard_path(make_rollouts([3]), 0)
    with h5py.File(path, "r+") as file:
        del file["telemetry"].attrs["names"]
        if names:
            file["telemetry"].attrs["names"] = names
    with pytest.raises(ValueError, match=f"^{path}: .*telemetry"):
        Rollouts(path)


def test_shards_that_name_their_telemetry_differently_are_refused_by_name(make_rollouts: Make):
    folder = make_rollouts([3], [3])
    with h5py.File(shard_path(folder, 1), "r+") as file:
        file["telemetry"].attrs["names"] = ["heading_rad", "speed_m_per_s"]
    with pytest.raises(ValueError, match=f"^{shard_path(folder, 1)}: .*telemetry"):
        Rollouts(folder)


def test_a_repr_shows_shapes_and_no_arrays(make_rollouts: Make):
    folder = make_rollouts([3, 5], [4])
    rollouts = Rollouts(folder)
    episode = rollouts[1]
    assert repr(rollouts) == f"Rollouts({folder}: Synthetic-v0, 3 episodes, 15 frames)"
    assert repr(episode) == f"Episode(steps=5, return={episode.rewards.sum():.1f}, seed=1, policy='driver')"


def test_collected_data_passes_verify(rollouts_dir: Path):
    rollouts = Rollouts(rollouts_dir, verify=True)
    assert [len(episode) for episode in rollouts] == [40] * 6
    assert rollouts.seeds.tolist() == list(range(6))


def test_rollouts_are_read_after_the_working_folder_has_changed(
    make_rollouts: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_rollouts([3, 4], name="r")
    monkeypatch.chdir(tmp_path)
    data = Rollouts("r")
    monkeypatch.chdir("/")
    assert data.path == tmp_path / "r"
    assert len(data[1]) == 4
