"""Functions of a disk: flush written data, and tell the time. Some network file systems cannot flush."""

import errno
import os
import tempfile
from pathlib import Path

from world_models.runtime import terminal

_KERNELS_OWN_ENOTSUPP = 524  # a number of the kernel that some network file systems pass on
NO_FLUSH_OF_FILES = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, _KERNELS_OWN_ENOTSUPP}
NO_FLUSH_OF_FOLDERS = NO_FLUSH_OF_FILES | {errno.EPERM, errno.EACCES, errno.EBADF}
"""Errors that mean that a file system cannot flush. All other errors mean that the disk is full or broken."""

warned: set[str] = set()
"""What this process has already warned of."""


def flush(path: Path) -> str | None:
    """Flush a file's contents, or a folder's list of names, to the disk, if the file system can do so.

    Returns:
        None if it was flushed, else why the file system cannot do so.

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
    """The time of the folder's disk, in seconds. A shared disk has the time of its server."""
    with tempfile.TemporaryFile(dir=folder, prefix=".clock-") as file:
        return os.fstat(file.fileno()).st_mtime


def warn_if_no_flush(folder: Path, file: Path) -> None:
    """Print a warning if the disk cannot flush the folder or this file in it. Each warning is printed only once."""
    reasons = {"files": flush(file), "folders": flush(folder)}
    missing = [f"{what} ({reason})" for what, reason in reasons.items() if reason]
    what = " and ".join(missing)
    if missing and what not in warned:
        warned.add(what)
        then = "damaged; delete them and" if reasons["files"] else "missing;"
        terminal.warn(
            f"{folder}: this disk cannot flush {what}. If its machine loses power, the files finished last may be "
            f"{then} run the same command again"
        )
