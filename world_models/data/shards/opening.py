"""Opening shards with HDF5, also on disks that refuse its file locks."""

import errno
from pathlib import Path

import h5py


def open_for_reading(path: Path) -> h5py.File:
    """Open a file as HDF5 does by itself, but without its file lock where the disk has none.

    Shards get their names when they are whole and never change, so the lock protects nothing. It is left in place where
    it works, because HDF5 refuses to open a file in one process both with and without it, and others may have it open.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        # Without a lock also where this process has the file open so already, which is another error of HDF5's.
        if "lock" not in str(error) or error.errno == errno.EAGAIN:  # that is: somebody writes into the file
            raise
    return h5py.File(path, "r", locking=False)
