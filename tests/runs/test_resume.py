"""The state of a training: the loaded state equals the saved one, and it must belong to the same run."""

import dataclasses
import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from world_models.data.batches import Batch
from world_models.runs import resume
from world_models.runs.description import TrainedOn
from world_models.runs.resume import TrainingState, load_state
from world_models.train_vae.learner import Learner
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

SMALL = VAEConfig(z_dim=2, network="mlp", hidden=(4,), likelihood="bernoulli")


def test_a_saved_state_is_loaded_unchanged(tmp_path: Path):
    state = _learner_state()
    resume.save_state(tmp_path, state)
    loaded = resume.check_state(tmp_path, load_state(tmp_path), SMALL)
    assert (loaded.step, loaded.best_loss_nats, loaded.wandb_id) == (1, float("inf"), None)
    assert torch.equal(loaded.sums, state.sums)
    assert all(torch.equal(loaded.vae[name], weight) for name, weight in state.vae.items())
    moments = loaded.optimizer["state"][0]["exp_avg"]
    assert torch.equal(moments, state.optimizer["state"][0]["exp_avg"])


class _Code:
    """Code that an attacker hides in a pickle."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: Path(path).write_bytes(pickle.dumps(state, 2))])
def test_a_state_that_holds_code_is_refused(tmp_path: Path, write: Callable[[Any, Path], Any]):
    write({"step": _Code(tmp_path / "pwned")}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: not a training state .* delete it to start anew"):
        load_state(tmp_path)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: Path(path).write_bytes(pickle.dumps(state, 2))])
def test_code_in_a_state_is_never_run(tmp_path: Path, write: Callable[[Any, Path], Any]):
    write({"step": _Code(tmp_path / "pwned")}, tmp_path / "state.pt")
    with pytest.raises(ValueError):
        load_state(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("left", ["half", b"", b"no tensors in here" * 100])
def test_a_damaged_state_is_refused(tmp_path: Path, left: str | bytes):
    torch.save({"sums": torch.zeros(1000)}, tmp_path / "state.pt")
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(left if isinstance(left, bytes) else whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"state\.pt: not a training state"):
        load_state(tmp_path)


def test_a_refusal_is_one_line(tmp_path: Path):
    torch.save({"step": _Code(tmp_path / "pwned")}, tmp_path / "state.pt")
    with pytest.raises(ValueError) as refused:
        load_state(tmp_path)
    assert "\n" not in str(refused.value)


def test_an_interrupted_save_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    resume.save_state(tmp_path, _learner_state())

    def crash(state: Any, file: io.BytesIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        resume.save_state(tmp_path, dataclasses.replace(_learner_state(), step=2))
    assert load_state(tmp_path)["step"] == 1


OLDER = "lr: 0.5\nvae:\n  z_dim: 2\n"
NOW = "dataset: rollouts\nlr: 0.5\nstandardise: false\nvae:\n  network: paper\n  variance: 0.5\n  z_dim: 2\n"
USUAL = "dataset: rollouts\nlr: 0.002\nstandardise: true\nvae:\n  network: paper\n  variance: null\n  z_dim: 32\n"


def test_an_older_run_is_resumed_with_the_defaults_of_its_time(tmp_path: Path):
    """A field that an older config lacks gets its default, or the value that was in force at that time."""
    (tmp_path / "config.yaml").write_text(OLDER)
    assert resume.load_run(tmp_path, NOW, USUAL, (), TrainedOn(data_digest="digest")) is None  # it has no state yet


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (NOW.replace("rollouts", "mnist"), "dataset rollouts, not mnist: give --config {}"),
        (
            NOW.replace("variance: 0.5", "variance: null"),
            "vae.variance 0.5, not None: give --config {} --vae.variance 0.5",
        ),
        (NOW.replace("false", "true"), "standardise False, not True: give --config {} --standardise false"),
        (NOW.replace("z_dim: 2", "z_dim: 3"), "vae.z_dim 2, not 3: give --config {} --resume true"),
    ],
)
def test_a_run_with_other_settings_is_not_resumed(tmp_path: Path, changed: str, said: str):
    """The message also names the flags that the run's config lacks."""
    path = tmp_path / "config.yaml"
    path.write_text(OLDER)
    with pytest.raises(ValueError, match=re.escape(said.format(path))):
        resume.load_run(tmp_path, changed, USUAL, (), TrainedOn(data_digest="digest"))


@pytest.mark.parametrize(
    ("text", "found"),
    [("seed: 1\n", "mersenne"), ("noise: philox\n", "philox"), ("noise: [1]\n", [1]), (None, None)],
)
def test_a_runs_setting_is_that_of_its_config_or_of_its_time(tmp_path: Path, text: str | None, found: Any):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    assert resume.saved_setting(tmp_path, "noise") == found


# states from strangers


def _learner_state() -> TrainingState:
    learner = Learner(VAE(SMALL), seed=0, grad_clip=0.0, bf16=False)
    frames = torch.zeros(3, 28, 28, 1, dtype=torch.uint8)
    learner.learn(Batch.whole(frames), 1e-3, 1.0)
    return learner.state()


def _state() -> dict[str, Any]:
    """A state as in state.pt."""
    return dict(vars(_learner_state()))


def test_the_state_of_a_model_is_accepted_for_this_model(tmp_path: Path):
    resume.save_state(tmp_path, _learner_state())
    resume.check_state(tmp_path, load_state(tmp_path), SMALL)


Change = Callable[[dict[str, Any]], Any]
FAULTS: dict[str, tuple[Change, str]] = {
    "no step": (lambda state: state.pop("step"), "something is missing or has another name: 'step'"),
    "no optimizer": (lambda state: state.pop("optimizer"), "something is missing or has another name: 'optimizer'"),
    "a text for the step": (lambda state: state.update(step="7"), "step is '7'"),
    "a huge step": (lambda state: state.update(step=10**30), "step is 10"),
    "no number as best": (lambda state: state.update(best_loss_nats=float("nan")), "best_loss_nats is nan"),
    "an id that is a path": (lambda state: state.update(wandb_id="../x"), "wandb_id is '../x'"),
    "other sums": (lambda state: state.update(sums=torch.zeros(9)), "sums is not a tensor of"),
    "no variance": (lambda state: state.update(variance=torch.tensor(torch.inf)), "variance holds numbers"),
    "a weight too many": (lambda state: state["vae"].update(more=torch.zeros(1)), "weights of another model"),
    "a weight of doubles": (
        lambda state: state["vae"].update({name: w.double() for name, w in state["vae"].items()}),
        "is not a tensor of",
    ),
    "weights that are not finite": (
        lambda state: state["vae"].update({name: w * torch.nan for name, w in state["vae"].items()}),
        "holds numbers that are not finite",
    ),
    "moments of another shape": (
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(1)),
        "exp_avg of weight 0 is not a tensor of",
    ),
    "negative moments": (
        lambda state: state["optimizer"]["state"][0]["exp_avg_sq"].fill_(-1),
        "exp_avg_sq of weight 0 is below 0",
    ),
    "moments of no weight": (
        lambda state: state["optimizer"]["state"].update({99: state["optimizer"]["state"][0]}),
        "not a training state",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_state_that_does_not_fit_is_refused_with_the_reason(tmp_path: Path, name: str):
    change, said = FAULTS[name]
    state = _state()
    change(state)
    with pytest.raises(ValueError, match=r"state\.pt: not a training state") as caught:
        resume.check_state(tmp_path, state, SMALL)
    assert said in str(caught.value)


def test_a_state_that_is_a_list_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds a list"):
        resume.check_state(tmp_path, [1], SMALL)


def test_a_compressed_state_is_refused_without_reading_it(tmp_path: Path):
    torch.save({"sums": torch.zeros(1_000_000)}, tmp_path / "state.pt")
    path = tmp_path / "state.pt"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="it is compressed, unlike a training state"):
        load_state(tmp_path)


def test_a_state_whose_tensors_are_larger_than_its_file_is_refused(tmp_path: Path):
    torch.save({"sums": torch.zeros(1).expand(10**9)}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="more than the file has"):
        load_state(tmp_path)


def test_a_pipe_is_refused_as_a_state(tmp_path: Path):
    os.mkfifo(tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: a named pipe, wanted a file"):
        load_state(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "metrics.jsonl", "best.safetensors", "report.html"])
def test_a_folder_with_the_name_of_a_runs_file_is_refused_before_work(tmp_path: Path, name: str):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{name}: a folder, wanted a file"):
        resume.check_new(tmp_path, resume=True)


def test_a_file_is_refused_as_the_folder_of_pictures(tmp_path: Path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(ValueError, match="figures: not a folder"):
        resume.check_new(tmp_path, resume=True)


@pytest.mark.parametrize("text", ["a: &a [1]\nb: *a\n", "[" * 100_000, "a: !!python/name:os.system x\n"])
def test_a_config_that_could_take_minutes_to_read_is_refused(tmp_path: Path, text: str):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml: not the config of a run"):
        resume.load_run(tmp_path, NOW, USUAL, (), TrainedOn(data_digest="digest"))


def test_the_optimizers_settings_are_never_taken_from_a_file():
    state = _learner_state()
    state.optimizer["param_groups"][0].update(betas=("x", "y"), lr="z")
    learner = Learner(VAE(SMALL), seed=0, grad_clip=0.0, bf16=False)
    learner.restore(state)
    assert learner.state().optimizer["param_groups"][0]["betas"] == (0.9, 0.999)
    moments = learner.state().optimizer["state"][0]["exp_avg"]
    assert torch.equal(moments, state.optimizer["state"][0]["exp_avg"])
