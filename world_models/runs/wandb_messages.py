"""Messages between the process that does the work and the process that runs W&B."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from world_models.runtime.typed_json import Json


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases. W&B's environment variables and settings decide what is not given here.

    Attributes:
        mode: auto follows WANDB_MODE, `wandb offline` and `wandb disabled`; without them it is online if you are
            logged in.
        project: project to log to; null takes WANDB_PROJECT, else world_models.
        entity: team or user; null takes WANDB_ENTITY, else your default.
        group: W&B shows the runs of a group as their mean; null takes WANDB_RUN_GROUP.
        name: name of the run; null takes WANDB_NAME, else the name of its folder.
        tags: labels to filter by; [] takes WANDB_TAGS. The data set's name is always added.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """The run to begin.

    Attributes:
        folder: folder of the results. W&B makes its own folder there, unless WANDB_DIR names another place.
        config: the resolved config.
        options: how to use W&B.
        job_type: kind of work.
        data_tag: the tag that names the data set.
        run_id: id of the run.
        resumed: whether the run was begun earlier.
        argv: command line of the process that does the work.
        pid: id of that process.
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
        online: whether it is uploaded while it runs.
        address: address of its page, if it is online.
        command: the command that uploads all of it later.
        refused: sentences about environment variables that W&B refused; else empty.
        is_silent: whether W&B's settings ask for silence.
    """

    online: bool
    address: str
    command: str
    refused: str
    is_silent: bool


class TurnedOff(NamedTuple):
    """The environment or W&B's settings turn W&B off."""


class Failed(NamedTuple):
    """W&B cannot be used any more."""

    reason: str


class Note(NamedTuple):
    """A line to print."""

    text: str


class Finished(NamedTuple):
    """The run has ended. If it is online, `is_uploaded` says whether all of it is uploaded."""

    is_uploaded: bool


Answer = Started | TurnedOff | Failed | Note | Finished
