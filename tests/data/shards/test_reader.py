import dataclasses
import hashlib
import json
import os
import resource
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from world_models.data.rollouts import FORMAT as ROLLOUTS
from world_models.data.rollouts import Rollouts
from world_models.data.shards import (
    BLOCK_ROWS,
    EPISODE_COLUMNS,
    Column,
    Format,
    columns,
    little_endian,
    shard_path,
    shard_paths,
    strings_bytes,
)
from world_models.data.shards.episodes import ShardedEpisodes, open_shards
from world_models.data.shards.reader import Shard
from world_models.data.shards.writer import ShardWriter, write_shard

TINY = Format(
    name="tests.tiny",
    version=3,
    columns={
        "value": Column(("float32", "float16"), (None,), chunk_rows=100),
        "terminated": Column(("bool",)),
        "truncated": Column(("bool",)),
    },
    common=("place",),
    attributes=("note",),
    gzip=4,
)
ROLLOUT_COLUMNS = (*ROLLOUTS.columns, *EPISODE_COLUMNS, "episode_policy")
Make = Callable[..., Path]


def values(rows: int, width: int = 2) -> np.ndarray:
    return np.arange(rows * width, dtype=np.float32).reshape(rows, width)


def end_flags(rows: int) -> np.ndarray:
    return np.arange(rows) == rows - 2


def append_episode(shard: ShardWriter, value: np.ndarray, blocks: tuple[int, ...] = ()) -> None:
    rows = len(value)
    for part in np.split(np.arange(rows), np.cumsum(blocks)):
        flags = end_flags(rows)[part]
        shard.append(value=value[part], terminated=flags, truncated=np.zeros_like(flags))
    shard.end_episode(7, "random")


def write_tiny(path: Path, value: np.ndarray, blocks: tuple[int, ...] = (), fmt: Format = TINY) -> Path:
    with write_shard(path, fmt, {"value": value.shape[1:]}) as shard:
        shard.attributes.update(place="here", note="a")
        append_episode(shard, value, blocks)
    return path


# names and bytes


def test_shards_are_found_by_name_in_order(tmp_path: Path):
    for name in ("shard-00010.h5", "shard-00002.h5", "shard-0001.h5", "shard-00003.h5.partial", "x.h5", "shard-a.h5"):
        (tmp_path / name).touch()
    assert shard_paths(tmp_path) == [shard_path(tmp_path, 2), shard_path(tmp_path, 10)]


def test_shards_with_more_than_five_digits_are_sorted_by_number(tmp_path: Path):
    for index in (100_000, 99_999):
        shard_path(tmp_path, index).touch()
    assert shard_paths(tmp_path) == [shard_path(tmp_path, 99_999), shard_path(tmp_path, 100_000)]


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">i8", "<i4", "u1", "?"])
def test_digested_bytes_are_little_endian_in_c_order(dtype: str):
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    assert bytes(little_endian(array)) == array.astype(np.dtype(dtype).newbyteorder("<")).tobytes("C")


def test_digested_strings_are_utf8_joined_by_nul():
    assert strings_bytes(("a", "ü", "")) == b"a\0\xc3\xbc\0"


def test_a_format_requires_its_common_and_its_own_attributes():
    assert TINY.required == ("place", "note")


# writing


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_block_leaves_no_file(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), write_shard(tmp_path / "a.h5", TINY, {"value": (2,)}) as shard:
        shard.attributes.update(place="here", note="a")
        append_episode(shard, values(5))
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_exception_in_the_block_leaves_the_old_shard(tmp_path: Path):
    path = write_tiny(tmp_path / "a.h5", values(5))
    before = path.read_bytes()
    with pytest.raises(RuntimeError), write_shard(path, TINY, {"value": (2,)}):
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_shard_gets_its_name_only_when_it_is_complete(tmp_path: Path):
    with write_shard(tmp_path / "a.h5", TINY, {"value": (2,)}) as shard:
        shard.attributes.update(place="here", note="a")
        append_episode(shard, values(5))
        assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("blocks", [(), (1, 1, 1), (99, 1, 100, 1000, 5), (1024, 1024), (2999,)])
def test_rows_are_read_as_they_were_appended_in_blocks_of_any_size(tmp_path: Path, blocks: tuple[int, ...]):
    data = values(3000)
    shard = Shard(write_tiny(tmp_path / "a.h5", data, blocks), TINY, verify=True)
    np.testing.assert_array_equal(shard.read("value"), data)
    np.testing.assert_array_equal(shard.read("terminated"), end_flags(3000))


def test_digests_do_not_depend_on_the_size_of_blocks(tmp_path: Path):
    whole = Shard(write_tiny(tmp_path / "a.h5", values(3000)), TINY)
    parts = Shard(write_tiny(tmp_path / "b.h5", values(3000), (7, 1500)), TINY)
    assert whole.digests == parts.digests
    assert whole.digest() == parts.digest()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_stored_and_digested_in_the_columns_dtype(tmp_path: Path, dtype: str):
    data = values(BLOCK_ROWS + 10).astype(">f8")
    with write_shard(tmp_path / "a.h5", TINY, {"value": (2,)}, {"value": dtype}) as shard:
        shard.attributes.update(place="here", note="a")
        append_episode(shard, data)
    opened = Shard(tmp_path / "a.h5", TINY, verify=True)
    stored = data.astype(np.dtype(dtype).newbyteorder("<"))
    assert opened.column_dtypes["value"] == dtype
    assert opened.digests["value"] == hashlib.sha256(stored.tobytes()).hexdigest()


def test_a_column_of_width_zero_has_rows_and_the_digest_of_no_bytes(tmp_path: Path):
    shard = Shard(write_tiny(tmp_path / "a.h5", values(5, width=0)), TINY, verify=True)
    assert shard.read("value").shape == (5, 0)
    assert shard.digests["value"] == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("gzip", "packing"), [(4, ("gzip", 4, True)), (1, ("gzip", 1, True)), (None, (None, None, False))]
)
def test_columns_are_compressed_as_the_format_says(tmp_path: Path, gzip: int | None, packing: tuple[Any, ...]):
    fmt = Format(TINY.name, 3, TINY.columns, TINY.common, TINY.attributes, gzip)
    with h5py.File(write_tiny(tmp_path / "a.h5", values(5), fmt=fmt)) as file:
        column: Any = file["value"]
        assert (column.compression, column.compression_opts, column.shuffle) == packing
        assert column.chunks == (100, 2)


def test_the_episode_table_covers_all_rows_without_gaps(tmp_path: Path):
    with write_shard(tmp_path / "a.h5", TINY, {"value": (2,)}) as shard:
        shard.attributes.update(place="here", note="a")
        for rows in (3, 2, 6):
            append_episode(shard, values(rows))
    opened = Shard(tmp_path / "a.h5", TINY, verify=True)
    assert opened.starts.tolist() == [0, 3, 5]
    assert opened.lengths.tolist() == [3, 2, 6]
    assert opened.num_rows == 11


def test_an_episode_table_given_at_once_equals_one_given_episode_by_episode(tmp_path: Path):
    with write_shard(tmp_path / "a.h5", TINY, {"value": (2,)}) as shard:
        shard.attributes.update(place="here", note="a")
        flags = np.concatenate([end_flags(3), end_flags(4)])
        shard.append(value=values(7), terminated=flags, truncated=np.zeros(7, bool))
        shard.set_episodes([3, 4], [10, 11], ["a", "b"])
    opened = Shard(tmp_path / "a.h5", TINY, verify=True)
    assert (opened.starts.tolist(), opened.lengths.tolist()) == ([0, 3], [3, 4])
    assert (opened.seeds.tolist(), opened.policies) == ([10, 11], ("a", "b"))


def forget_an_attribute(shard: ShardWriter) -> None:
    append_episode(shard, values(5))
    del shard.attributes["note"]


def append_rows_of_another_shape(shard: ShardWriter) -> None:
    shard.append(value=values(5, width=3))


def append_to_one_column_only(shard: ShardWriter) -> None:
    append_episode(shard, values(5))
    shard.append(value=values(5))
    shard.end_episode(1, "random")


def end_an_episode_without_rows(shard: ShardWriter) -> None:
    append_episode(shard, values(5))
    shard.end_episode(1, "random")


def write_no_episode(shard: ShardWriter) -> None:
    pass


@pytest.mark.parametrize(
    "mistake",
    [
        forget_an_attribute,
        append_rows_of_another_shape,
        append_to_one_column_only,
        end_an_episode_without_rows,
        write_no_episode,
    ],
)
def test_a_wrong_call_of_the_writer_is_an_error_and_leaves_no_file(
    tmp_path: Path, mistake: Callable[[ShardWriter], None]
):
    with pytest.raises((AssertionError, ValueError)), write_shard(tmp_path / "a.h5", TINY, {"value": (2,)}) as shard:
        shard.attributes.update(place="here", note="a")
        mistake(shard)
    assert list(tmp_path.iterdir()) == []


# reading


def test_a_range_of_rows_is_read(tmp_path: Path):
    shard = Shard(write_tiny(tmp_path / "a.h5", values(50)), TINY)
    np.testing.assert_array_equal(shard.read("value", 10, 13), values(50)[10:13])
    np.testing.assert_array_equal(shard.read("value", 48), values(50)[48:])


def test_a_shard_gives_its_attributes_shapes_and_dtypes(tmp_path: Path):
    shard = Shard(write_tiny(tmp_path / "a.h5", values(5)), TINY)
    assert shard.attributes["place"] == "here"
    assert shard.row_shapes == {"value": (2,), "terminated": (), "truncated": ()}
    assert shard.column_dtypes == {"value": "float32", "terminated": "bool", "truncated": "bool"}
    assert repr(shard) == f"Shard({tmp_path / 'a.h5'}, 1 episodes, 5 rows)"


def test_a_shards_digest_is_the_sha256_of_its_digests_with_sorted_keys(make_rollouts: Make):
    (shard,) = open_shards(make_rollouts([3, 4]), ROLLOUTS)
    with h5py.File(shard.path) as file:
        stored: Any = file.attrs["digests"]
    text = json.dumps(json.loads(stored), sort_keys=True)
    assert shard.digest() == hashlib.sha256(text.encode()).hexdigest()


def test_attributes_of_variable_length_are_read_as_text(make_rollouts: Make):
    folder = make_rollouts([3])
    with h5py.File(shard_path(folder, 0), "r+") as file:
        for name in ("format", "env", "digests"):
            text: Any = file.attrs[name]
            file.attrs[name] = text.decode()
    (shard,) = open_shards(folder, ROLLOUTS, verify=True)
    assert shard.attributes["env"] == "Synthetic-v0"


def test_a_shard_that_was_replaced_on_disk_is_opened_again(tmp_path: Path):
    path = write_tiny(tmp_path / "a.h5", values(5))
    shard = Shard(path, TINY)
    shard.read("value")
    write_tiny(path, values(5) + 1)
    os.utime(path, ns=(0, 1))
    np.testing.assert_array_equal(shard.read("value"), values(5) + 1)


def test_a_shard_that_was_read_can_be_opened_with_h5py_too(tmp_path: Path):
    path = write_tiny(tmp_path / "a.h5", values(5))
    Shard(path, TINY).read("value")
    with h5py.File(path) as file:
        assert "value" in file


def test_reading_does_not_change_the_file(make_rollouts: Make):
    path = shard_path(make_rollouts([3]), 0)
    before = path.read_bytes()
    Rollouts(path, verify=True)[0]
    assert path.read_bytes() == before


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    columns.cached_columns.cache_clear()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    columns.cached_columns.cache_clear()


def test_a_data_set_may_have_more_shards_than_a_process_can_open_files(tmp_path: Path, few_descriptors: None):
    for index in range(60):
        write_tiny(shard_path(tmp_path, index), values(3) + index)
    shards = open_shards(tmp_path, TINY)
    assert [float(shard.read("value")[0, 0]) for shard in shards] == list(range(60))


def test_episodes_are_numbered_across_all_shards(make_rollouts: Make):
    folder = make_rollouts([3, 5], [4])
    episodes = ShardedEpisodes(folder, ROLLOUTS)
    assert len(episodes) == 3
    assert episodes.num_rows == 4 + 6 + 5
    assert episodes.lengths.tolist() == [4, 6, 5]
    assert episodes.seeds.tolist() == [0, 1, 2]
    assert episodes.policies == ("brownian", "driver", "brownian")
    located = [(shard.path.name, start, rows) for shard, start, rows in map(episodes.locate, range(3))]
    assert located == [("shard-00000.h5", 0, 4), ("shard-00000.h5", 4, 6), ("shard-00001.h5", 0, 5)]


def test_data_sets_with_equal_columns_have_equal_digests(make_rollouts: Make):
    one, same, other = (make_rollouts([3], [4], name=name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    digests = [ShardedEpisodes(folder, ROLLOUTS).digest() for folder in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_single_shard_can_be_opened_without_the_others(make_rollouts: Make):
    folder = make_rollouts([3], [4])
    assert len(open_shards(shard_path(folder, 1), ROLLOUTS)) == 1


def test_a_path_may_be_a_string(make_rollouts: Make):
    assert len(open_shards(str(make_rollouts([3], [4])), ROLLOUTS)) == 2


# unpacking without HDF5

BYTES = dataclasses.replace(
    TINY, columns={**TINY.columns, "value": Column(("uint8", "int8", "bool"), (None,), chunk_rows=10)}
)


def byte_values(rows: int, width: int = 3, dtype: str = "uint8") -> np.ndarray:
    return (np.arange(rows * width).reshape(rows, width) // 7 % 251).astype(dtype)


def write_bytes(path: Path, value: np.ndarray) -> Path:
    with write_shard(path, BYTES, {"value": value.shape[1:]}, {"value": str(value.dtype)}) as shard:
        shard.attributes.update(place="here", note="a")
        append_episode(shard, value)
    return path


def repacked(path: Path, **options: Any) -> Path:
    """Packs the column `value` of a shard in another way."""
    with h5py.File(path, "r+") as file:
        data: Any = file["value"][:]  # type: ignore[index]
        del file["value"]
        file.create_dataset("value", data=data, maxshape=(None, data.shape[1]), **options)
    return path


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Fills with the ranges of rows that are unpacked here, not by HDF5."""
    ranges: list[tuple[int, int]] = []
    unpack = columns.unpacked

    def spy(dataset: h5py.Dataset, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        ranges.append((start, stop))
        return unpack(dataset, start, stop)

    monkeypatch.setattr("world_models.data.shards.reader.unpacked", spy)
    return ranges


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool"])
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 25), (0, 10), (10, 20), (9, 11), (3, 7), (0, 1), (24, 25), (19, 25), (0, 1000)]
)
def test_a_range_of_bytes_is_read_as_hdf5_reads_it(
    tmp_path: Path, unpacked: list[tuple[int, int]], start: int, stop: int, dtype: str
):
    path = write_bytes(tmp_path / "a.h5", byte_values(25, dtype=dtype))
    with h5py.File(path) as file:
        expected = file["value"][start:stop]  # type: ignore[index]
    rows = Shard(path, BYTES).read("value", start, stop)
    np.testing.assert_array_equal(rows, expected)
    assert rows.dtype == dtype
    assert unpacked == [(start, min(stop, 25))]


PACKINGS: dict[str, dict[str, Any]] = {
    "gzip": {"chunks": (10, 3), "compression": 4},
    "gzip and shuffle": {"chunks": (10, 3), "compression": 9, "shuffle": True},
    "one row a chunk": {"chunks": (1, 3), "compression": 1},
    "one chunk": {"chunks": (64, 3), "compression": 1},
}
LEFT_TO_HDF5: dict[str, dict[str, Any]] = {
    "no gzip": {"chunks": (10, 3)},
    "a checksum": {"chunks": (10, 3), "compression": 4, "fletcher32": True},
    "parts of rows": {"chunks": (10, 2), "compression": 4},
}


@pytest.mark.parametrize("packing", PACKINGS | LEFT_TO_HDF5)
def test_bytes_are_read_with_any_compression(tmp_path: Path, unpacked: list[tuple[int, int]], packing: str):
    path = repacked(write_bytes(tmp_path / "a.h5", byte_values(25)), **(PACKINGS | LEFT_TO_HDF5)[packing])
    np.testing.assert_array_equal(Shard(path, BYTES).read("value", 3, 23), byte_values(25)[3:23])
    assert unpacked == ([(3, 23)] if packing in PACKINGS else [])


def test_columns_of_wider_numbers_are_read_by_hdf5(tmp_path: Path, unpacked: list[tuple[int, int]]):
    Shard(write_tiny(tmp_path / "a.h5", values(30)), TINY).read("value")
    assert unpacked == []


def test_an_uncompressed_chunk_is_read(tmp_path: Path, unpacked: list[tuple[int, int]]):
    path = write_bytes(tmp_path / "a.h5", byte_values(25))
    with h5py.File(path, "r+") as file:
        plain: Any = file["value"]
        plain.id.write_direct_chunk((10, 0), bytes(range(30)), filter_mask=3)
    expected = byte_values(25)
    expected[10:20] = np.arange(30).reshape(10, 3)
    np.testing.assert_array_equal(Shard(path, BYTES).read("value"), expected)
    assert unpacked == [(0, 25)]


@pytest.mark.parametrize(("start", "stop"), [(0, 25), (3, 22), (12, 18), (10, 20)])
def test_pieces_of_a_range_follow_the_chunks_on_disk(tmp_path: Path, start: int, stop: int):
    shard = Shard(write_bytes(tmp_path / "a.h5", byte_values(25)), BYTES)
    pieces = list(shard.pieces("value", start, stop))
    firsts = [first for first, _ in pieces]
    assert firsts == [start, *range(start // 10 * 10 + 10, stop, 10)]
    np.testing.assert_array_equal(np.concatenate([piece for _, piece in pieces]), byte_values(25)[start:stop])


def test_threads_that_read_at_the_same_time_get_the_right_rows(make_rollouts: Make):
    (shard,) = open_shards(make_rollouts([60, 40]), ROLLOUTS)
    alone, ranges = shard.read("frames"), [(first, first + 9) for first in range(0, 90, 3)]
    with ThreadPoolExecutor(4) as threads:
        together = threads.map(lambda bounds: shard.read("frames", *bounds), ranges)
        assert all(np.array_equal(rows, alone[slice(*at)]) for rows, at in zip(together, ranges, strict=True))


def with_chunk(path: Path, chunk: bytes) -> Path:
    """Puts bytes in the place of the packed chunk of rows 10 to 19."""
    with h5py.File(path, "r+") as file:
        file["value"].id.write_direct_chunk((10, 0), chunk)  # type: ignore[union-attr]
    return path


@pytest.mark.parametrize(
    "chunk",
    [b"no deflate stream", zlib.compress(bytes(29)), zlib.compress(bytes(30))[:-7], zlib.compress(b"")],
)
def test_a_damaged_chunk_is_refused_when_it_is_read_by_file_and_column(tmp_path: Path, chunk: bytes):
    found = "the chunk at row 10 does not unpack to 30 bytes"
    path = with_chunk(write_bytes(tmp_path / "a.h5", byte_values(25)), chunk)
    shard = Shard(path, BYTES)
    with pytest.raises(OSError, match=rf"^{path}: value cannot be read \(.*{found}.*\); check the data set's digests"):
        shard.read("value", 15, 16)


def test_rows_outside_a_damaged_chunk_are_read(tmp_path: Path):
    path = with_chunk(write_bytes(tmp_path / "a.h5", byte_values(25)), b"no deflate stream")
    np.testing.assert_array_equal(Shard(path, BYTES).read("value", 0, 10), byte_values(25)[:10])


def test_a_chunk_is_never_unpacked_beyond_its_size(tmp_path: Path):
    path = with_chunk(write_bytes(tmp_path / "a.h5", byte_values(25)), zlib.compress(bytes(1 << 26)))
    shard = Shard(path, BYTES)
    tracemalloc.start()
    with pytest.raises(OSError, match="the chunk at row 10 does not unpack to 30 bytes"):
        shard.read("value", 10, 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 24


def test_an_empty_range_gives_no_rows(tmp_path: Path, unpacked: list[tuple[int, int]]):
    shard = Shard(write_bytes(tmp_path / "a.h5", byte_values(25)), BYTES)
    assert shard.read("value", 5, 5).shape == (0, 3)
    assert unpacked == []


# refusals: one line that names the file

Change = Callable[[Any], None]


def attribute(name: str, value: Any) -> Change:
    return lambda file: file.attrs.__setitem__(name, value)


def without_attribute(name: str) -> Change:
    return lambda file: file.attrs.__delitem__(name)


def without(name: str) -> Change:
    return lambda file: file.__delitem__(name)


def column(name: str, rewrite: Callable[[np.ndarray], Any]) -> Change:
    """Rewrites a column, keeping its name."""

    def change(file: Any) -> None:
        data = file[name][:]
        del file[name]
        file[name] = rewrite(data)

    return change


def link(name: str, target: Any) -> Change:
    def change(file: Any) -> None:
        file.move(name, "elsewhere")
        file[name] = target

    return change


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((9,), "float32")
    layout[:] = h5py.VirtualSource("other.h5", "rewards", (9,))
    del file["rewards"]
    file.create_virtual_dataset("rewards", layout)


def external_storage(file: Any) -> None:
    del file["rewards"]
    file.create_dataset("rewards", (9,), "float32", external=[("/etc/hostname", 0, 36)])


def packed(**options: Any) -> Change:
    def change(file: Any) -> None:
        del file["rewards"]
        file.create_dataset("rewards", (9,), "float32", maxshape=(None,), **options)

    return change


def group(name: str) -> Change:
    def change(file: Any) -> None:
        del file[name]
        file.create_group(name)

    return change


def invalid_utf8(file: Any) -> None:
    del file["episode_policy"]
    file.create_dataset("episode_policy", data=[b"\xff", b"a"], dtype=h5py.string_dtype())


# The shard under change: episodes of 3 and 4 steps, so 4 + 5 = 9 rows.
CHANGES: dict[str, tuple[Change, str]] = {
    "other format": (
        attribute("format", "world_models.latents"),
        "holds world_models.latents, not world_models.rollouts; name a folder of world_models.rollouts",
    ),
    "no format": (without_attribute("format"), "holds something else, not world_models.rollouts"),
    "format of many": (attribute("format", ["a", "b"]), ""),
    "format in no encoding": (attribute("format", np.bytes_(b"\xff")), ""),
    "other version": (attribute("format_version", 2), "format version 2, this program reads 1"),
    "no version": (without_attribute("format_version"), "format version None, this program reads 1"),
    "version of many": (attribute("format_version", [1, 1]), ""),
    "complete is missing": (without_attribute("complete"), "is incomplete; delete it and run the command"),
    "complete is false": (attribute("complete", False), "is incomplete"),
    "complete of many": (attribute("complete", [True, True]), ""),
    **{
        f"no attribute {name}": (without_attribute(name), f"lacks the attribute {name}; ")
        for name in (*ROLLOUTS.required, "digests")
    },
    **{f"no column {name}": (without(name), f"lacks the column {name}; ") for name in ROLLOUT_COLUMNS},
    **{
        f"{name} is no JSON": (attribute(name, "{'a': 1"), f"attribute {name} is not JSON")
        for name in ("digests", "preprocess", "action_space")
    },
    "digests is a number": (attribute("digests", 3), "attribute digests is not JSON"),
    "attribute in no encoding": (attribute("config", np.bytes_(b"\xff")), ""),
    "a short column": (column("rewards", lambda data: data[:-1]), "columns of different lengths: frames 9, "),
    "a long column": (column("frames", lambda data: np.repeat(data, 2, 0)), "columns of different lengths: frames 18"),
    "float frames": (
        column("frames", lambda data: data.astype(np.float32)),
        "frames is float32 (9, 64, 64, 3), wanted uint8 (N, 64, 64, 3)",
    ),
    "double rewards": (
        column("rewards", lambda data: data.astype(np.float64)),
        "rewards is float64 (9,), wanted float32",
    ),
    "big-endian rewards": (column("rewards", lambda data: data.astype(">f4")), "rewards is >f4 (9,), wanted float32"),
    "integer flags": (column("truncated", lambda data: data.astype(np.uint8)), "truncated is uint8 (9,), wanted bool"),
    "small frames": (
        column("frames", lambda data: data[:, ::2]),
        "frames is uint8 (9, 32, 64, 3), wanted uint8 (N, 64, 64, 3)",
    ),
    "flat actions": (column("actions", lambda data: data[:, 0]), "actions is not a dataset of 2 dimensions"),
    "a group for a column": (group("rewards"), "rewards is not a dataset of 1 dimensions"),
    "a group for episodes": (group("episode_policy"), "episode_policy is not a dataset of 1 dimensions"),
    "a type for a column": (column("rewards", lambda data: data.dtype), "rewards is not a dataset of 1 dimensions"),
    "an empty dataset for a column": (column("rewards", lambda data: h5py.Empty("f4")), "rewards is not a dataset"),
    "narrow starts": (
        column("episode_start", lambda data: data.astype(np.int32)),
        "episode_start is int32, wanted int64",
    ),
    "wide lengths": (
        column("episode_length", lambda data: data.astype(np.int64)),
        "episode_length is int64, wanted int32",
    ),
    "policies as numbers": (column("episode_policy", lambda data: np.arange(2)), "string"),
    "policies in no encoding": (invalid_utf8, ""),
    "one seed too few": (
        column("episode_seed", lambda data: data[:1]),
        "episode columns of different lengths, or none",
    ),
    "a gap between episodes": (
        column("episode_start", lambda data: data + np.arange(2)),
        "episodes do not tile its rows",
    ),
    "a late first episode": (column("episode_start", lambda data: data + 1), "episodes do not tile its rows"),
    "rows without an episode": (
        column("episode_length", lambda data: data - np.array([0, 1], np.int32)),
        "episodes do not tile its rows",
    ),
    "an overlap": (
        column("episode_length", lambda data: data + np.array([1, 0], np.int32)),
        "episodes do not tile its rows",
    ),
    "an external link": (link("rewards", h5py.ExternalLink("other.h5", "/rewards")), "rewards is a link to elsewhere"),
    "a soft link": (link("rewards", h5py.SoftLink("/elsewhere")), "rewards is a link to elsewhere"),
    "a soft link for episodes": (link("episode_seed", h5py.SoftLink("/elsewhere")), "episode_seed is a link to"),
    "a dangling link": (link("frames", h5py.SoftLink("/nowhere")), "frames is a link to elsewhere"),
    "a virtual dataset": (virtual, "rewards keeps its data in another file"),
    "external storage": (external_storage, "rewards keeps its data in another file"),
    "another filter": (packed(compression="lzf"), "rewards is packed in a way this format never uses"),
    "a lossy filter": (packed(scaleoffset=2), "rewards is packed in a way this format never uses"),
    "a huge chunk": (packed(chunks=((1 << 24) + 1,)), "rewards is packed in a way this format never uses"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_malformed_shard_is_refused_by_name_in_one_line(make_rollouts: Make, name: str):
    change, said = CHANGES[name]
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError) as caught:
        Rollouts(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


def test_a_shard_without_episodes_is_refused(make_rollouts: Make):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        for name in ROLLOUT_COLUMNS:
            column(name, lambda data: data[:0])(file)
    with pytest.raises(ValueError, match="episode columns of different lengths, or none"):
        Rollouts(path)


def test_an_episode_without_a_transition_is_refused(make_rollouts: Make):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        column("episode_start", lambda data: np.array([0, 8]))(file)
        column("episode_length", lambda data: np.array([8, 1], np.int32))(file)
    with pytest.raises(ValueError, match="do not tile"):
        Rollouts(path)


@pytest.mark.parametrize("chunks", [((1 << 24),), None])
def test_a_chunk_at_the_limit_and_an_unchunked_column_are_read(make_rollouts: Make, chunks: tuple[int, ...] | None):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        del file["rewards"]
        file.create_dataset("rewards", data=np.zeros(9, np.float32), maxshape=chunks and (None,), chunks=chunks)
    assert Rollouts(path)[0].rewards.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "contents", [lambda data: data[: len(data) // 2], lambda data: data[:-1], lambda data: data[:100], lambda data: b""]
)
def test_a_truncated_file_is_refused_by_name_in_one_line(make_rollouts: Make, contents: Callable[[bytes], bytes]):
    path = shard_path(make_rollouts([30]), 0)
    path.write_bytes(contents(path.read_bytes()))
    with pytest.raises(ValueError) as caught:
        open_shards(path.parent, ROLLOUTS)
    assert str(caught.value).startswith(f"{path}: damaged or no HDF5 file (")
    assert str(caught.value).endswith("; delete it and make it again")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("contents", [b"hello\n", b"\x89HDF\r\n\x1a\n" + b"\0" * 2000])
def test_a_file_that_is_not_hdf5_is_refused_by_name_in_one_line(tmp_path: Path, contents: bytes):
    path = shard_path(tmp_path, 0)
    path.write_bytes(contents)
    with pytest.raises(ValueError) as caught:
        open_shards(tmp_path, ROLLOUTS)
    assert str(caught.value).startswith(f"{path}: damaged or no HDF5 file (")
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_shards_name_is_refused_by_name(tmp_path: Path):
    shard_path(tmp_path, 0).mkdir()
    with pytest.raises(ValueError, match=str(shard_path(tmp_path, 0))):
        open_shards(tmp_path, ROLLOUTS)


def test_an_error_without_a_message_is_named_by_its_type(make_rollouts: Make, monkeypatch: pytest.MonkeyPatch):
    def fail(path: Path) -> None:
        raise OSError

    monkeypatch.setattr("world_models.data.shards.opening.open_for_reading", fail)
    with pytest.raises(ValueError, match=r"damaged or no HDF5 file \(OSError\)"):
        open_shards(make_rollouts([3]), ROLLOUTS)


@pytest.mark.parametrize(("name", "said"), [("nowhere", "no such file or folder"), ("empty", r"no shard-\*.h5 in it")])
def test_the_error_for_a_path_without_shards_says_what_to_give(tmp_path: Path, name: str, said: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / name}: {said}; name a folder of world_models.rollouts"):
        open_shards(tmp_path / name, ROLLOUTS)


@pytest.mark.parametrize("index", [0, 1])
def test_a_missing_shard_between_others_is_refused_by_its_name(make_rollouts: Make, index: int):
    folder = make_rollouts([3], [3], [3])
    shard_path(folder, index).unlink()
    with pytest.raises(ValueError, match=f"^{folder}: shard-0000{index}.h5 is missing, so it is incomplete; run "):
        open_shards(folder, ROLLOUTS)


@pytest.mark.parametrize("name", ROLLOUTS.common)
def test_two_shards_that_disagree_are_refused_by_name_in_one_line(make_rollouts: Make, name: str):
    folder = make_rollouts([3], [3])
    with h5py.File(shard_path(folder, 1), "r+") as file:
        file.attrs[name] = 5 if name == "warmup_steps" else '{"crop": null}'
    with pytest.raises(ValueError) as caught:
        open_shards(folder, ROLLOUTS)
    message = str(caught.value)
    assert message.startswith(f"{shard_path(folder, 1)}: its {name} is ")
    assert "shard-00000.h5" in message
    assert message.endswith("; keep data sets in folders of their own")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["actions", "telemetry"])
def test_two_shards_with_columns_of_different_widths_are_refused_by_name(make_rollouts: Make, name: str):
    folder = make_rollouts([3], [3])
    with h5py.File(shard_path(folder, 1), "r+") as file:
        column(name, lambda data: np.repeat(data, 2, 1))(file)
    with pytest.raises(ValueError, match=f"^{shard_path(folder, 1)}: .*{name}"):
        open_shards(folder, ROLLOUTS)


# what only verify finds


def flip(file: Any, name: str) -> None:
    data = file[name]
    if name == "episode_policy":
        data[0] = "nobody"
    elif data.dtype == bool:
        data[0] = not data[0]
    else:
        data[0] = data[0] + 1


@pytest.mark.parametrize("name", [name for name in ROLLOUT_COLUMNS if name not in ("episode_start", "episode_length")])
def test_a_changed_value_is_found_by_verify_only(make_rollouts: Make, name: str):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path, "r+") as file:
        flip(file, name)
    assert len(open_shards(path, ROLLOUTS)) == 1
    with pytest.raises(ValueError, match=f"^{path}: {name} differs from its digest, so the data is damaged; [^\n]*$"):
        open_shards(path, ROLLOUTS, verify=True)


def test_a_change_beyond_the_first_block_is_found_by_verify(tmp_path: Path):
    path = write_tiny(tmp_path / "a.h5", values(2 * BLOCK_ROWS + 5))
    with h5py.File(path, "r+") as file:
        data: Any = file["value"]
        data[-1, 1] += 1
    with pytest.raises(ValueError, match="value differs from its digest"):
        Shard(path, TINY, verify=True)


@pytest.mark.parametrize("digests", ["{}", "[]", "null", '"frames"'])
def test_digests_that_lack_a_column_are_refused_by_verify(make_rollouts: Make, digests: str):
    path = shard_path(make_rollouts([3]), 0)
    with h5py.File(path, "r+") as file:
        file.attrs["digests"] = digests
    with pytest.raises(ValueError, match=f"^{path}: "):
        Rollouts(path, verify=True)


def test_a_damaged_chunk_is_refused_by_verify_in_one_line(make_rollouts: Make):
    path = shard_path(make_rollouts([3, 4]), 0)
    with h5py.File(path) as file:
        frames: Any = file["frames"]
        chunk = frames.id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        Rollouts(path, verify=True)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ends", [[], [0], [2, 3], [4], [0, 3], [3, 4]])
def test_an_end_flag_in_the_wrong_place_is_found_by_verify_only(tmp_path: Path, ends: list[int]):
    path = tmp_path / "a.h5"
    with write_shard(path, TINY, {"value": (2,)}) as shard:
        shard.attributes.update(place="here", note="a")
        shard.append(value=values(5), terminated=np.zeros(5, bool), truncated=np.isin(np.arange(5), ends))
        shard.end_episode(0, "random")
    Shard(path, TINY)
    with pytest.raises(ValueError, match=f"^{path}: an end flag does not stand at its episode's last transition; "):
        Shard(path, TINY, verify=True)


def test_an_unchanged_data_set_passes_verify(make_rollouts: Make):
    assert len(open_shards(make_rollouts([3, 4], [1]), ROLLOUTS, verify=True)) == 2


def test_a_column_that_claims_more_than_the_file_can_hold_is_refused(make_rollouts: Callable[..., Path]):
    path = make_rollouts([3, 3]) / "shard-00000.h5"
    with h5py.File(path, "a") as file:
        del file["frames"]
        file.create_dataset("frames", (1 << 40, 64, 64, 3), np.uint8, chunks=(16, 64, 64, 3), compression="gzip")
    with pytest.raises(ValueError, match=r"shard-00000\.h5: frames claims more rows than a file of this size can hold"):
        Rollouts(path)


def test_a_read_that_fails_names_file_and_column(make_rollouts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    shard = Rollouts(make_rollouts([3, 3])).shards[0]

    def fail(*key: object) -> None:
        raise OSError("inflate failed")

    monkeypatch.setattr("world_models.data.shards.reader.cached_columns", fail)
    with pytest.raises(OSError, match=r"shard-00000\.h5: rewards cannot be read \(inflate failed\)"):
        shard.read("rewards")


def test_a_file_without_permission_is_not_called_damaged(
    make_rollouts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    path = make_rollouts([3, 3]) / "shard-00000.h5"

    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("world_models.data.shards.opening.open_for_reading", fail)
    with pytest.raises(ValueError, match="check its permissions"):
        Rollouts(path)
