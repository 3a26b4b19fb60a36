"""A disk's functions are used, and missing ones are reported once."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from world_models.runtime import disks

NONE_FOR_FILES = [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, 524]
NONE_FOR_FOLDERS = [*NONE_FOR_FILES, errno.EPERM, errno.EACCES, errno.EBADF]
BROKEN = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE]


@pytest.fixture
def fsync_gives(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes fsync of files or folders fail."""
    sync = os.fsync

    def fail(file: int = 0, folder: int = 0) -> None:
        def fsync(descriptor: int) -> None:
            number = folder if stat.S_ISDIR(os.fstat(descriptor).st_mode) else file
            if number:
                raise OSError(number, os.strerror(number))
            sync(descriptor)

        monkeypatch.setattr(disks.os, "fsync", fsync)

    return fail


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "warned", set())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("x")
    return tmp_path / "a"


def test_files_and_folders_are_flushed(file: Path, monkeypatch: pytest.MonkeyPatch):
    flushed: list[Path] = []
    monkeypatch.setattr(disks.os, "fsync", lambda number: flushed.append(Path(f"/proc/self/fd/{number}").readlink()))
    assert [disks.flush(file), disks.flush(file.parent)] == [None, None]
    assert flushed == [file, file.parent]


@pytest.mark.parametrize("number", NONE_FOR_FOLDERS)
def test_a_disk_that_cannot_flush_folders_can_be_used(file: Path, fsync_gives: Callable[..., None], number: int):
    fsync_gives(folder=number)
    assert disks.flush(file.parent) == os.strerror(number)
    assert disks.flush(file) is None


@pytest.mark.parametrize("number", NONE_FOR_FILES)
def test_a_disk_that_cannot_flush_files_can_be_used(file: Path, fsync_gives: Callable[..., None], number: int):
    fsync_gives(file=number)
    assert disks.flush(file) == os.strerror(number)


@pytest.mark.parametrize("number", BROKEN)
def test_a_full_or_broken_disk_is_an_error(file: Path, fsync_gives: Callable[..., None], number: int):
    fsync_gives(file=number, folder=number)
    for path in (file, file.parent):
        with pytest.raises(OSError) as caught:
            disks.flush(path)
        assert caught.value.errno == number


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EBADF])
def test_a_file_that_may_not_be_flushed_is_an_error(file: Path, fsync_gives: Callable[..., None], number: int):
    fsync_gives(file=number)
    with pytest.raises(OSError):
        disks.flush(file)


def test_a_folder_without_read_permission_is_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def not_allowed(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(disks.os, "open", not_allowed)
    assert disks.flush(tmp_path) == "Permission denied"


def test_the_time_of_a_disk_is_the_modification_time_of_a_new_file(tmp_path: Path):
    (tmp_path / "before").touch()
    now = disks.now(tmp_path)
    (tmp_path / "after").touch()
    assert (tmp_path / "before").stat().st_mtime <= now <= (tmp_path / "after").stat().st_mtime


def test_asking_for_the_time_leaves_no_file(tmp_path: Path):
    disks.now(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_can_flush_gives_no_warning(file: Path, capsys: pytest.CaptureFixture[str]):
    disks.warn_if_no_flush(file.parent, file)
    assert capsys.readouterr() == ("", "")


def test_a_missing_function_of_a_disk_is_reported_once(
    file: Path, fsync_gives: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    fsync_gives(folder=errno.EINVAL)
    for _ in range(3):
        disks.warn_if_no_flush(file.parent, file)
    assert capsys.readouterr().err == (
        f"{file.parent}: this disk cannot flush folders (Invalid argument). If its machine loses power, the files "
        "finished last may be missing; run the same command again\n"
    )


def test_the_warning_about_files_that_cannot_be_flushed_says_that_they_may_be_damaged(
    file: Path, fsync_gives: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    fsync_gives(file=errno.EINVAL, folder=errno.EPERM)
    disks.warn_if_no_flush(file.parent, file)
    error = capsys.readouterr().err
    assert "cannot flush files (Invalid argument) and folders (Operation not permitted). " in error
    assert "may be damaged; delete them and run" in error and error.count("\n") == 1
