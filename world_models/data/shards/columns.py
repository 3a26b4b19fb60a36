"""Columns as HDF5 stores them: whether they were written, how they are packed, and how to unpack them."""

import functools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import deflate
import h5py
import numpy as np

from world_models.data.shards import opening, strings
from world_models.runtime.errors import Stopped

DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3
HARMLESS_FILTERS = {DEFLATE, SHUFFLE, FLETCHER32}  # every HDF5 build can apply them without a plugin


class UnreadableError(Stopped, OSError):
    """Rows of a shard cannot be read. Opening a shard does not read its rows, so this error comes later."""


def attributes_of(owner: h5py.File | h5py.Dataset) -> dict[str, strings.Attribute]:
    """The attributes of a file or a column. An attribute of a kind that shards do not have is None."""
    return {name: strings.read_attribute(owner, name) for name in owner.attrs}


def unpacked_bytes(dataset: h5py.Dataset) -> int:
    """Number of bytes of all rows without compression."""
    is_reference = h5py.check_string_dtype(dataset.dtype) is not None and dataset.dtype == object
    return math.prod(dataset.shape) * (strings.REFERENCE.size if is_reference else dataset.dtype.itemsize)


def is_written(dataset: h5py.Dataset) -> bool:
    """Whether all rows were written. HDF5 would read zeros for rows that were not."""
    if dataset.size == 0:
        return True
    if dataset.chunks is None:
        return dataset.id.get_storage_size() == unpacked_bytes(dataset)
    wanted = math.prod(-(-rows // height) for rows, height in zip(dataset.shape, dataset.chunks, strict=True))
    return dataset.id.get_num_chunks() == wanted


FileStamp = tuple[int, ...]


def file_stamp(path: Path) -> FileStamp:
    """Numbers that identify a file and its last change. They differ if another file has got its name."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@functools.lru_cache(maxsize=32)
def cached_columns(path: Path, stamp: FileStamp, pid: int, names: tuple[str, ...]) -> dict[str, h5py.Dataset]:
    """Open the columns of a file, and keep those of the 32 files that were read last open.

    Opening a file takes 40 times as long as reading a few rows. Not all files are kept open, because a data set may
    have more shards than a process can open. The process id is an argument because a forked process must not use the
    HDF5 handles of its parent.
    """
    file = opening.open_for_reading(path)
    return {name: file[name] for name in names}  # type: ignore[misc]


def first_not_finite(blocks: Iterable[np.ndarray]) -> int | None:
    """The first row with an infinite number or NaN, in consecutive blocks of rows; None if all numbers are finite."""
    start = 0
    for block in blocks:
        wrong = np.flatnonzero(~np.isfinite(block).all(axis=tuple(range(1, block.ndim))))
        if len(wrong):
            return start + int(wrong[0])
        start += len(block)
    return None


def filters_of(dataset: h5py.Dataset) -> set[int]:
    """The numbers of the filters that HDF5 applies to the chunks of a column."""
    plist = dataset.id.get_create_plist()
    return {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}


def is_plainly_packed(dataset: h5py.Dataset) -> bool:
    """Whether chunks are complete rows that only deflate has changed. Shuffling does not change single bytes."""
    filters = filters_of(dataset)
    whole_rows = dataset.chunks is not None and dataset.chunks[1:] == dataset.shape[1:]
    return whole_rows and dataset.dtype.itemsize == 1 and DEFLATE in filters <= {DEFLATE, SHUFFLE}


def unpacked(dataset: h5py.Dataset, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Unpack the rows start..stop, chunk by chunk. Yields (number of first row, rows)."""
    shape = dataset.chunks
    assert shape is not None
    height, chunk_bytes = shape[0], math.prod(shape)
    for first in range(start // height * height, stop, height):
        skipped_filters, packed = dataset.id.read_direct_chunk((first,) + (0,) * (dataset.ndim - 1))
        low, high = max(start, first), min(stop, first + height)
        if skipped_filters:
            yield low, dataset[low:high]
            continue
        try:  # limit the memory to the size of a chunk, because a damaged file may hold more
            chunk = deflate.zlib_decompress(packed, chunk_bytes)
        except deflate.DeflateError:
            chunk = b""
        if len(chunk) != chunk_bytes:
            raise OSError(f"the chunk at row {first} does not unpack to {chunk_bytes} bytes")
        yield low, np.frombuffer(chunk, dataset.dtype).reshape(shape)[low - first : high - first]
