"""Scores of models of digits, compared with known values."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from world_models.data import mnist
from world_models.data.mnist import Digits
from world_models.evaluate.digits import scores as digit_scores
from world_models.evaluate.digits.scores import Classifier
from world_models.vae import metrics
from world_models.vae.config import VAEConfig
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE
from world_models.vae.noise import binarised

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(make_mnist: Callable[..., Path]) -> mnist.Mnist:
    return mnist.load(make_mnist(1000, 100))


@pytest.fixture(scope="module")
def classifier(data: mnist.Mnist) -> Classifier:
    return digit_scores.fit_classifier(data.train, epochs=6, batch_size=20)


class _Recalls(VAE):
    """A model that decodes every z to an image of the given digit, or of one of the first digits."""

    def __init__(self, digits: Digits, num_classes: int = 10, most: int = 10):
        super().__init__(VAEConfig(3, network="mlp", hidden=(4,), num_classes=num_classes))
        nth = [np.flatnonzero(digits.labels == digit)[0] for digit in range(10)]
        self._images, self._most = torch.from_numpy(digits.frames[nth]), most

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        return self._images[labels % self._most]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digit_scores, "NUM_SAMPLES", 200)


def test_the_classifier_recognises_digits_that_it_was_not_trained_on(classifier: Classifier, data: mnist.Mnist):
    assert digit_scores.accuracy(classifier, data.test) > 0.97


def test_classifier_is_the_same_every_time(data: mnist.Mnist):
    few = Digits(data.train.frames[:60], data.train.labels[:60])
    first, second = (digit_scores.fit_classifier(few, epochs=1).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fitting_a_classifier_does_not_change_the_global_generator(data: mnist.Mnist):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    digit_scores.fit_classifier(Digits(data.train.frames[:20], data.train.labels[:20]), epochs=1)
    assert torch.equal(torch.rand(1), expected)


def test_images_of_digits_have_a_higher_quality_than_noise(classifier: Classifier, data: mnist.Mnist):
    good = digit_scores.quality(classifier, torch.from_numpy(data.test.frames))
    assert good.confident_share > 0.9
    assert good.class_entropy_nats == pytest.approx(math.log(10), abs=0.01)
    assert sum(good.digit_shares) == pytest.approx(1)
    noise = torch.randint(0, 256, (200, 28, 28, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert digit_scores.quality(classifier, noise).confident_share < 0.8 * good.confident_share


def test_samples_of_one_digit_have_no_entropy(few: None, classifier: Classifier, data: mnist.Mnist):
    scores = digit_scores.sample_scores(_Recalls(data.test, most=1), classifier, torch.randn(50, 3))
    assert scores.of_prior.class_entropy_nats < 0.1
    assert scores.asked_share == pytest.approx(0.1, abs=0.02)


def test_a_model_that_draws_the_requested_digit_scores_one(few: None, classifier: Classifier, data: mnist.Mnist):
    scores = digit_scores.sample_scores(_Recalls(data.test), classifier, torch.randn(50, 3))
    assert scores.asked_share is not None and scores.asked_share > 0.97


def test_only_a_conditional_model_is_scored_on_requested_digits(few: None, classifier: Classifier, data: mnist.Mnist):
    assert digit_scores.sample_scores(_Recalls(data.test, 0), classifier, torch.randn(50, 3)).asked_share is None


class _ShowsZ(VAE):
    """A model whose images have the grey value z."""

    def __init__(self):
        super().__init__(VAEConfig(1, network="mlp", hidden=(4,)))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return (128 + 20 * z).round().clamp(0, 255).to(torch.uint8)[:, :, None, None].expand(-1, 28, 28, 1)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, None), (torch.tensor([2.0]), torch.tensor([[0.5]]))])
def test_samples_have_the_requested_mean_and_standard_deviation(mean: Any, spread: Tensor | None):
    z = (digit_scores.decode_samples(_ShowsZ(), mean, spread)[0][:, 0, 0, 0].float() - 128) / 20
    assert float(z.mean()) == pytest.approx(float(mean), abs=0.05)
    assert float(z.std()) == pytest.approx(1.0 if spread is None else 0.5, abs=0.05)


def test_nearest_neighbours_and_the_linear_classifier_recognise_digits_that_lie_apart():
    labels = torch.arange(10).repeat(30)
    centres = 8 * torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    train, test = (centres[labels] + 0.1 * torch.randn(300, 5) for _ in range(2))
    assert digit_scores.knn_accuracy(train, labels, test, labels) == 1
    assert digit_scores.linear_accuracy(train, labels, test, labels) == 1


def test_nearest_neighbours_recognise_digits_that_no_line_separates():
    """Digit 0 inside a ring of digit 1."""
    angle = torch.linspace(0, 6.28, 200)
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    points, labels = torch.cat([0.1 * ring, 3 * ring]), torch.arange(2).repeat_interleave(200)
    assert digit_scores.knn_accuracy(points, labels, points, labels) == 1
    assert digit_scores.linear_accuracy(points, labels, points, labels) < 0.8


def test_in_a_tie_of_single_neighbours_the_nearest_one_decides():
    train, labels = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([7, 3, 3, 7])
    assert digit_scores.knn_accuracy(train, labels, torch.tensor([[0.0]]), torch.tensor([7])) == 1


def test_in_a_tie_of_pairs_the_nearer_pair_decides():
    train, labels = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]), torch.tensor([9, 5, 5, 2, 2])
    assert digit_scores.knn_accuracy(train, labels, torch.tensor([[0.0]]), torch.tensor([5])) == 1


def test_latents_without_information_give_the_accuracy_of_chance():
    labels = torch.randint(0, 10, (2000,), generator=torch.Generator().manual_seed(0))
    mu = torch.randn(2000, 4, generator=torch.Generator().manual_seed(1))
    for told in (digit_scores.knn_accuracy, digit_scores.linear_accuracy):
        assert told(mu[:1000], labels[:1000], mu[1000:], labels[1000:]) < 0.2


def _model(**config: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(3, network="mlp", hidden=(8,), **config))


def test_likelihoods_name_the_kind_of_their_pixels(data: mnist.Mnist, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digit_scores, "SAMPLES", (1, 4))
    vae = _model(likelihood="bernoulli")
    found = digit_scores.likelihoods(vae, data.test, 30)
    black_white = binarised(torch.from_numpy(data.test.frames), digit_scores.BINARISE_SEED, 0).numpy()
    assert found.elbo_binarised_nats == metrics.measure(vae, LabelledFrames.of_one_class(black_white)).elbo_nats
    some = np.linspace(0, 99, 30).astype(int)
    for kind, frames in {"grey": data.test.frames, "binarised": black_white}.items():
        bounds = metrics.iwae_nats(vae, LabelledFrames.of_one_class(frames[some]), (1, 4))
        assert getattr(found, f"iwae_{kind}_nats") == bounds
    assert found.iwae_grey_nats != found.iwae_binarised_nats


@pytest.mark.parametrize(("config", "known"), [({"posterior": "point"}, set()), ({}, {"iwae_grey_nats"})])
def test_a_loss_that_is_no_likelihood_gives_null(
    config: dict[str, Any], known: set[str], data: mnist.Mnist, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(digit_scores, "SAMPLES", (1,))
    found = digit_scores.likelihoods(_model(**config), data.test, 10)
    assert {name for name, value in found._asdict().items() if value is not None} == known
