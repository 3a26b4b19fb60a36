"""The mathematics of the VAE against torch.distributions, closed forms and finite differences."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from world_models.vae.config import VAEConfig
from world_models.vae.likelihoods import cross_entropy
from world_models.vae.model import VAE, to_frames, to_images
from world_models.vae.posterior import PointPosterior, Posterior, prior_log_prob

NUM_VALUES = 12_288


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=4, variance=0.5)).eval()


def _posterior(batch: int = 5, z_dim: int = 3) -> Posterior:
    generator = torch.Generator().manual_seed(1)
    mu, logvar = torch.randn(2, batch, z_dim, dtype=torch.float64, generator=generator) * 2
    return Posterior(mu, logvar)


def _distribution(posterior: Posterior) -> Independent:
    return Independent(Normal(posterior.mu, (posterior.logvar / 2).exp()), 1)


def _standard_normal(like: Tensor) -> Independent:
    return Independent(Normal(torch.zeros_like(like), torch.ones_like(like)), 1)


def _images(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def _logits(batch: int = 2, seed: int = 1) -> Tensor:
    return 2 * torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("z_dim", 0), ("beta", -1.0), ("beta", math.inf), ("beta", math.nan), ("kl_tolerance", -0.1)],
        *[("variance", 0.0), ("variance", math.inf), ("variance", math.nan), ("variance", -1.0)],
    ],
)
def test_bad_config_is_refused_by_the_name_of_its_field(field: str, value: Any):
    with pytest.raises(ValueError, match=rf"vae\.{field} is {value}"):
        VAEConfig(**{field: value})


def test_the_kl_equals_torchs():
    posterior = _posterior()
    expected = kl_divergence(_distribution(posterior), _standard_normal(posterior.mu))
    torch.testing.assert_close(posterior.kl_nats(), expected)


def test_kl_is_the_closed_form():
    posterior = Posterior(torch.tensor([[3.0, 0.0]]), torch.tensor([[math.log(4), math.log(0.25)]]))
    by_hand = 0.5 * (9 + 4 - math.log(4) - 1) + 0.5 * (0 + 0.25 - math.log(0.25) - 1)
    torch.testing.assert_close(posterior.kl_nats(), torch.tensor([by_hand]))


def test_the_kl_equals_an_estimate_from_samples():
    torch.manual_seed(0)
    posterior = Posterior(torch.tensor([[0.5, -1.0]]), torch.tensor([[-1.0, 0.4]])).repeated(200_000)
    z = posterior.sample()
    estimate = posterior.log_prob(z) - prior_log_prob(z)
    error = float(estimate.std()) / math.sqrt(len(z))
    assert float(estimate.mean()) == pytest.approx(float(posterior.kl_nats()[0]), abs=4 * error)


def test_kl_of_the_prior_is_zero():
    assert Posterior(torch.zeros(2, 4), torch.zeros(2, 4)).kl_nats().tolist() == [0, 0]


def test_kl_per_dim_sums_to_the_kl():
    posterior = _posterior()
    torch.testing.assert_close(posterior.kl_nats_per_dim().sum(1), posterior.kl_nats())


def test_log_prob_equals_torchs():
    posterior, z = _posterior(), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(posterior.log_prob(z), _distribution(posterior).log_prob(z))


def test_prior_log_prob_equals_torchs():
    z = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(prior_log_prob(z), _standard_normal(z).log_prob(z))


def test_sample_is_mu_plus_sigma_times_noise():
    noise = torch.tensor([[1.0, -2.0]])
    sample = Posterior(torch.tensor([[10.0, 20.0]]), torch.tensor([[0.0, math.log(9)]])).sample(noise)
    torch.testing.assert_close(sample, torch.tensor([[11.0, 14.0]]))


def test_samples_without_given_noise_have_the_posteriors_moments():
    torch.manual_seed(0)
    samples = Posterior(torch.full((40_000, 1), 3.0), torch.full((40_000, 1), math.log(4))).sample()
    assert float(samples.mean()) == pytest.approx(3, abs=0.05)
    assert float(samples.std()) == pytest.approx(2, abs=0.05)


def test_gradient_through_the_sample_is_that_of_finite_differences():
    noise = torch.randn(3, 2, dtype=torch.float64)

    def objective(mu: Tensor, logvar: Tensor) -> Tensor:
        posterior = Posterior(mu, logvar)
        return posterior.sample(noise).sin().sum(1) + posterior.kl_nats()

    mu, logvar = torch.randn(2, 3, 2, dtype=torch.float64)
    gradients = torch.autograd.functional.jacobian(objective, (mu, logvar))
    step = 1e-6
    for which, inputs in enumerate((mu, logvar)):
        for index in np.ndindex(3, 2):
            moved = [torch.zeros_like(mu), torch.zeros_like(mu)]
            moved[which][index] = step
            up, down = (objective(mu + s * moved[0], logvar + s * moved[1]) for s in (1, -1))
            torch.testing.assert_close(gradients[which][(slice(None), *index)], (up - down) / (2 * step))
        assert inputs.shape == (3, 2)


def test_gradient_of_the_loss_by_mu_and_sigma_is_that_of_finite_differences():
    torch.manual_seed(0)
    model = VAE(VAEConfig(2, likelihood="bernoulli", network="mlp", hidden=(5,))).double()
    images, noise = torch.rand(3, 1, 28, 28).double(), torch.randn(3, 2).double()

    def loss(mu: Tensor, sigma: Tensor) -> Tensor:
        posterior = Posterior(mu, 2 * sigma.log())
        return (cross_entropy(images, model.decoder(posterior.sample(noise))) + posterior.kl_nats()).sum()

    inputs = torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.5
    assert torch.autograd.gradcheck(loss, tuple(each.requires_grad_() for each in inputs))


@pytest.mark.parametrize("variance", [0.001, 0.5, 2.0])
def test_a_gaussian_of_any_variance_equals_torchs(variance: float):
    images, logits = _images(), _logits()
    model = VAE(VAEConfig(4, variance=variance))
    expected = Normal(logits.sigmoid().double(), math.sqrt(variance)).log_prob(images.double()).sum((1, 2, 3))
    torch.testing.assert_close(model.log_likelihood(images, logits).double(), expected, rtol=1e-5, atol=0)


def test_the_variance_is_not_a_weight_of_the_model(model: VAE):
    assert "variance" not in model.state_dict() and "variance" not in dict(model.named_parameters())


@pytest.mark.parametrize("beta_share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(
    ("likelihood", "beta", "kl_tolerance"),
    [("gaussian", 1.0, 0.5), ("gaussian", 4.0, 0.0), ("bernoulli", 1.0, 0.5), ("bernoulli", 0.5, 2.0)],
)
def test_objective_is_the_error_and_beta_times_the_floored_kl(
    likelihood: Any, beta: float, kl_tolerance: float, beta_share: float
):
    torch.manual_seed(0)
    model = VAE(VAEConfig(4, beta, kl_tolerance, likelihood, variance=0.5))
    images, noise = _images(), torch.randn(2, 4)
    mu, logvar = model.paper[0](images)
    logits = model.decoder(mu + torch.exp(0.5 * logvar) * noise)
    if likelihood == "gaussian":
        error = (images - torch.sigmoid(logits)).pow(2).flatten(1).sum(1)
    else:
        error = -Bernoulli(logits=logits, validate_args=False).log_prob(images).flatten(1).sum(1)
    kl = kl_divergence(Normal(mu, torch.exp(0.5 * logvar)), Normal(0, 1)).sum(1)
    expected = error + beta_share * beta * torch.clamp(kl, min=kl_tolerance * 4)
    torch.testing.assert_close(model.objective(images, noise, beta_share).loss_nats, expected)


def _with_posterior(model: VAE, monkeypatch: pytest.MonkeyPatch, mu: Tensor) -> VAE:
    monkeypatch.setattr(model, "posterior", lambda images, labels: Posterior(mu, torch.zeros_like(mu)))
    return model


def test_the_floor_of_the_kl_applies_to_each_frame_separately(model: VAE, monkeypatch: pytest.MonkeyPatch):
    mu = torch.tensor([[0.0] * 4, [3.0] * 4])  # KL of 0 and 18 nats: their mean is above the floor of 2
    terms = _with_posterior(model, monkeypatch, mu).objective(_images(), torch.zeros(2, 4))
    torch.testing.assert_close(terms.loss_nats - terms.sse, torch.tensor([2.0, 18.0]), rtol=0, atol=1e-3)


def test_the_reported_kl_has_neither_floor_nor_beta(monkeypatch: pytest.MonkeyPatch):
    model = VAE(VAEConfig(z_dim=4, beta=7.0))
    mu = torch.tensor([[0.0] * 4, [3.0] * 4])
    terms = _with_posterior(model, monkeypatch, mu).objective(_images(), torch.zeros(2, 4))
    torch.testing.assert_close(terms.kl_nats, torch.tensor([0.0, 18.0]))


def test_the_reported_sse_is_the_squared_error_for_each_likelihood():
    torch.manual_seed(0)
    model, images, noise = VAE(VAEConfig(4, likelihood="bernoulli")), _images(), torch.randn(2, 4)
    means = model.logits(model.posterior(images).sample(noise)).sigmoid()
    torch.testing.assert_close(model.objective(images, noise).sse, (images - means).square().sum((1, 2, 3)))


def test_kl_below_its_floor_gives_no_gradient(model: VAE, monkeypatch: pytest.MonkeyPatch):
    mu = torch.full((2, 4), 0.1, requires_grad=True)
    terms = _with_posterior(model, monkeypatch, mu).objective(_images(), torch.zeros(2, 4))
    (gradient,) = torch.autograd.grad((terms.loss_nats - terms.sse).sum(), mu)
    assert gradient.abs().max() == 0


def test_objective_stays_float32_under_autocast(model: VAE):
    with torch.autocast("cpu", torch.bfloat16):
        terms = model.objective(_images(), torch.zeros(2, 4))
    assert {value.dtype for value in vars(terms).values()} == {torch.float32}


def _frames(batch: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 64, 64, 3), np.uint8)


def test_encode_gives_the_posterior_of_the_images(model: VAE):
    frames = _frames()
    expected = model.posterior(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(model.encode(frames).mu, expected.mu)


def test_encode_accepts_arrays_and_tensors(model: VAE):
    frames = _frames()
    of_array, of_tensor = model.encode(frames), model.encode(torch.from_numpy(frames))
    assert torch.equal(of_array.mu, of_tensor.mu)
    assert torch.equal(of_array.logvar, of_tensor.logvar)


def test_encode_keeps_no_graph(model: VAE):
    assert not model.encode(_frames()).mu.requires_grad


def test_decode_gives_frames(model: VAE):
    frames = model.decode(torch.randn(3, 4))
    assert (frames.dtype, frames.shape) == (torch.uint8, (3, 64, 64, 3))


def test_decode_gives_the_rounded_mean_pixels(model: VAE):
    z = torch.randn(3, 4)
    means = model.decoder(z).sigmoid().permute(0, 2, 3, 1) * 255
    assert (model.decode(z).float() - means).abs().max() <= 0.5 + 1e-3


def test_frames_do_not_change_on_the_way_to_images_and_back():
    every_value = torch.arange(256, dtype=torch.uint8).repeat(48).reshape(1, 64, 64, 3)
    assert torch.equal(to_frames(to_images(every_value)), every_value)


def test_images_are_channel_first_in_zero_to_one():
    frame = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    frame[0, 5, 9, 2] = 255
    images = to_images(frame)
    assert images.shape == (1, 3, 64, 64)
    assert images[0, 2, 5, 9] == 1
    assert images.sum() == 1


def test_to_frames_keeps_values_in_range():
    assert to_frames(torch.tensor([-0.5, 0.5, 1.5]).reshape(1, 3, 1, 1)).flatten().tolist() == [0, 128, 255]


def test_a_model_has_its_config_preprocessing_and_device():
    model = VAE(VAEConfig(z_dim=7), {"size": 64})
    assert (model.config.z_dim, model.preprocess, model.device.type) == (7, {"size": 64}, "cpu")


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        VAEConfig().z_dim = 3  # type: ignore[misc]


# several samples, points, classes


def _digits(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("config", [{}, {"network": "mlp", "hidden": (30,)}], ids=["paper", "mlp"])
def test_the_objective_with_several_samples_is_the_mean_over_single_ones(config: dict[str, Any]):
    torch.manual_seed(0)
    several = VAE(VAEConfig(4, kl_tolerance=0.0, num_samples=3, variance=0.5, **config))
    single = VAE(dataclasses.replace(several.config, num_samples=1))
    single.load_state_dict(several.state_dict())
    images = _digits(2) if config else _images()
    noise = torch.randn(2, 12)
    terms = [single.objective(images, part) for part in noise.split(4, 1)]
    found = several.objective(images, noise)
    torch.testing.assert_close(found.loss_nats, torch.stack([each.loss_nats for each in terms]).mean(0))
    torch.testing.assert_close(found.sse, torch.stack([each.sse for each in terms]).mean(0))
    torch.testing.assert_close(found.kl_nats, terms[0].kl_nats)


def _autoencoder(**config: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(4, network="mlp", hidden=(30,), posterior="point", variance=0.5, **config))


def test_noise_does_not_change_the_loss_of_an_autoencoder():
    model, images = _autoencoder(), _digits()
    quiet, loud = (model.objective(images, noise).loss_nats for noise in (torch.zeros(3, 4), torch.randn(3, 4)))
    assert torch.equal(quiet, loud)


def test_the_loss_of_an_autoencoder_is_only_its_error():
    model, images = _autoencoder(beta=7.0, kl_tolerance=3.0), _digits()
    terms = model.objective(images, torch.zeros(3, 4))
    expected = (images - model.logits(model.posterior(images).mu).sigmoid()).square().sum((1, 2, 3))
    torch.testing.assert_close(terms.loss_nats, expected)
    assert not terms.kl_nats.any()


def test_an_autoencoders_gradient_is_finite():
    model = _autoencoder()
    model.objective(_digits(), torch.randn(3, 4)).loss_nats.sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in model.parameters())


def test_a_repeated_posterior_keeps_the_copies_of_a_frame_together():
    mu = torch.arange(4.0).reshape(2, 2)
    repeated = PointPosterior(mu, torch.full_like(mu, -math.inf)).repeated(2)
    assert repeated.mu.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]] and isinstance(repeated, PointPosterior)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_conditional_model_uses_the_given_class(samples: int):
    torch.manual_seed(0)
    model = VAE(VAEConfig(4, network="mlp", hidden=(30,), num_classes=10, num_samples=samples))
    images, noise = _digits(), torch.zeros(3, 4 * samples)
    told = [model.objective(images, noise, labels=torch.full((3,), digit)).loss_nats for digit in (0, 1)]
    assert not torch.equal(*told)
    z = torch.randn(3, 4)
    assert not torch.equal(*(model.decode(z, torch.full((3,), digit)) for digit in (0, 1)))


def test_a_model_without_classes_ignores_the_class():
    model = VAE(VAEConfig(4, network="mlp", hidden=(30,)))
    z = torch.randn(3, 4)
    assert torch.equal(*(model.decode(z, torch.full((3,), digit)) for digit in (0, 1)))


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"network": "mlp", "hidden": ()}, "give 1 to 8 widths"),
        ({"network": "mlp", "hidden": (9000,)}, "of 1 to 8,192"),
        ({"network": "mlp", "hidden": (0,)}, "of 1 to 8,192"),
        ({"network": "mlp", "num_classes": -1}, "give 0 to 1,000"),
        ({"num_classes": 10}, "give network mlp"),
        ({"posterior": "point"}, "give mlp or conv"),
        ({"num_samples": 0}, "vae.num_samples is 0; give 1 or more"),
    ],
)
def test_bad_settings_of_a_network_are_refused(config: dict[str, Any], wanted: str):
    with pytest.raises(ValueError, match=wanted):
        VAEConfig(**config)


def test_the_shape_of_frames_is_that_of_the_network():
    assert VAE(VAEConfig(2)).frame_shape == (64, 64, 3)
    assert VAE(VAEConfig(2, network="conv")).frame_shape == (28, 28, 1)
    assert VAE(VAEConfig(2, network="conv")).num_values == 784


def test_the_log_likelihood_of_a_gaussian_over_digits_counts_784_pixels():
    images = logits = _digits()
    model = VAE(VAEConfig(2, network="mlp", variance=0.1))
    expected = Normal(logits.sigmoid().double(), math.sqrt(0.1)).log_prob(images.double()).sum((1, 2, 3))
    torch.testing.assert_close(model.log_likelihood(images, logits).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (2, 64, 64, 1), (2, 32, 32, 3)])
def test_frames_of_another_shape_are_refused(model: VAE, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"the model takes \(batch, 64, 64, 3\)"):
        model.encode(torch.zeros(shape, dtype=torch.uint8))


def test_a_conditional_model_without_labels_is_refused_with_what_to_give():
    model = VAE(VAEConfig(2, network="mlp", hidden=(4,), num_classes=10))
    with pytest.raises(ValueError, match=r"^the model is conditional; give each frame's class as labels$"):
        model.decode(torch.zeros(1, 2))
