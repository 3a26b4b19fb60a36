"""Metrics go to metrics.jsonl always, to W&B and TensorBoard on request, and their failures never end a run."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models.runs import tracking, wandb_run
from world_models.runs.artifacts import Product
from world_models.runs.tracking import Tracker, WandbConfig, truncate_metrics

OFF = WandbConfig(mode="disabled")
DATA = Product("dataset", "rollouts/a", "abc")
MODEL = Product("model", "runs/a", "def")
LATENTS = Product("latents", "latents/a", "ghi")


class _Run:
    """Replaces a run of W&B, and records the calls."""

    id = "run-id"

    def __init__(self):
        self.told: list[tuple[Any, ...]] = []
        self.begun: list[tuple[Any, ...]] = []

    def call(self, *message: Any) -> None:
        self.told.append(message)

    def finish(self) -> None:
        self.told.append(("finish",))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> _Run:
    """The run that is begun in the test."""
    run = _Run()

    def begin(*arguments: Any, **more: Any) -> _Run:
        run.begun.append((*arguments, *more.values()))
        return run

    monkeypatch.setattr(wandb_run, "begin", begin)
    return run


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# metrics.jsonl


def test_each_line_is_a_json_object(tmp_path: Path):
    tracker = Tracker(tmp_path, {}, OFF, "train")
    logged = [{"step": 1, "frames_seen": 10, "train/sse": 1.5}, {"step": 2, "frames_seen": 20, "train/sse": 1.25}]
    for metrics in logged:
        tracker.log(metrics)
    tracker.finish()
    assert _lines(tmp_path) == logged


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_a_number_is_written_as_null(tmp_path: Path, value: float):
    tracker = Tracker(tmp_path, {}, OFF, "train")
    tracker.log({"step": 1, "frames_seen": 10, "train/sse": value})
    tracker.finish()
    assert _lines(tmp_path) == [{"step": 1, "frames_seen": 10, "train/sse": None}]


def test_a_line_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path):
    tracker = Tracker(tmp_path, {}, OFF, "train")
    tracker.log({"step": 1, "frames_seen": 10})
    assert _lines(tmp_path) == [{"step": 1, "frames_seen": 10}]
    tracker.finish()


def test_a_second_tracker_appends(tmp_path: Path):
    for step in (1, 2):
        tracker = Tracker(tmp_path, {}, OFF, "train")
        tracker.log({"step": step, "frames_seen": step})
        tracker.finish()
    assert [line["step"] for line in _lines(tmp_path)] == [1, 2]


def _metrics(folder: Path, text: str) -> None:
    (folder / "metrics.jsonl").write_text(text)


LINES = "".join(json.dumps({"step": step, "x": step / 3}) + "\n" for step in (2, 4, 4, 6))


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (3, 1), (4, 3), (5, 3), (6, 4), (99, 4)])
def test_truncation_keeps_the_lines_up_to_the_step(tmp_path: Path, step: int, kept: int):
    _metrics(tmp_path, LINES)
    truncate_metrics(tmp_path, step)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == LINES.splitlines()[:kept]


def test_truncation_drops_a_half_written_line(tmp_path: Path):
    _metrics(tmp_path, LINES + '[]\n{"x": 1}\n{"step": 6, "x')
    truncate_metrics(tmp_path, 99)
    assert (tmp_path / "metrics.jsonl").read_text() == LINES


@pytest.mark.parametrize(
    "line",
    [b'{"step": 1, "x": "\xff"}', b"[" * 100_000, b'{"step": ' + b"9" * 5000 + b"}", b'{"step": "1"}', b"\x00"],
    ids=["no text", "deep", "digits", "a text as step", "zeros"],
)
def test_truncation_drops_damaged_lines(tmp_path: Path, line: bytes):
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n" + LINES.encode() + line + b"\n")
    truncate_metrics(tmp_path, 99)
    assert (tmp_path / "metrics.jsonl").read_text() == LINES


def test_truncation_without_metrics_makes_an_empty_file(tmp_path: Path):
    truncate_metrics(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


# W&B


ON = WandbConfig()


def test_wandb_gets_the_names_and_numbers_of_metrics_jsonl_with_their_step(tmp_path: Path, run: _Run):
    tracker = Tracker(tmp_path, {}, ON, "train")
    tracker.log({"step": 4, "frames_seen": 10, "train/sse": 2.5})
    tracker.finish()
    assert run.told == [("log", _lines(tmp_path)[0], 4), ("finish",)]


def test_wandb_gets_pictures_with_the_step_that_was_logged_last(tmp_path: Path, run: _Run):
    tracker = Tracker(tmp_path, {}, ON, "train")
    tracker.log({"step": 4, "frames_seen": 10})
    tracker.images({"samples": (picture := np.zeros((8, 8, 3), np.uint8))}, 10)
    tracker.finish()
    name, pictures, others, step = run.told[1]
    assert (name, others, step) == ("images", {"frames_seen": 10}, 4)
    assert pictures["samples"] is picture


@pytest.mark.parametrize("verb", ["log_input", "log_output"])
def test_wandb_gets_the_sources_and_the_products(tmp_path: Path, run: _Run, verb: str):
    tracker = Tracker(tmp_path, {}, ON, "train")
    getattr(tracker, verb)(DATA)
    tracker.finish()
    assert run.told[0] == (verb, DATA)


def test_a_tracker_has_the_id_of_its_run_at_once(tmp_path: Path, run: _Run):
    tracker = Tracker(tmp_path, {"lr": 0.1}, ON, "train", run_id="abc")
    tracker.finish()
    assert tracker.run_id == "run-id"
    assert run.begun == [(tmp_path, {"lr": 0.1}, ON, "train", "abc")]


def test_disabled_wandb_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = Tracker(tmp_path, {}, OFF, "train")
    tracker.log({"step": 1, "frames_seen": 10})
    tracker.images({"x": np.zeros((2, 2, 3), np.uint8)}, 10)
    tracker.log_input(DATA)
    tracker.log_output(MODEL)
    tracker.finish()
    assert tracker.run_id is None


# work without metrics


def _record(folder: Path, options: WandbConfig, **results: Any) -> None:
    tracking.record(folder, {"data": "rollouts/a"}, options, "evaluate", tracking.Outcome((DATA, MODEL), **results))


def test_work_without_metrics_logs_its_sources_and_its_product(tmp_path: Path, run: _Run):
    _record(tmp_path, ON, output=LATENTS)
    assert run.told[:3] == [("log_input", DATA), ("log_input", MODEL), ("log_output", LATENTS)]
    assert run.told[-1] == ("finish",)


def test_work_without_metrics_is_a_separate_run_from_the_trial_of_a_sweep(tmp_path: Path, run: _Run):
    _record(tmp_path, ON)
    assert run.begun == [(tmp_path, {"data": "rollouts/a"}, ON, "evaluate", True)]


def test_work_without_metrics_writes_no_metrics_file(tmp_path: Path):
    _record(tmp_path, OFF)
    assert not list(tmp_path.iterdir())


def test_work_without_metrics_logs_its_scores_in_the_summary_under_its_name(tmp_path: Path, run: _Run):
    scores = {"sse": 9.5, "probe_r2": {"speed": 0.5, "zoom": None}, "frames": 100, "data": "rollouts/a", "kl": [1.0]}
    _record(tmp_path, ON, scores=scores | {"bad": math.inf})
    summary = {"evaluate/sse": 9.5, "evaluate/probe_r2/speed": 0.5, "evaluate/frames": 100}
    assert ("summary", summary) in run.told


def test_work_without_metrics_logs_its_pictures(tmp_path: Path, run: _Run):
    picture = np.full((4, 6, 3), 7, np.uint8)
    _record(tmp_path, ON, pictures={"worst": picture})
    ((_, pictures, others, step),) = [message for message in run.told if message[0] == "images"]
    assert (list(pictures), others, step) == (["evaluate/worst"], {}, None)
    assert pictures["evaluate/worst"] is picture


def test_work_without_metrics_logs_its_pages(tmp_path: Path, run: _Run):
    _record(tmp_path, ON, pages={"explorer": tmp_path / "explorer.html"})
    assert ("pages", {"evaluate/explorer": str(tmp_path / "explorer.html")}) in run.told


# a folder for each run of a sweep


def test_the_placeholder_in_a_folder_becomes_the_id_of_the_sweeps_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_RUN_ID", "x7")
    assert tracking.own_folder("runs/sweep/{wandb_run_id}") == "runs/sweep/x7"


def test_a_folder_without_the_placeholder_is_not_changed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_RUN_ID", "x7")
    assert tracking.own_folder("runs/vae") == "runs/vae"


@pytest.mark.parametrize("run_id", [None, ""])
def test_the_placeholder_without_an_agent_is_refused(monkeypatch: pytest.MonkeyPatch, run_id: str | None):
    if run_id is None:
        monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    else:
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
    with pytest.raises(ValueError, match="WANDB_RUN_ID is not set"):
        tracking.own_folder("runs/{wandb_run_id}")


# TensorBoard


def _board(folder: Path, scalars: Mapping[str, float]) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(folder, {}, OFF, "train", tensorboard=True)
    tracker.log({"step": 1, "frames_seen": 10, **scalars})
    tracker.images({"samples": np.zeros((8, 8, 3), np.uint8)}, 10)
    tracker.finish()
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_tensorboard_gets_numbers_over_frames_seen(tmp_path: Path):
    (event,) = _board(tmp_path, {"train/sse": 2.5}).Scalars("train/sse")
    assert (event.step, event.value) == (10, 2.5)


def test_tensorboard_gets_pictures(tmp_path: Path):
    (event,) = _board(tmp_path, {}).Images("samples")
    assert (event.step, event.width, event.height) == (10, 8, 8)


def test_tensorboard_is_not_written_unless_asked_for(tmp_path: Path):
    Tracker(tmp_path, {}, OFF, "train").finish()
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_tensorboard_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    tracker = Tracker(tmp_path, {}, OFF, "train", tensorboard=True)
    tracker.log({"step": 1, "frames_seen": 10})
    tracker.finish()
    assert len(_lines(tmp_path)) == 1


def test_a_failure_of_tensorboard_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torch.utils.tensorboard import SummaryWriter

    def fail(*_args: Any, **_options: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    tracker = Tracker(tmp_path, {}, OFF, "train", tensorboard=True)
    tracker.log({"step": 1, "frames_seen": 10})
    tracker.finish()
    assert len(_lines(tmp_path)) == 1


@pytest.mark.parametrize("run_id", ["../x", "a/b", "..", "a\nb"])
def test_a_run_id_that_leads_to_another_folder_is_refused(monkeypatch: pytest.MonkeyPatch, run_id: str):
    monkeypatch.setenv("WANDB_RUN_ID", run_id)
    with pytest.raises(ValueError, match=r"^WANDB_RUN_ID is '"):
        tracking.own_folder("runs/{wandb_run_id}")
