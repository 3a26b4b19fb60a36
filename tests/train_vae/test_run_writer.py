"""Writing the folder of a training run."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from world_models.runs import checkpoints, description, resume, tracking
from world_models.runs.artifacts import Product
from world_models.runs.description import TrainedOn
from world_models.runs.tracking import WandbConfig
from world_models.runtime import files, locks
from world_models.runtime.errors import Stopped
from world_models.train_vae.data import KINDS
from world_models.train_vae.learner import Learner
from world_models.train_vae.run_writer import Position, RunWriter
from world_models.vae import baselines
from world_models.vae.config import VAEConfig
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE

CONFIG = "num_frames: 7\nlr: 0.5\n"
TRAINED_ON = TrainedOn("rollouts", "here", "abc", "Synthetic-v0", {}, [1, 2], 0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(VAE(VAEConfig(z_dim=2), {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}), 0, 0.0, False)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)


def _open(out: Path, tensorboard: bool = False) -> RunWriter:
    return RunWriter(out, CONFIG, TRAINED_ON, WandbConfig("disabled"), tensorboard)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunWriter]:
    run = _open(tmp_path / "runs" / "a")
    yield run
    run.close()


def _written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != locks.LOCK}


# the process that writes


def test_a_run_makes_its_folder(run: RunWriter, tmp_path: Path):
    assert (tmp_path / "runs" / "a").is_dir()


def test_a_run_removes_unfinished_files(tmp_path: Path, leave_partial: Callable[[Path], Path]):
    (tmp_path / "figures").mkdir()
    leave_partial(tmp_path / "state.pt")
    leave_partial(tmp_path / "figures" / "a.png")
    _open(tmp_path).close()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_is_locked_until_the_run_is_closed(tmp_path: Path):
    first = _open(tmp_path)
    with pytest.raises(Stopped, match="being written by another process"):
        _open(tmp_path)
    first.close()
    _open(tmp_path).close()


def test_a_run_whose_tracking_failed_releases_its_folder(tmp_path: Path, learner: Learner):
    (tmp_path / "metrics.jsonl").mkdir()
    run = _open(tmp_path)
    with pytest.raises(ValueError, match="a folder, wanted a file"):
        run.track(learner)
    run.close()
    _open(tmp_path).close()


def test_a_new_run_has_its_config_and_its_baselines(
    run: RunWriter, tmp_path: Path, learner: Learner, frames: np.ndarray
):
    run.begin(learner, lambda count: frames[:count])
    out = tmp_path / "runs" / "a"
    assert _written(out) == {"config.yaml", "baselines.safetensors"}
    assert (out / "config.yaml").read_text() == CONFIG
    expected = baselines.fit_baselines(frames, 2)
    saved = checkpoints.load_tensors(out / "baselines.safetensors")
    assert torch.equal(saved["mean"], torch.as_tensor(expected.mean))


def test_lines_are_logged_in_order(run: RunWriter, tmp_path: Path, learner: Learner):
    lines = [{"step": step, "frames_seen": 8 * step, "epoch": 0.25 * step, "train/sse": 0.5 * step} for step in (1, 2)]
    run.track(learner)
    for step in (1, 2):
        run.log(Position(step, 8 * step, 0.25 * step), "train", {"sse": 0.5 * step})
    run.close()
    logged = (tmp_path / "runs" / "a" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in logged] == lines


def test_metrics_after_the_learners_step_are_dropped(tmp_path: Path, learner: Learner):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "frames_seen": 0}\n{"step": 1, "frames_seen": 8}\n')
    run = _open(tmp_path)
    run.track(learner)
    run.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "frames_seen": 0}\n'


def test_pictures_are_named_by_the_frames_seen(run: RunWriter, tmp_path: Path, learner: Learner, frames: np.ndarray):
    run.track(learner)
    held_out, position = LabelledFrames.of_one_class(frames), Position(9, 1234, 0.5)
    run.draw(KINDS["rollouts"].draw(learner.vae, held_out, position, finished=True), 1234)
    drawn = {path.name for path in (tmp_path / "runs" / "a" / "figures").iterdir()}
    assert drawn == {f"{name}_000001234.png" for name in ("reconstructions", "samples", "interpolation")}


def test_a_saved_run_has_the_learners_weights_and_state(run: RunWriter, tmp_path: Path, learner: Learner):
    run.save(learner, learner.vae)
    out = tmp_path / "runs" / "a"
    assert _written(out) == {"model.safetensors", "model.json", "state.pt"}
    assert resume.load_state(out)["step"] == learner.step
    weights = checkpoints.load_vae(out, "last").state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in learner.vae.state_dict().items())


def test_a_saved_run_names_its_training_data(run: RunWriter, tmp_path: Path, learner: Learner):
    run.save(learner, learner.vae)
    found = description.load(tmp_path / "runs" / "a")
    assert (found.trained_on, found.step) == (TRAINED_ON, learner.step)


def test_the_best_weights_are_saved_next_to_the_last_ones(run: RunWriter, tmp_path: Path, learner: Learner):
    run.save_best(learner, learner.vae)
    out = tmp_path / "runs" / "a"
    assert _written(out) == {"best.safetensors"}
    saved = checkpoints.load_tensors(out / "best.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in learner.vae.state_dict().items())


# messages to W&B


class _Tracker:
    """Replaces a tracker, and records the calls."""

    made_last: "_Tracker"
    run_id = None

    def __init__(self, *_: Any):
        self.products: list[tuple[str, Product]] = []
        _Tracker.made_last = self

    def log_input(self, product: Product) -> None:
        self.products.append(("log_input", product))

    def log_output(self, product: Product) -> None:
        self.products.append(("log_output", product))

    def finish(self) -> None:
        pass


def test_a_run_logs_the_data_that_it_reads(run: RunWriter, learner: Learner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "Tracker", _Tracker)
    run.track(learner)
    ((verb, product),) = _Tracker.made_last.products
    assert (verb, product.kind, product.path, product.digest) == ("log_input", "dataset", "here", "abc")


@pytest.mark.parametrize(("weights", "name"), [("last", "model.safetensors"), ("best", "best.safetensors")])
def test_a_finished_run_logs_its_best_weights_or_else_its_last(
    run: RunWriter, tmp_path: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch, weights: str, name: str
):
    monkeypatch.setattr(tracking, "Tracker", _Tracker)
    run.track(learner)
    run.save(learner, learner.vae)
    if weights == "best":
        run.save_best(learner, learner.vae)
    lines = [{"step": step, "frames_seen": 9, "val/sse": step + 0.5} for step in (learner.step, learner.step + 1)]
    (tmp_path / "runs" / "a" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.log_final_model()
    verb, product = _Tracker.made_last.products[-1]
    scores = {"weights": weights, "sse": learner.step + 0.5}  # the scores of these weights, not of later ones
    assert (verb, product.kind, product.facts) == ("log_output", "model", scores)
    assert product.digest == files.file_sha256(tmp_path / "runs" / "a" / name)


def test_tensorboard_is_written_if_asked_for(tmp_path: Path, learner: Learner):
    run = _open(tmp_path, tensorboard=True)
    run.track(learner)
    run.close()
    assert list(tmp_path.glob("tensorboard/events.out.tfevents.*"))


def test_results_of_a_run_are_printed_and_warnings_go_to_stderr(
    run: RunWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run.say("done")
    run.warn("collapse")
    assert capsys.readouterr() == (f"{tmp_path / 'runs' / 'a'}: done\n", "collapse\n")
