"""Locks that allow only one writing process per folder, also on disks that several machines share.

Locks of the operating system are not used. Many network file systems refuse them, and on others they work only between
processes of one machine. Instead, a lock is a file, made by `O_EXCL`, that names its holder. The holder rewrites it
from time to time. This heartbeat sets the modification time, by the clock of the disk's server. A lock is stale if its
process has ended. If the process is on another machine, the lock is stale if its heartbeat has stopped long ago.

A process takes over a stale lock in three steps. First it makes a claim by `O_EXCL`: a file that is named after the
lock's contents. So only one process at a time has the claim. Then it reads the lock again, because another process may
have taken it over in the meantime. Then it renames the claim to the lock, so there is a lock at every moment. The
process whose contents are in the lock at the end holds the folder.
"""

import contextlib
import dataclasses
import errno
import hashlib
import os
import platform
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from world_models.runtime import disks, writers
from world_models.runtime.errors import Stopped

LOCK = ".writer.lock"
SILENCE_S = 300.0
"""A process of another machine counts as dead after this time without a heartbeat."""
BEATS = 10
"""Number of heartbeats in that time."""
MAX_BYTES = 1000

_held: dict[Path, bytes] = {}
"""The files of the locks that this process holds, and their contents."""


@dataclasses.dataclass(frozen=True)
class Lock:
    """A lock of a folder, as it was when the writing began.

    Attributes:
        file: the lock's file.
        contents: its contents at the beginning; None if there was no lock.
        is_own: whether this process holds it. The lock of a worker is held by its parent.
    """

    file: Path
    contents: bytes | None
    is_own: bool

    def check(self) -> None:
        """Check that the lock has not changed. Call it before a file gets its final name.

        Raises:
            Stopped: another process took over the lock, for example because this process was suspended for a long time.
        """
        found = _read(self.file)
        contents = found.contents if found else None
        if self.contents != contents and (self.is_own or None not in (self.contents, contents)):
            who = f"taken over by {_holder(contents)}" if contents is not None else "removed"
            raise Stopped(
                f"the lock {self.file} was {who} while this process was suspended, so it ends; finished work is kept"
            )


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[Lock]:
    """Lock a folder against other writers in this block. If the process is killed, its lock is stale at once.

    Raises:
        Stopped: another process is writing into the folder, or the folder is not writable.
    """
    file, process, ended = folder.resolve() / LOCK, os.getpid(), threading.Event()
    contents = f"{_AS_HOLDER} {process} on {_host()}: {writers.new()}\n".encode()
    beating = threading.Thread(target=_beat, args=(file, contents, ended), daemon=True)
    try:
        _acquire(folder, file, contents)
    except OSError as error:
        raise Stopped(
            f"{folder} cannot be locked ({error}); make room there or make it writable, or choose another folder"
        ) from None
    try:
        _held[file] = contents
        beating.start()
        disks.warn_if_no_flush(folder, file)
        yield Lock(file, contents, is_own=True)
    finally:
        if os.getpid() == process:  # a forked process holds no lock
            del _held[file]
            ended.set()
            beating.join()
            if (found := _read(file)) and found.contents == contents:
                file.unlink(missing_ok=True)


def lock_of(folder: Path) -> Lock:
    """The lock of a folder: one that this process holds on it or on a parent of it, else the one in the folder."""
    folder = folder.resolve()
    for each in (folder, *folder.parents):
        if (file := each / LOCK) in _held:
            return Lock(file, _held[file], is_own=True)
    found = _read(folder / LOCK)
    return Lock(folder / LOCK, found.contents if found else None, is_own=False)


# ---- taking the lock ----


@dataclasses.dataclass(frozen=True)
class _LockFile:
    """A lock file that was found: its contents, and the time of its last write by the disk's clock."""

    contents: bytes
    written_s: float


def _acquire(folder: Path, file: Path, contents: bytes) -> None:
    while not _create(file, contents):
        if found := _read(file):  # None if it was released in the meantime
            _check_stale(folder, file, found)
            if _take_over(folder, file, found, contents):
                return


def _take_over(folder: Path, file: Path, stale: _LockFile, contents: bytes) -> bool:
    """Replace a stale lock by our own. Returns whether this process holds the lock now."""
    claim = file.with_name(f"{file.name}.{hashlib.sha256(stale.contents).hexdigest()[:16]}")
    if not _create(claim, contents):
        if other := _read(claim):
            _check_stale(folder, claim, other)
            claim.unlink(missing_ok=True)
        return False
    now = _read(file)
    if now and now.contents == stale.contents and _is_stale(file, now):
        with contextlib.suppress(FileNotFoundError):  # another process removed the claim; it is checked below
            claim.replace(file)
    else:
        claim.unlink(missing_ok=True)
    now = _read(file)
    return now is not None and now.contents == contents


def _check_stale(folder: Path, file: Path, found: _LockFile) -> None:
    """Check that a lock is stale.

    Raises:
        Stopped: it is not. The message names the holder and says what to do.
    """
    if _is_stale(file, found):
        return
    who = f"{folder} is being written by another process ({_holder(found.contents)})"
    if _is_running(found):
        raise Stopped(f"{who}; wait for it or choose another folder")
    raise Stopped(
        f"{who}; wait for it or choose another folder. If that process was killed, remove {file}, or try again when "
        f"the file is {SILENCE_S:.0f} s old; it is {max(0, _silent_s(file, found)):.0f} s old now"
    )


def _is_stale(file: Path, found: _LockFile) -> bool:
    running = _is_running(found)
    return _silent_s(file, found) > SILENCE_S if running is None else not running


def _is_running(found: _LockFile) -> bool | None:
    writer = writers.find(found.contents.decode(errors="replace"))
    return writer.is_running() if writer else None


def _silent_s(file: Path, found: _LockFile) -> float:
    return disks.now(file.parent) - found.written_s


def _beat(file: Path, contents: bytes, ended: threading.Event) -> None:
    """Rewrite the lock from time to time, as long as this process holds it."""
    is_own = True
    while is_own and not ended.wait(SILENCE_S / BEATS):
        with contextlib.suppress(OSError):  # the server may be down for a moment; try again at the next beat
            is_own = _rewrite(file, contents)


# ---- the file ----

_AS_HOLDER = "written by process"
_HOLDER = re.compile(rf"{_AS_HOLDER} \d{{1,9}} on [\w.-]{{1,253}}(?=: )", re.ASCII)


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", platform.node(), flags=re.ASCII)[:253] or "unknown"


def _holder(contents: bytes) -> str:
    """The process and host that a lock names. Only checked parts are shown, because the file may have any contents."""
    found = _HOLDER.match(contents.decode(errors="replace"))
    return found[0].removeprefix("written by ") if found else "which the lock does not name"


def _create(file: Path, contents: bytes) -> bool:
    """Make the file, unless it exists. Returns whether it was made."""
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(contents)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return True


def _rewrite(file: Path, contents: bytes) -> bool:
    """Write the same contents again, which sets the file's time. Returns whether the file had these contents.

    `touch` is not enough, because with it some network file systems set the time by the clock of this machine.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "r+b", buffering=0) as opened:
        if opened.read(MAX_BYTES) != contents:
            return False
        opened.seek(0)
        opened.write(contents)
    return True


def _read(file: Path) -> _LockFile | None:
    """Read the file; None if it does not exist.

    Raises:
        OSError: it is not a regular file, or its disk is broken.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except PermissionError:  # it belongs to another user and is not readable
        return _LockFile(b"", file.stat().st_mtime)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileExistsError(errno.EEXIST, "it has the name of a lock but is not one; remove it", str(file))
        return _LockFile(os.read(descriptor, MAX_BYTES), status.st_mtime)
    finally:
        os.close(descriptor)
