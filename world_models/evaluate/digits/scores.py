"""Measures of a model of MNIST: likelihoods, classification of digits by mu, and quality of samples.

Likelihoods of grey images cannot be compared with those of binarised (black and white) images. So the name of each
likelihood says which images were scored.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from world_models.data.mnist import NUM_DIGITS, Digits
from world_models.runs.score_parts import SampleQuality
from world_models.vae import metrics
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE, to_images
from world_models.vae.noise import binarised

CONFIDENT = 0.9
"""A sample is confidently a digit if the classifier gives one digit a probability above this."""
NUM_SAMPLES = 10_000
NEIGHBOURS = 5
SAMPLES = (1, 10, 100, 5000)
BINARISE_SEED = 0xB1
RIDGE = 1e-4


class Classifier(nn.Module):
    """Classifies digits by two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.digits = nn.Linear(32 * 7 * 7, NUM_DIGITS)

    def forward(self, images: Float[Tensor, "batch 1 28 28"]) -> Float[Tensor, "batch 10"]:
        """Logits of the digits."""
        return self.digits(F.relu(self.conv2(F.relu(self.conv1(images)))).flatten(1))

    @torch.inference_mode()
    def shares(self, frames: UInt8[Tensor, "frames 28 28 1"]) -> Float[Tensor, "frames 10"]:
        """The probability of each digit for each frame."""
        return torch.cat([self(to_images(batch)).softmax(1) for batch in frames.split(1024)])


def fit_classifier(
    digits: Digits, epochs: int = 3, batch_size: int = 128, lr: float = 2e-3, seed: int = 0
) -> Classifier:
    """Train a classifier on the CPU. The result is always the same. MNIST's 60,000 images take a few seconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier()
    optimizer = torch.optim.Adam(classifier.parameters(), lr)
    steps = epochs * -(-len(digits.frames) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    frames, labels = torch.from_numpy(digits.frames), torch.from_numpy(digits.labels)
    for chosen in _epochs(len(frames), epochs, batch_size, seed):
        optimizer.zero_grad()
        F.cross_entropy(classifier(to_images(frames[chosen])), labels[chosen]).backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def _epochs(count: int, epochs: int, batch_size: int, seed: int) -> Iterator[Int64[Tensor, " batch"]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(batch_size)


def accuracy(classifier: Classifier, digits: Digits) -> float:
    """Share of images that are classified correctly."""
    found = classifier.shares(torch.from_numpy(digits.frames)).argmax(1)
    return float((found == torch.from_numpy(digits.labels)).float().mean())


def decode_samples(
    vae: VAE,
    mean: Float[Tensor, " z"] | float = 0.0,
    covariance_root: Float[Tensor, "z z"] | None = None,
    seed: int = 0,
) -> tuple[UInt8[Tensor, "samples 28 28 1"], Int64[Tensor, " samples"]]:
    """Decode normally distributed z; by default z has the prior's distribution.

    Args:
        vae: the model. A conditional model gets the digits 0 to 9 in turn.
        mean: mean of z.
        covariance_root: a square root of z's covariance; None for the identity.
        seed: seed of the random numbers.

    Returns:
        The images, and the digits that a conditional model was asked for.
    """
    z = torch.randn(NUM_SAMPLES, vae.config.z_dim, generator=torch.Generator().manual_seed(seed))
    z = mean + (z if covariance_root is None else z @ covariance_root.T)
    asked = torch.arange(len(z)) % NUM_DIGITS
    pairs = zip(z.split(1024), asked.split(1024), strict=True)
    return torch.cat([vae.decode(part, digits).cpu() for part, digits in pairs]), asked


def quality(classifier: Classifier, images: UInt8[Tensor, "samples 28 28 1"]) -> SampleQuality:
    """Quality of images: how many are confidently a digit, and how evenly they are spread over the digits."""
    shares = classifier.shares(images)
    each = shares.double().mean(0)
    return SampleQuality(
        confident_share=float((shares.max(1).values > CONFIDENT).float().mean()),
        class_entropy_nats=float(-torch.xlogy(each, each).sum()),
        digit_shares=each.tolist(),
    )


class SampleScores(NamedTuple):
    """Quality of samples. A normal distribution fitted to mu is fairer to a plain autoencoder than the prior.

    Attributes:
        of_prior: quality of samples of the prior.
        of_fitted: quality of samples of the normal distribution fitted to mu.
        asked_share: share of samples of the prior that show the requested digit, by the classifier; None unless the
            model is conditional.
    """

    of_prior: SampleQuality
    of_fitted: SampleQuality
    asked_share: float | None


def sample_scores(vae: VAE, classifier: Classifier, train_mu: Float[Tensor, "images z"]) -> SampleScores:
    """Measure the quality of a model's samples."""
    mean, covariance = train_mu.mean(0), torch.cov(train_mu.T).reshape(2 * [vae.config.z_dim])
    values, vectors = torch.linalg.eigh(covariance)
    of_prior, asked = decode_samples(vae)
    of_fitted, _ = decode_samples(vae, mean, vectors * values.clamp(min=0).sqrt())
    found = classifier.shares(of_prior).argmax(1)
    asked_share = float((found == asked).float().mean()) if vae.config.num_classes else None
    return SampleScores(quality(classifier, of_prior), quality(classifier, of_fitted), asked_share)


def knn_accuracy(
    train: Float[Tensor, "images z"], labels: Int64[Tensor, " images"], test: Tensor, test_labels: Tensor
) -> float:
    """Accuracy of classification by the five nearest training images, by mu. In a tie the nearer images decide."""
    # scikit-learn finds the same share for MNIST in 2 s of processor time instead of 5 s. But its import takes 1 s, it
    # adds 200 MB of packages, and the other measures are not faster with it.
    right = 0
    for mu, wanted in zip(test.split(500), test_labels.split(500), strict=True):
        nearest = torch.cdist(mu, train).topk(min(NEIGHBOURS, len(train)), largest=False).indices
        nearness = 1 + 0.01 * 0.5 ** torch.arange(nearest.shape[1])  # decides ties
        votes = F.one_hot(labels[nearest], NUM_DIGITS) * nearness[:, None]
        right += int((votes.sum(1).argmax(1) == wanted).sum())
    return right / len(test)


def linear_accuracy(
    train: Float[Tensor, "images z"], labels: Int64[Tensor, " images"], test: Tensor, test_labels: Tensor
) -> float:
    """Accuracy of classification by logistic regression on mu, fitted on training images."""
    # scikit-learn's LogisticRegression (lbfgs) agrees to 0.001, but takes 1.7 times the processor time for MNIST.
    mean, scale = train.mean(0), train.std(0).clamp(min=1e-6)
    model = nn.Linear(train.shape[1], NUM_DIGITS)
    for weight in model.parameters():
        nn.init.zeros_(weight)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(model((train - mean) / scale), labels) + RIDGE * model.weight.square().sum()
        value.backward()
        return float(value.detach())

    optimizer.step(loss)
    with torch.inference_mode():
        return float((model((test - mean) / scale).argmax(1) == test_labels).float().mean())


class Likelihoods(NamedTuple):
    """Likelihoods of test images in nats; None if the model has no such likelihood.

    A plain autoencoder has no likelihood. A Gaussian has none of binarised images.

    Attributes:
        iwae_grey_nats: importance-weighted bounds of some grey images, by number of samples.
        elbo_binarised_nats: ELBO of all binarised images.
        iwae_binarised_nats: importance-weighted bounds of some binarised images, by number of samples.
    """

    iwae_grey_nats: dict[str, float] | None = None
    elbo_binarised_nats: float | None = None
    iwae_binarised_nats: dict[str, float] | None = None


def likelihoods(vae: VAE, test: Digits, num_iwae_images: int) -> Likelihoods:
    """Bounds of `num_iwae_images` test images, grey and binarised, and the ELBO of all binarised images."""
    if vae.config.posterior == "point":
        return Likelihoods()
    some = np.linspace(0, len(test.frames) - 1, min(num_iwae_images, len(test.frames))).astype(int)
    grey = LabelledFrames(test.frames, test.labels)
    iwae_grey = metrics.iwae_nats(vae, grey.at(some), SAMPLES)
    if vae.config.likelihood != "bernoulli":
        return Likelihoods(iwae_grey)
    binary = LabelledFrames(binarised(torch.from_numpy(test.frames), BINARISE_SEED, 0).numpy(), test.labels)
    elbo = metrics.measure(vae, binary).elbo_nats
    return Likelihoods(iwae_grey, elbo, metrics.iwae_nats(vae, binary.at(some), SAMPLES))
