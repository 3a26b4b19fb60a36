"""Names the process that writes a file, so that every other process can find out whether it still runs."""

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
"""States of a process that has ended but was not yet waited for by its parent."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """A process, and one thing that it writes.

    Attributes:
        machine: id of the machine since its last start. A container with its own process ids counts as a machine.
        pid: id of the process.
        started: start time of the process, in clock ticks since the machine's start. Process ids are reused, but not
            with the same start time.
        token: a random text that differs for each thing that the process writes.
    """

    machine: str
    pid: int
    started: int
    token: str

    def __str__(self) -> str:
        return f"{self.machine}-{self.pid}-{self.started}-{self.token}"

    def is_running(self) -> bool | None:
        """Whether the process still runs; None if it is on another machine, so that this one cannot know."""
        if self.machine != machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it runs, and belongs to another user
            pass
        found = _state_and_start(self.pid)
        return None if found is None else found[0] not in DEAD and found[1] == self.started


def new() -> Writer:
    """A `Writer` for this process, with a new token."""
    found = _state_and_start(os.getpid())
    return Writer(machine(), os.getpid(), found[1] if found else 0, secrets.token_hex(8))


def find(text: str) -> Writer | None:
    """The writer that a text names; None if it names none."""
    found = NAME.search(text)
    return Writer(found["machine"], int(found["pid"]), int(found["started"]), found["token"]) if found else None


@functools.cache
def machine() -> str:
    """An id of this machine, twelve hexadecimal digits. If the system has no id, every process gets a random one.

    The host's name is not enough, because containers and copies of an image share it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        facts = platform.node(), boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return secrets.token_hex(6)
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """The letter of a process's state, and its start time; None if the system does not give them."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the process's name before it may have any characters
    return fields[0], int(fields[19])
