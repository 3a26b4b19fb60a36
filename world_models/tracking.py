"""Where numbers and pictures of a run go: metrics.jsonl always, Weights & Biases and TensorBoard as asked.

No tracking failure ends a run, and nothing here ever asks a question or waits for an answer.
"""

import contextlib
import dataclasses
import json
import math
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from world_models import files
from world_models.config import flatten
from world_models.lineage import TIMEOUT_S, Product, declare
from world_models.paths import check_name

METRICS_FILE = "metrics.jsonl"
ALL_THERE = f"{METRICS_FILE} has everything"
RUN_ID_MARK = "{wandb_run_id}"
WANDB_MODES = dict.fromkeys(("auto", "online", "run", "shared"), "online") | {
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""What W&B knows by WANDB_MODE, as one of three."""
PLACES = {"_wandb": "W&B", "_board": "TensorBoard"}


@dataclasses.dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases.

    Attributes:
        mode: auto is online where there is an API key, else offline; WANDB_MODE in the environment decides for auto.
        project: project to log to.
        entity: team or user; your default when null.
        group: runs of one group are shown as one, by their mean.
        name: name of the run; that of its folder when null.
        tags: labels to filter by; the data set's name is one of them.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "world_models"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()


def tagged(wandb: WandbConfig, data: str) -> WandbConfig:
    """With the data set's name among the tags, of which W&B takes up to 64 letters each."""
    return dataclasses.replace(wandb, tags=(*wandb.tags, Path(data).resolve().name[:64]))


class Tracker:
    """Logs a run's metrics and pictures to every place that was asked for.

    Args:
        folder: the run's folder.
        config: the resolved config, for the comparison of runs.
        wandb: how to use Weights & Biases.
        tensorboard: whether to write TensorBoard's files too.
        run_id: id of the W&B run to go on with.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        wandb: WandbConfig,
        job_type: str,
        tensorboard: bool = False,
        run_id: str | None = None,
    ):
        self._file = folder / METRICS_FILE
        self._wandb: Any = _start_wandb(folder, config, wandb, job_type, run_id)
        self.run_id: str | None = self._wandb.id if self._wandb else None
        self._board: Any = _start_tensorboard(folder) if tensorboard else None
        self._declaring: list[threading.Thread] = []

    def log(self, metrics: Mapping[str, float | int]) -> None:
        """Log one line of metrics; `frames_seen` among them is the x axis everywhere."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        files.append_text(self._file, json.dumps(finite) + "\n")

        def send_to_board() -> None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, metrics["frames_seen"])

        self._guarded("_wandb", lambda: self._wandb.log(dict(metrics)))
        self._guarded("_board", send_to_board)

    def images(self, images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]], frames_seen: int) -> None:
        """Log pictures."""

        def send_to_wandb() -> None:
            import wandb

            self._wandb.log({"frames_seen": frames_seen} | {name: wandb.Image(image) for name, image in images.items()})

        def send_to_board() -> None:
            for name, image in images.items():
                self._board.add_image(name, image, frames_seen, dataformats="HWC")

        self._guarded("_wandb", send_to_wandb)
        self._guarded("_board", send_to_board)

    def read(self, product: Product) -> None:
        """Say what the run is made from: its hash in W&B's config, and online an artifact."""
        self._guarded("_wandb", lambda: self._declaring.append(declare(self._wandb, product, "use_artifact")))

    def made(self, product: Product) -> None:
        """Say what the run has made, in the same way."""
        self._guarded("_wandb", lambda: self._declaring.append(declare(self._wandb, product, "log_artifact")))

    def finish(self) -> None:
        """Close everything; what was logged stays."""
        for thread in self._declaring:
            thread.join(TIMEOUT_S)
        self._guarded("_wandb", lambda: self._wandb.finish())
        self._guarded("_board", lambda: self._board.close())

    def _guarded(self, place: str, send: Callable[[], Any]) -> None:
        """Send to a place that may be missing, and leave it out from the first failure on."""
        if getattr(self, place) is None:
            return
        try:
            send()
        except Exception as error:
            print(f"{PLACES[place]} failed and is left out from here on ({error}); {ALL_THERE}", file=sys.stderr)
            setattr(self, place, None)


def record(
    folder: Path,
    config: Mapping[str, Any],
    wandb: WandbConfig,
    job_type: str,
    read: Iterable[Product],
    made: Product | None = None,
    scores: Mapping[str, Any] | None = None,
    pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]] | None = None,
) -> None:
    """Tell W&B of work that is done: its config, what it read and made, and what it came to.

    Args:
        folder: where the work's results are.
        config: its resolved config.
        wandb: how to use Weights & Biases.
        job_type: what kind of work it is, which names its scores too: `evaluate/sse`.
        read: what it read.
        made: what it made that others read.
        scores: its results, of which W&B's summary has the numbers.
        pictures: its figures.
    """
    own_id = secrets.token_hex(4)  # else in a sweep it would be that of the trial, which WANDB_RUN_ID names
    run = _start_wandb(folder, config, tagged(wandb, config["data"]), job_type, own_id)
    if run is None:
        return
    try:
        threads = [declare(run, product, "use_artifact") for product in read]
        threads += [declare(run, made, "log_artifact")] if made else []
        results = flatten({job_type: scores or {}}, "/")
        run.summary.update({name: value for name, value in results.items() if _is_finite(value)})
        if pictures:
            import wandb as library

            run.log({f"{job_type}/{name}": library.Image(picture) for name, picture in pictures.items()})
        for thread in threads:
            thread.join(TIMEOUT_S)
        run.finish()
    except Exception as error:
        print(f"W&B failed ({error}); {folder} is whole without it", file=sys.stderr)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop the lines after `step`, which a resumed run writes again, and a last line that was half written."""
    path = folder / METRICS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    files.write_text(path, "".join(f"{line}\n" for line in lines if _is_until(step, line)))


def _is_until(step: int, line: str) -> bool:
    with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
        return json.loads(line)["step"] <= step
    return False


def own_folder(out: str) -> str:
    """The folder that a setting names, `{wandb_run_id}` in it replaced by the id that a sweep's agent gives.

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


def _start_wandb(
    folder: Path, config: Mapping[str, Any], options: WandbConfig, job_type: str, run_id: str | None
) -> Any:
    """A W&B run, offline where online is not to be had, None where W&B is off or fails."""
    modes = {"online": ("online", "offline"), "offline": ("offline",), "disabled": ()}
    for mode in modes[_wandb_mode(options, folder)]:
        try:
            return _init_wandb(folder, config, options, job_type, run_id, mode)
        except Exception as error:  # noqa: PERF203 - two turns at most
            print(f"W&B cannot be used {mode} ({error}); {folder} has everything", file=sys.stderr)
    return None


def _wandb_mode(options: WandbConfig, folder: Path) -> str:
    said = (os.environ.get("WANDB_MODE") or "auto").lower() if options.mode == "auto" else options.mode
    mode = WANDB_MODES.get(said)
    if mode is None:
        print(f"W&B: WANDB_MODE is {said!r}, which is no mode, so the run is kept offline", file=sys.stderr)
        return "offline"
    if mode != "online" or _has_api_key():  # without a key, online would ask for it
        return mode
    print(f"W&B: no API key, so the run is kept offline; `wandb sync {folder}/wandb/offline-run-*` uploads it")
    return "offline"


def _init_wandb(
    folder: Path, config: Mapping[str, Any], options: WandbConfig, job_type: str, run_id: str | None, mode: str
) -> Any:
    import wandb

    run = wandb.init(
        dir=folder,
        config=dict(config),
        mode=mode,  # type: ignore[arg-type]
        project=options.project,
        entity=options.entity,
        group=options.group,
        name=options.name or folder.name,
        tags=options.tags,
        job_type=job_type,
        id=run_id,
        resume="allow" if run_id else None,
        settings=wandb.Settings(init_timeout=20, console="off", silent=True, **_bounded_finish(wandb)),
    )
    run.define_metric("frames_seen")
    run.define_metric("*", step_metric="frames_seen")
    for name in ("val/sse", "val/loss_nats"):
        run.define_metric(name, step_metric="frames_seen", summary="min")
    run.define_metric("val/psnr_db", step_metric="frames_seen", summary="max")
    return run


def _bounded_finish(wandb: Any) -> dict[str, Any]:
    """Versions of W&B that can give up an upload at the end of a run are told to, after a minute."""
    return {"finish_timeout": 60} if "finish_timeout" in wandb.Settings.model_fields else {}


def _start_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder / "tensorboard"))
    except Exception as error:
        print(f"TensorBoard cannot be used ({error}); {ALL_THERE}", file=sys.stderr)
        return None


def _has_api_key() -> bool:
    """Whether W&B would find a key by itself: in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc
    from urllib.parse import urlparse

    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    with contextlib.suppress(OSError, ValueError, netrc.NetrcParseError):
        return bool(netrc.netrc(os.environ.get("NETRC")).authenticators(host or ""))
    return False
