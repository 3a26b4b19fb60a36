"""Pictures of a V model: reconstructions, samples, interpolations, traversals, clips."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from world_models.data.rollouts import Rollouts
from world_models.drawing import grids, model_views
from world_models.vae.baselines import fit_baselines
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

CELL = 2 * 64 + 2


@pytest.fixture(scope="module")
def vae() -> VAE:
    """An untrained model, whose pictures are far from grey."""
    torch.manual_seed(0)
    model = VAE(VAEConfig(z_dim=4)).eval()
    torch.nn.init.normal_(model.paper[1].deconv4.weight, std=0.2)
    torch.nn.init.normal_(model.paper[1].linear.weight, std=1.0)
    torch.nn.init.normal_(model.encoder.mu.weight, std=1.0)
    return model


def _frames(count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


def _cell(picture: np.ndarray, row: int, column: int, margin: int = 0) -> np.ndarray:
    """The frame at a place of a grid."""
    top, left = 2 + row * CELL, margin + 2 + column * CELL
    return picture[top : top + 128 : 2, left : left + 128 : 2]


@pytest.fixture(scope="module")
def every_picture(vae: VAE) -> dict[str, np.ndarray]:
    frames = _frames()
    return {
        "reconstructions": model_views.reconstructions(vae, frames),
        "samples": model_views.samples(vae, 8),
        "interpolation": model_views.interpolation(vae, frames),
        "comparison": model_views.comparison(vae, fit_baselines(frames, 4), frames),
        "traversal": model_views.traversal(vae, frames, [1.0, 2.0, 3.0, 4.0], 2),
    }


@pytest.mark.parametrize("name", ["reconstructions", "samples", "interpolation", "comparison", "traversal"])
def test_every_frame_of_a_picture_has_many_colours(every_picture: dict[str, np.ndarray], name: str):
    picture = every_picture[name]
    margin = (picture.shape[1] - 2) % CELL
    for row in range(picture.shape[0] // CELL):
        for column in range((picture.shape[1] - margin) // CELL):
            frame = _cell(picture, row, column, margin)
            assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 20, (name, row, column)


def test_shown_frames_are_sixteen_spread_over_all():
    frames = _frames(100)
    shown = model_views.shown_frames(frames)
    places = [int(np.flatnonzero((frames == frame).all((1, 2, 3)))[0]) for frame in shown]
    assert len(set(places)) == 16
    assert max(np.diff(places)) <= 7


@pytest.mark.parametrize("count", [1, 2, 15])
def test_fewer_than_sixteen_frames_are_shown_with_repetitions(count: int):
    assert model_views.shown_frames(_frames(count)).shape == (16, 64, 64, 3)


def test_reconstructions_stand_below_their_frames(vae: VAE):
    shown = model_views.shown_frames(_frames())
    decoded = vae.decode(vae.encode(shown).mu).numpy()
    picture = model_views.reconstructions(vae, _frames())
    assert np.array_equal(_cell(picture, 0, 3), shown[3])
    assert np.array_equal(_cell(picture, 1, 3), decoded[3])
    assert np.array_equal(_cell(picture, 2, 0), shown[8])
    assert np.array_equal(_cell(picture, 3, 0), decoded[8])


def test_samples_use_the_same_z_each_time(vae: VAE):
    assert np.array_equal(model_views.samples(vae, 8), model_views.samples(vae, 8))


def test_samples_differ_by_seed(vae: VAE):
    assert not np.array_equal(model_views.samples(vae, 8), model_views.samples(vae, 8, seed=1))


def test_samples_are_decoded_from_the_prior(vae: VAE):
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(model_views.samples(vae, 8), grids.sheet(vae.decode(z).numpy()))


def test_interpolation_runs_from_one_shown_frame_to_another(vae: VAE):
    decoded = vae.decode(vae.encode(model_views.shown_frames(_frames())).mu).numpy().astype(int)
    picture = model_views.interpolation(vae, _frames(), count=5).astype(int)
    assert np.abs(_cell(picture, 0, 0) - decoded[1]).max() <= 1
    assert np.abs(_cell(picture, 0, 4) - decoded[-2]).max() <= 1


def test_interpolation_is_a_straight_line_in_z(vae: VAE):
    mu = vae.encode(model_views.shown_frames(_frames())).mu
    middle = vae.decode((mu[1:2] + mu[-2:-1]) / 2).numpy()[0].astype(int)
    picture = model_views.interpolation(vae, _frames(), count=5).astype(int)
    assert np.abs(_cell(picture, 0, 2) - middle).max() <= 1


def test_comparison_shows_frame_model_pca_and_mean(vae: VAE):
    frames = _frames()
    baselines = fit_baselines(frames, 4)
    shown = model_views.shown_frames(frames)[::2]
    rebuilt = baselines.reconstruct(torch.from_numpy(shown)).reshape(-1, 64, 64, 3).mul(255).round().clamp(0, 255)
    picture = model_views.comparison(vae, baselines, frames)
    assert np.array_equal(_cell(picture, 0, 2, 90), shown[2])
    assert np.array_equal(_cell(picture, 1, 2, 90), vae.decode(vae.encode(shown).mu).numpy()[2])
    assert np.array_equal(_cell(picture, 2, 2, 90), rebuilt[2].numpy())
    assert np.array_equal(_cell(picture, 3, 2, 90), baselines.mean_frame.numpy())


def test_traversal_starts_with_the_dimension_of_the_largest_kl(vae: VAE):
    frames = _frames()
    z = vae.encode(model_views.shown_frames(frames)[8:9]).mu.clone()
    z[0, 2] = -3
    picture = model_views.traversal(vae, frames, [0.0, 1.0, 5.0, 0.5], 2)
    assert np.array_equal(_cell(picture, 0, 0, 90), vae.decode(z).numpy()[0])


@pytest.mark.parametrize("num_dims", [1, 3, 4])
def test_traversal_has_a_row_for_each_dimension(vae: VAE, num_dims: int):
    picture = model_views.traversal(vae, _frames(), [1.0, 2.0, 3.0, 4.0], num_dims)
    assert picture.shape == (num_dims * CELL + 2, 9 * CELL + 2 + 90, 3)


def _gif_frames(data: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(data)) as gif:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]


@pytest.mark.parametrize(("steps", "num_frames", "shown"), [(20, 100, 11), (40, 5, 5), (3, 100, 2)])
def test_clip_shows_every_other_frame_of_the_middle(
    vae: VAE, make_rollouts: Callable[..., Path], steps: int, num_frames: int, shown: int
):
    assert len(_gif_frames(model_views.clip(vae, Rollouts(make_rollouts([steps])), num_frames))) == shown


def test_clip_shows_the_episode_with_the_highest_return(vae: VAE, make_rollouts: Callable[..., Path]):
    data = Rollouts(make_rollouts([6, 6, 6]))
    best = max(data, key=lambda episode: float(episode.rewards.sum()))
    first = _gif_frames(model_views.clip(vae, data))[0][2:194:3, 2:194:3].astype(int)
    errors = [float(np.abs(first - episode.frames[0]).mean()) for episode in data]
    assert data[int(np.argmin(errors))].seed == best.seed
