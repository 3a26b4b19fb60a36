"""Arrays of npz files that other people have written.

Pickles are never loaded. The size of an array is read from its header and compared with the size of the file before
memory is taken.
"""

import contextlib
import dataclasses
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from world_models.convert.foreign import BrokenEpisodeError
from world_models.runtime import untrusted

MAX_DEFLATE_RATIO = 1100  # deflate packs 1,032 bytes into one at the best
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MAX_HEADER_BYTES = 10_000


@dataclasses.dataclass(frozen=True)
class NpzArray:
    """The header of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def listed(names: set[str], most: int = 10) -> str:
    """The first names, in alphabetical order, for messages."""
    shown = ", ".join(sorted(names)[:most]) or "no arrays"
    return shown if len(names) <= most else f"{shown}, ..."


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a file. Errors of reading it in the block become `BrokenEpisodeError`."""
    try:
        if not untrusted.is_file(path):
            raise BrokenEpisodeError("no such file any more")
        with zipfile.ZipFile(path) as archive:
            yield archive
    except BrokenEpisodeError:
        raise
    # What zipfile and NumPy raise for damaged, encrypted or unusually packed files.
    except (
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise BrokenEpisodeError(f"cannot be read as npz ({' '.join(str(error).split())})") from None


@contextlib.contextmanager
def array(archive: zipfile.ZipFile, key: str) -> Iterator[tuple[NpzArray, zipfile.ZipExtFile]]:
    """The header of an array, and the stream of its data. The array has the size that its header says."""
    try:
        info = archive.getinfo(f"{key}.npy")
    except KeyError:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        raise BrokenEpisodeError(f"no array {key}; it holds {listed(names)}") from None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BrokenEpisodeError(f"{key} is packed in a way that NumPy never uses; save it by np.savez_compressed")
    if info.file_size > MAX_DEFLATE_RATIO * max(info.compress_size, 1):
        raise BrokenEpisodeError(f"{key} claims more bytes than it can hold; do not trust this file")
    with archive.open(info) as stream:
        assert isinstance(stream, zipfile.ZipExtFile)
        header, num_bytes = _read_header(stream, key)
        data_bytes = math.prod(header.shape) * header.dtype.itemsize
        if num_bytes + data_bytes != info.file_size:
            raise BrokenEpisodeError(f"{key} is {header}, which does not fit its {info.file_size:,} bytes")
        yield header, stream


def _read_header(stream: zipfile.ZipExtFile, key: str) -> tuple[NpzArray, int]:
    """The header of an array, and its number of bytes."""
    try:
        version = np.lib.format.read_magic(stream)
        shape, is_fortran, dtype = HEADERS[version](stream, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        raise BrokenEpisodeError(f"{key} is no array of NumPy ({' '.join(str(error).split())[:200]})") from None
    if any(side < 0 for side in shape):
        raise BrokenEpisodeError(f"{key} has the impossible shape {shape}")
    if dtype.hasobject:
        raise BrokenEpisodeError(f"{key} holds Python objects (a pickle), which are never loaded; save numbers")
    if dtype.kind not in "biuf":
        raise BrokenEpisodeError(f"{key} is {dtype}, wanted numbers")
    return NpzArray(shape, dtype, is_fortran), stream.tell()


def header(archive: zipfile.ZipFile, key: str) -> NpzArray:
    """The header of an array, checked.

    Raises:
        BrokenEpisodeError: there is no such array, or it is no array of numbers that fits the file.
    """
    with array(archive, key) as (found, _):
        return found


def read(archive: zipfile.ZipFile, key: str, checked: NpzArray) -> np.ndarray:
    """A whole array."""
    with array(archive, key) as (header, stream):
        assert header == checked
        values = np.frombuffer(exactly(stream, math.prod(header.shape) * header.dtype.itemsize, key), header.dtype)
    return values.reshape(header.shape, order="F" if header.is_fortran else "C")


def exactly(stream: zipfile.ZipExtFile, count: int, key: str) -> bytes:
    """The next `count` bytes of an array.

    Raises:
        BrokenEpisodeError: the array ends before.
    """
    data = stream.read(count)
    if len(data) != count:
        raise BrokenEpisodeError(f"{key} breaks off")
    return data
