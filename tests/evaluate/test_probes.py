"""Linear probes and small networks, on targets with known answers."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from world_models.evaluate import probes


def _features(count: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal([0, 5, -3], [1, 0.1, 20], (count, 3)).astype(np.float32)


def _line(x: np.ndarray) -> np.ndarray:
    return (x @ np.array([[1.0], [30.0], [-0.1]]) + 100).astype(np.float32)


def _probe(target: Any, noise: float = 0.0) -> float | None:
    train, test = _features(), _features(200, seed=1)
    rng = np.random.default_rng(2)
    targets = [(target(x) + noise * rng.normal(size=(len(x), 1))).astype(np.float32) for x in (train, test)]
    return probes.linear_r2(train, targets[0], test, targets[1])[0]


def test_probe_finds_a_linear_target():
    assert _probe(_line) == pytest.approx(1, abs=1e-3)


def test_a_probe_explains_the_linear_share_of_a_target():
    explained = _probe(_line, noise=float(_line(_features()).std()))
    assert explained == pytest.approx(0.5, abs=0.1)


def test_a_probe_explains_nothing_of_noise():
    assert _probe(lambda x: 0 * _line(x), noise=1.0) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_probe_of_a_constant_target_is_none(value: float):
    assert _probe(lambda x: np.full((len(x), 1), value)) is None


def test_probe_ignores_a_feature_that_never_varies():
    train, test = (
        np.concatenate([x, np.full((len(x), 1), 0.1, np.float32)], 1) for x in (_features(), _features(200, 1))
    )
    assert probes.linear_r2(train, _line(train[:, :3]), test, _line(test[:, :3]))[0] == pytest.approx(1, abs=1e-3)


def test_each_target_has_a_probe_of_its_own():
    x = _features()
    y = np.concatenate([_line(x), np.ones_like(_line(x)), x[:, :1]], 1)
    found = probes.linear_r2(x, y, x, y)
    assert [r2 is None for r2 in found] == [False, True, False]


# by network, from pixels, and of all features


def test_a_network_finds_a_target_that_is_not_linear():
    train, test = _features(4000), _features(500, seed=1)
    squares = [np.square(x[:, :1]) for x in (train, test)]
    linear, network = (
        probe(train, squares[0], test, squares[1])[0] or 0.0 for probe in (probes.linear_r2, probes.mlp_r2)
    )
    assert linear < 0.1 and network > 0.95


def test_a_network_is_the_same_every_time():
    x = _features()
    assert probes.mlp_r2(x, _line(x), x, _line(x)) == probes.mlp_r2(x, _line(x), x, _line(x))


def test_networks_do_not_depend_on_the_number_of_threads(two_threads: None):
    (by_two,) = probes.fit_and_score(("in_mu", "in_pixels", "constant"), (_seen(500, 0), _seen(200, 1)))
    torch.set_num_threads(1)
    (by_one,) = probes.fit_and_score(("in_mu", "in_pixels", "constant"), (_seen(500, 0), _seen(200, 1)))
    assert [by_two[name] for name in ("mu_mlp", "pca_mlp")] == [by_one[name] for name in ("mu_mlp", "pca_mlp")]


def test_a_network_starts_from_pytorchs_usual_weights(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "EPOCHS", 0)
    x, y = _features(), _line(_features())
    untrained = probes.mlp_r2(x, y, x, y, seed=3)[0]
    torch.manual_seed(3)
    sizes = (3, probes.HIDDEN, probes.HIDDEN, 1)
    first, second, last = (torch.nn.Linear(*size) for size in itertools.pairwise(sizes))
    with torch.no_grad():
        standard = torch.from_numpy((x - x.mean(0)) / x.std(0))
        predicted = last(second(first(standard).relu()).relu()).numpy() * y.std(0) + y.mean(0)
    assert untrained == pytest.approx(
        1 - float(np.square(y - predicted).sum() / np.square(y - y.mean(0)).sum()), abs=1e-4
    )


def test_a_network_does_not_change_the_global_generator():
    x, state = _features(), torch.get_rng_state()
    probes.mlp_r2(x, _line(x), x, _line(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_repeating_features_until_they_exceed_the_rows_does_not_change_the_result():
    """A repeated column adds no information. It only changes the effect of the ridge, which is small."""
    rng = np.random.default_rng(0)
    x, tests = rng.normal(size=(40, 30)).astype(np.float32), rng.normal(size=(50, 30)).astype(np.float32)
    twice, tests_twice = (np.concatenate([each, each], 1) for each in (x, tests))
    once = probes.linear_r2(x, _line(x[:, :3]), tests, _line(tests[:, :3]))[0]
    assert probes.linear_r2(twice, _line(x[:, :3]), tests_twice, _line(tests[:, :3]))[0] == pytest.approx(
        once, abs=1e-3
    )
    assert once is not None and once > 0.9


@pytest.mark.parametrize("seed", range(40))
def test_a_few_equal_frames_of_many_pixels_can_be_fitted(seed: int):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (3, 12_288)).astype(np.float32)[rng.integers(0, 3, 14)]
    targets = rng.normal(size=(14, 2)).astype(np.float32)
    assert all(r2 is not None and r2 <= 1 for r2 in probes.linear_r2(frames, targets, frames, targets))


def _pixels_r2(train: np.ndarray, train_y: np.ndarray, test: np.ndarray, test_y: np.ndarray) -> float | None:
    few = [np.zeros((len(pixels), 1), np.float32) for pixels in (train, test)]
    fitted, scored = probes.Examples(few[0], few[0], train, train_y), probes.Examples(few[1], few[1], test, test_y)
    return probes.fit_and_score(("target",), (fitted, scored))[0]["pixels_linear"]["target"]


@pytest.mark.parametrize("value", [1, 102, 255])
def test_a_pixel_that_never_varied_in_training_does_not_change_the_prediction(value: int):
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (rows, 600), np.uint8) for rows in (400, 50))
    targets = [_line(pixels[:, :3].astype(np.float32)) for pixels in (train, test)]
    without = _pixels_r2(train, targets[0], test, targets[1])
    still, moving = (np.insert(train, 0, value, 1), np.insert(test, 0, np.arange(50), 1))
    assert _pixels_r2(still, targets[0], moving, targets[1]) == pytest.approx(without, rel=1e-3)


def test_ridge_regression_is_far_better_than_least_squares_on_noisy_targets():
    """So its strength was chosen on rows that were not fitted: fitted rows always prefer the weakest."""
    rng = np.random.default_rng(0)
    train_x, test_x = rng.normal(size=(100, 90)).astype(np.float32), rng.normal(size=(200, 90)).astype(np.float32)
    train_y, test_y = (x[:, :1] + 3 * rng.normal(size=(len(x), 1)).astype(np.float32) for x in (train_x, test_x))
    weights = np.linalg.lstsq(train_x, train_y, rcond=None)[0]
    least_squares = 1 - float(np.square(test_y - test_x @ weights).sum() / np.square(test_y - test_y.mean()).sum())
    ridge = probes.linear_r2(train_x, train_y, test_x, test_y)[0]
    assert ridge is not None and ridge > least_squares + 0.5


def _seen(count: int, seed: int) -> probes.Examples:
    rng = np.random.default_rng(seed)
    mu = rng.normal(size=(count, 4)).astype(np.float32)
    pixels = rng.integers(0, 256, (count, 12), np.uint8)
    telemetry = np.stack([mu[:, 0], mu[:, 1] * 0 + pixels[:, 0], np.ones(count)], 1).astype(np.float32)
    return probes.Examples(mu, mu[:, 2:], pixels, telemetry)


def test_each_probe_reads_its_own_features():
    (found,) = probes.fit_and_score(("in_mu", "in_pixels", "constant"), (_seen(500, 0), _seen(200, 1)))
    assert {name: [r2 is not None and r2 > 0.9 for r2 in list(of.values())[:2]] for name, of in found.items()} == {
        "mu_linear": [True, False],
        "mu_mlp": [True, False],
        "pca_linear": [False, False],
        "pca_mlp": [False, False],
        "pixels_linear": [False, True],
    }


def test_each_probe_has_all_targets_by_name():
    (found,) = probes.fit_and_score(("in_mu", "in_pixels", "constant"), (_seen(50, 0), _seen(20, 1)))
    assert {tuple(of) for of in found.values()} == {("in_mu", "in_pixels", "constant")}
    assert {of["constant"] for of in found.values()} == {None}


def test_chosen_frames_keep_their_features_and_telemetry():
    seen, chosen = _seen(10, 0), np.arange(10) % 3 == 0
    some = seen.where(chosen)
    assert len(some) == 4
    np.testing.assert_array_equal(some.mu[:, 0], some.telemetry[:, 0])
