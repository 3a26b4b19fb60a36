"""The header of a shard: its attributes, the shape and dtype of its columns, and its episode table.

The file may come from anybody. So everything is checked here before it is used. If something is wrong, the file is
refused with one line that names it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np
from jaxtyping import Int64

from world_models.data.shards import EPISODE_COLUMNS, SKIPPED_SEEDS, Column, Format, strings
from world_models.data.shards.columns import (
    HARMLESS_FILTERS,
    attributes_of,
    filters_of,
    is_plainly_packed,
    is_written,
    unpacked_bytes,
)
from world_models.runtime import untrusted
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json

MAX_CHUNK_BYTES = 1 << 26
MAX_DEFLATE_RATIO = 1100  # deflate packs at most 1,032 bytes into one
REMAKE = "delete the file and make it again"


class RefusedError(ValueError):
    """A shard is refused. The message names the file and says why."""


def refuse(path: Path, reason: str) -> NoReturn:
    """Raise the error that refuses this shard."""
    raise RefusedError(printable(f"{path}: {reason}")) from None


@dataclasses.dataclass(frozen=True)
class Header:
    """Everything about a shard except its rows.

    Attributes:
        attributes: attributes of the file. JSON is not decoded.
        column_attributes: attributes of each column.
        column_dtypes: dtype of each column, as text.
        row_shapes: shape of one row of each column.
        packed: the columns whose chunks `columns.unpacked` can unpack.
        num_rows: number of rows of each column.
        digests: sha256 of each column, as the file states it.
        starts, lengths, seeds: first row, number of rows and environment's seed of each episode.
        policies: name of the policy of each episode.
        skipped_seeds: seeds of the episodes that were left out, because they ended during their warm-up.
    """

    attributes: Mapping[str, strings.Attribute]
    column_attributes: Mapping[str, Mapping[str, strings.Attribute]]
    column_dtypes: Mapping[str, str]
    row_shapes: Mapping[str, tuple[int, ...]]
    packed: frozenset[str]
    num_rows: int
    digests: dict[str, str]
    starts: Int64[np.ndarray, " episodes"]
    lengths: Int64[np.ndarray, " episodes"]
    seeds: Int64[np.ndarray, " episodes"]
    policies: tuple[str, ...]
    skipped_seeds: tuple[int, ...]


def read_header(file: h5py.File, path: Path, fmt: Format) -> Header:
    """Read and check the header of an open shard.

    Raises:
        RefusedError: the file is not a complete, consistent shard of this format.
        Exception: h5py raises errors of many types for a damaged file.
    """
    attributes = attributes_of(file)
    _check_kind(path, attributes, fmt)
    _check_links(path, file)
    datasets = {name: _check_column(path, file, name, spec) for name, spec in fmt.columns.items()}
    counts = {name: len(dataset) for name, dataset in datasets.items()}
    num_rows = next(iter(counts.values()))
    if len(set(counts.values())) > 1:
        refuse(path, "columns of different lengths: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    digests = json_object(path, attributes, "digests")
    skipped_seeds = _read_skipped_seeds(path, attributes)
    starts, lengths, seeds, policies = _read_episodes(path, file, num_rows, may_be_empty=bool(skipped_seeds))
    return Header(
        attributes=attributes,
        column_attributes={name: attributes_of(dataset) for name, dataset in datasets.items()},
        column_dtypes={name: str(dataset.dtype) for name, dataset in datasets.items()},
        row_shapes={name: dataset.shape[1:] for name, dataset in datasets.items()},
        packed=frozenset(name for name, dataset in datasets.items() if is_plainly_packed(dataset)),
        num_rows=num_rows,
        digests={name: str(digest) for name, digest in digests.items()},
        starts=starts,
        lengths=lengths,
        seeds=seeds,
        policies=policies,
        skipped_seeds=skipped_seeds,
    )


def json_attribute(path: Path, attributes: Mapping[str, strings.Attribute], name: str) -> Json:
    """Decode a JSON attribute.

    Raises:
        RefusedError: it is not JSON.
    """
    text = attributes[name]
    try:
        return untrusted.from_json(text if isinstance(text, str) else "")
    except ValueError:
        refuse(path, f"attribute {name} is not JSON; {REMAKE}")


def json_object(path: Path, attributes: Mapping[str, strings.Attribute], name: str) -> dict[str, Json]:
    """Decode a JSON attribute that has to be an object.

    Raises:
        RefusedError: it is not a JSON object.
    """
    value = json_attribute(path, attributes, name)
    if not isinstance(value, dict):
        refuse(path, f"attribute {name} is no JSON object; {REMAKE}")
    return value


def _check_kind(path: Path, attributes: Mapping[str, strings.Attribute], fmt: Format) -> None:
    """Check that the file is a complete shard of this format and version, and has all attributes."""
    found, version = attributes.get("format"), attributes.get("format_version")
    if not isinstance(found, str) or found != fmt.name:
        refuse(path, f"holds {found or 'something else'}, not {fmt.name}; name a folder of {fmt.name}")
    if type(version) is not int or version != fmt.version:
        refuse(path, f"format version {version}, this program reads {fmt.version}; read it with its own version")
    if attributes.get("complete") is not True:
        refuse(path, "is incomplete; delete it and run the command that was writing it again")
    for name in sorted({*fmt.required, "digests"}):
        if name not in attributes:
            refuse(path, f"lacks the attribute {name}; delete it and make it again")
        wanted = int if name in fmt.whole_numbers else str
        if type(attributes[name]) is not wanted and name != "digests":  # `json_object` checks the digests
            refuse(path, f"attribute {name} is no {'whole number' if wanted is int else 'text'}; {REMAKE}")


def _check_links(path: Path, file: h5py.File) -> None:
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            refuse(path, f"{name} is a link to elsewhere, which is never followed; do not trust this file")


def _check_dataset(path: Path, file: h5py.File, name: str, dims: int) -> h5py.Dataset:
    """Check that a column is in this file, completely written, and packed in a way that every HDF5 build can read."""
    if name not in file:
        refuse(path, f"lacks the column {name}; delete it and make it again")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.ndim != dims:
        refuse(path, f"{name} is not a dataset of {dims} dimensions; {REMAKE}")
    if dataset.is_virtual or dataset.external:
        refuse(path, f"{name} keeps its data in another file, which is never followed; do not trust this file")
    if unpacked_bytes(dataset) > MAX_DEFLATE_RATIO * path.stat().st_size:
        refuse(path, f"{name} claims more rows than a file of this size can hold; do not trust this file")
    chunk_bytes = np.prod(dataset.chunks or (0,), dtype=np.float64) * dataset.dtype.itemsize
    if filters_of(dataset) - HARMLESS_FILTERS or chunk_bytes > MAX_CHUNK_BYTES:
        refuse(path, f"{name} is packed in a way this format never uses; do not trust this file")
    if not is_written(dataset):
        refuse(path, f"{name} was never written in whole; {REMAKE}")
    return dataset


def _check_column(path: Path, file: h5py.File, name: str, spec: Column) -> h5py.Dataset:
    """Check a row column, also its dtype and the shape of its rows."""
    dataset = _check_dataset(path, file, name, 1 + len(spec.row_shape))
    shape_fits = all(want in (None, have) for want, have in zip(spec.row_shape, dataset.shape[1:], strict=True))
    if str(dataset.dtype) not in spec.dtypes or not shape_fits:
        wanted = f"{' or '.join(spec.dtypes)} ({', '.join(['N', *(str(n or 'any') for n in spec.row_shape)])})"
        advice = REMAKE if shape_fits else spec.why_this_shape or REMAKE
        refuse(path, f"{name} is {dataset.dtype} {dataset.shape}, wanted {wanted}; {advice}")
    return dataset


Episodes = tuple[
    Int64[np.ndarray, " episodes"], Int64[np.ndarray, " episodes"], Int64[np.ndarray, " episodes"], tuple[str, ...]
]


def _read_episodes(path: Path, file: h5py.File, num_rows: int, may_be_empty: bool) -> Episodes:
    """Read the episode table: starts, lengths, seeds, policies. Every row has to belong to exactly one episode."""
    columns = {name: _check_dataset(path, file, name, 1) for name in (*EPISODE_COLUMNS, "episode_policy")}
    for name, dtype in EPISODE_COLUMNS.items():
        if columns[name].dtype != dtype:
            refuse(path, f"{name} is {columns[name].dtype}, wanted {np.dtype(dtype)}; {REMAKE}")
    is_empty = not (len(columns["episode_start"]) or may_be_empty)
    if len({len(column) for column in columns.values()}) > 1 or is_empty:
        refuse(path, f"episode columns of different lengths, or none; {REMAKE}")
    starts, lengths, seeds = (columns[name][:].astype(np.int64) for name in EPISODE_COLUMNS)
    policies = strings.read_column(columns["episode_policy"])
    if not all(map(str.isprintable, policies)):
        refuse(path, "episode_policy holds control characters; do not trust this file")
    borders = np.concatenate([[0], starts + lengths])
    tiled = np.array_equal(starts, borders[:-1]) and borders[-1] == num_rows
    if not tiled or (lengths < 2).any():
        refuse(path, f"its episodes do not tile its rows; {REMAKE}")
    return starts, lengths, seeds, policies


def _read_skipped_seeds(path: Path, attributes: Mapping[str, strings.Attribute]) -> tuple[int, ...]:
    skipped = json_attribute(path, attributes, SKIPPED_SEEDS) if SKIPPED_SEEDS in attributes else []
    listed = skipped if isinstance(skipped, list) else []
    seeds = [seed for seed in listed if type(seed) is int and 0 <= seed < 2**63]
    if seeds != skipped:
        refuse(path, f"attribute {SKIPPED_SEEDS} is no list of seeds; {REMAKE}")
    return tuple(seeds)
