"""Writes shards: columns in complete chunks, and a digest of each column. A file gets its name when it is complete."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from isal import isal_zlib

from world_models.data.shards import (
    EPISODE_COLUMNS,
    SKIPPED_SEEDS,
    Column,
    Format,
    little_endian,
    steady_file,
    strings,
    strings_bytes,
)
from world_models.data.shards.steady_file import SteadyFile
from world_models.runtime import files

PACKING_LEVEL = 2
"""Level of isal: a frame of CarRacing takes 12 us and 1,460 bytes; with zlib at level 4, 73 us and 1,315 bytes."""


class _ColumnWriter:
    """Appends rows to one dataset in complete chunks, and computes their digest."""

    def __init__(  # the arguments are everything that HDF5 has to know about a dataset
        self, file: h5py.File, name: str, spec: Column, dtype: np.dtype, row_shape: tuple[int, ...], gzip: int | None
    ):
        self.rows = 0
        self.digest = hashlib.sha256()
        self._pending: list[np.ndarray] = []
        self._pending_rows = 0
        self._chunk_rows = spec.chunk_rows
        self._flush_rows = -(-64 // spec.chunk_rows) * spec.chunk_rows  # complete chunks
        # HDF5 has no chunks for rows without width. So such a column is created at the end.
        self._empty = 0 in row_shape
        # The shuffle filter does not change columns of single bytes. So a chunk on disk is its compressed bytes.
        self._packs = gzip is not None and dtype.itemsize == 1
        self._create = functools.partial(file.create_dataset, name, dtype=dtype)
        self._row_shape = row_shape
        if not self._empty:
            packed = {"compression": "gzip", "compression_opts": gzip, "shuffle": True} if gzip is not None else {}
            self._dataset = self._create(
                shape=(0, *row_shape), maxshape=(None, *row_shape), chunks=(spec.chunk_rows, *row_shape), **packed
            )

    def append(self, rows: np.ndarray) -> None:
        assert rows.shape[1:] == self._row_shape, (rows.shape, self._row_shape)
        self.rows += len(rows)
        if self._empty:
            return
        self._pending.append(rows)
        self._pending_rows += len(rows)
        if self._pending_rows >= self._flush_rows:
            self._flush(self._pending_rows // self._flush_rows * self._flush_rows)

    def _flush(self, count: int) -> None:
        block = np.concatenate(self._pending).astype(self._dataset.dtype, copy=False)
        written, rest = np.ascontiguousarray(block[:count]), block[count:].copy()
        self._pending, self._pending_rows = [rest], len(rest)
        self.digest.update(little_endian(written))
        start = len(self._dataset)
        self._dataset.resize(start + len(written), axis=0)
        if self._packs:
            self._write_packed(start, written)
        else:
            self._dataset[start:] = written

    def _write_packed(self, start: int, rows: np.ndarray) -> None:
        """Compress complete chunks in the format of HDF5's gzip filter, six times as fast as HDF5, and write them."""
        height = self._chunk_rows
        for first in range(0, len(rows), height):
            chunk = rows[first : first + height]
            missing = bytes((height - len(chunk)) * chunk[0].nbytes)  # on disk the last chunk is complete, too
            packed = isal_zlib.compress(chunk.tobytes() + missing, PACKING_LEVEL)
            self._dataset.id.write_direct_chunk((start + first,) + (0,) * (rows.ndim - 1), packed)

    def finish(self) -> str:
        if self._empty:
            self._create(shape=(self.rows, *self._row_shape))
        elif self._pending_rows:
            self._flush(self._pending_rows)
        return self.digest.hexdigest()


class ShardWriter:
    """Writes the columns of one shard, block by block; made by `write_shard`.

    HDF5 runs in a separate thread, see `SteadyFile`. Every function waits for it.

    Attributes:
        attributes: attributes of the file, which the format requires. Set them before the block ends.
        column_attributes: attributes of columns, by the column's name.
    """

    def __init__(self, steady: SteadyFile, thread: ThreadPoolExecutor, fmt: Format):
        self.attributes: dict[str, str | int] = {}
        self.column_attributes: dict[str, dict[str, list[str]]] = {}
        self._steady, self._thread, self._format = steady, thread, fmt
        self._file: h5py.File | None = None
        self._columns: dict[str, _ColumnWriter] = {}
        self._episodes: list[tuple[int, int, int, str]] = []

    def _in_thread(self, function: Callable[[], None]) -> None:
        self._thread.submit(function).result()
        self._steady.check()

    def open(self, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]) -> None:
        """Begin the file and its columns."""

        def begin() -> None:
            self._file = file = h5py.File(self._steady, "w")
            for name, spec in self._format.columns.items():
                dtype = np.dtype(dtypes.get(name, spec.dtypes[0]))
                self._columns[name] = _ColumnWriter(file, name, spec, dtype, shapes.get(name, ()), self._format.gzip)

        self._in_thread(begin)

    def append(self, **rows: np.ndarray) -> None:
        """Append rows to the named columns. At the end of an episode all columns must have the same length.

        Raises:
            OSError: the disk failed.
        """

        def write() -> None:
            for name, block in rows.items():
                self._columns[name].append(block)

        self._in_thread(write)

    def end_episode(self, seed: int, policy: str) -> None:
        """Make one episode of all rows since the last call."""
        start = sum(self._episodes[-1][:2]) if self._episodes else 0
        (rows,) = {column.rows for column in self._columns.values()}
        assert rows > start + 1, "an episode has a transition and a final row"
        self._episodes.append((start, rows - start, seed, policy))

    def set_episodes(self, lengths: Sequence[int], seeds: Sequence[int], policies: Sequence[str]) -> None:
        """Set the whole episode table at once, instead of calling `end_episode`."""
        starts = np.cumsum([0, *lengths])[:-1].tolist()
        self._episodes = list(zip(starts, map(int, lengths), map(int, seeds), policies, strict=True))

    def finish(self) -> None:
        """Write the pending rows, the episode table, the digests and the attributes; `complete` is written last."""
        assert self._file is not None
        self._in_thread(functools.partial(self._finish, self._file))

    def close(self) -> None:
        """Close the file, whether it is finished or not."""

        def end() -> None:
            if self._file is not None:
                self._file.close()

        self._in_thread(end)  # it runs after work that is still pending because Ctrl-C has ended the waiting

    def _finish(self, file: h5py.File) -> None:
        digests = {name: column.finish() for name, column in self._columns.items()}
        rows = {column.rows for column in self._columns.values()}
        assert rows == {sum(self._episodes[-1][:2]) if self._episodes else 0}, "every row belongs to an episode"
        assert self._episodes or SKIPPED_SEEDS in self.attributes, "a shard is empty only if its episodes were left out"
        starts, lengths, seeds, policies = zip(*self._episodes, strict=True) if self._episodes else ((),) * 4
        for (name, dtype), values in zip(EPISODE_COLUMNS.items(), (starts, lengths, seeds), strict=True):
            data = np.array(values, dtype)
            file[name] = data
            digests[name] = files.sha256(little_endian(data))
        file.create_dataset("episode_policy", data=strings.fixed_length(policies))
        digests["episode_policy"] = files.sha256(strings_bytes(policies))
        for name, attributes in self.column_attributes.items():
            _set(file[name], attributes)  # pyright: ignore[reportArgumentType]: it is a dataset
        missing = set(self._format.required) - set(self.attributes)
        assert not missing, f"attributes not set: {missing}"
        _set(file, {"format": self._format.name, "format_version": self._format.version, **self.attributes})
        _set(file, {"digests": json.dumps(digests, sort_keys=True), "complete": True})


def _set(owner: h5py.File | h5py.Dataset, attributes: Mapping[str, str | int | list[str]]) -> None:
    """Set attributes. Texts get a fixed length, see `strings`."""
    for name, value in attributes.items():
        owner.attrs[name] = value if isinstance(value, int) or value == [] else strings.fixed_length(value)


@contextlib.contextmanager
def write_shard(
    path: Path, fmt: Format, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str] | None = None
) -> Iterator[ShardWriter]:
    """Write a shard in a `with` block. If the block raises, no shard is written.

    Args:
        path: the path of the shard.
        fmt: the kind of shard.
        shapes: shape of one row, for each column whose rows are not single numbers.
        dtypes: dtypes of columns that do not have the default dtype.

    Raises:
        Stopped: the disk failed.
    """
    with steady_file.atomic_file(path) as steady, ThreadPoolExecutor(1, "hdf5") as thread:
        writer = ShardWriter(steady, thread, fmt)
        try:
            writer.open(shapes, dtypes or {})
            yield writer
            writer.finish()
        finally:
            writer.close()
