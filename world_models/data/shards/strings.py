"""Texts in shards. They are written with a fixed length. Older files have texts of variable length.

HDF5 stores texts of variable length in a heap, and does not check it. One damaged byte there can make HDF5 loop without
end, or crash. So such texts are not read with HDF5. They are decoded here, and every address is checked against the
size of the file. Only the layout that all shards have is supported: HDF5's oldest, with object headers of version 1.

Source: HDF5 File Format Specification 3.0, sections II.A (superblock), III.E (global heap), IV.A.1.a (object header)
and IV.A.2.m (attribute).
"""

import functools
import os
import struct
from collections.abc import Iterator, Sequence

import h5py
import numpy as np

MAX_ATTRIBUTE_BYTES = 64_000
"""HDF5 stores an attribute in a part of the object's header, which has at most 65,536 bytes."""

MAX_STRING_BYTES = 10_000_000
MAX_HEADER_PARTS = 1000
OTHER_LAYOUT = "strings of variable length in a layout that no shard has"
SUPERBLOCK = struct.Struct("<8sB4xBB")
"""Signature, version, size of an address in bytes, size of a length in bytes."""
SIGNATURE = b"\x89HDF\r\n\x1a\n"
CONTINUATION, ATTRIBUTE = 0x10, 0x0C
REFERENCE = struct.Struct("<IQI")
"""A reference to a text of variable length: its length in bytes, the address of a heap, its number in the heap."""


Attribute = str | int | float | bool | tuple[str, ...] | np.ndarray | None
"""An attribute's value: a text, a number, or several of them. None if it is of a kind that shards do not have."""


def fixed_length(texts: str | Sequence[str]) -> np.ndarray:
    """Convert a text or a list of texts to HDF5's fixed-length UTF-8."""
    data = np.array([text.encode() for text in texts] if not isinstance(texts, str) else texts.encode())
    length = max(1, data.dtype.itemsize)  # HDF5 has no strings of length 0
    return data.astype(h5py.string_dtype("utf-8", length))


def check_size(name: str, texts: str | Sequence[str]) -> None:
    """Check that a text fits into an attribute.

    Raises:
        ValueError: it is too long.
    """
    size = fixed_length(texts).nbytes
    if size > MAX_ATTRIBUTE_BYTES:
        raise ValueError(f"{name} takes {size:,} bytes, and a shard has room for {MAX_ATTRIBUTE_BYTES:,}; shorten it")


class DamagedError(ValueError):
    """A part of the file is not what the file format requires."""


def read_attribute(owner: h5py.Group | h5py.Dataset, name: str) -> Attribute:
    """Read an attribute.

    Raises:
        DamagedError, OSError, UnicodeDecodeError: it is damaged.
    """
    attribute = h5py.h5a.open(owner.id, name.encode())
    kind, shape = attribute.get_type(), attribute.shape
    if attribute.get_space().get_simple_extent_type() == h5py.h5s.NULL:
        return None
    if isinstance(kind, h5py.h5t.TypeStringID):
        if kind.is_variable_str():
            header = h5py.h5o.get_info(owner.id).addr  # pyright: ignore[reportAttributeAccessIssue]: h5py has no types
            texts = _RawFile(owner.file).attribute(header, name, int(np.prod(shape)))
        else:
            texts = np.asarray(owner.attrs[name]).reshape(-1).tolist()
        decoded = tuple(text.decode() for text in texts)
        return decoded if shape else decoded[0]
    if isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID | h5py.h5t.TypeEnumID):
        value = np.asarray(owner.attrs[name])
        return value if shape else value.item()
    return None


def read_column(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Read a column of texts.

    Raises:
        DamagedError, OSError, UnicodeDecodeError: it is damaged, or does not hold texts.
    """
    kind = dataset.id.get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID):
        raise DamagedError(f"{dataset.dtype}, wanted a string")
    if not kind.is_variable_str():
        return tuple(text.decode() for text in dataset[:].tolist())
    return tuple(text.decode() for text in _RawFile(dataset.file).column(dataset))


class _RawFile:
    """The bytes of an open file in HDF5's oldest layout. Every read is checked against the size of the file."""

    def __init__(self, file: h5py.File):
        self._descriptor: int = file.id.get_vfd_handle()
        self._size = os.fstat(self._descriptor).st_size
        signature, version, *sizes = SUPERBLOCK.unpack(self._bytes(0, SUPERBLOCK.size))
        if signature != SIGNATURE or version > 1 or sizes != [8, 8]:
            raise DamagedError(OTHER_LAYOUT)
        self._heap = functools.lru_cache(maxsize=64)(self._read_heap)

    def _bytes(self, address: int, count: int) -> bytes:
        if not 0 <= address <= address + count <= self._size:
            raise DamagedError(f"an address beyond the end of the file ({address})")
        return os.pread(self._descriptor, count, address)

    def attribute(self, header: int, name: str, count: int) -> list[bytes]:
        """The texts of an attribute.

        Args:
            header: address of the object's header.
            name: name of the attribute.
            count: number of texts.
        """
        for body in self._messages(header):
            found, data = _attribute(body)
            if found == name.encode():
                return self._strings(data, count)
        raise DamagedError(f"no attribute {name} in its header")

    def column(self, dataset: h5py.Dataset) -> list[bytes]:
        """The texts of a dataset."""
        address = dataset.id.get_offset()
        if address is None:
            raise DamagedError("strings of variable length in chunks, or never written")
        return self._strings(self._bytes(address, len(dataset) * REFERENCE.size), len(dataset))

    def _messages(self, header: int) -> Iterator[bytes]:
        """The bodies of the attribute messages of an object header of version 1."""
        version, _, _, _, size = struct.unpack("<BBHII", self._bytes(header, 12))
        if version != 1:
            raise DamagedError(OTHER_LAYOUT)
        parts = [(header + 16, size)]
        for part, (address, length) in enumerate(parts):  # the loop appends further parts
            if part > MAX_HEADER_PARTS:
                raise DamagedError("an object header without end")
            data, at = self._bytes(address, length), 0
            while at + 8 <= length:
                kind, body_size = struct.unpack_from("<HH", data, at)
                body = data[at + 8 : at + 8 + body_size]
                at += 8 + body_size
                if kind == ATTRIBUTE:
                    yield body
                elif kind == CONTINUATION and body_size >= 16:
                    parts.append(struct.unpack_from("<QQ", body))

    def _strings(self, references: bytes, count: int) -> list[bytes]:
        if len(references) < count * REFERENCE.size:
            raise DamagedError("fewer strings than it says")
        places = [REFERENCE.unpack_from(references, start * REFERENCE.size) for start in range(count)]
        if sum(length for length, _, _ in places) > MAX_STRING_BYTES:
            raise DamagedError("far longer strings than any shard has")
        return [self._string(*place) for place in places]

    def _string(self, length: int, heap: int, number: int) -> bytes:
        if not length:
            return b""
        place = self._heap(heap).get(number)
        if place is None or place[1] < length:
            raise DamagedError(f"string {number} of the heap at {heap} is not there")
        return self._bytes(place[0], length).split(b"\0")[0]

    def _read_heap(self, address: int) -> dict[int, tuple[int, int]]:
        """Address and length of each object of a heap, by the object's number."""
        signature, version, size = struct.unpack("<4sB3xQ", self._bytes(address, 16))
        if signature != b"GCOL" or version != 1 or address + size > self._size:
            raise DamagedError(f"no heap at {address}")
        objects, at, end = {}, address + 16, address + size
        while at + 16 <= end:
            number, length = struct.unpack("<H6xQ", self._bytes(at, 16))
            if number == 0:  # the rest is free
                break
            if at + 16 + length > end:
                raise DamagedError(f"an object beyond the end of the heap at {address}")
            objects[number] = (at + 16, length)
            at += 16 + -(-length // 8) * 8
        return objects


def _attribute(body: bytes) -> tuple[bytes, bytes]:
    """Name and data of an attribute message; both are empty if it is not one."""
    if len(body) < 9:
        return b"", b""
    version, _, name_size, type_size, space_size = struct.unpack_from("<BBHHH", body)
    step = 8 if version == 1 else 1  # each part is padded to a multiple of this
    start = 9 if version == 3 else 8
    ends = [start + -(-name_size // step) * step]
    for size in (type_size, space_size):
        ends.append(ends[-1] + -(-size // step) * step)
    return body[start : start + name_size].split(b"\0")[0], body[ends[-1] :]
