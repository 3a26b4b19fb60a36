"""Strings in shards: written with a fixed length, and read without HDF5 where an older file has them of any length.

HDF5 keeps strings of any length in a heap that it trusts: one damaged byte there makes it loop for ever or crash. So
such strings are decoded here, where every address is checked against the size of the file. It is done for the layout
that all shards have: HDF5's oldest, with object headers of version 1.

The layout is that of the HDF5 File Format Specification 3.0, sections II.A (superblock), III.E (global heap),
IV.A.1.a (object header) and IV.A.2.m (attribute).
"""

import functools
import os
import struct
from collections.abc import Iterator, Sequence

import h5py
import numpy as np

MAX_ATTRIBUTE_BYTES = 64_000
"""HDF5 keeps an attribute in the object's header, of which a part has 65,536 bytes at most."""

MAX_STRING_BYTES = 10_000_000
MAX_HEADER_PARTS = 1000
OTHER_LAYOUT = "strings of variable length in a layout that no shard has"
SUPERBLOCK = struct.Struct("<8sB4xBB")
"""Signature, version, bytes of an address, bytes of a length."""
SIGNATURE = b"\x89HDF\r\n\x1a\n"
CONTINUATION, ATTRIBUTE = 0x10, 0x0C
REFERENCE = struct.Struct("<IQI")
"""What stands for a string of any length: its bytes, the address of a heap, its number there."""


Attribute = str | int | float | bool | tuple[str, ...] | np.ndarray | None
"""An attribute's value: a text, a number, or several of either. None where it is of a kind that no shard has."""


def fixed_length(texts: str | Sequence[str]) -> np.ndarray:
    """A text, or a list of texts, as HDF5's fixed-length UTF-8."""
    data = np.array([text.encode() for text in texts] if not isinstance(texts, str) else texts.encode())
    length = max(1, data.dtype.itemsize)  # HDF5 has no strings of length 0
    return data.astype(h5py.string_dtype("utf-8", length))


def check_size(name: str, texts: str | Sequence[str]) -> None:
    """Refuse a text that is too long for an attribute.

    Raises:
        ValueError: it is.
    """
    size = fixed_length(texts).nbytes
    if size > MAX_ATTRIBUTE_BYTES:
        raise ValueError(f"{name} takes {size:,} bytes, and a shard has room for {MAX_ATTRIBUTE_BYTES:,}; shorten it")


class DamagedError(ValueError):
    """A place in the file that is not what it should be."""


def read_attribute(owner: h5py.Group | h5py.Dataset, name: str) -> Attribute:
    """An attribute's value.

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
    """The texts of a column.

    Raises:
        DamagedError, OSError, UnicodeDecodeError: it is damaged, or holds no texts.
    """
    kind = dataset.id.get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID):
        raise DamagedError(f"{dataset.dtype}, wanted a string")
    if not kind.is_variable_str():
        return tuple(text.decode() for text in dataset[:].tolist())
    return tuple(text.decode() for text in _RawFile(dataset.file).column(dataset))


class _RawFile:
    """The bytes of an open file in HDF5's oldest layout, every read within its bounds."""

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
        """The strings of an attribute of the object whose header is there."""
        for body in self._messages(header):
            found, data = _attribute(body)
            if found == name.encode():
                return self._strings(data, count)
        raise DamagedError(f"no attribute {name} in its header")

    def column(self, dataset: h5py.Dataset) -> list[bytes]:
        """The strings of a dataset."""
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
        for part, (address, length) in enumerate(parts):  # which grows on the way
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
        """Address and length of each object of a heap, by number."""
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
    """Name and data of an attribute message; both empty where it is none."""
    if len(body) < 9:
        return b"", b""
    version, _, name_size, type_size, space_size = struct.unpack_from("<BBHHH", body)
    step = 8 if version == 1 else 1  # what each part is padded to
    start = 9 if version == 3 else 8
    ends = [start + -(-name_size // step) * step]
    for size in (type_size, space_size):
        ends.append(ends[-1] + -(-size // step) * step)
    return body[start : start + name_size].split(b"\0")[0], body[ends[-1] :]
