"""Logs metrics and pictures of a run: always to metrics.jsonl, on request to Weights & Biases and TensorBoard.

A failure of W&B or TensorBoard never ends a run.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from world_models.runs import wandb_run
from world_models.runs.artifacts import Product
from world_models.runs.layout import METRICS_FILE, flatten
from world_models.runs.wandb_messages import WandbConfig
from world_models.runtime import files, terminal, untrusted
from world_models.runtime.paths import check_name
from world_models.runtime.typed_json import Json, is_number

RUN_ID_MARK = "{wandb_run_id}"

Picture = UInt8[np.ndarray, "_ _ 3"]


class Tracker:
    """Logs a run's metrics and pictures to metrics.jsonl, W&B and TensorBoard.

    Args:
        folder: the run's folder.
        config: the resolved config, for W&B.
        wandb: how to use Weights & Biases.
        job_type: kind of work, for W&B.
        tensorboard: whether to write TensorBoard's files too.
        run_id: id of the W&B run to continue.
    """

    def __init__(  # only a training gives the last two
        self,
        folder: Path,
        config: Mapping[str, Json],
        wandb: WandbConfig,
        job_type: str,
        tensorboard: bool = False,
        run_id: str | None = None,
    ):
        self._file = folder / METRICS_FILE
        self._wandb = wandb_run.begin(folder, config, wandb, job_type, run_id)
        self.run_id = self._wandb.id if self._wandb else None
        self._board: Any = _start_tensorboard(folder) if tensorboard else None
        self._step: int | None = None

    def log(self, metrics: Mapping[str, float | int]) -> None:
        """Log one line of metrics. They include `step`, and `frames_seen`, which is the x axis of all charts."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        files.append_text(self._file, json.dumps(finite) + "\n")
        self._step = int(metrics["step"])
        self._to_wandb("log", dict(metrics), self._step)

        def send() -> None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, metrics["frames_seen"])

        self._to_board(send)

    def images(self, images: Mapping[str, Picture], frames_seen: int) -> None:
        """Log pictures of the step that was logged last."""
        self._to_wandb("images", dict(images), {"frames_seen": frames_seen}, self._step)

        def send() -> None:
            for name, image in images.items():
                self._board.add_image(name, image, frames_seen, dataformats="HWC")

        self._to_board(send)

    def log_input(self, product: Product) -> None:
        """Log a product that the run reads: its digest in W&B's config, and online an artifact."""
        self._to_wandb("log_input", product)

    def log_output(self, product: Product) -> None:
        """Log a product that the run has made: its digest in W&B's config, and online an artifact."""
        self._to_wandb("log_output", product)

    def finish(self) -> None:
        """Close W&B and TensorBoard."""
        self._to_board(lambda: self._board.close())
        if self._wandb:
            self._wandb.finish()

    def _to_wandb(self, name: str, *values: Any) -> None:
        if self._wandb:
            self._wandb.call(name, *values)

    def _to_board(self, send: Callable[[], Any]) -> None:
        """Send to TensorBoard if it is used. After the first failure it is not used any more."""
        if self._board is None:
            return
        try:
            send()
        except Exception as error:
            terminal.warn(f"TensorBoard failed and is not used any more ({error}); {METRICS_FILE} has everything")
            self._board = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of finished work.

    Attributes:
        inputs: the products that it read.
        output: the product that it made, if any.
        scores: its results; the numbers among them go to W&B's summary.
        pictures: its figures.
        pages: HTML files, by name.
    """

    inputs: Sequence[Product]
    output: Product | None = None
    scores: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Picture] = dataclasses.field(default_factory=dict)
    pages: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def record(folder: Path, config: Mapping[str, Json], wandb: WandbConfig, job_type: str, outcome: Outcome) -> None:
    """Log finished work to W&B: its config, the products that it read and made, and its results.

    Args:
        folder: folder of the results.
        config: its resolved config.
        wandb: how to use Weights & Biases.
        job_type: kind of work. The names of scores begin with it, such as `evaluate/sse`.
        outcome: the outcome of the work.
    """
    run = wandb_run.begin(folder, config, wandb, job_type, is_separate=True)
    if run is None:
        return
    for product in outcome.inputs:
        run.call("log_input", product)
    if outcome.output:
        run.call("log_output", outcome.output)
    results = flatten({job_type: outcome.scores}, "/")
    run.call("summary", {name: value for name, value in results.items() if _is_finite(value)})
    if outcome.pictures:
        run.call("images", {f"{job_type}/{name}": picture for name, picture in outcome.pictures.items()}, {}, None)
    if outcome.pages:
        run.call("pages", {f"{job_type}/{name}": str(path) for name, path in outcome.pages.items()})
    run.finish()


def _is_finite(value: Json) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def truncate_metrics(folder: Path, step: int) -> None:
    """Remove the lines after `step`, because a resumed run writes them again, and half-written lines."""
    path = folder / METRICS_FILE
    lines = path.read_bytes().splitlines() if untrusted.is_file(path) else []
    files.write_bytes(path, b"".join(line + b"\n" for line in lines if _is_until(step, line)))


def _is_until(step: int, line: bytes) -> bool:
    with contextlib.suppress(ValueError):
        logged = untrusted.from_json(line)
        at = logged.get("step") if isinstance(logged, dict) else None
        return is_number(at) and at <= step
    return False


def own_folder(out: str) -> str:
    """Replace `{wandb_run_id}` in a folder's name by the run's id from a sweep's agent.

    The agent's `${envvar:WANDB_RUN_ID}` does not work here, because the agent fills it in once, before any id is known.

    Raises:
        ValueError: there is no id, or it cannot be part of a folder's name.
    """
    if RUN_ID_MARK not in out:
        return out
    run_id = os.environ.get("WANDB_RUN_ID")
    if not run_id:
        raise ValueError(
            f"out is {out}, but WANDB_RUN_ID is not set; start the command by `wandb agent`, or name a folder"
        )
    check_name(run_id, "WANDB_RUN_ID")
    return out.replace(RUN_ID_MARK, run_id)


def _start_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder / "tensorboard"))
    except Exception as error:
        terminal.warn(f"TensorBoard cannot be used ({error}); {METRICS_FILE} has everything")
        return None
