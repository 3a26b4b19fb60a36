"""The baselines of a V model, compared with SVD and with sums by hand."""

import functools

import numpy as np
import pytest
import torch

from world_models.vae import baselines
from world_models.vae.baselines import Baselines


def _frames(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, which are enlarged coarse ones."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


def _flat(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), -1).astype(np.float64) / 255


@functools.cache
def _svd(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the first `count` frames, and all their principal components."""
    train = _flat(_frames(count))
    return train.mean(0), np.linalg.svd(train - train.mean(0), full_matrices=False)[2]


def _sse_of_svd(count: int, test: np.ndarray, k: int) -> float:
    """The error of frames if they are reconstructed from the first k components of other frames."""
    mean, components = _svd(count)
    away = _flat(test) - mean
    return float(np.square(away - away @ components[:k].T @ components[:k]).sum(1).mean())


@pytest.mark.parametrize("k", [1, 8, 32])
def test_the_error_of_pca_equals_that_of_the_exact_svd(k: int):
    frames = _frames(60)
    sse = baselines.fit_baselines(frames, k).measure(frames).pca_sse
    assert sse == pytest.approx(_sse_of_svd(60, frames, k), rel=1e-3)


def test_pca_components_are_orthonormal():
    components = baselines.fit_baselines(_frames(60), 8).components
    torch.testing.assert_close(components @ components.T, torch.eye(8), rtol=0, atol=1e-4)


def test_pca_components_are_sorted_by_variance():
    frames = _frames(60)
    fitted = baselines.fit_baselines(frames, 8)
    variance = ((torch.from_numpy(_flat(frames)).float() - fitted.mean) @ fitted.components.T).var(0)
    assert variance.tolist() == sorted(variance.tolist(), reverse=True)


def test_pca_has_no_more_components_than_frames():
    assert baselines.fit_baselines(_frames(5), 32).components.shape == (5, 12_288)


def test_pca_with_as_many_components_as_frames_has_no_error():
    frames = _frames(5)
    assert baselines.fit_baselines(frames, 5).measure(frames).pca_sse < 1e-3


def test_pca_of_equal_frames_has_no_error():
    frames = _frames(1).repeat(20, 0)
    assert baselines.fit_baselines(frames, 4).measure(frames).pca_sse == pytest.approx(0, abs=1e-6)


def test_pca_is_the_same_every_time():
    first, second = (baselines.fit_baselines(_frames(30), 4) for _ in range(2))
    assert torch.equal(first.components, second.components)


def test_the_mean_is_that_of_the_frames():
    frames = _frames(600)
    np.testing.assert_allclose(baselines.fit_baselines(frames, 1).mean, _flat(frames).mean(0), atol=1e-6)


def test_the_mean_frame_is_the_rounded_mean():
    frames = _frames(9)
    difference = baselines.fit_baselines(frames, 1).mean_frame.numpy() - frames.mean(0)
    assert np.abs(difference).max() <= 0.5 + 1e-3


def test_mean_sse_is_the_variance_summed_over_values():
    frames = _frames(150)
    measured = baselines.fit_baselines(frames, 1).measure(frames).mean_sse
    assert measured == pytest.approx(_flat(frames).var(0).sum(), rel=1e-5)


def test_pca_of_other_frames_uses_the_training_mean():
    train, test = _frames(60), _frames(20, seed=1)
    sse = baselines.fit_baselines(train, 8).measure(test).pca_sse
    assert sse == pytest.approx(_sse_of_svd(60, test, 8), rel=0.01)


def test_reconstruction_through_the_components_has_the_measured_sse():
    frames = _frames(20)
    fitted = baselines.fit_baselines(frames, 3)
    rebuilt = fitted.reconstruct(torch.from_numpy(frames)).double().numpy()
    by_hand = np.square(_flat(frames) - rebuilt).sum(1).mean()
    assert fitted.measure(frames).pca_sse == pytest.approx(by_hand, rel=1e-5)


def test_baselines_without_components_reconstruct_the_mean():
    bare = Baselines(torch.zeros(12_288), torch.zeros(0, 12_288))
    frames = np.full((2, 64, 64, 3), 255, np.uint8)
    assert bare.measure(frames) == baselines.BaselineErrors(12_288.0, 12_288.0, {})


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_first_components_are_those_of_a_smaller_pca(count: int):
    train, test = _frames(60), _frames(20, seed=1)
    nested = baselines.fit_baselines(train, 8).measure(test).pca_sse_by_components
    assert nested[str(count)] == pytest.approx(_sse_of_svd(60, test, count), rel=1e-2)


def test_numbers_of_components_are_powers_of_two_up_to_all():
    assert [*baselines.fit_baselines(_frames(30), 5).measure(_frames(4)).pca_sse_by_components] == ["1", "2", "4"]


def test_previous_frame_sse_is_the_mean_over_steps():
    frames = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 51, 51, 255)])
    assert baselines.previous_frame_sse(frames) == pytest.approx(12_288 * (0.2**2 + 0 + 0.8**2) / 3, rel=1e-5)


@pytest.mark.parametrize("count", [2, 129, 130])
def test_previous_frame_sse_counts_every_pair(count: int):
    frames = _frames(count)
    expected = np.square(np.diff(_flat(frames), axis=0)).sum(1).mean()
    assert baselines.previous_frame_sse(frames) == pytest.approx(expected, rel=1e-5)
