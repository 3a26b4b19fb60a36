"""Where numbers and pictures of a run go: metrics.jsonl always, Weights & Biases and TensorBoard as asked.

No tracking failure ends a run.
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
    """Logs a run's metrics and pictures to every place that was asked for.

    Args:
        folder: the run's folder.
        config: the resolved config, for the comparison of runs.
        wandb: how to use Weights & Biases.
        tensorboard: whether to write TensorBoard's files too.
        run_id: id of the W&B run to go on with.
    """

    def __init__(  # the last two are for a training alone
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
        """Log one line of metrics; `frames_seen` among them is the x axis everywhere."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        files.append_text(self._file, json.dumps(finite) + "\n")
        self._step = int(metrics["step"])
        self._tell_wandb("log", dict(metrics), self._step)

        def send() -> None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, metrics["frames_seen"])

        self._tell_board(send)

    def images(self, images: Mapping[str, Picture], frames_seen: int) -> None:
        """Log pictures of the step that was logged last."""
        self._tell_wandb("images", dict(images), {"frames_seen": frames_seen}, self._step)

        def send() -> None:
            for name, image in images.items():
                self._board.add_image(name, image, frames_seen, dataformats="HWC")

        self._tell_board(send)

    def read(self, product: Product) -> None:
        """Log what the run reads: its hash in W&B's config, and online an artifact."""
        self._tell_wandb("read", product)

    def made(self, product: Product) -> None:
        """Log what the run has made, in the same way."""
        self._tell_wandb("made", product)

    def finish(self) -> None:
        """Close everything; what was logged stays."""
        self._tell_board(lambda: self._board.close())
        if self._wandb:
            self._wandb.finish()

    def _tell_wandb(self, name: str, *values: Any) -> None:
        if self._wandb:
            self._wandb.tell(name, *values)

    def _tell_board(self, send: Callable[[], Any]) -> None:
        """Send to TensorBoard if it is used, and leave it out from the first failure on."""
        if self._board is None:
            return
        try:
            send()
        except Exception as error:
            terminal.warn(f"TensorBoard failed and is left out from here on ({error}); {METRICS_FILE} has everything")
            self._board = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What finished work came to.

    Attributes:
        read: what it read.
        made: what it made that others read.
        scores: its results. W&B's summary gets the numbers among them.
        pictures: its figures.
    """

    read: Sequence[Product]
    made: Product | None = None
    scores: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Picture] = dataclasses.field(default_factory=dict)


def record(folder: Path, config: Mapping[str, Json], wandb: WandbConfig, job_type: str, outcome: Outcome) -> None:
    """Log finished work to W&B: its config, what it read and made, and its results.

    Args:
        folder: where the work's results are.
        config: its resolved config.
        wandb: how to use Weights & Biases.
        job_type: what kind of work it is. It also names the scores: `evaluate/sse`.
        outcome: what the work came to.
    """
    run = wandb_run.begin(folder, config, wandb, job_type, apart=True)
    if run is None:
        return
    for product in outcome.read:
        run.tell("read", product)
    if outcome.made:
        run.tell("made", outcome.made)
    results = flatten({job_type: outcome.scores}, "/")
    run.tell("summary", {name: value for name, value in results.items() if _is_finite(value)})
    if outcome.pictures:
        run.tell("images", {f"{job_type}/{name}": picture for name, picture in outcome.pictures.items()}, {}, None)
    run.finish()


def _is_finite(value: Json) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def truncate_metrics(folder: Path, step: int) -> None:
    """Remove the lines after `step`, which a resumed run writes again, and half-written lines."""
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
    """The folder that a setting names. `{wandb_run_id}` in it becomes the id that a sweep's agent gives.

    The agent's own `${envvar:WANDB_RUN_ID}` cannot do this: it is filled in before the id is known, once for all runs.

    Raises:
        ValueError: there is no such id, or it is no name of a folder.
    """
    if RUN_ID_MARK not in out:
        return out
    run_id = os.environ.get("WANDB_RUN_ID")
    if not run_id:
        raise ValueError(
            f"out is {out} and WANDB_RUN_ID is not set, as `wandb agent` sets it; start it by that, or name a folder"
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
