"""Frames are 64x64x3. Wherever others are refused, one line says so, and how to resize them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image

import world_models
from world_models import convert, encode, evaluate, train_vae
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRollouts = Callable[..., Path]
SPEC: dict[str, Any] = {"crop": None, "size": 64, "interpolation": "INTER_AREA"}
CROPPED: dict[str, Any] = SPEC | {"crop": [0, 84]}
LINE = r"[^\n]*"
COMMANDS = {"train_vae": train_vae, "encode": encode, "evaluate": evaluate, "convert": convert}


@pytest.fixture
def large(make_rollouts: MakeRollouts) -> Path:
    """Rollouts whose frames are 96x96x3."""
    folder = make_rollouts([4, 4])
    rows = world_models.Rollouts(folder).num_rows
    with h5py.File(folder / "shard-00000.h5", "a") as shard:
        del shard["frames"]
        shard["frames"] = np.zeros((rows, 96, 96, 3), np.uint8)
    return folder


@pytest.fixture
def run_of_96(run_dir: Path, tmp_path: Path) -> Path:
    """A run whose model.json says that its frames are 96x96."""
    run = shutil.copytree(run_dir, tmp_path / "run")
    described = json.loads((run / "model.json").read_text())
    described["preprocess"]["size"] = 96
    (run / "model.json").write_text(json.dumps(described))
    return run


@pytest.mark.parametrize("shape", [(5, 96, 96, 3), (5, 32, 32, 3), (96, 96, 3), (5, 64, 48, 3)], ids=str)
@pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
def test_encode_says_which_function_resizes_pictures(kind: Any, shape: tuple[int, ...]):
    given = kind(shape, dtype=np.uint8 if kind is np.zeros else torch.uint8)
    with pytest.raises(ValueError, match=rf"^frames of shape {LINE}64, 64, 3\); world_models\.preprocess{LINE}64x64"):
        VAE(VAEConfig(z_dim=2), SPEC).encode(given)


def test_encode_says_the_size_of_digits():
    with pytest.raises(ValueError, match=r"takes \(batch, 28, 28, 1\); resize them to 28x28, as MNIST's digits are$"):
        VAE(VAEConfig(z_dim=2, network="mlp", hidden=(8,))).encode(np.zeros((5, 64, 64, 1), np.uint8))


@pytest.mark.parametrize("changes", [{"size": 96}, {"interpolation": "INTER_LINEAR"}], ids=str)
def test_preprocess_has_one_size_and_resizes_pictures_of_any(changes: dict[str, Any]):
    with pytest.raises(ValueError, match=rf"frames are 64x64 by INTER_AREA, as in the paper; {LINE}any size"):
        world_models.preprocess(np.zeros((96, 96, 3), np.uint8), SPEC | changes)


def test_frames_that_are_preprocessed_twice_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"the picture has 64 .*leave preprocess out if these are 64x64 frames$"):
        world_models.preprocess(np.zeros((64, 64, 3), np.uint8), CROPPED)


def test_rollouts_of_other_frames_are_refused_with_what_resizes_them(large: Path):
    with pytest.raises(
        ValueError, match=rf"frames is uint8 \(10, 96, 96, 3\), {LINE}64x64x3{LINE}which convert resizes$"
    ):
        world_models.Rollouts(large)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_rollouts_of_other_frames(command: str, large: Path, run_dir: Path, tmp_path: Path):
    vae = ["--vae", str(run_dir)] if command in ("encode", "evaluate") else []
    out = ["--out", str(tmp_path / "out")] if command != "evaluate" else []
    drop = ["--drop", "length<2"] if command == "convert" else []
    with pytest.raises(ValueError, match=rf"^{LINE}frames are 64x64x3{LINE}$"):
        COMMANDS[command].main(["--data", str(large), *vae, *out, *drop])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["encode", "evaluate"])
def test_a_model_of_other_frames_is_refused(command: str, rollouts_dir: Path, run_of_96: Path, tmp_path: Path):
    out = ["--out", str(tmp_path / "out")] if command == "encode" else []
    with pytest.raises(ValueError, match=rf"model\.json: a model of frames with size 96, wanted 64x64x3{LINE}convert"):
        COMMANDS[command].main(["--data", str(rollouts_dir), "--vae", str(run_of_96), *out])
    assert not (tmp_path / "out").exists()


class _Pictures(gymnasium.Env[Any, Any]):
    """Black pictures of any size."""

    action_space = spaces.Discrete(2)

    def __init__(self, height: int, width: int):
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(self.observation_space.shape or (), np.uint8), {}


def test_latent_observation_resizes_pictures_that_the_crop_fits():
    env = world_models.LatentObservation(_Pictures(130, 97), VAE(VAEConfig(z_dim=2), CROPPED))
    assert env.reset()[0].shape == (2,)


def test_latent_observation_says_how_to_enlarge_pictures_with_too_few_rows():
    vae = VAE(VAEConfig(z_dim=2), CROPPED)
    with pytest.raises(ValueError, match=rf"have 48 rows{LINE}keeps rows 0:84; {LINE}ResizeObservation$"):
        world_models.LatentObservation(_Pictures(48, 48), vae)
    enlarged = gymnasium.wrappers.ResizeObservation(_Pictures(48, 48), (96, 96))
    assert world_models.LatentObservation(enlarged, vae).reset()[0].shape == (2,)


def test_pictures_of_another_size_become_training_data_as_the_message_says(tmp_path: Path):
    for index in range(3):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (50, 200), (index, 0, 0)).save(tmp_path / f"pictures/{index}.png")
    convert.main([*f"--data {tmp_path / 'pictures'} --out {tmp_path / 'rollouts'} --executor serial".split()])
    assert world_models.Rollouts(tmp_path / "rollouts")[0].frames.shape == (3, 64, 64, 3)
