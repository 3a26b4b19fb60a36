"""Reading shards: nothing is trusted before it is checked, and what is refused is refused by name, in one line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np

from world_models.data.shards import (
    BLOCK_ROWS,
    EPISODE_COLUMNS,
    SHARD_NAME,
    SKIPPED_SEEDS,
    Column,
    Format,
    little_endian,
    opening,
    strings,
    strings_bytes,
)
from world_models.data.shards.columns import (
    HARMLESS_FILTERS,
    UnreadableError,
    attributes_of,
    cached_columns,
    first_not_finite,
    identity_of,
    is_plainly_packed,
    is_written,
    unpacked,
    unpacked_bytes,
)
from world_models.runtime import files, untrusted
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json

MAX_CHUNK_BYTES = 1 << 26
MAX_DEFLATE_RATIO = 1100  # deflate packs 1,032 bytes into one at the best
REMAKE = "delete the file and make it again"


class _RefusedError(ValueError):
    """Why a shard is refused."""


class Shard:
    """One shard on disk, checked when it is opened.

    Attributes:
        path: the file.
        attributes: the file's attributes; JSON ones are decoded by whoever knows them.
        num_rows: rows of every row column.
        starts, lengths, seeds: the episode table, int64 (E,).
        policies: which policy drove each episode.
        skipped_seeds: seeds of the episodes that were left out, since they ended in their warm-up or could not be read.
        row_shapes: the shape of one row of each column.

    Raises:
        ValueError: the file is no whole, consistent shard of this format; the message names the file and the fault.
    """

    def __init__(self, path: Path, fmt: Format, verify: bool = False):
        self.path, self.format = path, fmt
        untrusted.is_file(path)
        try:
            self._identity = identity_of(path)
            with opening.open_for_reading(path) as file:
                self._read_header(file)
                if verify:
                    self._verify(file)
        except _RefusedError:
            raise
        except Exception as error:  # h5py raises whatever a damaged file makes it trip over
            reason = " ".join(str(error).split()) or type(error).__name__
            if getattr(error, "errno", None):  # the system's word, not HDF5's
                self._refuse(f"cannot be read ({reason}); check its permissions and its disk")
            again = "delete it and make it again" if SHARD_NAME.fullmatch(path.name) else "name a folder of shards"
            self._refuse(f"damaged or no HDF5 file ({reason}); {again}")

    def __repr__(self) -> str:
        return f"Shard({printable(str(self.path))}, {len(self.starts)} episodes, {self.num_rows} rows)"

    @property
    def num_planned(self) -> int:
        """Episodes that were planned: those that it holds, and those that were left out."""
        return len(self.starts) + len(self.skipped_seeds)

    def read(self, column: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start..stop of a column.

        Raises:
            UnreadableError: the file cannot be read there; the message names it.
        """
        start, stop, _ = slice(start, stop).indices(self.num_rows)
        rows = np.empty((max(0, stop - start), *self.row_shapes[column]), self.column_dtypes[column])
        for first, piece in self.pieces(column, start, stop):
            rows[first - start : first - start + len(piece)] = piece
        return rows

    def pieces(self, column: str, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Rows start..stop of a column piece by piece as they lie on disk, each with the number of its first row.

        Chunks of single bytes are unpacked here, which is faster than by HDF5 and, unlike there, goes on in several
        threads at once.

        Raises:
            UnreadableError: the file cannot be read there, or is another one by now; the message names it.
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
        except Exception as error:  # h5py raises whatever a damaged file makes it trip over
            reason = " ".join(str(error).split()) or type(error).__name__
            line = f"{self.path}: {column} cannot be read ({reason}); check the data set's digests"
            raise UnreadableError(printable(line)) from error

    def _columns(self) -> dict[str, h5py.Dataset]:
        """The open columns of the file that lies there now."""
        identity = identity_of(self.path)
        if identity != self._identity:
            self._check_successor()
            self._identity = identity
        return cached_columns(self.path, identity, os.getpid(), tuple(self.format.columns))

    def _check_successor(self) -> None:
        """A file that took the place of this one has to begin with the same episodes, as an extended shard does."""
        now, count = Shard(self.path, self.format), len(self.starts)
        alike = all(
            np.array_equal(getattr(self, name), getattr(now, name)[:count]) for name in ("starts", "lengths", "seeds")
        )
        if not alike or (now.row_shapes, now.column_dtypes) != (self.row_shapes, self.column_dtypes):
            raise UnreadableError(f"{self.path}: replaced by other data since it was opened; open the data set again")
        self._packed = now._packed

    def digest(self) -> str:
        """The sha256 of the `digests` attribute with sorted keys: names the shard's contents."""
        return files.sha256(json.dumps(self.digests, sort_keys=True).encode())

    def _refuse(self, found: str) -> NoReturn:
        raise _RefusedError(printable(f"{self.path}: {found}")) from None

    def _read_header(self, file: h5py.File) -> None:
        self.attributes = attributes_of(file)
        self._check_kind()
        self._check_links(file)
        datasets = {name: self._check_column(file, name, spec) for name, spec in self.format.columns.items()}
        counts = {name: len(dataset) for name, dataset in datasets.items()}
        self.num_rows = next(iter(counts.values()))
        if len(set(counts.values())) > 1:
            self._refuse("columns of different lengths: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
        self.row_shapes = {name: dataset.shape[1:] for name, dataset in datasets.items()}
        self.column_attributes = {name: attributes_of(dataset) for name, dataset in datasets.items()}
        self.column_dtypes = {name: str(dataset.dtype) for name, dataset in datasets.items()}
        self._packed = {name for name, dataset in datasets.items() if is_plainly_packed(dataset)}
        self.digests = {name: str(digest) for name, digest in self.json_object("digests").items()}
        self._read_episodes(file)

    def json_attribute(self, name: str) -> Json:
        """A JSON attribute, decoded."""
        text = self.attributes[name]
        try:
            return untrusted.from_json(text if isinstance(text, str) else "")
        except ValueError:
            self._refuse(f"attribute {name} is not JSON; {REMAKE}")

    def json_object(self, name: str) -> dict[str, Json]:
        """A JSON attribute that has to be an object."""
        value = self.json_attribute(name)
        if not isinstance(value, dict):
            self._refuse(f"attribute {name} is no JSON object; {REMAKE}")
        return value

    def _check_kind(self) -> None:
        found, version = self.attributes.get("format"), self.attributes.get("format_version")
        if not isinstance(found, str) or found != self.format.name:
            self._refuse(
                f"holds {found or 'something else'}, not {self.format.name}; name a folder of {self.format.name}"
            )
        if type(version) is not int or version != self.format.version:
            self._refuse(
                f"format version {version}, this program reads {self.format.version}; read it with its own version"
            )
        if self.attributes.get("complete") is not True:
            self._refuse("is incomplete; delete it and run the command that was writing it again")
        for name in sorted({*self.format.required, "digests"}):
            if name not in self.attributes:
                self._refuse(f"lacks the attribute {name}; delete it and make it again")
            wanted = int if name in self.format.whole_numbers else str
            if type(self.attributes[name]) is not wanted and name != "digests":  # which says so itself
                kind = "whole number" if wanted is int else "text"
                self._refuse(f"attribute {name} is no {kind}; {REMAKE}")

    def _check_links(self, file: h5py.File) -> None:
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                self._refuse(f"{name} is a link to elsewhere, which is never followed; do not trust this file")

    def _check_dataset(self, file: h5py.File, name: str, dims: int) -> h5py.Dataset:
        if name not in file:
            self._refuse(f"lacks the column {name}; delete it and make it again")
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim != dims:
            self._refuse(f"{name} is not a dataset of {dims} dimensions; {REMAKE}")
        if dataset.is_virtual or dataset.external:
            self._refuse(f"{name} keeps its data in another file, which is never followed; do not trust this file")
        if unpacked_bytes(dataset) > MAX_DEFLATE_RATIO * self.path.stat().st_size:
            self._refuse(f"{name} claims more rows than a file of this size can hold; do not trust this file")
        plist = dataset.id.get_create_plist()
        filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
        chunk_bytes = np.prod(dataset.chunks or (0,), dtype=np.float64) * dataset.dtype.itemsize
        if filters - HARMLESS_FILTERS or chunk_bytes > MAX_CHUNK_BYTES:
            self._refuse(f"{name} is packed in a way this format never uses; do not trust this file")
        if not is_written(dataset):
            self._refuse(f"{name} was never written in whole; {REMAKE}")
        return dataset

    def _check_column(self, file: h5py.File, name: str, spec: Column) -> h5py.Dataset:
        dataset = self._check_dataset(file, name, 1 + len(spec.row_shape))
        shape_fits = all(want in (None, have) for want, have in zip(spec.row_shape, dataset.shape[1:], strict=True))
        if str(dataset.dtype) not in spec.dtypes or not shape_fits:
            wanted = f"{' or '.join(spec.dtypes)} ({', '.join(['N', *(str(n or 'any') for n in spec.row_shape)])})"
            self._refuse(f"{name} is {dataset.dtype} {dataset.shape}, wanted {wanted}; {REMAKE}")
        return dataset

    def _read_episodes(self, file: h5py.File) -> None:
        columns = {name: self._check_dataset(file, name, 1) for name in (*EPISODE_COLUMNS, "episode_policy")}
        for name, dtype in EPISODE_COLUMNS.items():
            if columns[name].dtype != dtype:
                self._refuse(f"{name} is {columns[name].dtype}, wanted {np.dtype(dtype)}; {REMAKE}")
        self.skipped_seeds = self._read_skipped_seeds()
        none = not (len(columns["episode_start"]) or self.skipped_seeds)
        if len({len(column) for column in columns.values()}) > 1 or none:
            self._refuse(f"episode columns of different lengths, or none; {REMAKE}")
        self.starts, self.lengths, self.seeds = (columns[name][:].astype(np.int64) for name in EPISODE_COLUMNS)
        self.policies = strings.read_column(columns["episode_policy"])
        if not all(map(str.isprintable, self.policies)):
            self._refuse("episode_policy holds control characters; do not trust this file")
        borders = np.concatenate([[0], self.starts + self.lengths])
        tiled = np.array_equal(self.starts, borders[:-1]) and borders[-1] == self.num_rows
        if not tiled or (self.lengths < 2).any():
            self._refuse(f"its episodes do not tile its rows; {REMAKE}")

    def _read_skipped_seeds(self) -> tuple[int, ...]:
        skipped = self.json_attribute(SKIPPED_SEEDS) if SKIPPED_SEEDS in self.attributes else []
        listed = skipped if isinstance(skipped, list) else []
        seeds = [seed for seed in listed if type(seed) is int and 0 <= seed < 2**63]
        if seeds != skipped:
            self._refuse(f"attribute {SKIPPED_SEEDS} is no list of seeds; {REMAKE}")
        return tuple(seeds)

    def _verify(self, file: h5py.File) -> None:
        """Compare every column with its digest, and the end flags with the episode table."""
        for name in (*self.format.columns, *EPISODE_COLUMNS, "episode_policy"):
            if self._digest_of(file, name) != self.digests.get(name):
                self._refuse(f"{name} differs from its digest, so the data is damaged; {REMAKE}")
        for name in self.format.finite_columns:
            self._check_finite(name, self._blocks(file, name))
        ends = np.flatnonzero(file["terminated"][:] | file["truncated"][:])  # type: ignore[index, operator]
        if not np.array_equal(ends, self.starts + self.lengths - 2):
            self._refuse(f"an end flag does not stand at its episode's last transition; {REMAKE}")

    def check_finite(self) -> None:
        """Read the columns in which every number has to be finite.

        Raises:
            ValueError: one is infinite or NaN; the message names the file, the column, the row and its episode.
        """
        for name in self.format.finite_columns:
            starts = range(0, self.num_rows, BLOCK_ROWS)
            self._check_finite(name, (self.read(name, start, start + BLOCK_ROWS) for start in starts))

    def _check_finite(self, name: str, blocks: Iterator[np.ndarray]) -> None:
        row = first_not_finite(blocks)
        if row is not None:
            episode = int(np.searchsorted(self.starts, row, side="right")) - 1
            step, seed, policy = row - self.starts[episode] + 1, self.seeds[episode], self.policies[episode]
            self._refuse(
                f"{name} holds numbers that are not finite, the first in row {row} (step {step} of the episode of "
                f"seed {seed}, driven by {policy}); fix what gave them, delete the data set and collect it again"
            )

    def _digest_of(self, file: h5py.File, name: str) -> str:
        if name == "episode_policy":
            return files.sha256(strings_bytes(self.policies))
        return files.sha256(*map(little_endian, self._blocks(file, name)))

    def _blocks(self, file: h5py.File, name: str) -> Iterator[np.ndarray]:
        dataset = file[name]
        assert isinstance(dataset, h5py.Dataset)
        if 0 not in dataset.shape[1:]:
            yield from (dataset[start : start + BLOCK_ROWS] for start in range(0, len(dataset), BLOCK_ROWS))
