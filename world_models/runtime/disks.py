"""What a disk can do: flush what was written, and tell the time. Network file systems leave parts of it out."""

import errno
import os
import tempfile
from pathlib import Path

from world_models.runtime import terminal

_KERNELS_OWN_ENOTSUPP = 524  # some network file systems let it out
NO_FLUSH_OF_FILES = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, _KERNELS_OWN_ENOTSUPP}
NO_FLUSH_OF_FOLDERS = NO_FLUSH_OF_FILES | {errno.EPERM, errno.EACCES, errno.EBADF}
"""The errors by which a file system says that it has no such function; all others say that a disk is full or broken."""

_said: set[str] = set()


def flush(path: Path) -> str | None:
    """Flush a file's contents, or a folder's list of names, to the disk, if the file system can.

    Returns:
        Why the file system has none, None if it was done.

    Raises:
        OSError: the disk is full or broken.
    """
    no_flush = NO_FLUSH_OF_FOLDERS if path.is_dir() else NO_FLUSH_OF_FILES
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in no_flush:
            raise
        return str(error.strerror)
    return None


def now(folder: Path) -> float:
    """The time by the clock of the folder's disk, in seconds; that of a shared disk is its server's."""
    with tempfile.TemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.fstat(file.fileno()).st_mtime


def say_what_is_missing(folder: Path, file: Path) -> None:
    """Print a line, once a process, if the disk cannot flush the folder or this file in it."""
    reasons = {"files": flush(file), "folders": flush(folder)}
    missing = [f"{what} ({reason})" for what, reason in reasons.items() if reason]
    what = " and ".join(missing)
    if missing and what not in _said:
        _said.add(what)
        then = "damaged; delete them and" if reasons["files"] else "missing;"
        terminal.warn(
            f"{folder}: this disk cannot flush {what}. If its machine loses power, the files finished last may be "
            f"{then} run the same command again"
        )
