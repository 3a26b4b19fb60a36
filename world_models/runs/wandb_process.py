"""The process that runs W&B. A failure of W&B affects only this process.

It has no terminal, so W&B cannot ask questions. It receives messages through a pipe and answers through the same pipe.
W&B itself decides about accounts, modes and settings: it reads the environment, its settings files and its credentials.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from world_models.runs.artifacts import Product, declare
from world_models.runs.wandb_messages import Failed, Finished, Note, Request, Started, TurnedOff

PROJECT = "world_models"
INIT_TIMEOUT_S = 20
UPLOAD_TIMEOUT_S = 15
"""How long the end of a run waits for the upload, if the version of W&B has such a setting."""
ARTIFACT_TIMEOUT_S = 5
NO_MESSAGE = "<no message>"
"""W&B's text for errors without a message."""
ORPHAN_S = 25
"""How long this process lives after its parent process has ended."""
FIRST_SYNC_OF_PARTS = (0, 30)
"""The first version of W&B whose sync command continues a resumed run by itself and has no flag --append."""
Picture = UInt8[np.ndarray, "_ _ 3"]


def main(handle: int) -> None:
    """Begin a run, handle the messages from the pipe, and finish. `handle` is the pipe's file descriptor."""
    pipe: Connection[Any, Any] = Connection(handle)
    request: Request = pipe.recv()

    def interrupt(number: int, frame: Any) -> None:  # W&B sends SIGINT when somebody stops the run on its web page
        os.kill(request.pid, signal.SIGINT)

    signal.signal(signal.SIGINT, interrupt)
    sys.argv[:] = request.argv
    serve(pipe, request)


def serve(pipe: Any, request: Request) -> None:
    """Answer a request: `main` without signals and command line."""
    try:
        run, started = _begin(request)
    except BaseException as error:  # even SystemExit, which the import of a broken package may raise
        pipe.send(Failed(_line(error)))
        return
    pipe.send(started)
    if isinstance(started, TurnedOff):
        return
    try:
        exit_code = _work(run, pipe)
    except Exception as error:
        pipe.send(Failed(_line(error)))
        exit_code = 1
    is_uploaded = _finish(run, exit_code)
    with contextlib.suppress(OSError):  # the parent process may have ended
        pipe.send(Finished(is_uploaded))


def _begin(request: Request) -> tuple[Any, Started | TurnedOff]:
    """Begin the W&B run. Returns it and the answer to send."""
    import wandb

    settings, refused = _settings(wandb)
    mode = "offline" if refused else request.options.mode
    run = _init(wandb, request, settings, None if mode == "auto" else mode)
    if run.disabled:
        return run, TurnedOff()
    command = sync_command(Path(run.settings.sync_dir), run.id)
    return run, Started(not run.offline, run.url or "", command, refused, bool(settings.silent))


def _settings(wandb: Any) -> tuple[Any, str]:
    """W&B's settings from the environment and its files, and sentences about variables that it refused.

    Refused variables are removed from the environment.
    """
    refused = ""
    while True:
        try:
            return wandb.setup().settings, refused
        except ValueError as error:  # noqa: PERF203 - one turn for each refused variable
            fields = [str(problem["loc"][0]) for problem in getattr(error, "errors", list)()]
            names = [name for field in fields if (name := f"WANDB_{field.upper()}") in os.environ]
            if not names:
                raise
            refused += "".join(f"{name} is {os.environ.pop(name)!r}, which it refuses. " for name in names)


def _init(wandb: Any, request: Request, settings: Any, mode: str | None) -> Any:
    options, environment = request.options, os.environ
    run = wandb.init(
        dir=None if environment.get("WANDB_DIR") else request.folder,
        config=dict(request.config),
        mode=mode,
        project=options.project or settings.project or PROJECT,
        entity=options.entity,
        group=options.group,
        name=options.name or settings.run_name or Path(request.folder).name,
        tags=(*(options.tags or settings.run_tags or ()), request.data_tag),
        job_type=None if environment.get("WANDB_JOB_TYPE") else request.job_type,
        id=request.run_id,
        resume="allow" if request.resumed and not environment.get("WANDB_RESUME") else None,
        settings=wandb.Settings(
            init_timeout=INIT_TIMEOUT_S, console="off", silent=True, x_stats_pid=request.pid, **_bounded_finish(wandb)
        ),
    )
    run.define_metric("frames_seen")
    run.define_metric("*", step_metric="frames_seen")
    for name in ("val/sse", "val/loss_nats"):
        run.define_metric(name, step_metric="frames_seen", summary="min")
    run.define_metric("val/psnr_db", step_metric="frames_seen", summary="max")
    return run


def _bounded_finish(wandb: Any) -> dict[str, int | bool]:
    """Settings that limit the upload at the end of a run, if this version of W&B has them."""
    wanted = {"finish_timeout": UPLOAD_TIMEOUT_S, "finish_timeout_raises": True}
    return {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}


def sync_command(folder: Path, run_id: str) -> str:
    """The command that uploads a run, together with its earlier offline parts."""
    import wandb

    parts = sorted(folder.parent.glob(f"offline-run-*-{run_id}"))
    earlier = [part for part in parts if part != folder]
    version = tuple(int(number) for number in wandb.__version__.split(".")[:2])
    append = ["--append"] if earlier and version < FIRST_SYNC_OF_PARTS else []
    return " ".join(["wandb sync", *append, *map(str, [*earlier, folder])])


def _work(run: Any, pipe: Any) -> int:
    """Handle the messages from the pipe. Returns the exit code of the work: 0, or 1 if its process was killed."""
    session = Session(run, pipe)
    while True:
        try:
            name, *values = pipe.recv()
        except (EOFError, OSError):
            signal.alarm(ORPHAN_S)
            return 1
        if name == "finish":
            session.wait()
            return 0
        getattr(session, name)(*values)


class Session:
    """The messages that a run understands: one method for each."""

    def __init__(self, run: Any, pipe: Any):
        self._run, self._declaring = run, []
        self._say = lambda line: pipe.send(Note(line))

    def log(self, metrics: Mapping[str, float | int], step: int | None) -> None:
        """Log metrics of a training step. All metrics of a step become one row of W&B's history.

        The step is the training's own. W&B's own counter restarts at 0 in each part of a run that is resumed offline,
        and `wandb sync` leaves out rows whose step is not larger than earlier ones.
        """
        self._run.log(dict(metrics), step=step)

    def images(self, images: Mapping[str, Picture], others: Mapping[str, float | int], step: int | None) -> None:
        """Log pictures, together with other numbers."""
        import wandb

        self._run.log({**others, **{name: wandb.Image(image) for name, image in images.items()}}, step=step)

    def pages(self, pages: Mapping[str, str]) -> None:
        """Log HTML files, by their paths. They are shown as they are, without W&B's own style."""
        import wandb

        self._run.log({name: wandb.Html(path, inject=False) for name, path in pages.items()}, step=None)

    def summary(self, values: Mapping[str, float | int]) -> None:
        """Log the results of the work."""
        self._run.summary.update(dict(values))

    def log_input(self, product: Product) -> None:
        """Log a product that the run reads."""
        self._declaring.append(declare(self._run, product, "use_artifact", self._say))

    def log_output(self, product: Product) -> None:
        """Log a product that the run has made."""
        self._declaring.append(declare(self._run, product, "log_artifact", self._say))

    def wait(self) -> None:
        """Wait up to `ARTIFACT_TIMEOUT_S` for each artifact to be declared."""
        for thread in self._declaring:
            thread.join(ARTIFACT_TIMEOUT_S)


def _finish(run: Any, exit_code: int) -> bool:
    """End the run. Returns whether all of it was uploaded, if it is online."""
    try:
        run.finish(exit_code)
    except Exception:
        return False
    return True


def _line(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if text in ("", NO_MESSAGE) or not isinstance(error, Exception):
        text = f"{type(error).__name__} {text}".strip()
    return text if text.endswith(".") else f"{text}."
