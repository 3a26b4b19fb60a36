"""Writes files completely or not at all, and lists the versions of the programs that made them."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from world_models.runtime import disks, locks, writers
from world_models.runtime.errors import Stopped
from world_models.version import __version__

PARTIAL = ".partial"
"""Suffix of a file that is still being written. Readers ignore such files."""

LONGEST_NAME = 40
"""Number of characters of a file's name in its temporary name, so that the temporary name is not too long."""

ABANDONED_S = 3600.0
"""A partial file of another machine counts as abandoned if it was not written to for this long."""

PACKAGES = ("numpy", "h5py", "gymnasium", "box2d", "pygame-ce", "opencv-python", "torch")

DISK_ERROR_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EIO: "repair the disk",
    errno.EROFS: "make the disk writable",
    errno.ESTALE: "mount the disk again",
}
"""What to do about each error of a disk that ends the work."""
RUN_AGAIN = "run the same command again"


@contextlib.contextmanager
def disk_errors_as_stopped(path: Path) -> Iterator[None]:
    """Turn errors of the disk in this block, such as a full disk, into `Stopped`.

    Raises:
        Stopped: the disk failed. The message names the file and says what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERROR_REMEDIES:
            raise
        raise Stopped(
            f"{path}: {os.strerror(error.errno).lower()}; what is finished stays: {DISK_ERROR_REMEDIES[error.errno]} "
            f"and {RUN_AGAIN}"
        ) from None


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder that is deleted after the block. Folders that killed processes have left are deleted first.

    Raises:
        OSError: the parent is not writable.
    """
    remove_partials(parent, names=(prefix,))
    folder = parent / f"{prefix}{writers.new()}{PARTIAL}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`. It is renamed to `path` only if the block succeeds.

    The contents are flushed to the disk before the renaming, so a crash leaves either the old file or the new one. The
    temporary name is unique and cannot be guessed. So no other file and no link has this name.

    Raises:
        Stopped: the disk failed, or another process took over the folder's lock in the meantime.
    """
    temporary = path.with_name(f"{path.name[:LONGEST_NAME]}.{writers.new()}{PARTIAL}")
    lock = locks.lock_of(path.parent)
    try:
        with disk_errors_as_stopped(path):
            yield temporary
            disks.flush(temporary)
            lock.check()
            temporary.replace(path)
            disks.flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file completely or not at all."""
    with atomic_path(path) as temporary, temporary.open("xb") as file:
        file.write(data)


def append_text(path: Path, text: str) -> None:
    """Append to a text file. If the disk gets full, only a part of the text may be written."""
    rest = memoryview(text.encode())
    with disk_errors_as_stopped(path), path.open("ab", buffering=0) as file:
        while rest:
            rest = rest[file.write(rest) :]


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist."""
    with disk_errors_as_stopped(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file completely or not at all. NaN and infinities raise a ValueError, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(*parts: bytes | memoryview) -> str:
    """Hexadecimal sha256 of the parts, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove_partials(*folders: Path, names: Sequence[str] = ("",)) -> None:
    """Delete half-written files and folders of processes that have ended. Those of running processes stay.

    Sometimes this machine cannot know whether the process runs, or a file does not name its writer, as in earlier
    versions. Then a file is deleted only if it is old, by the clock of the disk. A folder that does not name its writer
    stays, because it may belong to another program.
    """
    for path in (path for folder in folders for name in names for path in folder.glob(f"{name}*{PARTIAL}")):
        with contextlib.suppress(OSError):  # leave files that cannot be read or belong to another user
            kind = path.lstat().st_mode
            if stat.S_ISREG(kind) and _is_abandoned(path):
                path.unlink()
            elif stat.S_ISDIR(kind) and writers.find(path.name) and _is_abandoned(path):
                shutil.rmtree(path)


def _is_abandoned(partial: Path) -> bool:
    writer = writers.find(partial.name)
    running = writer.is_running() if writer else None
    if running is None:
        last_write = max(path.lstat().st_mtime for path in (partial, *partial.rglob("*")))
        return disks.now(partial.parent) - last_write > ABANDONED_S
    return not running


def check_room(folder: Path, need_bytes: int, instead: str = "choose another --out") -> None:
    """Check that a folder can be made and written, and that its disk has room.

    Args:
        folder: the folder; it need not exist.
        need_bytes: bytes that the work needs.
        instead: what else to do, for the message.

    Raises:
        ValueError: fewer than `need_bytes` are free, the folder is not writable, or a file has its name.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file, not a folder; {instead}")
    status = os.statvfs(existing)
    has_known_size = status.f_blocks > 0  # some mounted stores do not report their size, and neither does /proc
    if not (os.access(existing, os.W_OK | os.X_OK) and (has_known_size or _takes_folders(existing))):
        raise ValueError(f"{existing} is not writable; {instead}")
    free_bytes = status.f_bavail * status.f_frsize
    if has_known_size and free_bytes < need_bytes:
        raise ValueError(
            f"{folder}: about {need_bytes / 1e9:.3g} GB are needed and {free_bytes / 1e9:.3g} GB are free; "
            f"make room, reduce the work, or {instead}"
        )


def _takes_folders(folder: Path) -> bool:
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def versions() -> dict[str, str]:
    """The versions that make a file: this package, its git commit in a checkout, Python, and libraries."""
    found = {"world_models": __version__, "git_commit": _git_commit(), "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _git_commit() -> str:
    """The checkout's commit, with `-dirty` if tracked files have changed; `unknown` for an installed package."""
    here = Path(__file__)
    git = functools.partial(subprocess.run, cwd=here.parent, capture_output=True, text=True, timeout=10)
    try:
        if git(["git", "ls-files", "--error-unmatch", here.name]).returncode:
            return "unknown"
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        dirty = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return commit + ("-dirty" if dirty else "")
