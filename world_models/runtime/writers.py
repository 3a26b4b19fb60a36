"""Who writes a file: a process, named so that every other process can find out whether it still runs."""

import dataclasses
import functools
import hashlib
import os
import platform
import re
import secrets
from pathlib import Path

NAME = re.compile(r"(?P<machine>[0-9a-f]{12})-(?P<pid>\d{1,9})-(?P<started>\d{1,18})-(?P<token>[0-9a-f]{16})")
DEAD = ("Z", "X")
"""States of a process that has ended, and whose parent has not asked for it yet."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """A process, and one thing that it writes.

    Attributes:
        machine: names the machine since its last start; a container with process numbers of its own is a machine.
        pid: number of the process.
        started: when the process started, in clock ticks since the machine did; numbers come again, this does not.
        token: tells apart what one process writes; nobody can guess it.
    """

    machine: str
    pid: int
    started: int
    token: str

    def __str__(self) -> str:
        return f"{self.machine}-{self.pid}-{self.started}-{self.token}"

    def is_running(self) -> bool | None:
        """Whether the process still runs; None if it is of another machine, where this one cannot look."""
        if self.machine != machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # of another user, and there
            pass
        found = _state_and_start(self.pid)
        return None if found is None else found[0] not in DEAD and found[1] == self.started


def new() -> Writer:
    """This process, about to write something."""
    found = _state_and_start(os.getpid())
    return Writer(machine(), os.getpid(), found[1] if found else 0, secrets.token_hex(8))


def find(text: str) -> Writer | None:
    """The writer that a text names, None if there is none."""
    found = NAME.search(text)
    return Writer(found["machine"], int(found["pid"]), int(found["started"]), found["token"]) if found else None


@functools.cache
def machine() -> str:
    """Twelve digits that no other machine has; of no other process either, where the system does not name itself.

    A host's name is not enough, since containers and copies of an image share it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        facts = platform.node(), boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return secrets.token_hex(6)
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """Letter of the process's state, and when it started; None where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], int(fields[19])
