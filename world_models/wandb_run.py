"""A W&B run that cannot harm the work it tells of.

The work only puts messages into a queue. A thread starts the process that W&B works in, hands it the messages and
prints its answers. So nothing that W&B, its package, its service, its server or the network do can end the work, change
what it computes, or make it wait. At the end it waits `END_S` at most.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from tqdm import tqdm

from world_models.wandb_process import Answer, Failed, Finished, Note, Off, Request, Started, WandbConfig

START_S = 60.0
"""How long a start may take while the work goes on. After that the run is begun again, offline."""
LATE_START_S = 8.0
"""How long a start may take once the work is done."""
END_S = 25.0
"""How long the end of the work waits for W&B."""
EXIT_S = 5.0
KILL_S = 2.0
WATCH_EVERY_S = 0.2
MAX_WAITING_BYTES = 256_000_000
LONGEST_TAG = 64
FINISH = pickle.dumps(("finish",))
CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from world_models.wandb_process import main
main(int(sys.argv[2]))
"""
TRIAL = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""What `wandb agent` sets for each trial of a sweep."""


def begin(
    folder: Path,
    config: Mapping[str, Any],
    options: WandbConfig,
    job_type: str,
    run_id: str | None = None,
    apart: bool = False,
) -> "WandbRun | None":
    """Begin a run, or none where W&B is turned off. Returns at once.

    Args:
        folder: of the run's results.
        config: the resolved config; the data set that it names becomes a tag.
        options: how to use W&B.
        job_type: what kind of work it is.
        run_id: id of a run to go on with; WANDB_RUN_ID wins over it.
        apart: whether the run is another one than the sweep's trial that the environment names.
    """
    environment = _environment(apart)
    said = environment.get("WANDB_MODE") if options.mode == "auto" else options.mode
    if said == "disabled":
        return None
    own_id = environment.get("WANDB_RUN_ID") or run_id or secrets.token_hex(4)
    request = Request(
        folder=str(folder.resolve()),
        config=config,
        options=options,
        job_type=job_type,
        data_tag=Path(str(config.get("data", ""))).resolve().name[:LONGEST_TAG],
        run_id=own_id,
        resumed=own_id == run_id,
        argv=sys.argv[:],
        pid=os.getpid(),
    )
    return WandbRun(request, environment)


def _environment(apart: bool) -> dict[str, str]:
    """The environment of W&B's process, in which an empty variable of W&B's is one that is not set."""
    left_out = {"WANDB_SERVICE", *(TRIAL if apart and os.environ.get("WANDB_SWEEP_ID") else ())}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in left_out and (value or not name.startswith("WANDB_"))
    }
    if mode := environment.get("WANDB_MODE"):
        environment["WANDB_MODE"] = mode.lower()
    if program := _program():
        environment.setdefault("WANDB_PROGRAM", program)
    return environment


def _program() -> str | None:
    """The program that does the work, as W&B names it."""
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    return f"-m {spec.name}" if spec else getattr(module, "__file__", None)


class WandbRun:
    """A W&B run. It is told things in the order of the calls, each of which returns at once.

    Args:
        request: the run that is asked for.
        environment: of W&B's process.
    """

    def __init__(self, request: Request, environment: Mapping[str, str]):
        self.id = request.run_id
        self._request, self._environment = request, environment
        self._waiting, self._is_left_out = _Waiting(MAX_WAITING_BYTES), False
        self._finished_at, self._is_over = math.inf, False
        self._process: _Process | None = None
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def tell(self, name: str, *values: Any) -> None:
        """Have a method of the process's `Session` called."""
        if not self._is_left_out and not self._waiting.put(pickle.dumps((name, *values))):
            self._leave_out(f"more than {MAX_WAITING_BYTES // 1_000_000} MB wait to be sent.")

    def finish(self) -> None:
        """End the run, and wait for that as long as `END_S` allows."""
        self._waiting.close(FINISH)
        self._finished_at = time.monotonic()
        self._thread.join(END_S)
        self._is_over = True
        while self._thread.is_alive() and time.monotonic() < self._finished_at + END_S + KILL_S:
            if self._process:
                self._process.kill()
            self._thread.join(WATCH_EVERY_S)

    def _work(self) -> None:
        """All that has to do with the process, on the run's own thread."""
        offline = dataclasses.replace(self._request.options, mode="offline")
        try:
            if self._attempt(self._request, LATE_START_S) or self._is_over:
                return
            _say("it does not start. The run is kept offline.")
            if not self._attempt(dataclasses.replace(self._request, options=offline), END_S):
                self._leave_out("it does not start offline either.")
        except (EOFError, OSError):
            self._leave_out("its process has ended.")

    def _attempt(self, request: Request, late_start_s: float) -> bool:
        """Start a process and hand it all messages; returns whether it answered in time."""
        self._process = process = _Process(request, self._environment)
        patience_s = 0.0
        try:
            answer = self._first_answer(process, late_start_s)
            if isinstance(answer, Started):
                self._converse(process, answer)
            elif isinstance(answer, Failed):
                self._leave_out(answer.reason)
            self._is_left_out |= isinstance(answer, Off)
            patience_s = EXIT_S if answer else 0.0
            return answer is not None
        finally:
            process.close(patience_s)

    def _first_answer(self, process: "_Process", late_start_s: float) -> Answer | None:
        begun = time.monotonic()
        while time.monotonic() < min(begun + START_S, max(begun, self._finished_at) + late_start_s):
            if answer := process.answer(WATCH_EVERY_S):
                return answer
        return None

    def _converse(self, process: "_Process", started: Started) -> None:
        """Send the messages and print the answers, until the run has ended."""
        for note in started.notes:
            _say(note)
        if started.online and not started.is_silent:
            _say(started.place)
        try:
            ended = self._last_answer(process)
        except (EOFError, OSError):
            if not self._is_over:
                raise
            ended = None
        if isinstance(ended, Failed):
            self._leave_out(ended.reason)
        elif ended is None:
            _say(f"it has not ended within {END_S:.0f} s. `{started.command}` uploads the run.")
        elif started.online and not ended.is_uploaded:
            _say(f"not everything could be uploaded. `{started.command}` uploads the run.")
        elif not started.online and not started.is_silent:
            _say(f"`{started.command}` uploads the run.")

    def _last_answer(self, process: "_Process") -> Finished | Failed:
        message = None
        while True:
            if message != FINISH and (message := self._waiting.get(WATCH_EVERY_S)):
                process.pipe.send_bytes(message)
            while answer := process.answer(WATCH_EVERY_S if message == FINISH else 0):
                if isinstance(answer, Finished | Failed):
                    return answer
                if isinstance(answer, Note):
                    _say(answer.text)

    def _leave_out(self, reason: str) -> None:
        self._is_left_out = True
        _say(f"{reason} It is left out from here on; {self._request.folder} has everything.")


def _say(line: str) -> None:
    """Print a line, past the progress bar if there is one."""
    tqdm.write(f"W&B: {line}", file=sys.stderr)


class _Waiting:
    """Messages that wait to be sent, of so many bytes in all."""

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
        """Take the next message; None if there is none for so long."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._messages, timeout_s):
                return None
            message = self._messages.popleft()
            self._num_bytes -= len(message)
            return message


class _Process:
    """The process that W&B works in."""

    def __init__(self, request: Request, environment: Mapping[str, str]):
        self.pipe, theirs = Pipe()
        path = [entry or str(Path.cwd()) for entry in sys.path]
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
        self.pipe.send(request)

    def answer(self, timeout_s: float) -> Answer | None:
        """The next answer, None if there is none for so long.

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
        """Wait so long for the process to end by itself, then end it."""
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
