"""W&B's agent can run the sweep: its command is parsed, trains, and gives each trial its own folder."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from world_models.runs.records import read_lines
from world_models.runtime import cli
from world_models.train_vae import command as train_vae

ROOT = Path(__file__).parents[2]
SWEEP: dict[str, Any] = yaml.safe_load((ROOT / "configs/sweeps/vae.yaml").read_text())
PARAMETERS: dict[str, dict[str, Any]] = SWEEP["parameters"]
MACROS = {"${env}": ["/usr/bin/env"], "${interpreter}": [sys.executable]}
TRIAL = {
    "vae.variance": 0.5,
    "lr": 0.0012340567,
    "vae.beta": 2,
    "vae.kl_tolerance": 0.25,
    "vae.z_dim": 4,
    "val_every_frames": 30,
}
SMALL = {"num_frames": 60, "batch_size": 20, "lr_warmup_frames": 10, "resume": True, "schedule": "constant"}


def _command(values: dict[str, Any]) -> list[str]:
    """The command of a trial, as W&B's agent builds it: `--name=value`, and booleans as True."""
    flags = [f"--{name}={value}" for name, value in values.items()]
    return [word for part in SWEEP["command"] for word in (MACROS | {"${args}": flags}).get(part, [part])]


def _flags(values: dict[str, Any]) -> list[str]:
    command = _command(values)
    return command[command.index("world_models.train_vae") + 1 :]


def _parsed(values: dict[str, Any]) -> train_vae.TrainConfig:
    return cli.parse(train_vae.TrainConfig, _flags(values), prog="test")


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def _edges(name: str) -> list[Any]:
    spec = PARAMETERS[name]
    return spec.get("values") or [spec[edge] for edge in ("min", "max", "value") if edge in spec]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in PARAMETERS for value in _edges(name)])
def test_every_value_that_a_sweep_may_draw_is_a_valid_setting(name: str, value: Any):
    found: Any = _parsed({name: value})
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value


def test_the_flags_of_a_trial_override_the_quick_config():
    parsed = _parsed(TRIAL | SMALL)
    assert (parsed.lr, parsed.vae.beta, parsed.vae.z_dim, parsed.resume) == (0.0012340567, 2.0, 4, True)
    assert parsed.num_frames == 60


def test_the_sweep_uses_only_macros_that_the_agent_knows():
    assert {part for part in SWEEP["command"] if part.startswith("$")} == {*MACROS, "${args}"}


def test_the_program_of_the_sweep_exists():
    assert (ROOT / SWEEP["program"]).is_file()


def test_validations_are_frequent_enough_to_stop_a_trial_early():
    parsed = _parsed({"val_every_frames": PARAMETERS["val_every_frames"]["value"]})
    assert parsed.num_frames // parsed.val_every_frames >= 2 * SWEEP["early_terminate"]["min_iter"]


@pytest.mark.slow
def test_a_trial_trains_in_a_folder_of_its_own_and_logs_what_the_sweep_asks_for(rollouts_dir: Path, tmp_path: Path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    command = _command(TRIAL | SMALL | {"data": str(rollouts_dir)})
    for run_id in ("first", "second"):
        environment = os.environ | {"WANDB_RUN_ID": run_id, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    for run_id in ("first", "second"):
        run = tmp_path / "runs/sweep" / run_id
        assert any(SWEEP["metric"]["name"] in line for line in read_lines(run))
        assert yaml.safe_load((run / "config.yaml").read_text())["out"] == str(run)


def test_the_command_of_a_sweep_without_an_agent_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    with pytest.raises(ValueError, match="WANDB_RUN_ID is not set"):
        train_vae.main(_flags(TRIAL))


@pytest.mark.slow
def test_wandb_builds_the_same_flags_as_these_tests():
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils", reason="an inner module, which W&B may move")
    sent = utils.create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in (TRIAL | SMALL).items()}}
    )
    assert sent["args"] == _flags(TRIAL | SMALL)[-len(TRIAL | SMALL) :]
