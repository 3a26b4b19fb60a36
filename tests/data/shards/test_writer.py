"""Columns are packed in HDF5's own gzip format, for any reader. Gathering rows in blocks does not change them."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from world_models.data.rollouts import BLOCK_ROWS, FRAME_SHAPE, Rollouts, RolloutWriter, write_rollouts
from world_models.data.shards import Column, Format, shard_path
from world_models.data.shards.reader import Shard
from world_models.data.shards.writer import write_shard

ROWS = [2, 15, 16, 17, 63, 64, 65, 128, 200]
PICTURES = Format(
    name="tests.pictures",
    version=1,
    columns={
        "frames": Column(("uint8",), (4, 3), chunk_rows=16),
        "flags": Column(("bool",), chunk_rows=16),
        "numbers": Column(("float32",), chunk_rows=16),
        "terminated": Column(("bool",)),
        "truncated": Column(("bool",)),
    },
    common=(),
    attributes=(),
    gzip=4,
)
ATTRIBUTES = {
    "env": "Synthetic-v0",
    "preprocess": json.dumps({"crop": None, "size": 64, "interpolation": "INTER_AREA"}),
    "action_space": json.dumps({"type": "Box", "shape": [2]}),
    "warmup_steps": 0,
    "config": "seed: 0\n",
}


def columns(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {
        "frames": rng.integers(0, 256, (rows, 4, 3), np.uint8),
        "flags": rng.random(rows) < 0.5,
        "numbers": rng.standard_normal(rows).astype(np.float32),
        "terminated": np.arange(rows) == rows - 2,
        "truncated": np.zeros(rows, bool),
    }


def write_pictures(path: Path, blocks: Sequence[int], fmt: Format = PICTURES) -> dict[str, np.ndarray]:
    """Writes a shard of one episode, its rows appended in blocks; returns what was appended."""
    data = columns(sum(blocks))
    with write_shard(path, fmt, {"frames": (4, 3)}) as shard:
        start = 0
        for rows in blocks:
            shard.append(**{name: column[start : start + rows] for name, column in data.items()})
            start += rows
        shard.end_episode(0, "random")
    return data


def read_with_h5py(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: dataset[:] for name, dataset in file.items()}  # type: ignore[index]


# --- packed columns


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", ["frames", "flags", "numbers", "terminated"])
def test_h5py_reads_every_row(tmp_path: Path, name: str, rows: int):
    data = write_pictures(tmp_path / "a.h5", [rows])
    found = read_with_h5py(tmp_path / "a.h5")[name]
    assert found.dtype == data[name].dtype
    np.testing.assert_array_equal(found, data[name])


@pytest.mark.parametrize("blocks", [[1] * 70, [15, 1, 16, 33], [64, 1], [63, 1, 1], [100, 100], [5, 0, 60]])
def test_h5py_reads_every_row_that_was_written_in_blocks_of_any_size(tmp_path: Path, blocks: list[int]):
    data = write_pictures(tmp_path / "a.h5", blocks)
    found = read_with_h5py(tmp_path / "a.h5")
    for name, column in data.items():
        np.testing.assert_array_equal(found[name], column)


@pytest.mark.parametrize("first", [0, 15, 16, 63, 64])
def test_h5py_reads_rows_from_any_place(tmp_path: Path, first: int):
    data = write_pictures(tmp_path / "a.h5", [65])
    with h5py.File(tmp_path / "a.h5") as file:
        frames: Any = file["frames"]
        np.testing.assert_array_equal(frames[first : first + 2], data["frames"][first : first + 2])


@pytest.mark.parametrize("name", ["frames", "flags", "numbers", "terminated"])
def test_the_filters_are_hdf5s_own_shuffle_and_deflate(tmp_path: Path, name: str):
    write_pictures(tmp_path / "a.h5", [65])
    with h5py.File(tmp_path / "a.h5") as file:
        dataset: Any = file[name]
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    assert filters == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]


@pytest.mark.parametrize("name", ["frames", "flags"])
def test_every_chunk_is_one_complete_zlib_stream_with_all_filters(tmp_path: Path, name: str):
    data = write_pictures(tmp_path / "a.h5", [65])
    with h5py.File(tmp_path / "a.h5") as file:
        dataset: Any = file[name]
        trailing = (0,) * (dataset.ndim - 1)
        chunks = [dataset.id.read_direct_chunk((start, *trailing)) for start in range(0, 65, 16)]
    assert [mask for mask, _ in chunks] == [0] * 5
    unpacked = b"".join(zlib.decompress(packed) for _, packed in chunks)
    whole = data[name].tobytes()
    assert unpacked == whole + bytes(len(unpacked) - len(whole)) and len(unpacked) == len(whole) // 65 * 80


def test_the_padding_of_the_last_chunk_does_not_count_as_rows(tmp_path: Path):
    write_pictures(tmp_path / "a.h5", [17])
    assert {len(column) for name, column in read_with_h5py(tmp_path / "a.h5").items() if "episode" not in name} == {17}


@pytest.mark.parametrize("rows", ROWS)
def test_the_digests_cover_the_rows_without_padding(tmp_path: Path, rows: int):
    data = write_pictures(tmp_path / "a.h5", [rows])
    digests = Shard(tmp_path / "a.h5", PICTURES, verify=True).digests
    assert {name: digests[name] for name in data} == {
        name: hashlib.sha256(column.tobytes()).hexdigest() for name, column in data.items()
    }


def test_compressed_and_uncompressed_columns_have_the_same_values(tmp_path: Path):
    unpacked = Format(PICTURES.name, 1, PICTURES.columns, (), (), gzip=None)
    write_pictures(tmp_path / "a.h5", [65])
    write_pictures(tmp_path / "b.h5", [65], unpacked)
    shards = [Shard(tmp_path / "a.h5", PICTURES, verify=True), Shard(tmp_path / "b.h5", unpacked, verify=True)]
    assert shards[0].digests == shards[1].digests


def test_frames_without_noise_take_less_space_on_disk(tmp_path: Path):
    with write_rollouts(tmp_path / "a.h5", 2, [], ATTRIBUTES) as rollouts:
        drive(rollouts, 100)
    assert (tmp_path / "a.h5").stat().st_size < 100 * 64 * 64 * 3 / 10


@pytest.mark.parametrize("chunk_rows", [3, 48, 100])
def test_chunks_with_any_number_of_rows_are_filled(tmp_path: Path, chunk_rows: int):
    frames = Column(("uint8",), (4, 3), chunk_rows=chunk_rows)
    data = write_pictures(
        tmp_path / "a.h5", [40] * 5, Format("tests.odd", 1, {**PICTURES.columns, "frames": frames}, (), (), 4)
    )
    np.testing.assert_array_equal(read_with_h5py(tmp_path / "a.h5")["frames"], data["frames"])


# --- rollouts in blocks


def frame_of(row: int) -> np.ndarray:
    return np.full(FRAME_SHAPE, row % 251, np.uint8)


def drive(rollouts: RolloutWriter, steps: int, first: int = 0) -> None:
    """An episode whose rows have their number in every column."""
    for step in range(steps):
        row = first + step
        action = np.array([row, -row], np.float32)
        rollouts.step(frame_of(row), np.zeros(0, np.float32), action, row / 2, step == steps - 1, False)
    rollouts.end_episode(frame_of(first + steps), np.zeros(0, np.float32), first, "driver")


@pytest.mark.parametrize(
    "lengths",
    [[BLOCK_ROWS - 2], [BLOCK_ROWS - 1], [BLOCK_ROWS], [BLOCK_ROWS + 1], [2 * BLOCK_ROWS - 1], [1, 1, 1], [40, 63, 70]],
    ids=str,
)
def test_episodes_of_any_length_come_back_row_by_row(tmp_path: Path, lengths: list[int]):
    with write_rollouts(shard_path(tmp_path, 0), 2, [], ATTRIBUTES) as rollouts:
        for first, steps in zip(starts(lengths), lengths, strict=True):
            drive(rollouts, steps, first)
    data = Rollouts(tmp_path, verify=True)
    assert [len(episode) for episode in data] == lengths
    for episode, first in zip(data, starts(lengths), strict=True):
        rows = np.arange(first, first + len(episode) + 1)
        np.testing.assert_array_equal(episode.frames[:, 0, 0, 0], rows % 251)
        np.testing.assert_array_equal(episode.actions, np.stack([rows[:-1], -rows[:-1]], axis=1))
        np.testing.assert_array_equal(episode.rewards, rows[:-1] / 2)
        assert np.flatnonzero(episode.terminated).tolist() == [len(episode) - 1]


def starts(lengths: list[int]) -> list[int]:
    """Number of each episode's first row: an episode has a row more than steps."""
    return np.cumsum([0, *(steps + 1 for steps in lengths[:-1])]).tolist()


def test_the_writer_copies_rows_so_that_the_caller_may_change_them(tmp_path: Path):
    frame, telemetry, action = frame_of(1), np.ones(1, np.float32), np.ones(2, np.float32)
    with write_rollouts(shard_path(tmp_path, 0), 2, ["x_m"], ATTRIBUTES) as rollouts:
        rollouts.step(frame, telemetry, action, 0.0, True, False)
        for array in (frame, telemetry, action):
            array[:] = 9
        rollouts.end_episode(frame, telemetry, 0, "driver")
    episode = Rollouts(tmp_path, verify=True)[0]
    assert (episode.frames[0] == 1).all() and (episode.telemetry[0], episode.actions[0, 0]) == (1, 1)


@pytest.mark.parametrize("steps", [1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1])
def test_an_unfinished_episode_is_an_error_and_leaves_no_file(tmp_path: Path, steps: int):
    with pytest.raises(AssertionError), write_rollouts(tmp_path / "a.h5", 2, [], ATTRIBUTES) as rollouts:
        drive(rollouts, 5)
        for _ in range(steps):
            rollouts.step(frame_of(0), np.zeros(0, np.float32), np.zeros(2, np.float32), 0.0, False, False)
    assert list(tmp_path.iterdir()) == []


def test_an_attribute_may_be_set_at_the_end(tmp_path: Path):
    with write_rollouts(tmp_path / "a.h5", 2, [], ATTRIBUTES) as rollouts:
        drive(rollouts, 3)
        rollouts.set_attribute("renderer_frames_checked", 5)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["renderer_frames_checked"] == 5
