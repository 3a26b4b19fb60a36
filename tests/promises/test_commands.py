"""Bad input is refused in one line that says what was found, before any work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from world_models import bench, collect, compare, convert, encode, evaluate, explore, train_vae
from world_models.runs import checkpoints
from world_models.vae.config import VAEConfig
from world_models.vae.fast import winograd
from world_models.vae.model import VAE

COMMANDS = {
    "collect": collect,
    "train_vae": train_vae,
    "encode": encode,
    "evaluate": evaluate,
    "compare": compare,
    "convert": convert,
    "explore": explore,
    "bench": bench,
}


@pytest.fixture
def refused():
    """Runs a command that has to be refused, and returns the line that says why."""

    def run(command: str, *argv: str) -> str:
        with pytest.raises((ValueError, OSError)) as refusal:
            COMMANDS[command].main(argv)
        return str(refusal.value)

    return run


@pytest.fixture
def train(refused, tmp_path):
    """Runs train_vae on bad input, and checks that it wrote nothing."""

    def run(*argv: str) -> str:
        error = refused("train_vae", "--out", str(tmp_path / "run"), *argv)
        assert not (tmp_path / "run").exists()
        return error

    return run


@pytest.mark.parametrize("command", ["train_vae", "encode", "evaluate", "bench"])
def test_missing_data_is_refused_with_its_name(refused, command, run_dir, tmp_path):
    vae = ["--vae", str(run_dir)] if command == "evaluate" else []
    assert "no such file or folder" in refused(command, "--data", str(tmp_path / "nothing"), *vae)


@pytest.mark.parametrize("command", ["train_vae", "encode", "evaluate"])
def test_a_folder_without_shards_is_refused(refused, command, run_dir, tmp_path):
    vae = ["--vae", str(run_dir)] if command == "evaluate" else []
    assert "no shard-*.h5 in it" in refused(command, "--data", str(tmp_path), *vae)


def test_a_missing_run_is_refused_before_missing_data(refused, tmp_path):
    assert "no trained model in it" in refused("evaluate", "--vae", str(tmp_path / "nope"))


def _truncated(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:5000])


def _other_kind(shard: Path) -> None:
    with h5py.File(shard, "w") as file:
        file["x"] = [1, 2, 3]


def _no_column(shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        del file["rewards"]


def _short_column(shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        rewards = np.zeros(3, np.float32)
        del file["rewards"]
        file["rewards"] = rewards


def _incomplete(shard: Path) -> None:
    with h5py.File(shard, "a") as file:
        del file.attrs["complete"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncated, "damaged or no HDF5 file"),
        (_other_kind, "not world_models.rollouts"),
        (_no_column, "lacks the column rewards"),
        (_short_column, "columns of different lengths"),
        (_incomplete, "is incomplete"),
    ],
)
def test_a_bad_shard_is_named(train, make_rollouts, damage, said):
    folder = make_rollouts([4, 4], [4])
    damage(folder / "shard-00001.h5")
    error = train("--data", str(folder))
    assert "shard-00001.h5" in error
    assert said in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--vae.z_dim", "0"], "vae.z_dim is 0; give 1 to 10,000"),
        (["--batch_size", "0"], "batch_size is 0; give 1 or more"),
        (["--lr", "-1"], "lr is -1.0; give a number above 0"),
        (["--lr", ".inf"], "lr is inf; give a number above 0"),
        (["--batch_size", "many"], "batch_size is many; give a whole number"),
        (["--lr", "fast"], "lr is fast; give a number"),
        (["--resume", "1"], "resume is 1; give true or false"),
        (["--vae.hidden", "400"], "vae.hidden is 400; give a list in brackets, as in '[400]'"),
        (["--vae.variance", "small"], "vae.variance is small; give a number or null"),
        (["--vae", "4"], "vae is 4; give its settings one by one, see vae.* in --help"),
        (["--bach_size", "3"], "did you mean --batch_size?"),
        (["--vae.likelihood", "cauchy"], "vae.likelihood is cauchy; give 'gaussian', 'bernoulli'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file; name a YAML file, or one of ours: "),
        (["--config", "/"], "--config /: a folder; name a YAML file"),
    ],
)
def test_a_bad_value_is_named(train, argv, said):
    assert said in train(*argv)


def test_an_unknown_yaml_key_is_named(train, tmp_path):
    (tmp_path / "bad.yaml").write_text("learning_rate: 0.1\n")
    assert "learning_rate" in train("--config", str(tmp_path / "bad.yaml"))


def test_too_few_episodes_for_a_split_are_refused(train, make_rollouts):
    assert "collect at least 2" in train("--data", str(make_rollouts([5])))


def test_too_little_memory_for_the_shuffle_buffer_is_refused(train, make_rollouts):
    assert "--shuffle_frames" in train("--data", str(make_rollouts([50, 50])), "--memory_gb", "0.0001")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_refused(train, make_rollouts):
    assert "finds no GPU" in train("--data", str(make_rollouts([5, 5])), "--device", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_comparison_on_a_missing_gpu_is_refused(refused, run_dir, tmp_path):
    error = refused("compare", str(run_dir), "--out", str(tmp_path / "page"), "--device", "cuda")
    assert "finds no GPU" in error and not (tmp_path / "page").exists()


@pytest.mark.skipif(not winograd.is_available(), reason="the C library is not built here")
def test_compiling_is_refused_for_layers_that_are_written_in_c(train, make_rollouts):
    assert "leave --compile out" in train("--data", str(make_rollouts([5, 5])), "--device", "cpu", "--compile", "true")


def test_a_checkpoint_of_another_architecture_is_refused(refused, run_dir, rollouts_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    checkpoints.save_vae(other / "best.safetensors", VAE(VAEConfig(z_dim=8)))
    error = refused("encode", "--data", str(rollouts_dir), "--vae", str(other), "--out", str(tmp_path / "latents"))
    assert "the weights have another architecture" in error
    assert not (tmp_path / "latents").exists()


def test_a_model_of_another_kind_is_refused(refused, run_dir, rollouts_dir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    description = json.loads((other / "model.json").read_text()) | {"architecture": "vq_vae"}
    (other / "model.json").write_text(json.dumps(description))
    assert "vq_vae" in refused("encode", "--data", str(rollouts_dir), "--vae", str(other))


@pytest.mark.parametrize("command", ["encode", "evaluate"])
def test_a_folder_without_a_model_is_refused(refused, command, rollouts_dir, tmp_path):
    assert "no trained model in it" in refused(command, "--data", str(rollouts_dir), "--vae", str(tmp_path))


@pytest.mark.parametrize("command", ["encode", "evaluate"])
def test_rollouts_of_another_crop_are_refused(refused, command, make_rollouts, run_dir):
    folder = make_rollouts([4, 4], preprocess={"crop": None, "size": 64, "interpolation": "INTER_AREA"})
    assert "--crop" in refused(command, "--data", str(folder), "--vae", str(run_dir))


def test_an_output_folder_with_data_of_another_config_is_refused(refused, rollouts_dir):
    error = refused("collect", "--out", str(rollouts_dir), "--num_episodes", "6", "--max_steps", "41")
    assert "max_steps 40, not 41" in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--env", "CarRacing-v99"], "CarRacing-v99"),
        (["--env", "NoSuchEnv-v0"], "NoSuchEnv"),
        (["--policy", "no_such_package.module:policy"], "cannot be imported"),
        (["--policy", "clever"], "random, repeated, brownian, driver, expert, mixture"),
        (["--crop", "60:20"], "crop"),
        (["--num_episodes", "0"], "num_episodes is 0; give 1 or more"),
        (["--max_steps", "100000000", "--num_episodes", "1000000"], "GB are free"),
    ],
)
def test_collecting_with_bad_settings_is_refused(refused, tmp_path, argv, said):
    assert said in refused("collect", "--out", str(tmp_path / "rollouts"), *argv)
    assert not (tmp_path / "rollouts").exists()


@pytest.mark.parametrize("argv", [["--stages", "dance"], ["--repeats", "0"], ["--json", "no/such/folder.json"]])
def test_a_benchmark_without_stages_is_refused(refused, argv):
    assert argv[0].removeprefix("--") in refused("bench", *argv)


def test_a_benchmark_with_too_few_frames_is_refused(refused, make_rollouts):
    assert "200 or more" in refused("bench", "--data", str(make_rollouts([5, 5])))


@pytest.mark.slow
def test_a_real_process_ends_with_status_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "world_models.train_vae", "--data", str(tmp_path / "nothing")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        COMMANDS[command].main(["--help"])
    assert end.value.code == 0
    assert f"python -m world_models.{command}" in capsys.readouterr().out
