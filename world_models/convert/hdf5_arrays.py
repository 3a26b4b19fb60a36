"""Arrays of an HDF5 file that anybody may have written. Nothing is read before it is checked.

HDF5 can follow links into other files, load plugins that unpack, and claim more rows than a file can hold. All of these
are refused.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import h5py

from world_models.convert.foreign import BrokenEpisodeError
from world_models.data.shards import opening
from world_models.data.shards.columns import HARMLESS_FILTERS, is_written
from world_models.runtime import untrusted
from world_models.runtime.terminal import printable

LZF = 32_000
FILTERS = HARMLESS_FILTERS | {LZF}
"""Filters that h5py itself brings along."""
MAX_CHUNK_BYTES = 1 << 28
MAX_DEFLATE_RATIO = 1100  # deflate packs 1,032 bytes into one at the best

Member = TypeVar("Member", h5py.Group, h5py.Dataset)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file. Every error of the block becomes `BrokenEpisodeError`."""
    try:
        if not untrusted.is_file(path):
            raise BrokenEpisodeError("no such file any more")
        with opening.open_for_reading(path) as file:
            yield file
    except BrokenEpisodeError:
        raise
    except Exception as error:  # h5py raises whatever a damaged file makes it trip over
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise BrokenEpisodeError(f"cannot be read ({reason})") from None


def group(owner: h5py.Group, name: str) -> h5py.Group:
    """The group of this name. Parts of the name are separated by `/`.

    Raises:
        BrokenEpisodeError: there is none, or it is in another file.
    """
    found = owner
    for part in name.split("/"):
        found = _member(found, part, h5py.Group)
    return found


def array(owner: h5py.Group, name: str) -> h5py.Dataset:
    """The array of this name. Parts of the name are separated by `/`.

    Raises:
        BrokenEpisodeError: there is none, or reading it could do more than read a part of this file.
    """
    above, _, last = name.rpartition("/")
    found = _member(group(owner, above) if above else owner, last, h5py.Dataset)
    _check(found, name)
    return found


def _member(owner: h5py.Group, name: str, kind: type[Member]) -> Member:
    if not name or name not in owner:
        raise BrokenEpisodeError(f"no {printable(name)} in it")
    if not isinstance(owner.get(name, getlink=True), h5py.HardLink):
        raise BrokenEpisodeError(f"{printable(name)} is a link into elsewhere, which is never followed")
    found = owner[name]
    if not isinstance(found, kind):
        wanted = "an array" if kind is h5py.Dataset else "a group"
        raise BrokenEpisodeError(f"{printable(name)} is not {wanted}")
    return found


def _check(dataset: h5py.Dataset, name: str) -> None:
    plist = dataset.id.get_create_plist()
    if dataset.is_virtual or plist.get_external_count():
        raise BrokenEpisodeError(f"{name} holds data of other files, which are never read")
    if {plist.get_filter(number)[0] for number in range(plist.get_nfilters())} - FILTERS:
        raise BrokenEpisodeError(f"{name} is packed by a plugin, and none is loaded; save it with gzip or unpacked")
    if not dataset.ndim:
        raise BrokenEpisodeError(f"{name} is a single value, wanted an array")
    item_bytes = dataset.dtype.itemsize
    if dataset.chunks is not None and math.prod(dataset.chunks) * item_bytes > MAX_CHUNK_BYTES:
        raise BrokenEpisodeError(f"{name} is packed in pieces of more than {MAX_CHUNK_BYTES:,} bytes")
    if math.prod(dataset.shape) * item_bytes > MAX_DEFLATE_RATIO * Path(dataset.file.filename).stat().st_size:
        raise BrokenEpisodeError(f"{name} claims more rows than a file of this size can hold; do not trust this file")
    if h5py.check_vlen_dtype(dataset.dtype) is None and not is_written(dataset):
        raise BrokenEpisodeError(f"{name} was never written in whole")
