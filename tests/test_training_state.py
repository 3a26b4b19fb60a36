"""The state that a training goes on from: what was saved is what is loaded, by the run that it is of."""

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from world_models import training_state
from world_models.training_state import load_state


def test_state_comes_back_as_it_was_saved(tmp_path: Path):
    state = {"step": 7, "best": float("inf"), "id": None, "sums": torch.arange(3.0), "nested": {"a": [torch.ones(2)]}}
    training_state.save_state(tmp_path, state)
    loaded = load_state(tmp_path)
    assert torch.equal(loaded.pop("sums"), state.pop("sums"))
    assert torch.equal(loaded.pop("nested")["a"][0], state.pop("nested")["a"][0])
    assert loaded == state


class _Code:
    """What an attacker hides in a pickle."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: Path(path).write_bytes(pickle.dumps(state, 2))])
def test_a_state_that_holds_code_is_refused(tmp_path: Path, write: Callable[[Any, Path], Any]):
    write({"step": _Code(tmp_path / "pwned")}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: no training state .* delete it to start anew"):
        load_state(tmp_path)


@pytest.mark.parametrize("write", [torch.save, lambda state, path: Path(path).write_bytes(pickle.dumps(state, 2))])
def test_code_in_a_state_is_never_run(tmp_path: Path, write: Callable[[Any, Path], Any]):
    write({"step": _Code(tmp_path / "pwned")}, tmp_path / "state.pt")
    with pytest.raises(ValueError):
        load_state(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("left", ["half", b"", b"no tensors in here" * 100])
def test_a_damaged_state_is_refused(tmp_path: Path, left: str | bytes):
    training_state.save_state(tmp_path, {"sums": torch.zeros(1000)})
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(left if isinstance(left, bytes) else whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"state\.pt: no training state"):
        load_state(tmp_path)


def test_a_refusal_is_one_line(tmp_path: Path):
    torch.save({"step": _Code(tmp_path / "pwned")}, tmp_path / "state.pt")
    with pytest.raises(ValueError) as refused:
        load_state(tmp_path)
    assert "\n" not in str(refused.value)


def test_an_interrupted_save_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training_state.save_state(tmp_path, {"step": 1})

    def crash(state: Any, file: io.BytesIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        training_state.save_state(tmp_path, {"step": 2})
    assert load_state(tmp_path) == {"step": 1}


OLDER = "lr: 0.5\nvae:\n  z_dim: 2\n"
NOW = "dataset: rollouts\nlr: 0.5\nstandardise: false\nvae:\n  network: paper\n  variance: 0.5\n  z_dim: 2\n"
USUAL = "dataset: rollouts\nlr: 0.002\nstandardise: true\nvae:\n  network: paper\n  variance: null\n  z_dim: 32\n"


def test_older_settings_are_what_they_were_when_a_run_goes_on(tmp_path: Path):
    """A config of before a field came goes on with its default, or with what was done before the field came."""
    (tmp_path / "config.yaml").write_text(OLDER)
    assert training_state.load_run(tmp_path, NOW, USUAL, (), "digest") is None  # it has no state yet


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
def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path: Path, changed: str, said: str):
    """The answer names the flags that the run's own config does not have, too."""
    path = tmp_path / "config.yaml"
    path.write_text(OLDER)
    with pytest.raises(ValueError, match=re.escape(said.format(path))):
        training_state.load_run(tmp_path, changed, USUAL, (), "digest")
