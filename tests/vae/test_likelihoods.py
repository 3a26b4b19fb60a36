"""Likelihoods against torch.distributions and closed forms."""

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from world_models.vae import likelihoods

NUM_VALUES = 12_288


def _images(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def _logits(batch: int = 2, seed: int = 1) -> Tensor:
    return 2 * torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_the_squared_error_is_summed_over_the_values_of_a_frame():
    torch.testing.assert_close(
        likelihoods.squared_error(torch.ones(2, 3, 64, 64), torch.zeros(2, 3, 64, 64)), torch.full((2,), 12_288.0)
    )


def test_the_squared_error_is_the_variable_part_of_a_normal_with_variance_one_half():
    images, means = _images(), _images(seed=7)
    normal = Normal(means.double(), math.sqrt(0.5))
    constant = 12_288 * 0.5 * math.log(math.pi)
    expected = -normal.log_prob(images.double()).sum((1, 2, 3)) - constant
    torch.testing.assert_close(likelihoods.squared_error(images, means).double(), expected, rtol=1e-5, atol=0)


def test_the_gaussian_log_likelihood_equals_torchs():
    images, logits = _images(), _logits()
    expected = Normal(logits.sigmoid().double(), math.sqrt(0.5)).log_prob(images.double()).sum((1, 2, 3))
    torch.testing.assert_close(
        likelihoods.log_likelihood(images, logits, "gaussian").double(), expected, rtol=1e-5, atol=0
    )


def test_the_gaussian_error_equals_the_sse_at_the_papers_variance():
    sse = torch.rand(5) * 100
    assert torch.equal(likelihoods.gaussian_error(sse, torch.tensor(0.5), NUM_VALUES), sse)


def test_the_loss_is_smallest_if_the_variance_is_the_mean_squared_error():
    sse = torch.rand(5, dtype=torch.float64) * 20
    variance = (sse.mean() / NUM_VALUES).requires_grad_()
    loss = likelihoods.gaussian_error(sse, variance, NUM_VALUES).mean()
    loss.backward()
    assert variance.grad is not None and abs(float(variance.grad)) * variance.item() < 1e-9
    assert float(likelihoods.gaussian_error(sse, 1.1 * variance, NUM_VALUES).mean()) > float(loss)


def test_the_gradient_at_the_optimal_variance_equals_that_of_the_log_of_the_error():
    error = (torch.rand(5, dtype=torch.float64) * 20).requires_grad_()
    variance = (error.mean() / NUM_VALUES).detach()
    (ours,) = torch.autograd.grad(likelihoods.gaussian_error(error, variance, NUM_VALUES).mean(), error)
    (expected,) = torch.autograd.grad(0.5 * NUM_VALUES * torch.log(error.mean()), error)  # Rybkin et al. 2021, eq. 4
    torch.testing.assert_close(ours, expected)


def test_the_bernoulli_log_likelihood_equals_torchs():
    images, logits = _images().round(), _logits()
    expected = Bernoulli(logits=logits.double()).log_prob(images.double()).sum((1, 2, 3))
    torch.testing.assert_close(
        likelihoods.log_likelihood(images, logits, "bernoulli").double(), expected, rtol=1e-5, atol=0
    )


def test_the_cross_entropy_of_a_grey_value_is_its_mean_over_black_and_white_pixels():
    images, logits = _images(), _logits()
    log_p, log_not_p = logits.double().sigmoid().log(), (-logits.double()).sigmoid().log()
    expected = -(images * log_p + (1 - images) * log_not_p).sum((1, 2, 3))
    torch.testing.assert_close(likelihoods.cross_entropy(images, logits).double(), expected, rtol=1e-5, atol=0)
