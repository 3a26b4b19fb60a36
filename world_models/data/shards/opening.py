"""Opens files with HDF5, also on disks without file locks."""

import errno
from pathlib import Path

import h5py


def open_for_reading(path: Path) -> h5py.File:
    """Open a file as HDF5 does by default. If the disk has no file locks, open it without a lock.

    The lock protects nothing: a shard gets its name when it is complete, and never changes. But it is used where it
    works. HDF5 refuses to open a file both with and without a lock in one process, and other code may have the file
    open with a lock.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        # HDF5 also raises an error about locks if this process has already opened the file without a lock.
        if "lock" not in str(error) or error.errno == errno.EAGAIN:  # EAGAIN: another process writes into the file
            raise
    return h5py.File(path, "r", locking=False)
