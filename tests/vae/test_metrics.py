"""The measures of a model, compared with exact answers: linear-Gaussian models, SVD, NumPy, sums by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from world_models.vae import metrics
from world_models.vae.config import VAEConfig
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.metrics import Moments
from world_models.vae.model import VAE, to_images
from world_models.vae.posterior import Posterior


def _frames(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, which are enlarged coarse ones."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


_data = LabelledFrames.of_one_class


def _flat(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1).astype(np.float64) / 255


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=4, beta=2.0, kl_tolerance=0.0)).eval()


class _Linear(VAE):
    """p(x|z) = N(0.5 + W z, I / 2), where each of three latents moves one colour: p(z|x) and p(x) are known exactly."""

    WEIGHT = 0.01

    def __init__(self, exact: bool = True):
        super().__init__(VAEConfig(z_dim=3, variance=0.5))
        self._exact = exact

    def posterior(self, images: Tensor, labels: Tensor | None = None) -> Posterior:
        precision = 1 + 2 * 4096 * self.WEIGHT**2
        mu = 2 * self.WEIGHT * (images - 0.5).sum((2, 3)) / precision
        logvar = torch.full_like(mu, -math.log(precision))
        return Posterior(mu, logvar) if self._exact else Posterior(mu + 0.5, torch.zeros_like(mu))

    def logits(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.logit(0.5 + self.WEIGHT * z)[:, :, None, None].expand(-1, 3, 64, 64)


def _grey(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (128 + rng.normal(0, 3, (count, 1, 1, 3)) + rng.normal(0, 2, (count, 64, 64, 3))).astype(np.uint8)


def _log_evidence(frames: np.ndarray) -> float:
    """Mean log p(x) of the linear model, computed from the density of the marginal."""
    images = to_images(torch.from_numpy(frames)).double().flatten(1)
    factor = torch.eye(3, dtype=torch.float64).repeat_interleave(4096, 0) * _Linear.WEIGHT
    marginal = LowRankMultivariateNormal(
        torch.full((12_288,), 0.5).double(), factor, torch.full((12_288,), 0.5).double()
    )
    return float(marginal.log_prob(images).mean())


# the bounds


def test_with_the_exact_posterior_one_sample_gives_the_evidence():
    frames = _grey(4)
    assert metrics.iwae_nats(_Linear(), _data(frames), (1,))["1"] == pytest.approx(_log_evidence(frames), abs=0.05)


def test_the_elbo_of_the_exact_posterior_is_the_evidence():
    frames = _grey(1).repeat(250, 0)
    assert metrics.measure(_Linear(), _data(frames)).elbo_nats == pytest.approx(_log_evidence(frames[:1]), abs=0.2)


def test_the_bound_with_one_sample_is_the_elbo():
    frames, model = _grey(2).repeat(200, 0), _Linear(exact=False)
    elbo = metrics.measure(model, _data(frames)).elbo_nats
    assert metrics.iwae_nats(model, _data(frames), (1,), seed=1)["1"] == pytest.approx(elbo, abs=0.2)


def test_the_bound_rises_with_the_number_of_samples_up_to_the_evidence():
    frames = _grey(1).repeat(50, 0)
    bounds = [*metrics.iwae_nats(_Linear(exact=False), _data(frames)).values()]
    evidence = _log_evidence(frames[:1])
    assert bounds[0] < bounds[1] < bounds[2] < evidence + 0.05
    assert evidence - bounds[2] < 0.1 * (evidence - bounds[0])


def test_bounds_are_named_by_their_number_of_samples():
    assert list(metrics.iwae_nats(_Linear(), _data(_grey(1)))) == ["1", "10", "100"]


def test_bound_is_the_same_every_time(vae: VAE):
    assert metrics.iwae_nats(vae, _data(_frames(3)), (2,)) == metrics.iwae_nats(vae, _data(_frames(3)), (2,))


def test_smaller_bounds_do_not_depend_on_the_larger_ones(vae: VAE):
    alone, among = (metrics.iwae_nats(vae, _data(_frames(3)), samples)["1"] for samples in ((1,), (1, 4)))
    assert alone == among


# moments and PSNR


@pytest.mark.parametrize("cuts", [[], [3], [1, 2, 90]])
def test_moments_equal_numpys_for_values_in_parts_of_any_size(cuts: Sequence[int]):
    values = np.random.default_rng(0).normal(5, [0.01, 1, 100], (100, 3)).astype(np.float32)
    moments = Moments()
    for part in np.split(values, cuts):
        moments.add(torch.from_numpy(part))
    np.testing.assert_allclose(moments.mean, values.mean(0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(moments.variance, values.var(0, dtype=np.float64), rtol=1e-6)


def test_variance_of_a_constant_is_not_negative():
    moments = Moments()
    moments.add(torch.full((1000, 1), 0.1))
    assert 0 <= float(moments.variance) < 1e-9


@pytest.mark.parametrize(("mse", "psnr_db"), [(1.0, 0.0), (0.01, 20.0), (1e-4, 40.0)])
def test_psnr_grows_by_ten_decibels_if_the_mean_squared_error_falls_to_a_tenth(mse: float, psnr_db: float):
    assert metrics.psnr_db(12_288 * mse, 12_288) == pytest.approx(psnr_db)


def test_psnr_of_a_perfect_reconstruction_is_finite():
    assert math.isfinite(metrics.psnr_db(0.0, 12_288))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_batches_hold_all_frames_in_order(size: int):
    frames = _frames(7)
    assert np.array_equal(torch.cat(list(metrics.batches(frames, size))), frames)


# of a model


class _Copier(VAE):
    """A model whose reconstruction is the image."""

    def __init__(self, mu: Tensor | None = None):
        super().__init__(VAEConfig(z_dim=4))
        self._mu = mu

    def posterior(self, images: Tensor, labels: Tensor | None = None) -> Posterior:
        self._images = images
        mu = torch.zeros(len(images), 4) if self._mu is None else self._mu[: len(images)]
        return Posterior(mu, torch.zeros_like(mu))

    def logits(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.logit(self._images.clamp(1e-6, 1 - 1e-6))


def test_ssim_of_identical_images_is_one():
    assert metrics.measure(_Copier(), _data(_frames(3))).ssim == pytest.approx(1, abs=1e-5)


def test_sse_of_identical_images_is_zero():
    assert metrics.measure(_Copier(), _data(_frames(3))).sse == pytest.approx(0, abs=1e-6)


def test_ssim_of_other_images_is_below_one(vae: VAE):
    ssim = metrics.measure(vae, _data(_frames(3))).ssim
    assert isinstance(ssim, float)
    assert -1 < ssim < 0.9


def _by_hand(vae: VAE, frames: np.ndarray) -> dict[str, float]:
    """The errors of decode(mu), computed frame by frame."""
    sse, kl = [], []
    with torch.no_grad():
        for frame in frames:
            images = to_images(torch.from_numpy(frame[None]))
            mu, logvar = vae.encoder(images)
            sse.append(float((images - vae.decoder(mu).sigmoid()).square().sum()))
            kl.append(float(0.5 * (mu.square() + logvar.exp() - logvar - 1).sum()))
    return {"sse": float(np.mean(sse)), "kl_nats": float(np.mean(kl))}


@pytest.mark.parametrize("count", [5, 130])
def test_measuring_gives_the_mean_error_of_the_decoded_mu(vae: VAE, count: int):
    frames = _frames(count)
    measured, by_hand = metrics.measure(vae, _data(frames)), _by_hand(vae, frames)
    assert {name: getattr(measured, name) for name in by_hand} == pytest.approx(by_hand, rel=1e-4)


def test_validation_gives_the_mean_error_of_the_decoded_mu(vae: VAE):
    frames = _frames(130)
    scores, by_hand = metrics.validate(vae, _data(frames), torch.zeros(130, 4)), _by_hand(vae, frames)
    assert {name: scores.known()[name] for name in by_hand} == pytest.approx(by_hand, rel=1e-4)


def test_validation_loss_is_the_objective_on_the_given_noise(vae: VAE):
    frames, noise = _frames(130), torch.randn(130, 4)
    with torch.no_grad():
        expected = vae.objective(to_images(torch.from_numpy(frames)), noise).loss_nats.mean()
    assert metrics.validate(vae, _data(frames), noise).loss_nats == pytest.approx(float(expected), rel=1e-5)


def test_psnr_is_computed_from_the_mean_squared_error(vae: VAE):
    measured = metrics.measure(vae, _data(_frames(4)))
    sse = measured.sse
    assert isinstance(sse, float)
    assert measured.psnr_db == pytest.approx(-10 * math.log10(sse / 12_288))


def test_kl_per_dim_sums_to_the_kl(vae: VAE):
    measured = metrics.measure(vae, _data(_frames(4)))
    kl_per_dim = measured.kl_per_dim
    assert isinstance(kl_per_dim, list)
    assert len(kl_per_dim) == 4
    assert sum(kl_per_dim) == pytest.approx(measured.kl_nats)


def test_error_map_sums_to_the_sse(vae: VAE):
    scored = metrics.score_frames(vae, _data(_frames(5)))
    assert scored.error_map.sum() == pytest.approx(scored.sse.mean(), rel=1e-5)


def test_the_error_map_shows_the_place_of_the_error(vae: VAE):
    frames = vae.decode(vae.encode(_frames(1)).mu).numpy().repeat(3, 0)
    again = vae.decode(vae.encode(frames).mu).numpy()
    frames[:, 40:, 50:] = np.where(again[:, 40:, 50:] > 127, 0, 255)
    error_map = metrics.score_frames(vae, _data(frames)).error_map
    assert error_map[40:, 50:].mean() > 10 * error_map[:40].mean()


def test_the_posterior_of_each_frame_is_that_of_the_model(vae: VAE):
    frames = _frames(130)
    scored, posterior = metrics.score_frames(vae, _data(frames)), vae.encode(frames)
    np.testing.assert_allclose(scored.mu, posterior.mu, atol=1e-5)
    np.testing.assert_allclose(scored.variance, posterior.logvar.exp(), rtol=1e-4)


def _spread_mu() -> Tensor:
    """Standard deviations 0, 0.09, 0.11, 2 and KLs of 0, 0.004, 0.006 and about 2 nats."""
    return torch.tensor([-1.0, 1.0]).repeat(3)[:, None] * torch.tensor([0.0, 0.09, 0.11, 2.0])


def test_active_units_are_those_whose_mu_varies_by_more_than_a_hundredth():
    assert metrics.measure(_Copier(_spread_mu()), _data(_frames(6))).active_units == 2


def test_used_dims_are_those_with_more_than_a_twentieth_of_a_nat():
    assert metrics.measure(_Copier(_spread_mu()), _data(_frames(6))).dims_used == 1


def test_validation_counts_active_units_like_the_measurement():
    scores = metrics.validate(_Copier(_spread_mu()), _data(_frames(6)), torch.zeros(6, 4))
    assert (scores.active_units, scores.dims_used) == (2, 1)


def test_a_constant_mu_far_from_zero_is_not_active():
    measured = metrics.measure(_Copier(torch.full((6, 4), 3.0)), _data(_frames(6)))
    assert (measured.active_units, measured.dims_used) == (0, 4)


def test_the_validation_of_a_broken_model_is_not_finite(vae: VAE):
    torch.nn.init.constant_(vae.decoder.deconv4.bias, math.nan)  # type: ignore[arg-type]
    assert math.isnan(metrics.validate(vae, _data(_frames(2)), torch.zeros(2, 4)).psnr_db)


def test_measurement_is_the_same_every_time(vae: VAE):
    assert metrics.measure(vae, _data(_frames(3))) == metrics.measure(vae, _data(_frames(3)))


# labels


class _Told(VAE):
    """A model whose images have a grey value that depends on the label."""

    def __init__(self, num_samples: int = 1):
        super().__init__(
            VAEConfig(2, network="mlp", hidden=(4,), num_classes=10, num_samples=num_samples, variance=0.5)
        )

    def posterior(self, images: Tensor, labels: Tensor | None = None) -> Posterior:
        assert labels is not None and torch.equal((images[:, 0, 0, 0] * 255 / 20).round().long(), labels)
        return Posterior(torch.zeros(len(images), 2), torch.zeros(len(images), 2))

    def logits(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None and len(labels) == len(z)
        return torch.logit((labels * 20 / 255).clamp(1e-6, 1 - 1e-6))[:, None, None, None].expand(-1, 1, 28, 28)


def _labelled(count: int = 300) -> LabelledFrames:
    labels = np.random.default_rng(0).integers(0, 10, count)
    return LabelledFrames((20 * labels).astype(np.uint8)[:, None, None, None].repeat(28, 1).repeat(28, 2), labels)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_validation_gives_each_frame_its_label(num_samples: int):
    scores = metrics.validate(_Told(num_samples), _labelled(), torch.randn(300, 2 * num_samples))
    assert scores.sse == pytest.approx(0, abs=1e-4)
    assert scores.loss_nats == pytest.approx(1.0, abs=1e-3)  # the floor, 2 dimensions of 0.5 nats


def test_measuring_gives_each_frame_its_label():
    scores = metrics.measure(_Told(), _labelled())
    assert scores.sse == pytest.approx(0, abs=1e-4)
    assert scores.elbo_nats == pytest.approx(-0.5 * 784 * math.log(math.pi), rel=1e-5)


def test_bounds_give_each_frame_its_label():
    bounds = metrics.iwae_nats(_Told(), _labelled(), (1, 7))
    assert bounds["7"] == pytest.approx(-0.5 * 784 * math.log(math.pi), rel=1e-5)


# independence of the number of threads


def test_measurement_does_not_depend_on_the_number_of_threads(vae: VAE, two_threads: None):
    by_two = metrics.measure(vae, _data(_frames(140)))
    torch.set_num_threads(1)
    assert metrics.measure(vae, _data(_frames(140))) == by_two


def test_bounds_do_not_depend_on_the_number_of_threads(vae: VAE, two_threads: None):
    by_two = metrics.iwae_nats(vae, _data(_frames(9)), (1, 5))
    torch.set_num_threads(1)
    assert metrics.iwae_nats(vae, _data(_frames(9)), (1, 5)) == by_two
