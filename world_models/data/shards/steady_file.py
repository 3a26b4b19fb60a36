"""A file for HDF5 whose writes never fail, even if the disk is full.

After a failed write, HDF5 cannot close its file and crashes the process. So this file hides the failure: HDF5 continues
to write and closes its file. Then the first failure is raised here.
"""

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from world_models.runtime import files


class SteadyFile:
    """A new file that HDF5 writes and reads. Its writes never fail.

    After the first failure, all data are held in memory, so that HDF5 reads back what it wrote. Call `check` often,
    because it is the only function that raises the failure. HDF5 has to use the file in a thread other than the main
    thread. Python runs signal handlers in the main thread, also inside these functions. An exception from a handler
    would then be raised in the middle of HDF5's code.
    """

    def __init__(self, path: Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._position, self._size = 0, 0
        self._failure: OSError | None = None
        self._held: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: Any) -> int:
        """Write at the current position. `check` raises a failure later."""
        view = memoryview(data).cast("B")
        if self._failure is None:
            try:
                _write_all(self._descriptor, view, self._position)
            except OSError as failure:
                self._failure = failure
        if self._failure is not None:
            self._held.append((self._position, view.tobytes()))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def read(self, size: int) -> bytes:
        """Read this number of bytes. Bytes that were never written are zeros."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as `read` does. Returns its size."""
        view, start = memoryview(buffer).cast("B"), self._position
        try:
            found = os.pread(self._descriptor, len(view), start)
        except OSError as failure:
            self._failure, found = self._failure or failure, b""
        view[:] = found + bytes(len(view) - len(found))
        for place, data in self._held:
            first, last = max(place, start), min(place + len(data), start + len(view))
            if first < last:
                view[first - start : last - start] = data[first - place : last - place]
        self._position += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the current position. Returns it."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """The current position."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file. `check` raises a failure later."""
        self._size = self._position if size is None else size
        if self._failure is None:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError as failure:
                self._failure = failure
        return self._size

    def flush(self) -> None:
        """Do nothing, because writes are not buffered."""

    def close(self) -> None:
        """Close the file. Later writes are ignored."""
        self._failure = self._failure or OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.close(self._descriptor)


def _write_all(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[SteadyFile]:
    """Give a file for HDF5 to write. It gets its name only if the block succeeds and no write has failed.

    Raises:
        Stopped: the disk failed.
    """
    with files.atomic_path(path) as temporary, contextlib.closing(SteadyFile(temporary)) as file:
        yield file
        file.check()
