"""The statistics of z: KL and spread, the plane, and directions that change a prediction."""

from pathlib import Path

import numpy as np
import pytest
import torch

from world_models.explore import latents
from world_models.explore.shown import Sample
from world_models.runtime.errors import Stopped
from world_models.vae.config import VAEConfig
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE
from world_models.vae.posterior import PointPosterior, Posterior

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = LabelledFrames.of_one_class(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8))


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_dimensions_are_sorted_by_kl():
    mu = torch.from_numpy(_normal(500, 3) * np.array([0.01, 3, 1], np.float32))
    found = latents.dimensions(VAE(VAEConfig(z_dim=3)), Posterior(mu, torch.zeros(500, 3)))
    assert found.order == [1, 2, 0]
    assert found.used == [False, True, True]
    assert np.allclose(found.std, np.sqrt(np.var(mu.numpy(), 0) + 1), atol=1e-5)  # that of a sampled z


def test_dimensions_of_an_autoencoder_are_sorted_by_their_spread():
    vae = VAE(VAEConfig(network="mlp", posterior="point", z_dim=2))
    mu = torch.from_numpy(_normal(500, 2) * np.array([0.05, 2], np.float32))
    found = latents.dimensions(vae, PointPosterior(mu, torch.full_like(mu, -torch.inf)))
    assert (found.order, found.used, found.kl_nats) == ([1, 0], [False, True], [0, 0])
    assert np.allclose(found.std, mu.numpy().std(0), atol=1e-5)


def test_frames_are_encoded_in_their_order():
    vae = VAE(VAEConfig(z_dim=2)).eval()
    assert torch.allclose(latents.encode(vae, FRAMES, Path("run")).mu, vae.encode(FRAMES.frames).mu, atol=1e-5)


@pytest.mark.parametrize("head", ["mu", "logvar"])
def test_a_model_whose_z_is_not_finite_stops_the_work(head: str):
    vae = VAE(VAEConfig(z_dim=2))
    with torch.no_grad():
        getattr(vae.encoder, head).bias.fill_(3e38)
    with pytest.raises(Stopped, match="run: the model gives numbers that are not finite"):
        latents.encode(vae, FRAMES, Path("run"))


def test_the_plane_has_the_directions_of_the_largest_variance():
    found = latents.plane(_normal(2000, 3) * np.array([1, 5, 2], np.float32) + 7)
    assert np.allclose(found.mean, 7, atol=0.5)
    assert np.allclose(found.components, [[0, 1, 0], [0, 0, 1]], atol=0.1)
    assert found.explained == pytest.approx([25 / 30, 4 / 30], abs=0.05)


def test_a_single_dimension_is_a_plane_with_an_empty_direction():
    found = latents.plane(_normal(50, 1))
    assert (found.components, found.explained) == ([[1.0], [0.0]], [1.0, 0.0])


def test_equal_z_have_a_plane():
    assert latents.plane(np.ones((5, 3), np.float32)).explained == [0.0, 0.0]


def _sample(*columns: np.ndarray, num_episodes: int = 4) -> Sample:
    telemetry = np.stack(columns, 1).astype(np.float32)
    frames = np.zeros((len(telemetry), 64, 64, 3), np.uint8)
    return Sample(
        LabelledFrames.of_one_class(frames), telemetry, np.arange(len(telemetry)) * num_episodes // len(telemetry)
    )


@pytest.mark.parametrize("num_episodes", [1, 2, 7])
def test_a_direction_raises_the_prediction_by_one_unit(num_episodes: int):
    z = _normal(400, 4) @ _normal(4, 4)
    speed = 3 * z[:, 0] - z[:, 2] + 20
    (found,) = latents.directions(z, _sample(speed, num_episodes=num_episodes), ["speed_m_per_s"])
    assert (found.name, found.unit) == ("speed", "m/s")
    assert found.r2 > 0.99
    assert found.mean == pytest.approx(float(speed.mean()), rel=1e-4)
    assert np.dot(found.weights, found.vector) == pytest.approx(1)
    assert found.intercept + z @ found.weights == pytest.approx(speed, abs=0.1)


def test_a_direction_follows_the_correlations_of_z():
    first = _normal(500)
    z = np.stack([first, first + 0.1 * np.random.default_rng(1).standard_normal(500)], 1).astype(np.float32)
    (found,) = latents.directions(z, _sample(z[:, 0]), ["first"])
    assert found.vector == pytest.approx([1, 1], abs=0.1)  # both change together in the data


def test_what_holds_only_in_one_episode_is_not_predicted():
    episode = np.arange(400) // 100
    z = (episode[:, None] * 100 + _normal(400, 1)).astype(np.float32)
    place = np.array([3, -7, 9, 1], np.float32)[episode]  # each track is somewhere
    assert latents.directions(z, _sample(place), ["place_m"]) == []


def test_columns_that_cannot_be_predicted_have_no_direction():
    z, noise = _normal(400, 2), np.random.default_rng(1).standard_normal(400)
    sample = _sample(noise, np.ones(400), np.where(noise > 2, np.inf, z[:, 0]), z[:, 1])
    found = latents.directions(z, sample, ["noise", "constant", "infinite", "known"])
    assert [each.name for each in found] == ["known"]


def test_on_a_road_a_direction_is_that_of_the_frames_along_the_road():
    z, share = _normal(400, 2), np.repeat([0.0, 1.0], 200)
    distance = np.where(share == 1, z[:, 0], 50 * np.random.default_rng(1).standard_normal(400))
    calm = np.zeros(400)
    names = ["zoom_px_per_m", "wheels_on_road_share", "curvature_ahead_25m_per_m", "relative_heading_rad", "distance_m"]
    sample = _sample(calm + 16, share, calm, calm, distance)
    (found,) = latents.directions(z, sample._replace(episodes=np.arange(400) % 4), names)
    assert (found.name, found.std) == ("distance", pytest.approx(1, abs=0.2))


def test_a_few_frames_give_no_directions():
    assert latents.directions(_normal(5, 2), _sample(_normal(5)), ["speed"]) == []
