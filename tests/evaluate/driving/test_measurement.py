"""The measurement of driving: refusals, scores, repeatability, and its picture."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from world_models.data.rollouts import Rollouts
from world_models.evaluate.driving import imitation, measurement, track_map
from world_models.evaluate.driving.imitation import PracticePlan
from world_models.evaluate.driving.lockstep import DriveResult, EnvSettings
from world_models.runs.score_parts import DriveScores
from world_models.runtime import executors
from world_models.vae.baselines import Baselines
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

CAR_RACING = EnvSettings("CarRacing-v3", {}, "0:84")


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=4)).eval()


@pytest.fixture(scope="module")
def pca() -> Baselines:
    generator = torch.Generator().manual_seed(0)
    return Baselines(torch.full((12288,), 0.5), torch.randn(3, 12288, generator=generator) / 100)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training of two rounds on two tracks of three steps, then three scored tracks of four steps; in this process."""
    monkeypatch.setattr(measurement, "EXECUTOR", "serial")
    monkeypatch.setattr(measurement, "PRACTICE", PracticePlan(2, 2, 3, measurement.FIRST_PRACTICE_SEED))
    monkeypatch.setattr(measurement, "SCORED_TRACKS", range(2**40, 2**40 + 3))
    monkeypatch.setattr(measurement, "NUM_STEPS", 4)
    monkeypatch.setattr(measurement, "TRACKS_PER_PROCESS", 2)


def _frames(count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8))


def test_the_controller_of_a_model_reads_its_mu(vae: VAE):
    frames, reader = _frames(11), measurement.mu_reader(vae)
    np.testing.assert_allclose(reader.read(frames), vae.encode(frames.numpy()).mu, atol=1e-5)
    assert reader.z_dim == 4


def test_the_controller_of_pca_reads_the_coefficients_of_the_runs_components(pca: Baselines):
    frames, reader = _frames(11), measurement.pca_reader(pca)
    np.testing.assert_array_equal(reader.read(frames), pca.coefficients(frames))
    assert reader.z_dim == 3


def test_learners_of_all_seeds_use_different_tracks_and_no_scored_ones():
    plans = [plan for seed in (0, 1, 999_999, 1_000_000) for plan in measurement.practice_plans(seed)]
    tracks = [track for plan in plans for index in range(plan.num_rounds) for track in plan.seeds(index)]
    assert len(plans) == 20 and len(set(tracks)) == len(tracks) == 20 * 80
    assert measurement.SCORED_TRACKS.stop <= min(tracks) and max(tracks) < 2**63
    assert (len(measurement.SCORED_TRACKS), measurement.NUM_STEPS) == (100, 1000)


@pytest.mark.slow
def test_measuring_twice_gives_the_same_numbers_bit_for_bit(vae: VAE, pca: Baselines, quick: None):
    first, again = (measurement.measure(CAR_RACING, vae, pca, 0)[0] for _ in range(2))
    assert first == again
    assert first.tracks == 3 and None not in vars(first).values()


@pytest.mark.slow
def test_another_process_learns_the_same_controller(vae: VAE, quick: None):
    task = measurement.TrainTask(CAR_RACING, measurement.mu_reader(vae), measurement.PRACTICE)
    ((_, there),) = executors.run(measurement.run_task, [task], "processes", 1, lambda steps: None)
    here = measurement.run_task(task, lambda steps: None)
    assert isinstance(here, imitation.Controller) and isinstance(there, imitation.Controller)
    np.testing.assert_array_equal(there.weights, here.weights)


def test_another_seed_uses_other_training_tracks(
    vae: VAE, pca: Baselines, quick: None, monkeypatch: pytest.MonkeyPatch
):
    asked, run = [], executors.run
    monkeypatch.setattr(executors, "run", lambda task, items, *rest: asked.append(items) or run(task, items, *rest))
    practised = []
    for seed in (0, 1):
        asked.clear()
        measurement.measure(CAR_RACING, vae, pca, seed)
        tasks = [task for items in asked for task in items]
        scored = [task.seeds for task in tasks if isinstance(task, measurement.DriveTask)]
        assert sorted(scored_seed for seeds in scored for scored_seed in seeds) == sorted(
            [*measurement.SCORED_TRACKS] * 3
        )
        plans = [task.plan for task in tasks if isinstance(task, measurement.TrainTask)]
        assert len(plans) == 10  # five learners on mu, five on PCA's coefficients
        practised.append({track for plan in plans for index in range(2) for track in plan.seeds(index)})
    assert not practised[0] & practised[1]


def test_scores_are_statistics_of_the_tracks():
    driven = DriveResult(np.array([900.0, 100.0, 200.0]), np.array([True, False, False]), [], [])
    on_pca, by_expert = (DriveResult(np.array([score]), np.array([True]), [], []) for score in (300.0, 900.0))
    scores = measurement.scores(driven, on_pca, by_expert)
    assert scores.std == pytest.approx(355.9026)
    assert dataclasses.replace(scores, std=None) == DriveScores(400.0, None, 200.0, 1, 3, 300.0, 900.0)


def test_the_controller_drives_the_environment_of_the_data(rollouts_dir: Path):
    assert measurement.env_settings_of(Rollouts(rollouts_dir)) == CAR_RACING


def test_carracing_is_accepted(rollouts_dir: Path):
    measurement.check(Rollouts(rollouts_dir), frozenset([0, 1, 2]))


def test_another_environment_is_refused(make_rollouts: Callable[..., Path]):
    data = Rollouts(make_rollouts([3], env="CartPole-v1"))
    with pytest.raises(ValueError, match=r"--drive cannot drive CartPole-v1.*leave --drive out"):
        measurement.check(data)


def test_a_crop_that_does_not_fit_is_refused(make_rollouts: Callable[..., Path]):
    crop = {"crop": [0, 200], "size": 64, "interpolation": "INTER_AREA"}
    data = Rollouts(make_rollouts([3], env="CarRacing-v3", preprocess=crop))
    with pytest.raises(ValueError, match="crop 0:200 keeps rows to 200"):
        measurement.check(data)


def test_training_data_with_a_scored_track_is_refused(rollouts_dir: Path):
    with pytest.raises(ValueError, match=r"and 1 of them\s+are among.*collect with other seeds"):
        measurement.check(Rollouts(rollouts_dir), frozenset([5]), frozenset([2**40 + 99]))


# --- the map


def _circle(radius_m: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return radius_m * np.stack([np.cos(angle), np.sin(angle)], 1)


def test_the_map_shows_each_road_and_path():
    paths = [_circle(100.0)[:40], _circle(100.0)[:1]]
    driven = DriveResult(np.array([850.0, 20.0]), np.array([True, False]), paths, [_circle(100.0), _circle(120.0)])
    picture = track_map.draw(driven)
    road = (picture == 211).all(2)  # lightgray
    blue = (picture[..., 2] > picture[..., 0].astype(int) + 60).sum()
    assert road.sum() > 1000 and blue > 100


def test_the_map_shows_at_most_twenty_tracks():
    many, few = (
        DriveResult(
            np.arange(count) * 1.0,
            np.zeros(count, bool),
            [_circle(100.0)[:9]] * count,
            [_circle(100.0)] * count,
        )
        for count in (30, 20)
    )
    assert track_map.draw(many).shape == track_map.draw(few).shape
