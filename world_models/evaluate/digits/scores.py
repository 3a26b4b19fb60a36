"""What is measured of a model of MNIST: likelihoods, what mu tells of the digit, and how good its samples are.

Grey images and black and white ones have likelihoods that cannot be compared, so every name says which was scored.
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
"""A sample is confidently a digit where the classifier gives one digit more than this."""
NUM_SAMPLES = 10_000
NEIGHBOURS = 5
SAMPLES = (1, 10, 100, 5000)
BINARISE_SEED = 0xB1
RIDGE = 1e-4


class Classifier(nn.Module):
    """Which digit an image shows: two convolutions and a linear layer."""

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
        """The probability of each digit."""
        return torch.cat([self(to_images(batch)).softmax(1) for batch in frames.split(1024)])


def fit_classifier(
    digits: Digits, epochs: int = 3, batch_size: int = 128, lr: float = 2e-3, seed: int = 0
) -> Classifier:
    """Train one on the CPU, the same each time; a few seconds for MNIST's 60,000 images."""
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
    """Share of images that are recognised."""
    found = classifier.shares(torch.from_numpy(digits.frames)).argmax(1)
    return float((found == torch.from_numpy(digits.labels)).float().mean())


def samples(
    vae: VAE, mean: Float[Tensor, " z"] | float = 0.0, spread: Float[Tensor, "z z"] | None = None, seed: int = 0
) -> tuple[UInt8[Tensor, "samples 28 28 1"], Int64[Tensor, " samples"]]:
    """Images of normally distributed z, the prior unless told otherwise, and the digits that were asked for.

    Args:
        vae: asked for one digit after the other if it is conditional.
        mean: of z.
        spread: a square root of z's covariance.
        seed: of the random numbers.
    """
    z = torch.randn(NUM_SAMPLES, vae.config.z_dim, generator=torch.Generator().manual_seed(seed))
    z = mean + (z if spread is None else z @ spread.T)
    asked = torch.arange(len(z)) % NUM_DIGITS
    pairs = zip(z.split(1024), asked.split(1024), strict=True)
    return torch.cat([vae.decode(part, digits).cpu() for part, digits in pairs]), asked


def quality(classifier: Classifier, images: UInt8[Tensor, "samples 28 28 1"]) -> SampleQuality:
    """How many images are confidently a digit, and how evenly they are spread over the digits."""
    shares = classifier.shares(images)
    each = shares.double().mean(0)
    return SampleQuality(
        confident_share=float((shares.max(1).values > CONFIDENT).float().mean()),
        class_entropy_nats=float(-torch.xlogy(each, each).sum()),
        digit_shares=each.tolist(),
    )


class SampleScores(NamedTuple):
    """How good samples of the prior are, and those of a normal fitted to mu, which is fairer to a plain autoencoder.

    Attributes:
        of_prior: of the prior.
        of_fitted: of the normal.
        asked_share: share of samples of the prior that the classifier takes for what a conditional model was asked for.
    """

    of_prior: SampleQuality
    of_fitted: SampleQuality
    asked_share: float | None


def sample_scores(vae: VAE, classifier: Classifier, train_mu: Float[Tensor, "images z"]) -> SampleScores:
    """The quality of a model's samples."""
    mean, covariance = train_mu.mean(0), torch.cov(train_mu.T).reshape(2 * [vae.config.z_dim])
    values, vectors = torch.linalg.eigh(covariance)
    of_prior, asked = samples(vae)
    of_fitted, _ = samples(vae, mean, vectors * values.clamp(min=0).sqrt())
    found = classifier.shares(of_prior).argmax(1)
    asked_share = float((found == asked).float().mean()) if vae.config.num_classes else None
    return SampleScores(quality(classifier, of_prior), quality(classifier, of_fitted), asked_share)


def knn_accuracy(
    train: Float[Tensor, "images z"], labels: Int64[Tensor, " images"], test: Tensor, test_labels: Tensor
) -> float:
    """Share of test images whose five nearest training images, by mu, are mostly of their digit; of ties the nearer."""
    # By hand: scikit-learn finds the same share in 2 s of processor time, not 5 s, for MNIST. But its import takes 1 s,
    # it adds 200 MB of packages, and no other part that was compared gains by it.
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
    """Share of test images whose digit logistic regression tells from mu, fitted on training images."""
    # By hand: scikit-learn's LogisticRegression (lbfgs) agrees to 0.001, in 1.7 times the processor time for MNIST.
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
    """Of test images; None for what is no likelihood.

    An autoencoder has no distribution, and a Gaussian none over black and white.

    Attributes:
        iwae_grey_nats: importance-weighted bounds over some images, by number of samples.
        elbo_binarised_nats: of all images in black and white.
        iwae_binarised_nats: bounds over some of these.
    """

    iwae_grey_nats: dict[str, float] | None = None
    elbo_binarised_nats: float | None = None
    iwae_binarised_nats: dict[str, float] | None = None


def likelihoods(vae: VAE, test: Digits, num_iwae_images: int) -> Likelihoods:
    """Bounds over so many test images, grey and black and white, and the ELBO of all the latter."""
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
