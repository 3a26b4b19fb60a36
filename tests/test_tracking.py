"""Where numbers go: metrics.jsonl always, W&B and TensorBoard as asked, and no failure of theirs ends a run."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models import tracking
from world_models.lineage import Product
from world_models.tracking import Tracker, WandbConfig, truncate_metrics

OFF = WandbConfig(mode="disabled")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a W&B account or settings."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class _Config(dict[str, Any]):
    """Stands in for a W&B run's config."""

    def __init__(self, fail: bool):
        super().__init__()
        self._fail = fail

    def update(self, values: Mapping[str, Any], allow_val_change: bool) -> None:  # type: ignore[override]
        assert allow_val_change
        if self._fail:
            raise ConnectionError("no network")
        super().update(values)


class _Run:
    """Stands in for a W&B run."""

    id = "run-id"

    def __init__(self, fail: bool = False):
        self.logged: list[dict[str, Any]] = []
        self.metrics: dict[str, dict[str, Any]] = {}
        self.finished, self._fail = False, fail
        self.config, self.offline = _Config(fail), True
        self.summary: dict[str, float] = {}

    def define_metric(self, name: str, **options: Any) -> None:
        self.metrics[name] = options

    def log(self, values: dict[str, Any]) -> None:
        if self._fail:
            raise ConnectionError("no network")
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True
        if self._fail:
            raise ConnectionError("no network")


Init = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def fake_init(monkeypatch: pytest.MonkeyPatch) -> Init:
    """Replaces `wandb.init`; gives the list of what it is called with."""
    import wandb

    def install(run: Any = None, failing: tuple[str, ...] = (), error: Exception | None = None) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def init(**options: Any) -> Any:
            calls.append(options)
            if options["mode"] in failing:
                raise error or ConnectionError("no network")
            return run or _Run()

        monkeypatch.setattr(wandb, "init", init)
        return calls

    return install


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
def test_what_is_not_a_number_is_null(tmp_path: Path, value: float):
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


def test_truncation_of_no_metrics_leaves_an_empty_file(tmp_path: Path):
    truncate_metrics(tmp_path, 5)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


# which mode


def test_auto_without_a_key_is_offline_and_says_so_in_one_line(
    tmp_path: Path, fake_init: Init, capsys: pytest.CaptureFixture[str]
):
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig(), "train").finish()
    assert [call["mode"] for call in calls] == ["offline"]
    (line,) = capsys.readouterr().out.splitlines()
    assert "no API key" in line
    assert f"wandb sync {tmp_path}" in line


def test_auto_with_a_key_in_the_environment_is_online(
    tmp_path: Path, fake_init: Init, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig(), "train").finish()
    assert [call["mode"] for call in calls] == ["online"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("base_url", "host", "mode"),
    [
        (None, "api.wandb.ai", "online"),
        (None, "github.com", "offline"),
        ("https://wandb.example.org:8080", "wandb.example.org", "online"),
        ("https://wandb.example.org:8080", "api.wandb.ai", "offline"),
        ("nonsense", "api.wandb.ai", "offline"),
    ],
)
def test_auto_finds_the_key_in_netrc(
    tmp_path: Path, fake_init: Init, monkeypatch: pytest.MonkeyPatch, base_url: str | None, host: str, mode: str
):
    (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    if base_url:
        monkeypatch.setenv("WANDB_BASE_URL", base_url)
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig(), "train").finish()
    assert [call["mode"] for call in calls] == [mode]


@pytest.mark.parametrize("damaged", [b"machine\nmachine machine nonsense", b"machine \xff"])
def test_a_damaged_netrc_is_no_key(tmp_path: Path, fake_init: Init, damaged: bytes):
    (tmp_path / "netrc").write_bytes(damaged)
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig(), "train").finish()
    assert [call["mode"] for call in calls] == ["offline"]


@pytest.mark.parametrize(
    ("variable", "modes"),
    [
        ("online", ["online"]),
        ("shared", ["online"]),
        ("run", ["online"]),
        ("", ["online"]),
        ("offline", ["offline"]),
        ("OFFLINE", ["offline"]),
        ("dryrun", ["offline"]),
        ("disabled", []),
        ("Disabled", []),
    ],
)
def test_wandb_mode_in_the_environment_decides_for_auto(
    tmp_path: Path, fake_init: Init, monkeypatch: pytest.MonkeyPatch, variable: str, modes: list[str]
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", variable)
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig(), "train").finish()
    assert [call["mode"] for call in calls] == modes


def test_nothing_is_uploaded_by_a_mode_that_is_none(
    tmp_path: Path, fake_init: Init, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "of")
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig(), "train").finish()
    assert [call["mode"] for call in calls] == ["offline"]
    assert "WANDB_MODE is 'of', which is no mode, so the run is kept offline" in capsys.readouterr().err


@pytest.mark.parametrize(("mode", "modes"), [("online", ["online"]), ("offline", ["offline"]), ("disabled", [])])
def test_a_mode_asked_for_wins_over_the_environment(
    tmp_path: Path, fake_init: Init, monkeypatch: pytest.MonkeyPatch, mode: Any, modes: list[str]
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline" if mode != "offline" else "online")
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig(mode=mode), "train").finish()
    assert [call["mode"] for call in calls] == modes


def test_disabled_wandb_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = Tracker(tmp_path, {}, OFF, "train")
    tracker.log({"step": 1, "frames_seen": 10})
    tracker.images({"x": np.zeros((2, 2, 3), np.uint8)}, 10)
    tracker.finish()
    assert tracker.run_id is None


# what W&B is told


def test_wandb_is_told_what_the_config_says(tmp_path: Path, fake_init: Init):
    calls = fake_init()
    options = WandbConfig("offline", "my_project", "me", "my_group", "my_name", ("a", "b"))
    Tracker(tmp_path, {"lr": 0.1}, options, "train").finish()
    expected = {"project": "my_project", "entity": "me", "group": "my_group", "name": "my_name", "tags": ("a", "b")}
    assert calls[0].items() >= (expected | {"config": {"lr": 0.1}, "job_type": "train", "dir": tmp_path}).items()


def test_wandb_run_is_named_for_its_folder(tmp_path: Path, fake_init: Init):
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig("offline"), "train").finish()
    assert calls[0]["name"] == tmp_path.name


@pytest.mark.parametrize(("run_id", "resume"), [(None, None), ("abc", "allow")])
def test_wandb_goes_on_with_a_known_run(tmp_path: Path, fake_init: Init, run_id: str | None, resume: str | None):
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig("offline"), "train", run_id=run_id).finish()
    assert (calls[0]["id"], calls[0]["resume"]) == (run_id, resume)


def test_tracker_knows_its_wandb_run(tmp_path: Path, fake_init: Init):
    fake_init(_Run())
    tracker = Tracker(tmp_path, {}, WandbConfig("offline"), "train")
    tracker.finish()
    assert tracker.run_id == "run-id"


def test_frames_seen_is_wandbs_x_axis(tmp_path: Path, fake_init: Init):
    run = _Run()
    fake_init(run)
    Tracker(tmp_path, {}, WandbConfig("offline"), "train").finish()
    assert run.metrics["*"] == {"step_metric": "frames_seen"}
    assert {options.get("step_metric", "frames_seen") for options in run.metrics.values()} == {"frames_seen"}


def test_wandb_gets_the_names_and_numbers_of_metrics_jsonl(tmp_path: Path, fake_init: Init):
    run = _Run()
    fake_init(run)
    tracker = Tracker(tmp_path, {}, WandbConfig("offline"), "train")
    tracker.log({"step": 1, "frames_seen": 10, "train/sse": 2.5})
    tracker.finish()
    assert run.logged == _lines(tmp_path)
    assert run.finished


def test_wandb_gets_pictures_at_the_frames_seen(tmp_path: Path, fake_init: Init):
    run = _Run()
    fake_init(run)
    tracker = Tracker(tmp_path, {}, WandbConfig("offline"), "train")
    tracker.images({"samples": np.zeros((8, 8, 3), np.uint8)}, 30)
    tracker.finish()
    assert [set(values) for values in run.logged] == [{"frames_seen", "samples"}]
    assert run.logged[0]["frames_seen"] == 30


@pytest.mark.parametrize(("name", "summary"), [("val/sse", "min"), ("val/loss_nats", "min"), ("val/psnr_db", "max")])
def test_runs_are_compared_by_their_best_validation(tmp_path: Path, fake_init: Init, name: str, summary: str):
    run = _Run()
    fake_init(run)
    Tracker(tmp_path, {}, WandbConfig("offline"), "train").finish()
    assert run.metrics[name]["summary"] == summary


@pytest.mark.parametrize("verb", ["read", "made"])
def test_hashes_of_what_was_read_and_made_are_in_wandbs_config(tmp_path: Path, fake_init: Init, verb: str):
    run = _Run()
    fake_init(run)
    tracker = Tracker(tmp_path, {}, WandbConfig("offline"), "train")
    getattr(tracker, verb)(Product("dataset", "rollouts/a", "abc"))
    tracker.finish()
    assert run.config == {"data_digest": "abc"}


def test_declaring_to_no_wandb_does_nothing(tmp_path: Path):
    tracker = Tracker(tmp_path, {}, OFF, "train")
    tracker.read(Product("dataset", "rollouts/a", "abc"))
    tracker.made(Product("model", "runs/a", "def"))
    tracker.finish()


# work without metrics

SOURCES = (Product("dataset", "rollouts/a", "abc"), Product("model", "runs/a", "def"))
LATENTS = Product("latents", "latents/a", "ghi")


def _record(folder: Path, options: WandbConfig) -> None:
    tracking.record(folder, {"data": "rollouts/a"}, options, "encode", SOURCES, LATENTS)


def test_work_without_metrics_leaves_the_hashes_of_what_it_read_and_made(tmp_path: Path, fake_init: Init):
    run = _Run()
    fake_init(run)
    _record(tmp_path, WandbConfig("offline"))
    assert run.config == {"data_digest": "abc", "vae_sha256": "def", "latents_digest": "ghi"}
    assert run.finished


def test_work_without_metrics_is_tagged_with_its_data(tmp_path: Path, fake_init: Init):
    calls = fake_init()
    _record(tmp_path, WandbConfig("offline", tags=("mine",)))
    assert (calls[0]["tags"], calls[0]["job_type"]) == (("mine", "a"), "encode")


def test_a_tag_is_no_longer_than_is_allowed():
    assert len(tracking.tagged(WandbConfig(), "x" * 100).tags[0]) == 64


def test_work_without_metrics_writes_no_file_of_ours(tmp_path: Path):
    _record(tmp_path, OFF)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", [(), ("offline",)])
def test_no_failure_of_wandb_ends_work_without_metrics(
    tmp_path: Path, fake_init: Init, failing: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    fake_init(_Run(fail=True), failing)
    _record(tmp_path, WandbConfig("offline"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "no network" in line


def test_work_without_metrics_leaves_its_scores_in_the_summary_under_its_name(tmp_path: Path, fake_init: Init):
    run = _Run()
    fake_init(run)
    scores = {"sse": 9.5, "probe_r2": {"speed": 0.5, "zoom": None}, "frames": 100, "data": "rollouts/a", "kl": [1.0]}
    tracking.record(
        tmp_path, {"data": "rollouts/a"}, WandbConfig("offline"), "evaluate", SOURCES, scores=scores | {"bad": math.inf}
    )
    assert run.summary == {"evaluate/sse": 9.5, "evaluate/probe_r2/speed": 0.5, "evaluate/frames": 100}
    assert run.config == {"data_digest": "abc", "vae_sha256": "def"} and not run.logged and run.finished


def test_work_after_a_trial_of_a_sweep_is_a_run_of_its_own(
    tmp_path: Path, fake_init: Init, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_RUN_ID", "x7")  # which W&B takes where it is given no id
    calls = fake_init()
    _record(tmp_path, WandbConfig("offline"))
    _record(tmp_path, WandbConfig("offline"))
    assert len({"x7", None, *(call["id"] for call in calls)}) == 4


def test_work_without_metrics_leaves_its_pictures(tmp_path: Path, fake_init: Init):
    run = _Run()
    fake_init(run)
    pictures = {"worst": np.full((4, 6, 3), 7, np.uint8)}
    tracking.record(tmp_path, {"data": "rollouts/a"}, WandbConfig("offline"), "evaluate", SOURCES, pictures=pictures)
    ((name, image),) = run.logged[0].items()
    assert (name, image.image.size, image.image.getpixel((0, 0))) == ("evaluate/worst", (6, 4), (7, 7, 7))


# a folder for each run of a sweep


def test_a_sweeps_run_gets_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_RUN_ID", "x7")
    assert tracking.own_folder("runs/sweep/{wandb_run_id}") == "runs/sweep/x7"


def test_a_folder_without_the_mark_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_RUN_ID", "x7")
    assert tracking.own_folder("runs/vae") == "runs/vae"


@pytest.mark.parametrize("run_id", [None, ""])
def test_the_mark_without_an_agent_is_refused(monkeypatch: pytest.MonkeyPatch, run_id: str | None):
    if run_id is None:
        monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    else:
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
    with pytest.raises(ValueError, match="WANDB_RUN_ID is not set"):
        tracking.own_folder("runs/{wandb_run_id}")


# when W&B fails


def test_online_without_a_key_never_asks_for_one(tmp_path: Path, fake_init: Init, capsys: pytest.CaptureFixture[str]):
    calls = fake_init()
    Tracker(tmp_path, {}, WandbConfig(mode="online"), "train").finish()
    assert [call["mode"] for call in calls] == ["offline"]
    assert "no API key" in capsys.readouterr().out


def test_where_online_fails_the_run_is_kept_offline(
    tmp_path: Path, fake_init: Init, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    calls = fake_init(failing=("online",))
    tracker = Tracker(tmp_path, {}, WandbConfig("online"), "train")
    tracker.finish()
    assert [call["mode"] for call in calls] == ["online", "offline"]
    assert tracker.run_id == "run-id"
    (line,) = capsys.readouterr().err.splitlines()
    assert "W&B cannot be used online (no network)" in line


@pytest.mark.parametrize(
    "error", [ConnectionError("x"), ValueError("x"), TimeoutError("x"), OSError("x"), KeyError("x")]
)
def test_no_failure_to_start_wandb_ends_a_run(
    tmp_path: Path, fake_init: Init, error: Exception, capsys: pytest.CaptureFixture[str]
):
    fake_init(failing=("offline",), error=error)
    tracker = Tracker(tmp_path, {}, WandbConfig("offline"), "train")
    tracker.log({"step": 1, "frames_seen": 10})
    tracker.finish()
    assert tracker.run_id is None
    assert len(_lines(tmp_path)) == len(capsys.readouterr().err.splitlines()) == 1


def test_wandb_that_is_not_installed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = Tracker(tmp_path, {}, WandbConfig("offline"), "train")
    tracker.finish()
    assert tracker.run_id is None
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_wandb_that_fails_while_logging_is_left_out_with_one_line(
    tmp_path: Path, fake_init: Init, capsys: pytest.CaptureFixture[str]
):
    fake_init(_Run(fail=True))
    tracker = Tracker(tmp_path, {}, WandbConfig("offline"), "train")
    for step in (1, 2, 3):
        tracker.log({"step": step, "frames_seen": step})
    tracker.images({"x": np.zeros((2, 2, 3), np.uint8)}, 3)
    tracker.finish()
    assert len(_lines(tmp_path)) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "W&B failed and is left out" in line


def test_wandb_that_fails_to_finish_does_not_end_the_run(
    tmp_path: Path, fake_init: Init, capsys: pytest.CaptureFixture[str]
):
    fake_init(_Run(fail=True))
    Tracker(tmp_path, {}, WandbConfig("offline"), "train").finish()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_offline_run_is_really_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # a port where nobody listens
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    tracker = Tracker(tmp_path, {"lr": 0.1}, WandbConfig("offline"), "train")
    tracker.log({"step": 1, "frames_seen": 10, "train/sse": 2.5})
    tracker.images({"samples": np.zeros((8, 8, 3), np.uint8)}, 10)
    tracker.read(Product("dataset", "rollouts/a", "digest-of-the-data"))
    tracker.made(Product("model", "runs/a", "digest-of-the-model"))
    tracker.finish()
    (written,) = (tmp_path / "wandb").glob(f"offline-run-*/run-{tracker.run_id}.wandb")
    deadline = time.monotonic() + 30  # W&B's own process may still be writing when finish returns
    while b"digest-of-the-model" not in written.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    for text in (b"train/sse", b"digest-of-the-data", b"digest-of-the-model"):
        assert text in written.read_bytes()


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


def test_without_asking_there_is_no_tensorboard(tmp_path: Path):
    Tracker(tmp_path, {}, OFF, "train").finish()
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_that_is_not_installed_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    tracker = Tracker(tmp_path, {}, OFF, "train", tensorboard=True)
    tracker.log({"step": 1, "frames_seen": 10})
    tracker.finish()
    assert len(_lines(tmp_path)) == 1


def test_tensorboard_that_fails_while_logging_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torch.utils.tensorboard import SummaryWriter

    def fail(*_args: Any, **_options: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    tracker = Tracker(tmp_path, {}, OFF, "train", tensorboard=True)
    tracker.log({"step": 1, "frames_seen": 10})
    tracker.finish()
    assert len(_lines(tmp_path)) == 1


@pytest.mark.parametrize("run_id", ["../x", "a/b", "..", "a\nb"])
def test_a_run_id_that_leads_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, run_id: str):
    monkeypatch.setenv("WANDB_RUN_ID", run_id)
    with pytest.raises(ValueError, match=r"^WANDB_RUN_ID is '"):
        tracking.own_folder("runs/{wandb_run_id}")
