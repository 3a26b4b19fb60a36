"""MNIST by the same command: files, refusals, repeatability; and on the real images, that training works."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from world_models.data import mnist
from world_models.evaluate.digits import scores
from world_models.runs import checkpoints, description
from world_models.runs.records import MetricsLine, read_lines
from world_models.train_vae import command as train_vae
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.noise import binarised

CONFIGS = Path(__file__).parents[2] / "configs/mnist"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
SMALL = "--num_frames 400 --batch_size 64 --val_every_frames 200 --num_val_frames 60 --wandb.mode disabled"

real = pytest.mark.skipif(
    "WORLD_MODELS_MNIST" not in os.environ, reason="WORLD_MODELS_MNIST names no folder that has MNIST/raw"
)


def _train(name: str, data: Path | str, out: Path, more: str = "", small: str = SMALL) -> list[MetricsLine]:
    train_vae.main(f"--config {CONFIGS / name}.yaml --data {data} --out {out} {small} {more}".split())
    return [line for line in read_lines(out) if "val/sse" in line]


# what is written


@pytest.mark.parametrize("name", NAMES)
def test_every_mnist_config_trains_and_draws_each_epoch(name: str, mnist_dir: Path, tmp_path: Path):
    lines = _train(name, mnist_dir, tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1.0, 2.0]
    assert all(np.isfinite(line["val/loss_nats"]) for line in lines)
    drawn = {path.name for path in (tmp_path / "run/figures").iterdir()}
    each = {f"{what}_epoch_{epoch:03d}.png" for what in ("samples", "recon") for epoch in (1, 2)}
    end = {"latents.png", "interpolation.png", "arithmetic.png"}
    own = {"cvae": {"chosen_digits.png"}, "vae_2d": {"manifold.png"}}
    assert drawn == each | end | own.get(name, set())


@pytest.mark.parametrize(("name", "black_white"), [("vae", False), ("vae_binarised", True), ("cvae", False)])
def test_digits_are_standardised_on_the_training_images(name: str, black_white: bool, mnist_dir: Path, tmp_path: Path):
    """The images are binarised if training binarises them, and a conditional model gets their classes."""
    _train(name, mnist_dir, tmp_path / "run", "--standardise true")
    train = mnist.load(str(mnist_dir)).train
    frames = torch.from_numpy(train.frames)
    if black_white:
        frames = binarised(frames, train_vae.VAL_NOISE_SEED, 0)
    labels = torch.from_numpy(train.labels) if name == "cvae" else None
    posterior = checkpoints.load_digits_vae(tmp_path / "run", "last", torch.device("cpu")).encode(frames, labels)
    variance = posterior.mu.double().var(0, correction=0) + posterior.logvar.double().exp().mean(0)
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-3, atol=0)
    torch.testing.assert_close(posterior.mu.mean(0), torch.zeros(len(variance)), rtol=0, atol=1e-3)


def test_pictures_of_a_validation_within_an_epoch_are_named_by_its_share(mnist_dir: Path, tmp_path: Path):
    _train("vae", mnist_dir, tmp_path / "run", "--num_frames 300 --val_every_frames 100")
    drawn = {path.name for path in (tmp_path / "run/figures").glob("recon_*")}
    assert drawn == {f"recon_epoch_{epoch}.png" for epoch in ("0.64", "001", "1.50")}  # 128, 200 and 300 of 200 frames


def test_every_test_image_is_scored_by_default(mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from world_models.vae import metrics

    scored: list[LabelledFrames] = []
    validate = metrics.validate

    def spy(vae: Any, held_out: LabelledFrames, noise: Any) -> metrics.Validation:
        scored.append(held_out)
        return validate(vae, held_out, noise)

    monkeypatch.setattr(metrics, "validate", spy)
    _train("cvae", mnist_dir, tmp_path / "run", "--num_frames 64 --num_val_frames 10000")
    test = mnist.load(mnist_dir).test
    assert np.array_equal(scored[0].frames, test.frames) and np.array_equal(scored[0].labels, test.labels)


def test_model_json_names_mnist(mnist_dir: Path, tmp_path: Path):
    _train("cvae", mnist_dir, tmp_path / "run", "--num_frames 64")
    found = description.load(tmp_path / "run")
    assert (found.trained_on.dataset, found.architecture) == ("mnist", "mlp_vae")
    assert found.trained_on.data_digest == mnist.load(mnist_dir).digest
    vae = checkpoints.load_vae(tmp_path / "run", "last")
    assert vae.config.hidden == (512, 256) and vae.config.num_classes == 10


# the same again


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load_vae(run, "last").state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "--binarise true --vae.num_samples 2"])
def test_resumed_training_gives_the_weights_of_uninterrupted_training(
    more: str, mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _train("cvae", mnist_dir, tmp_path / "whole", more)

    class CutError(Exception):
        pass

    learn = train_vae.Learner.learn

    def breaks_off(self: Any, *args: Any) -> None:
        if self.step == 6:
            raise CutError
        learn(self, *args)

    with monkeypatch.context() as patch, pytest.raises(CutError):
        patch.setattr(train_vae.Learner, "learn", breaks_off)
        _train("cvae", mnist_dir, tmp_path / "cut", more)
    _train("cvae", mnist_dir, tmp_path / "cut", f"{more} --resume true")
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.slow
def test_binarised_training_sees_other_pixels(mnist_dir: Path, tmp_path: Path):
    grey = _train("vae", mnist_dir, tmp_path / "grey")
    binarised = _train("vae", mnist_dir, tmp_path / "binarised", "--binarise true")
    assert grey[-1]["val/loss_nats"] != binarised[-1]["val/loss_nats"]


# what is refused


def _refused(*argv: str) -> str:
    with pytest.raises(ValueError) as refusal:
        train_vae.main(argv)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("--dataset mnist", "vae.network paper does not take mnist's frames, 28x28x1; give mlp or conv"),
        ("--vae.network mlp", "vae.network mlp does not take rollouts's frames, 64x64x3; give paper"),
        ("--dataset mnist --data d --vae.network mlp --vae.num_classes 3", "give 10, MNIST's digits, or 0"),
        (
            "--dataset mnist --vae.network conv --vae.num_classes 10",
            "vae.num_classes: network conv takes no classes; give network mlp",
        ),
        ("--dataset mnist --vae.network mlp", "which is not a folder of MNIST; give --data data"),
        ("--binarise true", "binarise is for the grey pixels of mnist; leave it out"),
        ("--dataset cifar", "dataset"),
        ("--dataset mnist --vae.network mlp --vae.hidden []", "vae.hidden is []; give 1 to 8 widths"),
    ],
)
def test_bad_settings_for_mnist_are_refused(argv: str, wanted: str, tmp_path: Path):
    assert wanted in _refused(*argv.split(), "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_rollouts_is_refused_as_mnist(rollouts_dir: Path, tmp_path: Path):
    argv = f"--config {CONFIGS}/vae.yaml --data {rollouts_dir} --out {tmp_path / 'run'}".split()
    assert "holds rollouts; give --data data" in _refused(*argv)


def test_memory_that_cannot_hold_the_digits_is_refused(mnist_dir: Path, tmp_path: Path):
    argv = f"--config {CONFIGS}/vae.yaml --data {mnist_dir} --out {tmp_path / 'run'} --memory_gb 0.0001".split()
    assert "raise --memory_gb" in _refused(*argv)


def test_a_model_of_digits_encodes_no_rollouts(mnist_dir: Path, rollouts_dir: Path, tmp_path: Path):
    from world_models import encode

    _train("vae", mnist_dir, tmp_path / "run", "--num_frames 64")
    with pytest.raises(ValueError, match="a model of MNIST's digits"):
        encode.main(f"--data {rollouts_dir} --vae {tmp_path / 'run'} --out {tmp_path / 'latents'}".split())
    assert not (tmp_path / "latents").exists()


# the real ones


EPOCH = "--num_frames 60000 --val_every_frames 60000 --wandb.mode disabled"


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Trains on the real digits, each recipe once."""
    folder, done = tmp_path_factory.mktemp("real"), {}

    def run(name: str, more: str = "") -> tuple[Path, dict[str, Any]]:
        if (name, more) not in done:
            out = folder / str(len(done))
            done[name, more] = out, _train(name, os.environ["WORLD_MODELS_MNIST"], out, more, EPOCH)[-1]
        return done[name, more]

    return run


@pytest.mark.slow
@real
def test_one_epoch_of_the_tutorials_vae_is_below_130_nats(real_run: Callable[..., Any]):
    _, last = real_run("vae")
    assert 110 < last["val/loss_nats"] < 130


@real
@pytest.mark.slow
def test_a_larger_beta_gives_a_smaller_kl_and_a_larger_error(real_run: Callable[..., Any]):
    lines = [real_run("beta_vae", f"--vae.beta {beta}")[1] for beta in (0.25, 1, 4)]
    errors = [
        line["val/loss_nats"] - beta * line["val/kl_nats"] for line, beta in zip(lines, (0.25, 1, 4), strict=True)
    ]
    kls = [line["val/kl_nats"] for line in lines]
    assert sorted(errors) == errors and sorted(kls, reverse=True) == kls


@real
@pytest.mark.slow
def test_an_autoencoder_reconstructs_better_and_samples_worse_than_a_vae(real_run: Callable[..., Any]):
    data = mnist.load(os.environ["WORLD_MODELS_MNIST"])
    classifier = scores.fit_classifier(data.train, epochs=1)
    runs = {name: real_run(name, "--num_frames 240000") for name in ("ae", "vae_as_ae")}
    assert runs["ae"][1]["val/sse"] < runs["vae_as_ae"][1]["val/sse"]
    dreams = {
        name: scores.quality(classifier, scores.decode_samples(checkpoints.load_vae(run, "last"))[0])
        for name, (run, _) in runs.items()
    }
    shares = {name: dream.confident_share for name, dream in dreams.items()}
    assert shares["ae"] < 0.7 * shares["vae_as_ae"], json.dumps(shares)
