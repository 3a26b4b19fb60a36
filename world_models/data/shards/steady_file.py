"""A file for HDF5 that hides a disk's failures: after one, HDF5 cannot close its file and crashes the process.

So HDF5 writes on as if nothing had happened, and closes its file. Then the first failure is raised here.
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
    """A new file that HDF5 writes and reads back, whose writes never fail.

    From the first failure on, what is written is held in memory, so that HDF5 reads back what it wrote. Ask `check`
    often: nothing else ends the work. Let HDF5 use it in a thread that is not the main one: Python's signal handlers
    run in the main thread, inside these functions too, and what they raise would come up in the middle of HDF5.
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
        """Write at the position. A failure is kept for `check`."""
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
        """Read so many bytes of what was written; zeros where nothing was."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer in the same way."""
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
        """Move the position."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Give the file this size, whatever becomes of it."""
        self._size = self._position if size is None else size
        if self._failure is None:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError as failure:
                self._failure = failure
        return self._size

    def flush(self) -> None:
        """Does nothing, because writes are not buffered here."""

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
    """Give a file for a library to write; it takes its name only if the block succeeds and no write has failed.

    Raises:
        Stopped: the disk took no more.
    """
    with files.atomic_path(path) as temporary, contextlib.closing(SteadyFile(temporary)) as file:
        yield file
        file.check()
