"""Data without actions and rewards train a V model, and are encoded, evaluated and cut into sequences."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from world_models import Latents, LatentSequences, Rollouts, convert, encode, evaluate, train_vae
from world_models.runs import provenance
from world_models.runs.scores import read_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with imported pictures, for training and held out: a bright bar that moves."""
    root = tmp_path_factory.mktemp("imported")
    for name, first, count in (("pictures", 0, 6), ("heldout", 6, 2)):
        for episode in range(first, first + count):
            (root / f"{name}/{episode}").mkdir(parents=True)
            for step in range(30):
                pixels = np.full((48, 64, 3), 10 * episode, np.uint8)
                pixels[:, (3 * step + 5 * episode) % 60 :][:, :4] = 255
                Image.fromarray(pixels).save(root / f"{name}/{episode}/{step}.png")
        convert.main(f"--data {root}/{name} --out {root}/rollouts/{name} --executor serial".split())
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    flags = "--num_frames 400 --batch_size 50 --lr_warmup_frames 50 --val_every_frames 200 --log_every_steps 2"
    train_vae.main(f"--data {folder}/rollouts/pictures --out {folder}/run {flags}".split())
    return folder / "run"


@pytest.fixture(scope="module")
def latents(folder: Path, run: Path) -> Path:
    encode.main(f"--data {folder}/rollouts/pictures --vae {run} --out {folder}/latents".split())
    return folder / "latents"


@pytest.mark.slow
def test_latents_have_no_action_columns(latents, folder):
    data, rollouts = Latents(latents), Rollouts(folder / "rollouts/pictures")
    assert data.num_actions == 0
    assert data[0].actions.shape == (29, 0)
    np.testing.assert_array_equal(data.seeds, rollouts.seeds)


@pytest.mark.slow
def test_sequences_have_no_action_columns(latents):
    sequences = LatentSequences(latents, length=10)
    assert sequences[0]["z"].shape == (10, 32)
    assert sequences[0]["actions"].shape == (10, 0)


@pytest.mark.slow
def test_the_model_is_evaluated_on_held_out_episodes(folder, run):
    evaluate.main(f"--data {folder}/rollouts/heldout --vae {run}".split())
    scores, _ = read_scores(run)
    assert scores is not None and (run / "report.html").exists()


@pytest.mark.slow
def test_episodes_that_the_model_was_trained_on_are_known_by_their_seeds(folder, run):
    training = provenance.load(run)
    assert len(training.trained_seeds(Rollouts(folder / "rollouts/pictures"))) == 5  # of 6, as one is for validation
    assert not training.trained_seeds(Rollouts(folder / "rollouts/heldout"))
