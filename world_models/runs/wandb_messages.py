"""Messages between the process that does the work and the process that runs W&B."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from world_models.runtime.typed_json import Json


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases. What is not given here is as W&B's own environment variables and settings say.

    Attributes:
        mode: auto is as WANDB_MODE, `wandb offline` and `wandb disabled` say, else online where you are logged in.
        project: project to log to; null for WANDB_PROJECT, else world_models.
        entity: team or user; null for WANDB_ENTITY, else your default.
        group: runs of one group are shown as one, by their mean; null for WANDB_RUN_GROUP.
        name: name of the run; null for WANDB_NAME, else that of its folder.
        tags: labels to filter by; [] for WANDB_TAGS. The data set's name is always one of them.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """The run that is asked for.

    Attributes:
        folder: of the run's results; W&B's own folder is made there, where WANDB_DIR names no other.
        config: the resolved config.
        options: how to use W&B.
        job_type: what kind of work it is.
        data_tag: the tag that names the data set.
        run_id: id of the run.
        resumed: whether the run was begun earlier.
        argv: command line of the process that does the work.
        pid: that process.
    """

    folder: str
    config: Mapping[str, Json]
    options: WandbConfig
    job_type: str
    data_tag: str
    run_id: str
    resumed: bool
    argv: list[str]
    pid: int


class Started(NamedTuple):
    """The run has begun.

    Attributes:
        online: whether it is uploaded as it goes.
        address: of its page, where it is online.
        command: what uploads it later, and whole.
        refused: the variables of the environment that W&B refused, if any.
        is_silent: whether W&B is told to be silent.
    """

    online: bool
    address: str
    command: str
    refused: str
    is_silent: bool


class Off(NamedTuple):
    """The environment or W&B's settings turn W&B off."""


class Failed(NamedTuple):
    """W&B cannot be used any more."""

    reason: str


class Note(NamedTuple):
    """Something to print."""

    text: str


class Finished(NamedTuple):
    """The run has ended; where it is online, whether all of it is uploaded."""

    is_uploaded: bool


Answer = Started | Off | Failed | Note | Finished
