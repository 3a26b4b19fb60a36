"""The process that runs W&B: its calls of W&B, its messages, and that every failure is reported."""

import math
import os
import signal
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models.runs import wandb_process
from world_models.runs.artifacts import Product
from world_models.runs.wandb_messages import Failed, Finished, Note, Request, Started, TurnedOff, WandbConfig

DATA = Product("dataset", "rollouts/a", "abc")
MODEL = Product("model", "runs/a", "def")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


class _Config(dict[str, Any]):
    def update(self, values: Mapping[str, Any], allow_val_change: bool) -> None:  # type: ignore[override]
        super().update(values)


class _Run:
    """Stands in for a W&B run."""

    def __init__(self, folder: Path, offline: bool = True, disabled: bool = False, error: Exception | None = None):
        self.id, self.offline, self.disabled, self.url = "x7", offline, disabled, None if offline else "https://x/x7"
        self.settings = types.SimpleNamespace(sync_dir=str(folder / "wandb" / "offline-run-2-x7"))
        self.rows: list[tuple[dict[str, Any], int | None]] = []
        self.metrics: dict[str, dict[str, Any]] = {}
        self.config, self.summary, self.exit_codes = _Config(), {}, []
        self.error = error

    def define_metric(self, name: str, **options: Any) -> None:
        self.metrics[name] = options

    def log(self, values: dict[str, Any], step: int | None) -> None:
        if self.error:
            raise self.error
        self.rows.append((values, step))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)
        if self.error:
            raise self.error


class _RefusedError(ValueError):
    """Stands in for pydantic's ValidationError."""

    def __init__(self, field: str):
        super().__init__(f"{field} is wrong")
        self._field = field

    def errors(self) -> list[dict[str, Any]]:
        return [{"loc": (self._field,)}]


class _Library:
    """Stands in for the package wandb."""

    def __init__(self, run: Any, version: str, settings: Mapping[str, Any], fields: tuple[str, ...]):
        self.run, self.__version__ = run, version
        self._settings = {"project": None, "run_name": None, "run_tags": None, "silent": None} | dict(settings)
        self.calls: list[dict[str, Any]] = []
        self.wrong: dict[str, str] = {}
        self.Image = lambda picture: ("image", picture.shape)
        self.Html = lambda path, inject: ("page", path, inject)
        self.Settings = type("Settings", (dict,), {"model_fields": dict.fromkeys(fields)})

    def setup(self) -> Any:
        for name, value in self.wrong.items():
            if os.environ.get(name) == value:
                raise _RefusedError(name.removeprefix("WANDB_").lower())
        return types.SimpleNamespace(settings=types.SimpleNamespace(**self._settings))

    def init(self, **options: Any) -> Any:
        self.calls.append(options)
        if isinstance(self.run, BaseException):
            raise self.run
        return self.run


Install = Callable[..., _Library]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Puts a stand-in in the place of the package wandb."""

    def install(
        run: Any = None, version: str = "0.31.0", fields: tuple[str, ...] = ("finish_timeout",), **settings: Any
    ) -> _Library:
        module: Any = _Library(run or _Run(tmp_path), version, settings, fields)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


def _request(folder: Path, **options: Any) -> Request:
    return Request(str(folder), {"lr": 0.1}, WandbConfig(**options), "train", "carracing", "x7", False, ["a"], 1)


class _Pipe:
    """The process's end of a pipe whose other end has sent these messages and is closed."""

    def __init__(self, messages: tuple[tuple[Any, ...], ...]):
        self._messages, self.answers = list(messages), []

    def recv(self) -> tuple[Any, ...]:
        if not self._messages:
            raise EOFError
        return self._messages.pop(0)

    def send(self, answer: Any) -> None:
        self.answers.append(answer)


def _served(request: Request, *messages: tuple[Any, ...]) -> list[Any]:
    """The answers to a request and messages."""
    pipe = _Pipe(messages)
    wandb_process.serve(pipe, request)
    return pipe.answers


FINISH = ("finish",)


# what W&B is asked for


def _asked(library: _Library, request: Request) -> dict[str, Any]:
    _served(request, FINISH)
    (call,) = library.calls
    return call


def test_wandb_starts_with_the_given_options(tmp_path: Path, library: Install):
    given = {"project": "mine", "entity": "me", "group": "seeds", "name": "first"}
    call = _asked(library(), _request(tmp_path, **given, tags=("a", "b")))
    assert call.items() >= (given | {"tags": ("a", "b", "carracing"), "config": {"lr": 0.1}, "id": "x7"}).items()


def test_options_that_are_not_given_have_our_defaults(tmp_path: Path, library: Install):
    call = _asked(library(), _request(tmp_path))
    ours = {"project": "world_models", "name": tmp_path.name, "tags": ("carracing",), "dir": str(tmp_path)}
    assert call.items() >= (ours | {"job_type": "train", "entity": None, "group": None, "mode": None}).items()


def test_the_environment_and_settings_files_override_our_defaults(
    tmp_path: Path, library: Install, monkeypatch: pytest.MonkeyPatch
):
    for name in ("WANDB_DIR", "WANDB_JOB_TYPE"):
        monkeypatch.setenv(name, "theirs")
    call = _asked(library(project="theirs", run_name="theirs", run_tags=("theirs",)), _request(tmp_path))
    theirs = {"project": "theirs", "name": "theirs", "tags": ("theirs", "carracing"), "dir": None, "job_type": None}
    assert call.items() >= theirs.items()


def test_given_options_override_the_environment(tmp_path: Path, library: Install):
    given = {"project": "mine", "name": "mine", "tags": ("mine",)}
    call = _asked(library(project="theirs", run_name="theirs", run_tags=("theirs",)), _request(tmp_path, **given))
    assert call.items() >= (given | {"tags": ("mine", "carracing")}).items()


@pytest.mark.parametrize(("mode", "asked"), [("auto", None), ("online", "online"), ("offline", "offline")])
def test_wandb_chooses_the_mode_unless_it_is_given(tmp_path: Path, library: Install, mode: str, asked: str | None):
    assert _asked(library(), _request(tmp_path, mode=mode))["mode"] == asked


@pytest.mark.parametrize(
    ("resumed", "variable", "asked"), [(False, "", None), (True, "", "allow"), (True, "must", None)]
)
def test_an_existing_run_is_resumed(
    tmp_path: Path, library: Install, monkeypatch: pytest.MonkeyPatch, resumed: bool, variable: str, asked: str | None
):
    monkeypatch.setenv("WANDB_RESUME", variable)
    assert _asked(library(), replace(_request(tmp_path), resumed=resumed))["resume"] == asked


def test_system_metrics_are_those_of_the_working_process(tmp_path: Path, library: Install):
    assert _asked(library(), _request(tmp_path))["settings"]["x_stats_pid"] == 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [((), set()), (("finish_timeout", "finish_timeout_raises"), {"finish_timeout", "finish_timeout_raises"})],
)
def test_the_time_of_an_upload_is_limited_if_wandb_has_such_a_setting(
    tmp_path: Path, library: Install, fields: tuple[str, ...], told: set[str]
):
    asked = _asked(library(fields=fields), _request(tmp_path))["settings"]
    assert {name for name in asked if name.startswith("finish")} == told


def test_frames_seen_is_the_x_axis_of_all_charts(tmp_path: Path, library: Install):
    run = _Run(tmp_path)
    _asked(library(run), _request(tmp_path))
    assert run.metrics["*"] == {"step_metric": "frames_seen"}
    assert {options.get("step_metric", "frames_seen") for options in run.metrics.values()} == {"frames_seen"}


@pytest.mark.parametrize(("name", "summary"), [("val/sse", "min"), ("val/loss_nats", "min"), ("val/psnr_db", "max")])
def test_runs_are_compared_by_their_best_validation(tmp_path: Path, library: Install, name: str, summary: str):
    run = _Run(tmp_path)
    _asked(library(run), _request(tmp_path))
    assert run.metrics[name]["summary"] == summary


# what it answers


def test_a_variable_that_wandb_refuses_keeps_the_run_offline(
    tmp_path: Path, library: Install, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_MODE", "of")
    module = library()
    module.wrong = {"WANDB_MODE": "of"}
    started = _served(_request(tmp_path), FINISH)[0]
    assert started.refused == "WANDB_MODE is 'of', which it refuses. "
    assert module.calls[0]["mode"] == "offline"


def test_settings_that_cannot_be_read_count_as_a_failure(tmp_path: Path, library: Install):
    module: Any = library()

    def setup() -> None:
        raise ValueError("no settings")

    module.setup = setup
    assert _served(_request(tmp_path)) == [Failed("no settings.")]


def test_the_answer_for_an_offline_run_is_the_command_that_uploads_it(tmp_path: Path, library: Install):
    library()
    command = f"wandb sync {tmp_path}/wandb/offline-run-2-x7"
    assert _served(_request(tmp_path), FINISH) == [Started(False, "", command, "", False), Finished(True)]


def test_the_answer_for_an_online_run_is_its_address(tmp_path: Path, library: Install):
    library(_Run(tmp_path, offline=False))
    started = _served(_request(tmp_path), FINISH)[0]
    assert (started.online, started.address) == (True, "https://x/x7")


@pytest.mark.parametrize(("version", "command"), [("0.19.0", "wandb sync --append"), ("0.31.0", "wandb sync")])
def test_the_command_uploads_the_parts_that_were_written_offline_before(
    tmp_path: Path, library: Install, version: str, command: str
):
    library(version=version)
    for name in ("offline-run-1-x7", "offline-run-1-other", "offline-run-2-x7", "run-0-x7"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    parts = " ".join(str(tmp_path / "wandb" / name) for name in ("offline-run-1-x7", "offline-run-2-x7"))
    assert _served(_request(tmp_path), FINISH)[0].command == f"{command} {parts}"


def test_the_answer_says_if_wandb_is_turned_off(tmp_path: Path, library: Install):
    library(_Run(tmp_path, disabled=True))
    assert _served(_request(tmp_path)) == [TurnedOff()]


@pytest.mark.parametrize(
    ("error", "reason"), [(OSError("no network\nat all"), "no network at all."), (SystemExit(), "SystemExit.")]
)
def test_any_failure_to_start_is_reported_in_one_line(
    tmp_path: Path, library: Install, error: BaseException, reason: str
):
    library(error)
    assert _served(_request(tmp_path)) == [Failed(reason)]


def test_a_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (answer,) = _served(_request(tmp_path))
    assert isinstance(answer, Failed)


def test_a_failure_while_logging_is_reported_and_the_run_is_ended(tmp_path: Path, library: Install):
    run = _Run(tmp_path, error=ConnectionError("no network"))
    library(run)
    answers = _served(_request(tmp_path), ("log", {"x": 1}, 1), FINISH)
    assert answers[1:] == [Failed("no network."), Finished(False)]
    assert run.exit_codes == [1]


def test_a_run_whose_upload_fails_at_the_end_is_not_uploaded(tmp_path: Path, library: Install):
    library(_Run(tmp_path, error=TimeoutError("too slow")))
    assert _served(_request(tmp_path), FINISH)[1:] == [Finished(False)]


# messages to W&B


def test_numbers_are_rows_of_the_training_step(tmp_path: Path, library: Install):
    run = _Run(tmp_path)
    library(run)
    _served(_request(tmp_path), ("log", {"step": 4, "train/sse": 2.5}, 4), FINISH)
    assert run.rows == [({"step": 4, "train/sse": 2.5}, 4)]
    assert run.exit_codes == [0]


def test_pictures_are_in_the_row_of_their_step(tmp_path: Path, library: Install):
    run = _Run(tmp_path)
    library(run)
    picture = np.zeros((4, 6, 3), np.uint8)
    _served(_request(tmp_path), ("images", {"samples": picture}, {"frames_seen": 30}, 4), FINISH)
    assert run.rows == [({"frames_seen": 30, "samples": ("image", (4, 6, 3))}, 4)]


def test_pages_are_shown_as_they_are(tmp_path: Path, library: Install):
    run = _Run(tmp_path)
    library(run)
    _served(_request(tmp_path), ("pages", {"explore/explorer": "/x/explorer.html"}), FINISH)
    assert run.rows == [({"explore/explorer": ("page", "/x/explorer.html", False)}, None)]


def test_hashes_of_sources_and_products_are_in_the_config(tmp_path: Path, library: Install):
    run = _Run(tmp_path)
    library(run)
    _served(_request(tmp_path), ("log_input", DATA), ("log_output", MODEL), FINISH)
    assert run.config == {"data_digest": "abc", "vae_sha256": "def"}


def test_an_artifact_that_is_refused_is_reported(tmp_path: Path, library: Install):
    library(_Run(tmp_path, offline=False))  # has no use_artifact
    note = _served(_request(tmp_path), ("log_input", DATA), FINISH)[1]
    assert isinstance(note, Note) and note.text.startswith("rollouts/a could not be declared as an artifact")


def test_scores_are_in_the_summary(tmp_path: Path, library: Install):
    run = _Run(tmp_path)
    library(run)
    _served(_request(tmp_path), ("summary", {"evaluate/sse": 9.5}), FINISH)
    assert run.summary == {"evaluate/sse": 9.5}


def test_when_the_work_is_killed_the_run_is_marked_as_failed_and_the_process_does_not_stay(
    tmp_path: Path, library: Install, monkeypatch: pytest.MonkeyPatch
):
    alarms: list[int] = []
    monkeypatch.setattr(signal, "alarm", alarms.append)
    run = _Run(tmp_path)
    library(run)
    _served(_request(tmp_path), ("log", {"step": 1}, 1))
    assert (run.rows, run.exit_codes, len(alarms)) == ([({"step": 1}, 1)], [1], 1)


def test_stopping_a_run_on_wandbs_page_interrupts_the_work(
    tmp_path: Path, library: Install, monkeypatch: pytest.MonkeyPatch
):
    library()
    handlers: list[Any] = []
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.append(handler))
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    monkeypatch.setattr(sys, "argv", ["before"])
    ours, theirs = Pipe()
    ours.send(_request(tmp_path))
    ours.send(FINISH)
    handle = os.dup(theirs.fileno())
    wandb_process.main(handle)
    handlers[0](signal.SIGINT, None)
    assert killed == [(1, signal.SIGINT)]
    assert sys.argv == ["a"]


def test_infinite_values_are_sent_to_wandb_unchanged(tmp_path: Path, library: Install):
    run = _Run(tmp_path)
    library(run)
    _served(_request(tmp_path), ("log", {"train/sse": math.inf}, 1), FINISH)
    assert run.rows == [({"train/sse": math.inf}, 1)]
