"""Shards: HDF5 files of flat columns with an episode table. Rollouts and latents are stored in them.

A shard has row columns, with one entry for each frame. Its episode columns are `episode_start`, `episode_length`,
`episode_seed` and `episode_policy`. Every row belongs to exactly one episode. `rollouts.py` and `latents.py` define
which row columns there are and what they mean.

writer       writes a shard completely or not at all
reader       reads the rows of a shard
header       reads and checks everything else in a shard
episodes     the episodes of a folder of shards, as a sequence
columns      columns as HDF5 stores them
strings      texts, which are stored with a fixed length
opening      opens a file, also on disks without file locks
steady_file  a file that HDF5 can always write, even if the disk is full
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SHARD_NAME = re.compile(r"shard-(\d{5,})\.h5")
EPISODE_COLUMNS = {"episode_start": np.int64, "episode_length": np.int32, "episode_seed": np.int64}
"""The numeric episode columns and their dtypes. The fourth episode column, `episode_policy`, holds texts."""

SKIPPED_SEEDS = "skipped_seeds"
"""Attribute of a shard that lacks episodes: a JSON list of their seeds.

They ended during their warm-up, or, if the shard was imported, could not be read.
"""
SOURCES, SKIPPED_SOURCES = "sources", "skipped_sources"
"""Attributes of an imported shard: JSON lists of the names of its episodes, and of those that could not be read."""

BLOCK_ROWS = 1024
INDEX_BYTES, HEADER_BYTES = 100, 50_000  # upper bounds: for the index entry of a chunk, and for everything but columns


@dataclasses.dataclass(frozen=True)
class Column:
    """The kind of a row column.

    Attributes:
        dtypes: the allowed dtypes; the first one is the default for writing.
        row_shape: shape of one row; None for an axis of any length.
        chunk_rows: number of rows of an HDF5 chunk, the smallest part that can be unpacked.
        finite: whether every number has to be finite; `verify` and `encode` refuse other numbers.
        why_this_shape: why rows have this shape and what to do with others, for the message; may be empty.
    """

    dtypes: tuple[str, ...]
    row_shape: tuple[int | None, ...] = ()
    chunk_rows: int = BLOCK_ROWS
    finite: bool = False
    why_this_shape: str = ""


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of shard.

    Attributes:
        name: value of the attribute `format`.
        version: value of the attribute `format_version`.
        columns: the row columns, by name.
        common: attributes with the same value in all shards of a data set.
        attributes: attributes that may differ between the shards of a data set.
        gzip: compression level of the row columns; None for no compression.
        whole_numbers: those attributes that are whole numbers; the others are texts.
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
        """The attributes that every file must have."""
        return (*self.common, *self.attributes)

    @property
    def finite_columns(self) -> tuple[str, ...]:
        """The row columns in which every number has to be finite."""
        return tuple(name for name, column in self.columns.items() if column.finite)


def shard_path(folder: Path, index: int) -> Path:
    """The path of shard `index` of a data set."""
    return folder / f"shard-{index:05d}.h5"


def shard_paths(folder: Path) -> list[Path]:
    """The shards in a folder, in order."""
    numbered = [(int(match[1]), p) for p in folder.glob("shard-*.h5") if (match := SHARD_NAME.fullmatch(p.name))]
    return [p for _, p in sorted(numbered)]


def max_bytes_unpacked(fmt: Format, row_bytes: Mapping[str, int], rows: int) -> int:
    """Upper bound on the bytes of a shard without compression.

    A column is stored in complete chunks. So 10 rows may take as much as 1,024 rows.

    Args:
        fmt: the kind of shard.
        row_bytes: bytes of one row of each column.
        rows: number of rows.
    """
    chunks = {name: -(-rows // column.chunk_rows) for name, column in fmt.columns.items()}
    held = sum(count * fmt.columns[name].chunk_rows * row_bytes[name] for name, count in chunks.items())
    return held + sum(chunks.values()) * INDEX_BYTES + HEADER_BYTES


def little_endian(array: np.ndarray) -> memoryview:
    """The raw bytes of an array, for its digest: little-endian, C order."""
    ordered = np.ascontiguousarray(array)
    return ordered.astype(ordered.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data


def strings_bytes(strings: tuple[str, ...]) -> bytes:
    """The bytes of a column of texts, for its digest: UTF-8, joined by NUL."""
    return "\0".join(strings).encode()
