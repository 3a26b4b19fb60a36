"""A memory model learns from latents: a small LSTM predicts z on episodes that it has never seen.

The world is a white square that moves as the actions say, at random, and stops at the walls; the V model sees where the
square is, by weights set by hand. What comes next is in z and the action of the same row together, and in nothing else.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from world_models import LatentSequences, encode
from world_models.data.rollouts import write_rollouts
from world_models.data.shards import shard_path
from world_models.runs import checkpoints, layout
from world_models.runs.description import TrainedOn
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

EPISODES, STEPS, LENGTH, EPOCHS = 60, 40, 10, 40
PREPROCESS = {"crop": None, "size": 64, "interpolation": "INTER_AREA"}
ATTRIBUTES = {
    "env": "Square-v0",
    "preprocess": json.dumps(PREPROCESS),
    "action_space": json.dumps({"type": "Box", "shape": [2]}),
    "warmup_steps": 0,
    "config": "",
}
NO_TELEMETRY = np.zeros(0, np.float32)

Windows = dict[str, Tensor]


def _picture(corner: np.ndarray) -> np.ndarray:
    frame = np.zeros((64, 64, 3), np.uint8)
    left, top = corner.round().astype(int)
    frame[top : top + 16, left : left + 16] = 255
    return frame


def _drive_a_square(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        with write_rollouts(shard_path(folder, index), 2, (), ATTRIBUTES) as rollouts:
            for episode in range(EPISODES // 2):
                corner = rng.uniform(0, 48, 2)
                for step in range(STEPS):
                    action = rng.uniform(-1, 1, 2).astype(np.float32)
                    last = step == STEPS - 1
                    rollouts.step(_picture(corner), NO_TELEMETRY, action, 0.0, False, last)
                    corner = np.clip(corner + 8 * action, 0, 48)
                rollouts.end_episode(_picture(corner), NO_TELEMETRY, 100 * index + episode, "random")
    return folder


def _save_a_model_that_sees_squares(run: Path) -> Path:
    """Convolutions that sum, so that mu is the brightness of each quarter of the picture."""
    vae = VAE(VAEConfig(z_dim=4), PREPROCESS)
    encoder, _ = vae.paper
    with torch.no_grad():
        for conv in (encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4):
            conv.bias.zero_()  # type: ignore[union-attr]
            conv.weight.zero_()[0, 0] = 1 / 4
        encoder.mu.bias.zero_()
        encoder.mu.weight.zero_()[:, :4] = torch.eye(4)
        encoder.logvar.weight.zero_()
        encoder.logvar.bias.zero_()
    run.mkdir()
    checkpoints.save_vae(layout.weights_path(run), vae)
    checkpoints.save_description(run, vae, TrainedOn(), 0)
    return run


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


class _Memory(nn.Module):
    """Predicts next z as z plus a change, which depends on all z and actions so far."""

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.lstm, self.change, self.mean, self.std = nn.LSTM(6, 32, batch_first=True), nn.Linear(32, 4), mean, std

    def forward(self, windows: Windows) -> Tensor:
        scaled = (windows["z"] - self.mean) / self.std
        return windows["z"] + self.std * self.change(self.lstm(torch.cat([scaled, windows["actions"]], 2))[0])

    def errors(self, windows: Windows) -> Tensor:
        """Squared error of next_z for each window and step, in variances of z."""
        return ((self(windows) - windows["next_z"]) / self.std).square().mean(2)

    def errors_of_no_change(self, windows: Windows) -> Tensor:
        """The same error for the prediction that next_z equals z."""
        return ((windows["z"] - windows["next_z"]) / self.std).square().mean(2)


def _read(sequences: LatentSequences, indices: range) -> Windows:
    items = [sequences[index] for index in indices]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def _train(memory: _Memory, sequences: LatentSequences, indices: range) -> None:
    adam = torch.optim.Adam(memory.parameters(), 1e-2)
    for epoch in range(EPOCHS):
        sequences.set_epoch(epoch)
        windows = _read(sequences, indices)
        for batch in torch.randperm(len(indices)).split(16):
            adam.zero_grad()
            memory.errors({name: column[batch] for name, column in windows.items()}).mean().backward()
            adam.step()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[_Memory, Windows]:
    """A memory model trained on four episodes of five, and the windows of the others."""
    folder = tmp_path_factory.mktemp("square")
    data, run = _drive_a_square(folder / "rollouts"), _save_a_model_that_sees_squares(folder / "run")
    encode.main(f"--data {data} --vae {run} --out {folder / 'latents'}".split())
    summary = json.loads((folder / "latents/latents.json").read_text())
    sequences = LatentSequences(folder / "latents", LENGTH)
    cut = len(sequences) * 4 // 5
    with torch.random.fork_rng():
        torch.manual_seed(0)
        memory = _Memory(torch.tensor(summary["z_mean"]), torch.tensor(summary["z_variance"]).sqrt())
        _train(memory, sequences, range(cut))
    return memory, _read(sequences, range(cut, len(sequences)))


@torch.no_grad()
def test_a_memory_model_predicts_held_out_episodes_better_than_no_change(trained: tuple[_Memory, Windows]):
    memory, held_out = trained
    assert memory.errors(held_out).mean() < 0.25 * memory.errors_of_no_change(held_out).mean()


@torch.no_grad()
def test_a_memory_model_is_better_than_no_change_already_at_the_first_step_of_a_window(
    trained: tuple[_Memory, Windows],
):
    """At later steps, actions that come one row too early would do no harm, because a memory model keeps them."""
    memory, held_out = trained
    assert memory.errors(held_out)[:, 0].mean() < 0.25 * memory.errors_of_no_change(held_out)[:, 0].mean()


@torch.no_grad()
@pytest.mark.parametrize("late", [-1, 1])
def test_a_memory_model_with_actions_of_neighbouring_rows_is_worse_than_no_change(
    trained: tuple[_Memory, Windows], late: int
):
    memory, held_out = trained
    shifted = held_out | {"actions": held_out["actions"].roll(late, 1)}
    assert memory.errors(shifted).mean() > memory.errors_of_no_change(held_out).mean()
