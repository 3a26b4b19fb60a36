"""The error by kind of frame and by telemetry, on frames and telemetry with known answers."""

import numpy as np
import pytest

from world_models.evaluate import breakdown
from world_models.runs.score_parts import Bins

TELEMETRY = {  # zooming in, straight, curve, curve the other way, grass, backwards
    "zoom_px_per_m": np.array([2, 16.2, 16.2, 16.2, 16.2, 16.2]),
    "wheels_on_road_share": np.array([1, 1, 1, 0.75, 0.25, 1]),
    "curvature_ahead_25m_per_m": np.array([0, 0.001, 0.05, -0.05, 0.05, 0]),
    "relative_heading_rad": np.array([0, 0.1, -0.2, 0.3, 0, 3.0]),
}
SSE = np.array([1.0, 2.0, 4.0, 6.0, 10.0, 4.0])


def _frames(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)


# kinds of frames


def test_error_by_kind_is_the_mean_over_its_frames():
    found = {kind: (of.share, of.sse) for kind, of in breakdown.by_kind(SSE, TELEMETRY).items()}
    assert found == {
        "opening zoom": (1 / 6, 1.0),
        "on a straight": (2 / 6, 3.0),
        "before or in a curve": (2 / 6, 5.0),
        "on the grass": (1 / 6, 10.0),
    }


def test_a_kind_without_frames_is_left_out():
    assert "on the grass" not in breakdown.by_kind(SSE[:4], {name: values[:4] for name, values in TELEMETRY.items()})


@pytest.mark.parametrize("missing", ["zoom_px_per_m", "wheels_on_road_share", "curvature_ahead_25m_per_m"])
def test_other_telemetry_has_no_kinds(missing: str):
    rest = {name: values for name, values in TELEMETRY.items() if name != missing}
    assert breakdown.by_kind(SSE, rest) == {}


# telemetry


def test_all_bins_hold_the_same_number_of_frames():
    values = np.random.default_rng(0).permutation(101).astype(float)
    binned = breakdown.by_telemetry(values, {"x": values})["x"]
    assert binned == Bins(edges=[0.0, 20.0, 40.0, 60.0, 80.0, 100.0], sse=[9.5, 29.5, 49.5, 69.5, 90.0])


@pytest.mark.parametrize("count", [2, 3, 6])
def test_bins_of_few_frames_are_not_empty(count: int):
    values = np.arange(float(count))
    assert np.isfinite(breakdown.by_telemetry(values, {"x": values})["x"].sse).all()


def test_bins_with_equal_edges_are_merged():
    values = np.array([0.0] * 8 + [1.0, 2.0])
    binned = breakdown.by_telemetry(values, {"x": values})["x"]
    assert len(binned.edges) == len(binned.sse) + 1 and len(binned.sse) < 5


def test_a_column_that_never_varies_has_no_bins():
    assert breakdown.by_telemetry(SSE, {"x": np.ones(6)}) == {}


# worst frames


def test_worst_frames_come_first():
    sse = np.zeros(200)
    sse[[3, 90, 150]] = [5, 9, 7]
    assert breakdown.worst(sse, 3) == [90, 150, 3]


def test_only_the_worst_of_similar_frames_is_shown():
    sse = np.zeros(100)
    sse[10:30] = np.arange(20)
    assert breakdown.worst(sse, 2)[0] == 29
    assert abs(breakdown.worst(sse, 2)[1] - 29) > 25


def test_of_few_frames_fewer_worst_ones_are_shown():
    assert breakdown.worst(np.arange(30.0)) == [29, 3]


# latents


def test_pure_noise_has_unsteadiness_one():
    noise = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    assert breakdown.unsteadiness([noise]) == pytest.approx([1, 1], abs=0.03)


def test_a_slow_wave_has_little_unsteadiness():
    steps = np.arange(1000) * 0.01
    (found,) = breakdown.unsteadiness([np.sin(steps)[:, None].astype(np.float32)])
    assert found < 1e-3


def test_changes_between_episodes_do_not_count():
    still = [np.full((5, 1), value, np.float32) for value in (-1.0, 1.0)]
    assert breakdown.unsteadiness(still) == [0.0]


def test_aggregate_posterior_has_the_moments_of_samples():
    rng = np.random.default_rng(0)
    mu, variance = rng.normal([1, -1], [2, 0.1], (5000, 2)), rng.uniform(0.5, 1.5, (5000, 2))
    found = breakdown.aggregate_posterior(mu, variance)
    z = mu + np.sqrt(variance) * rng.normal(size=mu.shape)
    assert found.mean == pytest.approx(z.mean(0).tolist(), abs=0.05)
    assert found.std == pytest.approx(z.std(0).tolist(), rel=0.05)


# dreams


def _near(frames: np.ndarray, seed: int) -> np.ndarray:
    moved = frames.astype(int) + np.random.default_rng(seed).integers(-3, 4, frames.shape)
    return np.clip(moved, 0, 255).astype(np.uint8)


def test_dreams_that_equal_seen_frames_are_plausible():
    seen = _frames(200)
    assert breakdown.plausible_share(_near(seen, 1), seen, _near(seen, 2)) > 0.9


def test_dreams_of_other_pictures_are_not_plausible():
    seen = _frames(200)
    assert breakdown.plausible_share(_frames(50, seed=7), seen, _near(seen, 2)) == 0


def test_a_blurred_frame_is_not_plausible():
    seen = _frames(100)
    held_out = _frames(100, seed=3)  # far from the seen frames
    blur = seen.mean(0, keepdims=True).round().astype(np.uint8).repeat(10, 0)
    assert breakdown.plausible_share(blur, seen, held_out) == 0
