"""The change of variables that gives z the prior's mean and variance."""

import copy

import numpy as np
import pytest
import torch

from world_models.vae import metrics
from world_models.vae.config import VAEConfig
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE
from world_models.vae.standardise import standardised

NETWORKS = {
    "paper": VAEConfig(z_dim=5),
    "mlp": VAEConfig(z_dim=5, network="mlp", hidden=(16, 12)),
    "conditional": VAEConfig(z_dim=5, network="mlp", hidden=(16,), num_classes=10),
    "conv": VAEConfig(z_dim=5, network="conv"),
}


def _model(config: VAEConfig) -> VAE:
    """A model whose z are far from the prior, each dimension in another way."""
    torch.manual_seed(0)
    vae = VAE(config)
    with torch.no_grad():
        vae.encoder.mu.weight.mul_(torch.logspace(-1, 1.5, config.z_dim)[:, None])
        vae.encoder.mu.bias.add_(torch.linspace(-3, 3, config.z_dim))
        if vae.encoder.logvar is not None:
            vae.encoder.logvar.bias.sub_(torch.linspace(0, 6, config.z_dim))
    return vae


def _data(vae: VAE, count: int = 300) -> LabelledFrames:
    rng = np.random.default_rng(0)
    bright = rng.integers(1, 256, (count, 1, 1, 1))
    frames = (rng.random((count, *vae.frame_shape)) * bright).astype(np.uint8)
    return LabelledFrames(frames, rng.integers(0, 10, count))


@pytest.fixture(params=NETWORKS)
def vae(request: pytest.FixtureRequest) -> VAE:
    """A model of each network that has a KL."""
    return _model(NETWORKS[request.param])


def test_standardising_does_not_change_reconstructions(vae: VAE):
    data = _data(vae)
    told = torch.from_numpy(data.labels)
    before, after = (model.logits(model.encode(data.frames, told).mu, told) for model in (vae, standardised(vae, data)))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_standardising_does_not_change_the_decoded_samples_of_the_same_noise(vae: VAE):
    data = _data(vae)
    told, noise = torch.from_numpy(data.labels), torch.randn(len(data), 5)
    before, after = (
        model.logits(model.encode(data.frames, told).sample(noise), told) for model in (vae, standardised(vae, data))
    )
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_after_standardising_the_aggregate_posterior_has_the_moments_of_the_prior(vae: VAE):
    data = _data(vae)
    posterior = standardised(vae, data).encode(data.frames, torch.from_numpy(data.labels))
    variance = posterior.mu.double().var(0, correction=0) + posterior.logvar.double().exp().mean(0)
    torch.testing.assert_close(posterior.mu.double().mean(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, torch.ones(5, dtype=torch.float64), rtol=1e-4, atol=0)


def _kl_nats(vae: VAE, data: LabelledFrames) -> float:
    return metrics.measure(vae, data).kl_nats


def test_standardising_lowers_the_kl(vae: VAE):
    data = _data(vae)
    assert _kl_nats(standardised(vae, data), data) < _kl_nats(vae, data) - 1


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("moved", [0.0, 0.1])
def test_no_other_scale_or_shift_gives_a_lower_kl(factor: float, moved: float):
    vae = _model(NETWORKS["mlp"])
    data = _data(vae)
    best = standardised(vae, data)
    other = copy.deepcopy(best)
    assert other.encoder.logvar is not None
    with torch.no_grad():
        other.encoder.mu.weight.mul_(factor)
        other.encoder.mu.bias.mul_(factor).add_(moved)
        other.encoder.logvar.bias.add_(2 * np.log(factor))
    assert _kl_nats(best, data) < _kl_nats(other, data)


def test_standardising_does_not_change_the_given_model(vae: VAE):
    before = copy.deepcopy(vae.state_dict())
    standardised(vae, _data(vae))
    assert all(torch.equal(before[name], tensor) for name, tensor in vae.state_dict().items())


def test_standardising_twice_equals_standardising_once(vae: VAE):
    data = _data(vae)
    once = standardised(vae, data)
    for name, tensor in standardised(once, data).state_dict().items():
        torch.testing.assert_close(tensor, once.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_a_constant_dimension_stays_finite():
    vae = _model(NETWORKS["mlp"])
    assert vae.encoder.logvar is not None
    with torch.no_grad():
        vae.encoder.mu.weight[0] = 0.0
        vae.encoder.logvar.weight[0] = 0.0
        vae.encoder.logvar.bias[0] = -200.0  # exp of it is 0
    assert standardised(vae, _data(vae)).is_finite


def test_a_frame_with_a_huge_variance_keeps_the_weights_finite():
    vae = _model(NETWORKS["mlp"])
    assert vae.encoder.logvar is not None
    with torch.no_grad():
        vae.encoder.logvar.bias[0] = 100.0  # exp of it is too large for float32
    assert standardised(vae, _data(vae)).is_finite


def test_an_autoencoder_is_copied_unchanged():
    vae = _model(VAEConfig(z_dim=5, network="mlp", hidden=(16,), posterior="point"))
    same = standardised(vae, _data(vae))
    assert same is not vae
    assert all(torch.equal(same.state_dict()[name], tensor) for name, tensor in vae.state_dict().items())


def test_standardising_keeps_the_variance_of_the_likelihood():
    vae = _model(NETWORKS["paper"])
    vae.variance.fill_(0.003)
    assert standardised(vae, _data(vae, 20)).variance == vae.variance
