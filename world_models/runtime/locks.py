"""One writing process a folder, on every disk that several machines may share.

The locks of the operating system are not used: many network file systems refuse them, and on others they exclude only
processes of the same machine. A lock is a file, made by `O_EXCL`, which says who holds the folder. Its holder
rewrites it from time to time: that heartbeat is the modification time, by the clock of the disk's server. The lock is
stale when its process is gone, or, where only another machine could know that, when the heartbeat was long silent.

A stale lock is taken over in three steps. A claim, a file named after the lock's contents, is made by `O_EXCL`, so
only one process at a time has it. The lock is looked at once more, since another process may have taken it over in
the meantime. Then the claim is renamed to the lock, which is therefore never absent. The process whose contents the
lock has in the end holds the folder.
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
"""Without a heartbeat for so long, a process of another machine is taken for dead."""
BEATS = 10
"""Heartbeats in that time."""
MAX_BYTES = 1000

_held: dict[Path, bytes] = {}
"""The locks that this process holds, and what they say."""


@dataclasses.dataclass(frozen=True)
class Lock:
    """The lock under which something is written.

    Attributes:
        file: the lock's file.
        contents: what it said at the beginning; None if there was none.
        is_own: whether this process holds it, or another one, as for a worker its parent does.
    """

    file: Path
    contents: bytes | None
    is_own: bool

    def check(self) -> None:
        """Look whether the lock is still the same, before a file gets its name.

        Raises:
            Stopped: another process took it over, as it may when this one was suspended for long.
        """
        found = _look(self.file)
        contents = found.contents if found else None
        if self.contents != contents and (self.is_own or None not in (self.contents, contents)):
            who = f"taken over by {_holder(contents)}" if contents is not None else "removed"
            raise Stopped(
                f"the lock {self.file} was {who} while this process was held up, so it ends; what is finished stays"
            )


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[Lock]:
    """Hold a folder against a second writer; the lock of a process that is killed is stale at once on its machine.

    Raises:
        Stopped: another process is writing into the folder, or nothing can be written there.
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
        disks.say_what_is_missing(folder, file)
        yield Lock(file, contents, is_own=True)
    finally:
        if os.getpid() == process:  # a fork of it holds nothing
            del _held[file]
            ended.set()
            beating.join()
            if (found := _look(file)) and found.contents == contents:
                file.unlink(missing_ok=True)


def over(folder: Path) -> Lock:
    """The lock under which files in the folder are written now: this process's own, or the one that lies there."""
    folder = folder.resolve()
    for each in (folder, *folder.parents):
        if (file := each / LOCK) in _held:
            return Lock(file, _held[file], is_own=True)
    found = _look(folder / LOCK)
    return Lock(folder / LOCK, found.contents if found else None, is_own=False)


# ---- taking the lock ----


@dataclasses.dataclass(frozen=True)
class _Found:
    """A lock file that was found: its contents, and when it was last written by the disk's clock."""

    contents: bytes
    written_s: float


def _acquire(folder: Path, file: Path, contents: bytes) -> None:
    while not _create(file, contents):
        if found := _look(file):  # else it was let go in the meantime
            _check_stale(folder, file, found)
            if _take_over(folder, file, found, contents):
                return


def _take_over(folder: Path, file: Path, stale: _Found, contents: bytes) -> bool:
    """Put a lock of ours in the place of a stale one; returns whether it is ours now."""
    claim = file.with_name(f"{file.name}.{hashlib.sha256(stale.contents).hexdigest()[:16]}")
    if not _create(claim, contents):
        if other := _look(claim):
            _check_stale(folder, claim, other)
            claim.unlink(missing_ok=True)
        return False
    now = _look(file)
    if now and now.contents == stale.contents and _is_stale(file, now):
        with contextlib.suppress(FileNotFoundError):  # the claim was taken for stale; the look below tells
            claim.replace(file)
    else:
        claim.unlink(missing_ok=True)
    now = _look(file)
    return now is not None and now.contents == contents


def _check_stale(folder: Path, file: Path, found: _Found) -> None:
    """Refuse a folder whose lock is not stale.

    Raises:
        Stopped: it is not; the message says who holds it and what to do.
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


def _is_stale(file: Path, found: _Found) -> bool:
    running = _is_running(found)
    return _silent_s(file, found) > SILENCE_S if running is None else not running


def _is_running(found: _Found) -> bool | None:
    writer = writers.find(found.contents.decode(errors="replace"))
    return writer.is_running() if writer else None


def _silent_s(file: Path, found: _Found) -> float:
    return disks.now(file.parent) - found.written_s


def _beat(file: Path, contents: bytes, ended: threading.Event) -> None:
    """Rewrite the lock from time to time, as long as it is ours."""
    ours = True
    while ours and not ended.wait(SILENCE_S / BEATS):
        with contextlib.suppress(OSError):  # a server that is away: the next beat makes up for it
            ours = _rewrite(file, contents)


# ---- the file ----

_AS_HOLDER = "written by process"
_HOLDER = re.compile(rf"{_AS_HOLDER} \d{{1,9}} on [\w.-]{{1,253}}(?=: )", re.ASCII)


def _host() -> str:
    return re.sub(r"[^\w.-]", "_", platform.node(), flags=re.ASCII)[:253] or "unknown"


def _holder(contents: bytes) -> str:
    """The process and host that a lock names. Only checked parts are shown, because the file may hold anything."""
    found = _HOLDER.match(contents.decode(errors="replace"))
    return found[0].removeprefix("written by ") if found else "which the lock does not name"


def _create(file: Path, contents: bytes) -> bool:
    """Make the file, unless there is one; returns whether it was made."""
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
    """Write the same contents again, which sets the file's time; returns whether it had them.

    A touch would not do: some network file systems then set the time by the clock of this machine.
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


def _look(file: Path) -> _Found | None:
    """The file's contents, None if there is no file.

    Raises:
        OSError: it is no file, or its disk is broken.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except PermissionError:  # another user's, who may hide what it says
        return _Found(b"", file.stat().st_mtime)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileExistsError(errno.EEXIST, "it has the name of a lock and is none; remove it", str(file))
        return _Found(os.read(descriptor, MAX_BYTES), status.st_mtime)
    finally:
        os.close(descriptor)
