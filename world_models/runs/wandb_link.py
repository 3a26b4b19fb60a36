"""The link to the process that runs W&B: how it is started, and the queue of messages to it."""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path

from world_models.runs.wandb_messages import Answer

CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from world_models.runs.wandb_process import main
main(int(sys.argv[2]))
"""


class Waiting:
    """A queue of messages to be sent, limited in bytes."""

    def __init__(self, max_bytes: int):
        self._messages: collections.deque[bytes] = collections.deque()
        self._changed = threading.Condition()
        self._max_bytes, self._num_bytes = max_bytes, 0

    def put(self, message: bytes) -> bool:
        """Add a message if there is room; returns whether there was."""
        with self._changed:
            has_room = self._num_bytes + len(message) <= self._max_bytes
            if has_room:
                self._append(message)
            return has_room

    def close(self, message: bytes) -> None:
        """Add the last message."""
        with self._changed:
            self._append(message)

    def _append(self, message: bytes) -> None:
        self._messages.append(message)
        self._num_bytes += len(message)
        self._changed.notify()

    def get(self, timeout_s: float) -> bytes | None:
        """Take the next message, or None after a timeout."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._messages, timeout_s):
                return None
            message = self._messages.popleft()
            self._num_bytes -= len(message)
            return message


class Process:
    """The process that W&B works in."""

    def __init__(self, environment: Mapping[str, str]):
        self.pipe, theirs = Pipe()
        path = [str(entry) or str(Path.cwd()) for entry in sys.path]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CHILD, json.dumps(path), str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,  # W&B asks nothing where there is no terminal
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def answer(self, timeout_s: float) -> Answer | None:
        """The next answer, or None after a timeout.

        Raises:
            EOFError: the process has ended; OSError too.
        """
        return self.pipe.recv() if self.pipe.poll(timeout_s) else None

    def kill(self) -> None:
        """End the process and all that it has started."""
        if self._process.poll() is None:
            for pid in (*_descendants(self._process.pid), self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self, patience_s: float) -> None:
        """Wait for the process to end, and kill it after a timeout."""
        self.pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self.kill()
        self._process.wait()


def _descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have: W&B's service is a session of its own."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [*_descendants(child), child]
    return found
