"""Training: its files, its held-out data, its ends, and the input that it refuses."""

import dataclasses
import hashlib
import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from world_models.data.batches import Batch
from world_models.data.frames import FrameSet
from world_models.data.rollouts import Rollouts
from world_models.data.split import split_episodes
from world_models.runs import checkpoints, description, resume
from world_models.runtime import files, locks
from world_models.runtime.errors import Stopped
from world_models.train_vae import command
from world_models.train_vae.command import TrainConfig
from world_models.train_vae.learner import Learner
from world_models.vae.config import VAEConfig
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE
from world_models.vae.networks import initialise_he
from world_models.vae.standardise import standardised

SMALL = "--num_frames 90 --batch_size 16 --lr_warmup_frames 20 --val_every_frames 40 --log_every_steps 2 --vae.z_dim 4"
NAMES = {"step", "frames_seen", "epoch"}
TRAIN_NAMES = {"loss_nats", "sse", "kl_nats", "frames_per_s", "lr"}
VAL_NAMES = {"sse", "kl_nats", "loss_nats", "psnr_db", "active_units", "dims_used"}
FILES = {"config.yaml", "model.safetensors", "model.json", "best.safetensors", "state.pt", "metrics.jsonl"}


def _train(data: Path, out: Path, more: str = "") -> Path:
    command.main(f"--data {data} --out {out} {SMALL} {more}".split())
    return out


def _refused(data: Path, out: Path, more: str = "") -> str:
    """The line of the error."""
    with pytest.raises((ValueError, OSError)) as refusal:
        _train(data, out, more)
    return str(refusal.value)


def _stopped(data: Path, out: Path, more: str = "") -> str:
    """The last line that training prints."""
    with pytest.raises(Stopped) as ended:
        _train(data, out, more)
    return str(ended.value)


def _lines(run: Path, name: str = "step") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if name in line]


@pytest.fixture
def data(make_rollouts: Callable[..., Path]) -> Path:
    return make_rollouts([15, 15], [15])


@pytest.fixture(scope="module")
def run(rollouts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run on real frames."""
    return _train(rollouts_dir, tmp_path_factory.mktemp("train") / "run", "--beta_warmup_frames 45")


# what a run leaves


def test_a_run_has_all_its_documented_files(run: Path):
    assert {path.name for path in run.iterdir()} >= FILES | {"figures", "baselines.safetensors"}


def test_training_leaves_no_unfinished_files(run: Path):
    assert not list(run.rglob("*.partial"))


def test_config_yaml_is_the_resolved_config(run: Path, rollouts_dir: Path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["num_frames"] == 90
    assert config["data"] == str(rollouts_dir)
    assert config["vae"]["z_dim"] == 4
    assert config["schedule"] == "cosine"


@pytest.mark.slow
def test_training_with_config_yaml_repeats_the_run(run: Path, tmp_path: Path):
    out = tmp_path / "again"
    command.main(["--config", str(run / "config.yaml"), "--out", str(out)])
    assert files.file_sha256(out / "model.safetensors") == files.file_sha256(run / "model.safetensors")


def test_model_json_names_data_and_preprocessing(run: Path, rollouts_dir: Path):
    found, data = description.load(run), Rollouts(rollouts_dir)
    assert found.trained_on.data_digest == data.digest()
    assert found.preprocess == data.preprocess
    assert found.trained_on.data == str(rollouts_dir)
    assert found.step == _lines(run)[-1]["step"]


def _from_state(run: Path) -> VAE:
    vae = checkpoints.load_vae(run, "last")
    vae.load_state_dict(resume.load_state(run)["vae"])
    return vae


def test_the_last_weights_are_those_of_the_state_standardised_on_training_frames(run: Path, rollouts_dir: Path):
    data = Rollouts(rollouts_dir)
    trained_on = FrameSet(data, split_episodes(data.seeds, 0).train).read_spread(command.NUM_STANDARDISE_FRAMES)
    expected = standardised(_from_state(run), LabelledFrames.of_one_class(trained_on)).state_dict()
    weights = checkpoints.load_tensors(run / "model.safetensors")
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights.items())


@pytest.fixture(scope="module")
def plain(rollouts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without standardising: its model has the learner's weights."""
    return _train(rollouts_dir, tmp_path_factory.mktemp("plain") / "run", "--beta_warmup_frames 45 --standardise false")


def test_without_standardising_the_last_weights_are_those_of_the_state(plain: Path):
    weights = checkpoints.load_tensors(plain / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in _from_state(plain).state_dict().items())


def test_standardising_changes_no_step_of_training(run: Path, plain: Path):
    assert _lines(run, "train/sse")[-1]["train/sse"] == _lines(plain, "train/sse")[-1]["train/sse"]
    states = [_from_state(each).state_dict() for each in (run, plain)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_standardised_model_has_the_same_error_for_fewer_nats(run: Path, plain: Path):
    ours, theirs = (_lines(each, "val/sse")[-1] for each in (run, plain))
    assert ours["val/sse"] == pytest.approx(theirs["val/sse"], rel=1e-5)
    assert ours["val/kl_nats"] < theirs["val/kl_nats"]


def test_figures_are_drawn_at_each_validation(run: Path):
    seen = [line["frames_seen"] for line in _lines(run, "val/sse")]
    expected = {f"{name}_{n:09d}.png" for name in ("reconstructions", "samples", "interpolation") for n in seen}
    assert {path.name for path in (run / "figures").iterdir()} == expected


@pytest.mark.slow
def test_figures_have_many_colours(run: Path):
    for path in (run / "figures").glob("reconstructions_*.png"):
        picture = np.asarray(Image.open(path))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


# metrics


def test_training_lines_have_the_documented_names(run: Path):
    names = {frozenset(line) for line in _lines(run, "train/sse")}
    assert names == {frozenset(NAMES | {f"train/{name}" for name in TRAIN_NAMES})}


def test_validation_lines_have_the_documented_names(run: Path):
    names = {frozenset(line) for line in _lines(run, "val/sse")}
    assert names == {frozenset(NAMES | {f"val/{name}" for name in VAL_NAMES})}


def test_all_metrics_are_finite_numbers(run: Path):
    assert all(math.isfinite(value) for line in _lines(run) for value in line.values())


def test_training_ends_after_exactly_the_requested_number_of_frames(run: Path):
    assert _lines(run)[-1]["frames_seen"] == 90


def test_a_validation_follows_the_last_step(run: Path):
    lines = _lines(run)
    assert "val/sse" in lines[-1]
    assert lines[-1]["step"] == lines[-2]["step"]


def test_validations_follow_the_first_step_after_each_interval(run: Path):
    assert [line["frames_seen"] for line in _lines(run, "val/sse")] == [48, 80, 90]


def test_training_lines_come_every_few_steps(run: Path):
    assert [line["step"] for line in _lines(run, "train/sse")] == [2, 4, 6]


def test_epoch_counts_training_frames(run: Path, rollouts_dir: Path):
    data = Rollouts(rollouts_dir)
    frames = sum(int(data.lengths[i]) for i in split_episodes(data.seeds, 0).train)
    assert _lines(run)[-1]["epoch"] == pytest.approx(90 / frames)


def test_best_weights_are_those_of_the_lowest_validation_loss(run: Path):
    assert resume.load_state(run)["best_loss_nats"] == min(
        line["val/loss_nats"] for line in _lines(run, "val/sse") if line["frames_seen"] >= 45
    )


@pytest.mark.slow
def test_best_weights_are_not_saved_during_the_warm_up(data: Path, tmp_path: Path):
    run = _train(data, tmp_path / "run", "--beta_warmup_frames 85")
    assert resume.load_state(run)["best_loss_nats"] == _lines(run, "val/sse")[-1]["val/loss_nats"]


def test_a_run_shorter_than_its_warm_up_has_best_weights(data: Path, tmp_path: Path):
    run = _train(data, tmp_path / "run", "--num_frames 16 --lr_warmup_frames 1000")
    assert checkpoints.load_vae(run, "best").config.z_dim == 4


# what is trained on


def _hashes(frames: Any) -> set[str]:
    return {hashlib.sha256(np.asarray(frame).tobytes()).hexdigest() for frame in frames}


def _learned(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Fills with the hash of every frame that is learned from."""
    seen: set[str] = set()
    learn = Learner.learn

    def spy(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        seen.update(_hashes(batch.frames))
        learn(self, batch, lr, beta_share)

    monkeypatch.setattr(Learner, "learn", spy)
    return seen


def _split(data: Rollouts, split_seed: int) -> tuple[set[str], set[str]]:
    split = split_episodes(data.seeds, split_seed)
    train, val = ([_hashes(data[i].frames) for i in part] for part in (split.train, split.val))
    return set().union(*train), set().union(*val)


@pytest.mark.parametrize("split_seed", [0, 1])
def test_held_out_episodes_are_never_trained_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split_seed: int
):
    seen = _learned(monkeypatch)
    _train(data, tmp_path / "run", f"--split_seed {split_seed} --val_every_frames 1000")
    train, val = _split(Rollouts(data), split_seed)
    assert seen == train
    assert not seen & val


def test_validation_is_on_held_out_frames(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from world_models.vae import metrics

    scored: set[str] = set()
    validate = metrics.validate

    def spy(vae: VAE, held_out: LabelledFrames, noise: torch.Tensor) -> metrics.Validation:
        scored.update(_hashes(held_out.frames))
        return validate(vae, held_out, noise)

    monkeypatch.setattr(metrics, "validate", spy)
    _train(data, tmp_path / "run", "--num_frames 16")
    assert scored == _split(Rollouts(data), 0)[1]


def test_baselines_are_fitted_on_training_frames(data: Path, tmp_path: Path):
    run, rollouts = _train(data, tmp_path / "run", "--num_frames 16"), Rollouts(data)
    baselines = checkpoints.load_tensors(run / "baselines.safetensors")
    frames = np.concatenate([rollouts[i].frames for i in split_episodes(rollouts.seeds, 0).train])
    np.testing.assert_allclose(baselines["mean"], frames.reshape(len(frames), -1).mean(0) / 255, atol=1e-5)
    assert baselines["components"].shape == (4, 12_288)


def test_training_is_the_same_every_time(data: Path, tmp_path: Path):
    runs = [_train(data, tmp_path / name, "--num_frames 48") for name in ("a", "b")]
    digests = {files.file_sha256(run / "model.safetensors") for run in runs}
    assert len(digests) == 1


def test_training_depends_on_its_seed(data: Path, tmp_path: Path):
    runs = [_train(data, tmp_path / str(seed), f"--seed {seed} --num_frames 16") for seed in (0, 1)]
    assert len({files.file_sha256(run / "model.safetensors") for run in runs}) == 2


def test_training_does_not_change_the_global_generator(data: Path, tmp_path: Path):
    before = torch.get_rng_state()
    _train(data, tmp_path / "run", "--num_frames 16")
    assert torch.equal(before, torch.get_rng_state())


def test_no_wandb_step_is_asked_for_when_it_is_disabled(data: Path, tmp_path: Path):
    run = _train(data, tmp_path / "run", "--num_frames 16 --wandb.mode disabled")
    assert not (run / "wandb").exists()


@pytest.mark.slow
def test_tensorboard_is_written_if_asked_for(data: Path, tmp_path: Path):
    run = _train(data, tmp_path / "run", "--num_frames 16 --tensorboard true")
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


# weights to begin with


def _first_weights(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> dict[str, torch.Tensor]:
    taken: list[dict[str, torch.Tensor]] = []
    learn = Learner.learn

    def spy(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        taken.append({name: tensor.clone() for name, tensor in self.vae.state_dict().items()})
        learn(self, batch, lr, beta_share)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", spy)
        _train(data, out, f"--num_frames 16 {more}")
    return taken[0]


@pytest.mark.parametrize(("more", "he"), [("", True), ("--init he --seed 0", True), ("--init torch", False)])
def test_training_starts_with_the_requested_initial_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, he: bool
):
    torch.manual_seed(0)
    expected = VAE(VAEConfig(z_dim=4))
    if he:
        initialise_he(expected)
    first = _first_weights(data, tmp_path / "run", monkeypatch, more)
    assert all(torch.equal(first[name], tensor) for name, tensor in expected.state_dict().items())


# schedules


@pytest.mark.slow
def test_each_step_uses_the_scheduled_values(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taken: list[tuple[float, float]] = []
    learn = Learner.learn

    def spy(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        taken.append((lr, beta_share))
        learn(self, batch, lr, beta_share)

    monkeypatch.setattr(Learner, "learn", spy)
    _train(data, tmp_path / "run", "--num_frames 48 --beta_warmup_frames 40")
    config = TrainConfig(num_frames=48, lr_warmup_frames=20, beta_warmup_frames=40)
    assert taken == [(config.lr_at(seen), config.beta_share_at(seen)) for seen in (0, 16, 32)]


# how it ends


def test_ctrl_c_saves_the_run_and_says_how_to_continue(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learn = Learner.learn

    def interrupted(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        learn(self, batch, lr, beta_share)
        if self.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Learner, "learn", interrupted)
    message = _stopped(data, tmp_path / "run", "--val_every_frames 1000")
    assert "--resume true" in message
    assert resume.load_state(tmp_path / "run")["step"] in (3, 4)  # the signal is noticed in this step or in the next


def test_ctrl_c_while_resuming_asks_for_the_same_command(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learn = Learner.learn

    def interrupted(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        learn(self, batch, lr, beta_share)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Learner, "learn", interrupted)
    assert "the same command continues" in _stopped(data, tmp_path / "run", "--resume true")


def test_ctrl_c_at_the_last_step_is_a_finished_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learn = Learner.learn

    def interrupted(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        learn(self, batch, lr, beta_share)

    monkeypatch.setattr(Learner, "learn", interrupted)
    run = _train(data, tmp_path / "run", "--num_frames 32")
    assert "val/sse" in _lines(run)[-1]


def _broken_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The weights turn into NaN at a step."""
    learn = Learner.learn

    def broken(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        learn(self, batch, math.nan if self.step >= step else lr, beta_share)

    monkeypatch.setattr(Learner, "learn", broken)


@pytest.mark.parametrize("log_every_steps", [1, 1000])
def test_a_loss_that_is_not_finite_stops_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every_steps: int
):
    _broken_after(monkeypatch, 3)
    message = _stopped(data, tmp_path / "run", f"--log_every_steps {log_every_steps}")
    assert "the loss is nan after" in message
    assert "lower --lr or --grad_clip" in message


@pytest.mark.parametrize("log_every_steps", [1, 1000])
def test_a_stopped_run_keeps_its_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every_steps: int
):
    _broken_after(monkeypatch, 3)
    _stopped(data, tmp_path / "run", f"--log_every_steps {log_every_steps}")
    for tensors in (
        resume.load_state(tmp_path / "run")["vae"],
        checkpoints.load_vae(tmp_path / "run", "last").state_dict(),
        checkpoints.load_vae(tmp_path / "run", "best").state_dict(),
    ):
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_a_huge_learning_rate_stops_the_run(data: Path, tmp_path: Path):
    assert "the loss is" in _stopped(data, tmp_path / "run", "--lr 1e30 --lr_warmup_frames 0 --schedule constant")


def test_ctrl_c_never_saves_weights_that_are_not_finite(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learn = Learner.learn

    def broken(self: Learner, batch: Batch, lr: float, beta_share: float) -> None:
        learn(self, batch, math.nan if self.step >= 3 else lr, beta_share)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Learner, "learn", broken)
    _stopped(data, tmp_path / "run", "--log_every_steps 1000 --val_every_frames 48 --num_frames 1000")
    state = resume.load_state(tmp_path / "run")
    assert all(bool(tensor.isfinite().all()) for tensor in state["vae"].values())


def test_posterior_collapse_is_reported(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _train(data, tmp_path / "run", "--vae.beta 1000 --vae.kl_tolerance 0 --num_frames 48")
    assert "posterior collapse after 48 frames" in capsys.readouterr().err


def test_a_model_without_collapse_is_not_reported_as_collapsed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from world_models.vae import metrics

    validate = metrics.validate
    monkeypatch.setattr(metrics, "validate", lambda *args: dataclasses.replace(validate(*args), dims_used=1))
    _train(data, tmp_path / "run", "--num_frames 16")
    assert "collapse" not in capsys.readouterr().err


# what is refused


def test_an_existing_run_is_refused_without_resume(run: Path, rollouts_dir: Path):
    before = files.file_sha256(run / "state.pt")
    line = _refused(rollouts_dir, run, "--beta_warmup_frames 45")
    assert "holds a run already; give --resume true" in line
    assert files.file_sha256(run / "state.pt") == before


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("--lr 0.5", "lr 0.002, not 0.5"),
        ("--batch_size 8", "batch_size 16, not 8"),
        ("--seed 3", "seed 0, not 3"),
        ("--num_frames 5000", "num_frames 90, not 5000"),
        ("--vae.z_dim 7", "vae.z_dim 4, not 7"),
        ("--split_seed 3", "split_seed 0, not 3"),
    ],
)
def test_resuming_with_another_config_is_refused_by_the_fields_name(
    run: Path, rollouts_dir: Path, flags: str, found: str
):
    assert found in _refused(rollouts_dir, run, f"--beta_warmup_frames 45 --resume true {flags}")


def test_resuming_on_other_data_is_refused(data: Path, run: Path):
    line = _refused(data, run, "--beta_warmup_frames 45 --resume true")
    assert "its training data have changed" in line


@pytest.mark.parametrize("text", [b"a: [", b"- 1", b"only words", b"\x00", b"\xff\xfe"])
def test_a_damaged_config_yaml_is_refused_in_one_line(data: Path, tmp_path: Path, text: bytes):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes(text)
    assert "config.yaml: not the config of a run" in _refused(data, tmp_path / "run", "--resume true")


def test_a_damaged_state_is_refused_in_one_line(data: Path, tmp_path: Path):
    run = _train(data, tmp_path / "run", "--num_frames 16")
    (run / "state.pt").write_bytes(b"no state")
    assert "not a training state" in _refused(data, run, "--num_frames 16 --resume true")


def test_missing_data_is_refused(tmp_path: Path):
    assert "nowhere: no such file or folder" in _refused(tmp_path / "nowhere", tmp_path / "run")


def test_a_refusal_makes_no_folder(tmp_path: Path):
    _refused(tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_single_episode_is_refused(make_rollouts: Callable[..., Path], tmp_path: Path):
    assert "collect at least 2" in _refused(make_rollouts([5]), tmp_path / "run")


def test_a_folder_that_another_process_writes_is_refused(data: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    with locks.only_writer(tmp_path / "run"):
        assert "being written by another process" in _stopped(data, tmp_path / "run")


def _interrupted_before_its_first_save(data: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_args: Sequence[Any]) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Learner, "learn", crash)
        _train(data, run, "--num_frames 32")


def test_resume_starts_again_a_run_that_never_saved(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _interrupted_before_its_first_save(data, tmp_path / "run", monkeypatch)
    run = _train(data, tmp_path / "run", "--num_frames 32 --resume true")
    assert _lines(run)[-1]["frames_seen"] == 32


def test_resume_starts_a_new_run_if_there_is_none(data: Path, tmp_path: Path):
    run = _train(data, tmp_path / "run", "--num_frames 16 --resume true")
    assert _lines(run)[-1]["frames_seen"] == 16


# the generator of the noise


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device of commands that only prepare."""
    device = torch.device("cuda", 0)
    monkeypatch.setattr(command, "torch_device", lambda name: device)
    monkeypatch.setattr("world_models.runtime.distributed.own_device", lambda device: device)
    return device


def _noise(data: Path, out: Path, **more: Any) -> str:
    return command.prepare(TrainConfig(data=str(data), out=str(out), precision="float32", **more)).config.noise


def test_a_new_run_has_the_generator_of_its_device(data: Path, tmp_path: Path, gpu: torch.device):
    assert _noise(data, tmp_path / "run") == "philox"
    assert _noise(data, tmp_path / "run", noise="mersenne") == "mersenne"


def test_a_new_run_on_a_cpu_has_the_generator_of_earlier_versions(data: Path, tmp_path: Path):
    assert _noise(data, tmp_path / "run", device="cpu") == "mersenne"


@pytest.mark.parametrize(
    ("line", "noise"), [("", "mersenne"), ("noise: mersenne\n", "mersenne"), ("noise: philox\n", "philox")]
)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_resumed_run_keeps_its_generator_on_another_device(
    data: Path, tmp_path: Path, request: pytest.FixtureRequest, line: str, noise: str, on_gpu: bool
):
    (tmp_path / "config.yaml").write_text(
        f"{line}precision: float32\ninit: he\nstandardise: true\nvae:\n  variance: 0.003\n"
    )
    if on_gpu:
        request.getfixturevalue("gpu")
    assert _noise(data, tmp_path, resume=True, device="cuda" if on_gpu else "cpu") == noise


def test_a_run_is_not_resumed_with_another_generator(data: Path, tmp_path: Path):
    _train(data, tmp_path / "run", "--num_frames 16")
    said = _refused(data, tmp_path / "run", "--num_frames 16 --resume true --noise philox")
    assert "a run with noise mersenne, not philox" in said


@pytest.mark.slow
def test_philox_on_a_cpu_is_resumed_bit_for_bit(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = _train(data, tmp_path / "whole", "--noise philox")
    assert yaml.safe_load((whole / "config.yaml").read_text())["noise"] == "philox"
    with monkeypatch.context() as patch:
        learn = Learner.learn
        stop: Callable[..., None] = lambda self, *args: learn(self, *args) or os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
        patch.setattr(Learner, "learn", stop)
        _stopped(data, tmp_path / "run", "--noise philox")
    _train(data, tmp_path / "run", "--resume true")
    ours, theirs = (files.file_sha256(run / "model.safetensors") for run in (tmp_path / "run", whole))
    assert ours == theirs
