"""Shards can be opened on every disk. HDF5's own locks are used where they work."""

import fcntl
from pathlib import Path

import h5py
import pytest

from world_models.data.shards import opening


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = 1
    return tmp_path / "a.h5"


@pytest.fixture
def refuse_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = h5py.File

    def on_this_disk(path: Path, mode: str, locking: bool | None = None) -> h5py.File:
        if locking is not False:
            raise OSError(37, "Unable to open file (unable to lock file, errno = 37, 'No locks available')")
        return opened(path, mode, locking=locking)

    monkeypatch.setattr(h5py, "File", on_this_disk)


def test_a_file_is_read_although_the_disk_refuses_locks(path: Path, refuse_locks: None):
    with opening.open_for_reading(path) as file:
        assert list(file) == ["x"]


@pytest.mark.parametrize("locking", [None, False])
def test_a_file_that_is_open_can_be_opened_again(path: Path, locking: bool | None):
    with h5py.File(path, "r", locking=locking), opening.open_for_reading(path) as file:
        assert list(file) == ["x"]


def test_a_file_that_is_read_can_be_opened_with_h5py_too(path: Path):
    with opening.open_for_reading(path), h5py.File(path) as file:
        assert list(file) == ["x"]


def test_opening_a_file_while_it_is_written_is_an_error(path: Path):
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="unable to lock file"):
            opening.open_for_reading(path)


def test_opening_a_file_that_is_not_hdf5_is_an_error(tmp_path: Path):
    (tmp_path / "b.h5").write_text("no")
    with pytest.raises(OSError, match="signature"):
        opening.open_for_reading(tmp_path / "b.h5")
