"""Likelihoods of images given their reconstruction, and their errors; all are sums over an image's values."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PAPER_VARIANCE = 0.5  # with this variance the exponent of a Gaussian is the SSE


def squared_error(
    images: Float[Tensor, "batch channels height width"], means: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """SSE of each image: squared error summed over its values, which are in [0, 1]."""
    return (images - means).square().sum((1, 2, 3))


def cross_entropy(
    images: Float[Tensor, "batch channels height width"], logits: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """Bernoulli cross-entropy of each image in nats, summed over its values."""
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").sum((1, 2, 3))


def log_likelihood(
    images: Float[Tensor, "batch channels height width"],
    logits: Float[Tensor, "batch channels height width"],
    likelihood: str,
    variance: float | Float[Tensor, ""] = PAPER_VARIANCE,
) -> Float[Tensor, " batch"]:
    """Log p(x|z) of each image in nats, with all constants.

    Args:
        images: values in [0, 1].
        logits: the decoder's output before the sigmoid.
        likelihood: gaussian or bernoulli.
        variance: variance of the Gaussian, per value.
    """
    if likelihood == "bernoulli":
        return -cross_entropy(images, logits)
    num_values = math.prod(images.shape[1:])
    error = gaussian_error(squared_error(images, logits.sigmoid()), torch.as_tensor(variance), num_values)
    return -error - 0.5 * num_values * math.log(2 * math.pi * PAPER_VARIANCE)


def gaussian_error(
    sse: Float[Tensor, " batch"], variance: Float[Tensor, ""], num_values: int
) -> Float[Tensor, " batch"]:
    """Negative log-likelihood of a Gaussian in nats, without a constant. With the paper's variance it is the SSE."""
    return sse / (2 * variance) + 0.5 * num_values * torch.log(2 * variance)
