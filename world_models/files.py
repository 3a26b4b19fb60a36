"""Files written whole or not at all, that say what made them."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from world_models.config import Stopped
from world_models.version import __version__

PARTIAL = ".partial"
"""Suffix of a file that is still being written; no reader opens one."""

PACKAGES = ("numpy", "h5py", "gymnasium", "box2d", "pygame-ce", "opencv-python", "torch")


DISK_ENDS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EIO: "mend the disk",
    errno.EROFS: "make the disk writable",
    errno.ESTALE: "mount the disk again",
}
"""Errors by which a disk ends work that was well begun, and what to do."""
AGAIN = "run the same command again"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Everything that writes a file does it in this block.

    Raises:
        Stopped: the disk took no more; the message names the file and says what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ENDS:
            raise
        raise Stopped(
            f"{path}: {os.strerror(error.errno).lower()}; what is finished stays: {DISK_ENDS[error.errno]} and {AGAIN}"
        ) from None


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes its real name only if the block succeeds.

    The contents are on the disk before the name is, so a crash leaves either the old file or the new one.

    Raises:
        Stopped: the disk took no more.
    """
    temporary = path.with_name(path.name + PARTIAL)
    try:
        with writing(path):
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def append_text(path: Path, text: str) -> None:
    """Add to a text file; of what is added, a part may be there if the disk is full."""
    rest = memoryview(text.encode())
    with writing(path), path.open("ab", buffering=0) as file:
        while rest:
            rest = rest[file.write(rest) :]


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, where it is not there."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; NaN and infinities are refused, since they are not JSON."""
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


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against a second writer; the lock goes with the process, however that ends.

    Raises:
        Stopped: another process is writing into the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Stopped(f"{folder} is being written by another process; wait for it or choose another folder") from None
    try:
        yield
    finally:
        os.close(descriptor)


def remove_partials(folder: Path, names: Sequence[str] = ("*",)) -> None:
    """Delete what a killed process left half written in the folder."""
    for name in names:
        for path in folder.glob(name + PARTIAL):
            path.unlink(missing_ok=True)


def check_room(folder: Path, need_bytes: int, instead: str = "choose another --out") -> None:
    """Refuse work that its disk cannot hold; `instead` is what to do.

    Raises:
        ValueError: fewer than `need_bytes` are free where the folder is, or will be, or a file is in its place.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file, not a folder; {instead}")
    status = os.statvfs(existing)
    says_its_size = status.f_blocks > 0  # some mounted stores do not, and neither does /proc, which takes no folder
    if not (os.access(existing, os.W_OK | os.X_OK) and (says_its_size or _takes_folders(existing))):
        raise ValueError(f"{existing} cannot be written to; {instead}")
    free_bytes = status.f_bavail * status.f_frsize
    if says_its_size and free_bytes < need_bytes:
        raise ValueError(
            f"{folder}: about {need_bytes / 1e9:.3g} GB are needed and {free_bytes / 1e9:.3g} GB are free; "
            f"make room, ask for less, or {instead}"
        )


def _takes_folders(folder: Path) -> bool:
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def versions() -> dict[str, str]:
    """What made a file: this package, its git commit where it runs from a checkout, Python and the libraries."""
    found = {"world_models": __version__, "git_commit": _git_commit(), "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _git_commit() -> str:
    """The checkout's commit, with `-dirty` where tracked files differ; `unknown` for an installed package."""
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
