"""Reads shards. A shard is checked when it is opened, and again when its file has changed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from world_models.data.shards import (
    BLOCK_ROWS,
    EPISODE_COLUMNS,
    SHARD_NAME,
    Format,
    header,
    little_endian,
    opening,
    strings_bytes,
)
from world_models.data.shards.columns import (
    UnreadableError,
    cached_columns,
    file_stamp,
    first_not_finite,
    unpacked,
)
from world_models.data.shards.header import REMAKE, Header, RefusedError, refuse
from world_models.runtime import files, untrusted
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json


class Shard:
    """One shard on disk. It is checked when it is opened.

    Attributes:
        path: the file.
        format: the kind of shard.
        attributes: attributes of the file; `json_attribute` decodes those that hold JSON.
        num_rows: number of rows of each row column.
        starts, lengths, seeds: first row, number of rows and environment's seed of each episode, int64 (E,).
        policies: name of the policy that drove each episode.
        skipped_seeds: seeds of the episodes that were left out, because they ended during their warm-up or
            could not be read.
        row_shapes: shape of one row of each column.
        column_attributes: attributes of each column.
        column_dtypes: dtype of each column, as text.
        digests: sha256 of each column, as the file states it.

    Raises:
        ValueError: the file is not a complete, consistent shard of this format. The message names the file and says
            what is wrong.
    """

    def __init__(self, path: Path, fmt: Format, verify: bool = False):
        self.path, self.format = path, fmt
        untrusted.is_file(path)
        try:
            self._stamp = file_stamp(path)
            with opening.open_for_reading(path) as file:
                self._take(header.read_header(file, path, fmt))
                if verify:
                    self._verify(file)
        except RefusedError:
            raise
        except Exception as error:  # h5py raises errors of many types for a damaged file
            reason = " ".join(str(error).split()) or type(error).__name__
            if getattr(error, "errno", None):  # an error of the operating system, not of HDF5
                refuse(path, f"cannot be read ({reason}); check its permissions and its disk")
            again = "delete it and make it again" if SHARD_NAME.fullmatch(path.name) else "name a folder of shards"
            refuse(path, f"damaged or no HDF5 file ({reason}); {again}")

    def _take(self, found: Header) -> None:
        self.attributes, self.num_rows, self.digests = found.attributes, found.num_rows, found.digests
        self.starts, self.lengths, self.seeds = found.starts, found.lengths, found.seeds
        self.policies, self.skipped_seeds = found.policies, found.skipped_seeds
        self.row_shapes, self.column_dtypes = found.row_shapes, found.column_dtypes
        self.column_attributes, self._packed = found.column_attributes, found.packed

    def __repr__(self) -> str:
        return f"Shard({printable(str(self.path))}, {len(self.starts)} episodes, {self.num_rows} rows)"

    @property
    def num_planned(self) -> int:
        """Number of planned episodes: those in the file, and those that were left out."""
        return len(self.starts) + len(self.skipped_seeds)

    def json_attribute(self, name: str) -> Json:
        """Decode a JSON attribute.

        Raises:
            ValueError: it is not JSON; the message names the file.
        """
        return header.json_attribute(self.path, self.attributes, name)

    def json_object(self, name: str) -> dict[str, Json]:
        """Decode a JSON attribute that has to be an object.

        Raises:
            ValueError: it is not a JSON object; the message names the file.
        """
        return header.json_object(self.path, self.attributes, name)

    def digest(self) -> str:
        """Sha256 of the `digests` attribute with sorted keys. Shards with equal columns have equal digests."""
        return files.sha256(json.dumps(self.digests, sort_keys=True).encode())

    # ---- rows ----

    def read(self, column: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read the rows start..stop of a column.

        Raises:
            UnreadableError: these rows cannot be read. The message names the file.
        """
        start, stop, _ = slice(start, stop).indices(self.num_rows)
        rows = np.empty((max(0, stop - start), *self.row_shapes[column]), self.column_dtypes[column])
        for first, piece in self.pieces(column, start, stop):
            rows[first - start : first - start + len(piece)] = piece
        return rows

    def pieces(self, column: str, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Read the rows start..stop of a column in pieces, as they lie on disk. Yields (number of first row, rows).

        Chunks of single bytes are unpacked here. This is faster than HDF5, and several threads can do it at once.

        Raises:
            UnreadableError: these rows cannot be read, or the file was replaced by other data. The message names it.
        """
        try:
            dataset = self._columns()[column]
            if start >= stop:
                return
            if column in self._packed:
                yield from unpacked(dataset, start, stop)
            else:
                yield start, dataset[start:stop]
        except UnreadableError:
            raise
        except Exception as error:  # h5py raises errors of many types for a damaged file
            reason = " ".join(str(error).split()) or type(error).__name__
            line = f"{self.path}: {column} cannot be read ({reason}); check the data set's digests"
            raise UnreadableError(printable(line)) from error

    def _columns(self) -> dict[str, h5py.Dataset]:
        """The open columns of the file that has this path now."""
        stamp = file_stamp(self.path)
        if stamp != self._stamp:
            self._check_successor()
            self._stamp = stamp
        return cached_columns(self.path, stamp, os.getpid(), tuple(self.format.columns))

    def _check_successor(self) -> None:
        """Check that a new file with this path begins with the same episodes. That of an extended data set does so."""
        now, count = Shard(self.path, self.format), len(self.starts)
        alike = all(
            np.array_equal(getattr(self, name), getattr(now, name)[:count]) for name in ("starts", "lengths", "seeds")
        )
        if not alike or (now.row_shapes, now.column_dtypes) != (self.row_shapes, self.column_dtypes):
            raise UnreadableError(f"{self.path}: replaced by other data since it was opened; open the data set again")
        self._packed = now._packed

    # ---- checks that read whole columns ----

    def _verify(self, file: h5py.File) -> None:
        """Compare every column with its digest, and the end flags with the episode table."""
        for name in (*self.format.columns, *EPISODE_COLUMNS, "episode_policy"):
            if self._digest_of(file, name) != self.digests.get(name):
                refuse(self.path, f"{name} differs from its digest, so the data is damaged; {REMAKE}")
        for name in self.format.finite_columns:
            self._check_finite(name, _blocks(file, name))
        ends = np.flatnonzero(file["terminated"][:] | file["truncated"][:])  # type: ignore[index, operator]
        if not np.array_equal(ends, self.starts + self.lengths - 2):
            refuse(self.path, f"an end flag does not stand at its episode's last transition; {REMAKE}")

    def check_finite(self) -> None:
        """Read the columns in which every number has to be finite.

        Raises:
            ValueError: a number is infinite or NaN. The message names the file, the column, the row and its episode.
        """
        for name in self.format.finite_columns:
            starts = range(0, self.num_rows, BLOCK_ROWS)
            self._check_finite(name, (self.read(name, start, start + BLOCK_ROWS) for start in starts))

    def _check_finite(self, name: str, blocks: Iterator[np.ndarray]) -> None:
        row = first_not_finite(blocks)
        if row is not None:
            episode = int(np.searchsorted(self.starts, row, side="right")) - 1
            step, seed, policy = row - self.starts[episode] + 1, self.seeds[episode], self.policies[episode]
            refuse(
                self.path,
                f"{name} holds numbers that are not finite, the first in row {row} (step {step} of the episode of "
                f"seed {seed}, driven by {policy}); fix what gave them, delete the data set and collect it again",
            )

    def _digest_of(self, file: h5py.File, name: str) -> str:
        if name == "episode_policy":
            return files.sha256(strings_bytes(self.policies))
        return files.sha256(*map(little_endian, _blocks(file, name)))


def _blocks(file: h5py.File, name: str) -> Iterator[np.ndarray]:
    """The rows of a column, block by block; nothing if its rows have no width."""
    dataset = file[name]
    assert isinstance(dataset, h5py.Dataset)
    if 0 not in dataset.shape[1:]:
        yield from (dataset[start : start + BLOCK_ROWS] for start in range(0, len(dataset), BLOCK_ROWS))
