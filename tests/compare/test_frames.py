"""The same held-out frames, reconstructed by several runs."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from world_models.compare import frames
from world_models.data import several
from world_models.data.rollouts import Rollouts
from world_models.data.split import split_episodes
from world_models.runs import checkpoints, layout
from world_models.runs.description import TrainedOn
from world_models.runs.records import RunRecord, read_run
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

PREPROCESS = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}
FACTS = {"data": "nowhere", "data_digest": "d", "split_seed": 0, "env": "Synthetic-v0", "train_seeds": [0, 1]}

MakeModel = Callable[..., RunRecord]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Saves an untrained model as a run that says what it was trained on."""

    def make(name: str, z_dim: int = 4, preprocess: dict[str, Any] = PREPROCESS, **facts: Any) -> RunRecord:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        torch.manual_seed(len(name))
        vae = VAE(VAEConfig(z_dim=z_dim), preprocess)
        checkpoints.save_vae(layout.weights_path(folder, "best"), vae)
        checkpoints.save_description(folder, vae, TrainedOn(), 0)
        return _edit(read_run(folder), **(FACTS | facts))

    return make


def _load(
    *runs: RunRecord, data: Path | None = None, weights: layout.Weights = "best"
) -> tuple[frames.ShownModels | None, list[str]]:
    return frames.load(runs, str(data) if data else None, weights, "cpu")


def _edit(run: RunRecord, **changes: Any) -> RunRecord:
    """The run with other facts in its model.json."""
    path = run.path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return read_run(run.path)


# which frames


def test_the_shown_frames_were_held_out_by_the_run(run_dir: Path, rollouts_dir: Path):
    models, notes = _load(read_run(run_dir))
    data = Rollouts(rollouts_dir)
    held_out = np.concatenate([data[i].frames for i in split_episodes(data.seeds, 0).val])
    assert models is not None
    assert (models.data, notes) == (str(rollouts_dir), [])
    assert len(models.frames) == len(held_out)
    assert np.array_equal(models.frames.read_all(), held_out)


def test_frames_of_several_data_sets_are_those_a_run_held_out(make_model: MakeModel, make_rollouts: Any):
    folders = [make_rollouts([3, 4], name="one"), make_rollouts([5, 6], name="two", seed=100)]
    data = several.open_rollouts(folders)
    sets = [
        {"data": str(each.path), "data_digest": each.digest(), "env": each.env, "train_seeds": [int(each.seeds[0])]}
        for each in data.sets
    ]
    models, _ = _load(make_model("a", data=None, train_seeds=None, data_digest=data.digest(), data_sets=sets))
    assert models is not None
    assert models.data == data.name
    assert np.array_equal(models.frames.read_all(), np.concatenate([data[1].frames, data[3].frames]))


def test_no_frame_is_shown_that_any_of_the_runs_was_trained_on(make_model: MakeModel, make_rollouts: Any):
    data = make_rollouts([3, 4, 5, 6])
    models, _ = _load(make_model("a", train_seeds=[0, 1]), make_model("b", train_seeds=[1, 2]), data=data)
    assert models is not None
    assert np.array_equal(models.frames.read_all(), Rollouts(data)[3].frames)


def test_episodes_of_another_environment_do_not_count_as_trained_on(make_model: MakeModel, make_rollouts: Any):
    models, _ = _load(make_model("a", env="Other-v0"), data=make_rollouts([3, 4]))
    assert models is not None
    assert len(models.frames) == 4 + 5


@pytest.mark.parametrize(
    "env", ["world_models/Synthetic-v0", "world_models:world_models/Synthetic-v0", "mine:Synthetic-v0"]
)
def test_trained_episodes_are_recognised_under_another_id_of_the_environment(
    make_model: MakeModel, make_rollouts: Any, env: str
):
    data = make_rollouts([3, 4, 5])
    models, _ = _load(make_model("a", env=env), data=data)
    assert models is not None
    assert np.array_equal(models.frames.read_all(), Rollouts(data)[2].frames)


def test_no_frames_are_shown_of_data_that_was_trained_on(make_model: MakeModel, make_rollouts: Any):
    models, notes = _load(make_model("a", train_seeds=[0, 1, 2]), data=make_rollouts([3, 4]))
    assert models is None
    assert "a run was trained on each episode" in notes[-1]
    assert "--data" in notes[-1]


def test_no_frames_are_shown_if_the_data_is_missing(make_model: MakeModel):
    models, notes = _load(make_model("a", data="nowhere", data_digest="d"))
    assert models is None
    assert notes == [
        "no frames are shown: nowhere does not exist any more or has changed since the training; name rollouts with "
        "--data"
    ]


def test_no_frames_are_shown_if_the_data_has_changed(make_model: MakeModel, make_rollouts: Any):
    models, notes = _load(make_model("a", data=str(make_rollouts([3, 4])), data_digest="d"))
    assert models is None
    assert "has changed" in notes[0]


@pytest.mark.parametrize("data", ["", "\0", 3, None, "x" * 10_000])
def test_no_frames_are_shown_if_the_name_of_the_data_is_invalid(make_model: MakeModel, data: Any):
    models, notes = _load(make_model("a", data=data, data_digest="d"))
    assert models is None
    assert len(notes) == 1


def test_data_of_another_run_is_shown_if_that_of_the_best_is_missing(make_model: MakeModel, make_rollouts: Any):
    data = make_rollouts([3, 4, 5])
    there = make_model("b", data=str(data), data_digest=Rollouts(data).digest())
    models, _ = _load(make_model("a", data="nowhere", data_digest="d"), there)
    assert models is not None
    assert list(models.by_run) == ["a", "b"]


def test_runs_without_a_model_show_no_frames(make_run: Callable[..., Path]):
    models, notes = _load(read_run(make_run("a")))
    assert models is None
    assert "no run has saved a model yet" in notes[0]


def test_the_note_about_a_model_that_does_not_name_its_data_says_so(make_model: MakeModel):
    models, notes = _load(make_model("a", data=5))
    assert models is None
    assert "no model.json names its training data; name rollouts with --data" in notes[0]


def test_named_data_that_is_missing_is_refused(make_model: MakeModel, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        _load(make_model("a"), data=tmp_path / "nothing")


# which models


def test_only_the_first_twelve_runs_are_shown(make_model: MakeModel, make_rollouts: Any):
    run = make_model("a")
    runs = [dataclasses.replace(run, name=str(i)) for i in range(14)]
    models, notes = _load(*runs, data=make_rollouts([3, 4, 5]))
    assert models is not None
    assert list(models.by_run) == [str(i) for i in range(12)]
    assert notes == ["of 14 runs with a model, frames of the best 12 are shown"]


def _no_weights(run: RunRecord) -> RunRecord:
    (run.path / "best.safetensors").unlink()
    return run


def _damaged_weights(run: RunRecord) -> RunRecord:
    (run.path / "best.safetensors").write_bytes(b"no weights")
    return run


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_no_weights, "train the model to its first validation"),
        (_damaged_weights, "not a safetensors file"),
        (lambda run: _edit(run, vae={"z_dim": 8}), "another architecture"),
        (lambda run: _edit(run, vae={"z_dim": 10**12}), "give 1 to 10,000"),
        (lambda run: _edit(run, vae={"z_dim": "many"}), "not a description of a model"),
        (lambda run: _edit(run, vae=[4]), "not a description of a model"),
        (lambda run: _edit(run, architecture="vq_vae"), "vq_vae"),
        (
            lambda run: _edit(run, train_seeds="all"),
            "lacks train_seeds, or it has another type; train the model again",
        ),
        (
            lambda run: _edit(run, train_seeds=[[0]]),
            "lacks train_seeds, or it has another type; train the model again",
        ),
        (lambda run: _edit(run, preprocess={"crop": None}), "--crop"),
    ],
)
def test_a_model_that_cannot_be_shown_is_reported_and_the_others_are_shown(
    make_model: MakeModel, make_rollouts: Any, damage: Callable[[RunRecord], RunRecord], said: str
):
    models, notes = _load(damage(make_model("bad")), make_model("good"), data=make_rollouts([3, 4, 5]))
    assert models is not None
    assert list(models.by_run) == ["good"]
    (note,) = notes
    assert note.startswith("no frames of bad: ")
    assert said in note


def test_if_no_model_can_be_shown_there_are_no_frames(make_model: MakeModel, make_rollouts: Any):
    models, notes = _load(_no_weights(make_model("a")), data=make_rollouts([3, 4, 5]))
    assert models is None
    assert len(notes) == 1


def test_the_last_weights_are_used_if_asked_for(make_model: MakeModel, make_rollouts: Any):
    run = make_model("a")
    shutil.move(run.path / "best.safetensors", run.path / "model.safetensors")
    models, notes = _load(run, data=make_rollouts([3, 4, 5]), weights="last")
    assert models is not None
    assert notes == []


# what is shown


def test_rows_are_the_frames_and_their_reconstructions_by_each_model(make_model: MakeModel, make_rollouts: Any):
    runs = [make_model("a"), make_model("other", z_dim=6)]
    models, _ = _load(*runs, data=make_rollouts([3, 4, 9]))
    assert models is not None
    shown = models.rows(5)
    assert shown.originals.shape == (5, 64, 64, 3)
    for run in runs:
        vae = checkpoints.load_vae(run.path)
        assert np.array_equal(shown.reconstructions[run.name], vae.decode(vae.encode(shown.originals).mu).numpy())


def test_neither_the_first_nor_the_last_frame_is_shown(make_model: MakeModel, make_rollouts: Any):
    data = make_rollouts([3, 4, 9])
    models, _ = _load(make_model("a"), data=data)
    assert models is not None
    assert np.array_equal(models.rows(8).originals, Rollouts(data)[2].frames[1:-1])


def test_if_there_are_only_two_frames_both_are_shown(make_model: MakeModel, make_rollouts: Any):
    models, _ = _load(make_model("a"), data=make_rollouts([3, 4, 1]))
    assert models is not None
    assert len(models.rows(8).originals) == 2
