"""Shards: HDF5 files of flat columns with an episode table, the mechanism under rollouts and latents.

A shard holds *row* columns (one entry a frame) and the episode columns `episode_start`, `episode_length`,
`episode_seed`, `episode_policy`, which tile the rows. `rollouts.py` and `latents.py` say which row columns there are
and what they mean; `writer` writes them whole or not at all, `reader` checks a file before anybody trusts it.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SHARD_NAME = re.compile(r"shard-(\d{5,})\.h5")
EPISODE_COLUMNS = {"episode_start": np.int64, "episode_length": np.int32, "episode_seed": np.int64}
"""The numeric episode columns and their dtypes; `episode_policy`, a string, is the fourth."""

SKIPPED_SEEDS = "skipped_seeds"
"""Attribute of a shard that lacks planned episodes: a JSON list of their seeds. They ended in their warm-up, or, if the
shard was imported, could not be read."""
SOURCES, SKIPPED_SOURCES = "sources", "skipped_sources"
"""Attributes of an imported shard: JSON lists of the names of its episodes, and of those that could not be read."""

BLOCK_ROWS = 1024
INDEX_BYTES, HEADER_BYTES = 100, 50_000  # of a chunk, and of the attributes and all else in a file


@dataclasses.dataclass(frozen=True)
class Column:
    """What one row column holds.

    Attributes:
        dtypes: the dtypes it may have; the first is what is written by default.
        row_shape: shape of one row, None where any length goes.
        chunk_rows: rows of an HDF5 chunk, the least that a read decompresses.
        finite: whether every number has to be finite; `verify` and `encode` refuse others.
    """

    dtypes: tuple[str, ...]
    row_shape: tuple[int | None, ...] = ()
    chunk_rows: int = BLOCK_ROWS
    finite: bool = False


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of shard.

    Attributes:
        name: the attribute `format` of its files.
        version: their `format_version`.
        columns: the row columns.
        common: attributes that every shard of a data set has, with one value.
        attributes: attributes that a shard has for itself.
        gzip: compression level of the row columns, None for none.
        whole_numbers: which of the attributes are whole numbers; the others are text.
    """

    name: str
    version: int
    columns: Mapping[str, Column]
    common: tuple[str, ...]
    attributes: tuple[str, ...]
    gzip: int | None
    whole_numbers: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The attributes without which a file is refused."""
        return (*self.common, *self.attributes)

    @property
    def finite_columns(self) -> tuple[str, ...]:
        """The row columns in which every number has to be finite."""
        return tuple(name for name, column in self.columns.items() if column.finite)


def shard_path(folder: Path, index: int) -> Path:
    """Where shard `index` of a data set lies."""
    return folder / f"shard-{index:05d}.h5"


def shard_paths(folder: Path) -> list[Path]:
    """The shards in a folder, in order."""
    numbered = [(int(match[1]), p) for p in folder.glob("shard-*.h5") if (match := SHARD_NAME.fullmatch(p.name))]
    return [p for _, p in sorted(numbered)]


def unpacked_bytes(fmt: Format, row_bytes: Mapping[str, int], rows: int) -> int:
    """Bytes that a shard of columns that are not packed takes, by the bytes of a row of each; errs upwards.

    A column is stored in whole chunks, so that 10 rows take as much as 1,024.
    """
    chunks = {name: -(-rows // column.chunk_rows) for name, column in fmt.columns.items()}
    held = sum(count * fmt.columns[name].chunk_rows * row_bytes[name] for name, count in chunks.items())
    return held + sum(chunks.values()) * INDEX_BYTES + HEADER_BYTES


def little_endian(array: np.ndarray) -> memoryview:
    """The raw bytes that a digest is taken of: little-endian, C order."""
    ordered = np.ascontiguousarray(array)
    return ordered.astype(ordered.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data


def strings_bytes(strings: tuple[str, ...]) -> bytes:
    """What the digest of a string column is taken of: UTF-8, joined by NUL."""
    return "\0".join(strings).encode()
