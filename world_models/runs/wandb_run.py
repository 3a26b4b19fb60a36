"""A W&B run that cannot disturb the work that it logs.

The work only puts messages into a queue. A thread starts the process that runs W&B, sends it the messages and prints
its answers. So a failure of W&B, of its server or of the network cannot end the work, change its results, or make it
wait. At the end the work waits at most `END_S`.
"""

import contextlib
import dataclasses
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from world_models.runs.wandb_link import MessageQueue, Process
from world_models.runs.wandb_messages import Answer, Failed, Finished, Note, Request, Started, TurnedOff, WandbConfig
from world_models.runtime import terminal
from world_models.runtime.typed_json import Json


def _packed(*message: Any) -> bytes:
    """Pickle a message for the other process."""
    return bytes(reduction.ForkingPickler.dumps(message))


START_S = 60.0
"""How long a start may take during the work. After that the run is begun again, offline."""
LATE_START_S = 10.0
"""How long a start may take after the work is done."""
END_S = 25.0
"""How long the end of the work waits for W&B."""
EXIT_S = 5.0
KILL_S = 2.0
WATCH_EVERY_S = 0.2
MAX_WAITING_BYTES = 256_000_000
LONGEST_TAG = 64
PROCESS_HAS_ENDED = Failed("its process has ended.")
FINISH = _packed("finish")
TRIAL_VARIABLES = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
"""Environment variables that `wandb agent` sets for each trial of a sweep."""


def begin(  # the last two are for a resumed run, and for work that is not the trial of a sweep
    folder: Path,
    config: Mapping[str, Json],
    options: WandbConfig,
    job_type: str,
    run_id: str | None = None,
    is_separate: bool = False,
) -> "WandbRun | None":
    """Begin a run; None if W&B is turned off. Returns at once.

    Args:
        folder: folder of the results.
        config: the resolved config; the name of its data set becomes a tag.
        options: how to use W&B.
        job_type: kind of work.
        run_id: id of a run to continue; WANDB_RUN_ID has priority.
        is_separate: whether the run is separate from the sweep's trial. Then the trial's id in the environment is
            ignored.
    """
    environment = _environment(is_separate)
    mode = environment.get("WANDB_MODE") if options.mode == "auto" else options.mode
    if mode == "disabled":
        return None
    own_id = environment.get("WANDB_RUN_ID") or run_id or secrets.token_hex(4)
    request = Request(
        folder=str(folder.resolve()),
        config=config,
        options=options,
        job_type=job_type,
        data_tag=_data_tag(config.get("data", "")),
        run_id=own_id,
        resumed=own_id == run_id,
        argv=sys.argv[:],
        pid=os.getpid(),
    )
    return WandbRun(request, environment)


def _data_tag(data: Json) -> str:
    """The names of the data sets."""
    paths = data if isinstance(data, list | tuple) else [data]
    return "+".join(Path(str(path)).resolve().name for path in paths)[:LONGEST_TAG]


def _environment(is_separate: bool) -> dict[str, str]:
    """The environment of W&B's process. Empty variables of W&B are left out, so they count as not set."""
    left_out = {"WANDB_SERVICE", *(TRIAL_VARIABLES if is_separate and os.environ.get("WANDB_SWEEP_ID") else ())}
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
    """The program that does the work, in W&B's notation."""
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    return f"-m {spec.name}" if spec else getattr(module, "__file__", None)


class WandbRun:
    """A W&B run. `call` returns at once; messages are handled in the order of the calls.

    Args:
        request: the run to begin.
        environment: environment of W&B's process.
    """

    def __init__(self, request: Request, environment: Mapping[str, str]):
        self.id = request.run_id
        self._request, self._environment = request, environment
        self._waiting, self._is_left_out = MessageQueue(MAX_WAITING_BYTES), False
        self._finished_at, self._is_over = math.inf, False
        self._process: Process | None = None
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def call(self, name: str, *values: Any) -> None:
        """Call a method of `Session` in W&B's process."""
        if not self._is_left_out and not self._waiting.put(_packed(name, *values)):
            self._leave_out(f"more than {MAX_WAITING_BYTES // 1_000_000} MB wait to be sent.")

    def finish(self) -> None:
        """End the run, and wait for its end for at most `END_S`."""
        self._waiting.close(FINISH)
        self._finished_at = time.monotonic()
        self._thread.join(END_S)
        self._is_over = True
        while self._thread.is_alive() and time.monotonic() < self._finished_at + END_S + KILL_S:
            if self._process:
                self._process.kill()
            self._thread.join(WATCH_EVERY_S)

    def _work(self) -> None:
        """Start the process and exchange messages with it. This runs in the run's own thread."""
        offline = dataclasses.replace(self._request.options, mode="offline")
        try:
            failure = self._attempt(self._request, LATE_START_S)
            if failure and self._request.options != offline and not self._is_over:
                rest_s = END_S - LATE_START_S - KILL_S
                failure = self._attempt(dataclasses.replace(self._request, options=offline), rest_s, failure)
        except OSError as error:  # the process cannot be started
            failure = f"{error}."
        if failure:
            self._leave_out(failure)

    def _attempt(self, request: Request, late_start_s: float, why_offline: str = "") -> str:
        """Start a process and send it all messages. Returns why the run did not begin, else an empty string."""
        self._process = process = Process(self._environment)
        patience_s = 0.0
        try:
            answer = self._first_answer(process, request, late_start_s)
            if isinstance(answer, Started):
                self._converse(process, answer, why_offline)
                patience_s = EXIT_S
            self._is_left_out |= isinstance(answer, TurnedOff)
            return answer.reason if isinstance(answer, Failed) else ""
        finally:
            process.close(patience_s)

    def _first_answer(self, process: Process, request: Request, late_start_s: float) -> Answer:
        begun = time.monotonic()
        try:
            process.pipe.send(request)
            while time.monotonic() < min(begun + START_S, max(begun, self._finished_at) + late_start_s):
                if (answer := process.answer(WATCH_EVERY_S)) is not None:
                    return answer
        except (EOFError, OSError):
            return PROCESS_HAS_ENDED
        return Failed("it does not start.")

    def _converse(self, process: Process, started: Started, why_offline: str) -> None:
        """Send the messages and print the answers, until the run has ended."""
        if reason := f"{why_offline} {started.refused}".strip():
            _say(f"{reason} The run is kept offline.")
        if started.online and not started.is_silent:
            _say(started.address)
        try:
            ended = self._last_answer(process)
        except (EOFError, OSError):
            ended = PROCESS_HAS_ENDED
        if self._is_over:
            _say(f"it has not ended within {END_S:.0f} s. `{started.command}` uploads the run.")
        elif isinstance(ended, Failed):
            self._leave_out(ended.reason)
        elif started.online and not ended.is_uploaded:
            _say(f"not everything could be uploaded. `{started.command}` uploads the run.")
        elif not started.online and not started.is_silent:
            _say(f"`{started.command}` uploads the run.")

    def _last_answer(self, process: Process) -> Finished | Failed:
        message = None
        while True:
            if message != FINISH and (message := self._waiting.get(WATCH_EVERY_S)):
                with contextlib.suppress(OSError):  # the process has ended; its last answer is read below
                    process.pipe.send_bytes(message)
            while (answer := process.answer(WATCH_EVERY_S if message == FINISH else 0.0)) is not None:
                if isinstance(answer, Finished | Failed):
                    return answer
                if isinstance(answer, Note):
                    _say(answer.text)

    def _leave_out(self, reason: str) -> None:
        self._is_left_out = True
        _say(f"{reason} W&B is not used any more; {self._request.folder} has everything.")


def _say(line: str) -> None:
    terminal.warn(f"W&B: {line}")
