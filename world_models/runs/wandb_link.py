"""The link to the process that runs W&B: starts the process, and queues messages to it."""

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


class MessageQueue:
    """A queue of messages, with a limit on its bytes."""

    def __init__(self, max_bytes: int):
        self._messages: collections.deque[bytes] = collections.deque()
        self._changed = threading.Condition()
        self._max_bytes, self._num_bytes = max_bytes, 0

    def put(self, message: bytes) -> bool:
        """Add a message if there is room. Returns whether there was room."""
        with self._changed:
            has_room = self._num_bytes + len(message) <= self._max_bytes
            if has_room:
                self._append(message)
            return has_room

    def close(self, message: bytes) -> None:
        """Add the last message, even if there is no room."""
        with self._changed:
            self._append(message)

    def _append(self, message: bytes) -> None:
        self._messages.append(message)
        self._num_bytes += len(message)
        self._changed.notify()

    def get(self, timeout_s: float) -> bytes | None:
        """Take the next message; None after a timeout."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._messages, timeout_s):
                return None
            message = self._messages.popleft()
            self._num_bytes -= len(message)
            return message


class Process:
    """The process that runs W&B."""

    def __init__(self, environment: Mapping[str, str]):
        self.pipe, child_end = Pipe()
        path = [str(entry) or str(Path.cwd()) for entry in sys.path]
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CHILD, json.dumps(path), str(child_end.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,  # without a terminal W&B asks no questions
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[child_end.fileno()],
                start_new_session=True,
            )

    def answer(self, timeout_s: float) -> Answer | None:
        """The next answer; None after a timeout.

        Raises:
            EOFError, OSError: the process has ended.
        """
        return self.pipe.recv() if self.pipe.poll(timeout_s) else None

    def kill(self) -> None:
        """End the process and all processes that it has started."""
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
    """All descendants of a process. They are searched for because W&B's service starts its own session."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [*_descendants(child), child]
    return found
