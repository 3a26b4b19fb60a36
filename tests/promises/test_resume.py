"""Interrupted and resumed training gives the same bits as training without interruption."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from world_models.data.batches import Batch
from world_models.data.frames import BLOCK_FRAMES
from world_models.data.rollouts import FRAME_BYTES
from world_models.runs import resume
from world_models.runtime import files
from world_models.train_vae import command
from world_models.train_vae.learner import Learner

pytestmark = pytest.mark.slow

SHUFFLE_FRAMES = 8
STREAMED_GB = 2 * (SHUFFLE_FRAMES + BLOCK_FRAMES) * FRAME_BYTES / 1e9  # the least that is accepted
FLAGS = (  # an epoch has 205 frames, so 7 steps
    f"--num_frames 256 --batch_size 32 --shuffle_frames {SHUFFLE_FRAMES} --lr_warmup_frames 40 --log_every_steps 4 "
    "--beta_warmup_frames 90 --val_every_frames 100 --num_val_frames 16 --vae.z_dim 4"
)
MEMORY = {"resident": "", "streamed": f"--memory_gb {STREAMED_GB!r}"}


def _train(data: Path, out: Path, more: str = "") -> Path:
    command.main(f"--data {data} --out {out} {FLAGS} {more}".split())
    return out


@pytest.fixture(scope="module")
def whole(rollouts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted training on resident frames."""
    return _train(rollouts_dir, tmp_path_factory.mktemp("resume") / "whole")


def _stop(learner: Learner) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _crash(learner: Learner) -> None:
    raise RuntimeError("power cut")


def _at_step(monkeypatch: pytest.MonkeyPatch, step: int, happen: Callable[[Learner], None]) -> None:
    learn = Learner.learn

    def spy(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        learn(self, batch, lr, beta_share)
        if self.step == step:
            happen(self)

    monkeypatch.setattr(Learner, "learn", spy)


def _broken(data: Path, out: Path, step: int, happen: Callable[[Learner], None], more: str = "") -> Path:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        _at_step(patch, step, happen)
        _train(data, out, more)
    return out


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "train/frames_per_s"} for line in lines]


def _weights(run: Path) -> dict[str, str]:
    return {name: files.file_sha256(run / name) for name in ("model.safetensors", "best.safetensors")}


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(("happen", "step"), [(_stop, 3), (_crash, 8)], ids=["stopped", "crashed"])
def test_resumed_training_equals_uninterrupted_training_bit_for_bit(
    rollouts_dir: Path, tmp_path: Path, whole: Path, memory: str, happen: Callable[[Learner], None], step: int
):
    run = _broken(rollouts_dir, tmp_path / "run", step, happen, MEMORY[memory])
    _train(rollouts_dir, run, f"--resume true {MEMORY[memory]}")
    assert _weights(run) == _weights(whole)
    assert _metrics(run) == _metrics(whole)


KILL_AFTER_STEP = """
import os, signal, sys
from world_models.train_vae import command
from world_models.train_vae.learner import Learner
learn = Learner.learn
def learn_and_die(self, *batch):
    learn(self, *batch)
    if self.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
Learner.learn = learn_and_die
command.main(sys.argv[1:])
"""


KILL_AT_A_SAVE = """
import os, signal, sys
from world_models.runs import resume
from world_models.train_vae import command
save = resume.save_state
def save_and_die(run, state):
    save(run, state)
    if state.step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
resume.save_state = save_and_die
command.main(sys.argv[2:])
"""


def _pictures(run: Path) -> dict[str, str]:
    return {path.name: files.file_sha256(path) for path in (run / "figures").iterdir()}


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_training_that_was_killed_after_saving_its_state_has_all_pictures(
    rollouts_dir: Path, tmp_path: Path, whole: Path, leave_partial: Callable[[Path], Path], which: int
):
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    leave_partial(run / "figures" / "samples_000000001.png")
    step = [int(line["step"]) for line in _metrics(whole) if "val/sse" in line][which]
    argv = f"{step} --data {rollouts_dir} --out {run} {FLAGS}".split()
    assert subprocess.run([sys.executable, "-c", KILL_AT_A_SAVE, *argv]).returncode == -signal.SIGKILL
    _train(rollouts_dir, run, "--resume true")
    assert _pictures(run) == _pictures(whole)


def test_training_that_was_killed_between_two_checkpoints_resumes_bit_for_bit(
    rollouts_dir: Path, tmp_path: Path, whole: Path
):
    run = tmp_path / "run"
    argv = f"--data {rollouts_dir} --out {run} {FLAGS}".split()
    assert subprocess.run([sys.executable, "-c", KILL_AFTER_STEP, *argv]).returncode == -signal.SIGKILL
    assert 0 < resume.load_state(run)["step"] < 6
    _train(rollouts_dir, run, "--resume true")
    assert _weights(run) == _weights(whole)
    assert _metrics(run) == _metrics(whole)


def test_resumed_training_with_an_optimal_variance_equals_uninterrupted_training_bit_for_bit(
    rollouts_dir: Path, tmp_path: Path
):
    sharp = "--vae.variance null"
    unbroken = _train(rollouts_dir, tmp_path / "unbroken", sharp)
    run = _broken(rollouts_dir, tmp_path / "run", 5, _crash, sharp)
    _train(rollouts_dir, run, f"--resume true {sharp}")
    assert _weights(run) == _weights(unbroken)
    assert _metrics(run) == _metrics(unbroken)


def test_the_interruptions_of_these_tests_are_in_the_middle_of_an_epoch(rollouts_dir: Path, tmp_path: Path):
    run = _broken(rollouts_dir, tmp_path / "run", 3, _stop)
    assert resume.load_state(run)["step"] == 3
    config = command.TrainConfig(data=str(rollouts_dir), out=str(tmp_path / "other"), batch_size=32)
    assert command.prepare(config).batches.steps_per_epoch == 7


def test_streamed_training_equals_resident_training_bit_for_bit(rollouts_dir: Path, tmp_path: Path, whole: Path):
    streamed = _train(rollouts_dir, tmp_path / "run", MEMORY["streamed"])
    assert _weights(streamed) == _weights(whole)
    assert _metrics(streamed) == _metrics(whole)


def test_a_resident_run_may_be_resumed_streamed(rollouts_dir: Path, tmp_path: Path, whole: Path):
    run = _broken(rollouts_dir, tmp_path / "run", 6, _stop)
    _train(rollouts_dir, run, f"--resume true {MEMORY['streamed']}")
    assert _weights(run) == _weights(whole)


def test_the_small_memory_of_these_tests_makes_training_stream(rollouts_dir: Path, tmp_path: Path):
    config = command.TrainConfig(
        data=str(rollouts_dir), out=str(tmp_path / "run"), shuffle_frames=SHUFFLE_FRAMES, memory_gb=STREAMED_GB
    )
    assert not command.prepare(config).batches.is_resident


def test_a_run_that_was_interrupted_twice_equals_uninterrupted_training_bit_for_bit(
    rollouts_dir: Path, tmp_path: Path, whole: Path
):
    run = _broken(rollouts_dir, tmp_path / "run", 3, _stop)
    _broken(rollouts_dir, run, 6, _crash, "--resume true")
    _train(rollouts_dir, run, "--resume true")
    assert _weights(run) == _weights(whole)
    assert _metrics(run) == _metrics(whole)


def test_moved_data_and_run_can_be_resumed(rollouts_dir: Path, tmp_path: Path, whole: Path):
    run = _broken(rollouts_dir, tmp_path / "run", 6, _stop).rename(tmp_path / "moved_run")
    shutil.copytree(rollouts_dir, tmp_path / "moved_data")
    _train(tmp_path / "moved_data", run, "--resume true")
    assert _weights(run) == _weights(whole)


def test_resuming_a_finished_run_changes_nothing(rollouts_dir: Path, tmp_path: Path, whole: Path):
    shutil.copytree(whole, tmp_path / "run")
    _train(rollouts_dir, tmp_path / "run", "--resume true")
    assert _weights(tmp_path / "run") == _weights(whole)
    assert _metrics(tmp_path / "run") == _metrics(whole)


def test_resume_says_at_which_step_it_continues(
    rollouts_dir: Path, tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(whole, tmp_path / "run")
    _train(rollouts_dir, tmp_path / "run", "--resume true")
    assert "continuing from step 9" in capsys.readouterr().out
