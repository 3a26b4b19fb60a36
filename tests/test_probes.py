"""Linear probes and small networks, on targets whose answer is known."""

from typing import Any

import numpy as np
import pytest

from world_models import probes


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


def test_probe_explains_the_share_that_is_linear():
    explained = _probe(_line, noise=float(_line(_features()).std()))
    assert explained == pytest.approx(0.5, abs=0.1)


def test_probe_finds_nothing_in_noise():
    assert _probe(lambda x: 0 * _line(x), noise=1.0) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_probe_of_a_constant_target_is_none(value: float):
    assert _probe(lambda x: np.full((len(x), 1), value)) is None


def test_probe_ignores_a_feature_that_never_varies():
    train, test = (
        np.concatenate([x, np.full((len(x), 1), 0.1, np.float32)], 1) for x in (_features(), _features(200, 1))
    )
    assert probes.linear_r2(train, _line(train[:, :3]), test, _line(test[:, :3]))[0] == pytest.approx(1, abs=1e-3)


def test_probes_are_one_a_target():
    x = _features()
    y = np.concatenate([_line(x), np.ones_like(_line(x)), x[:, :1]], 1)
    found = probes.linear_r2(x, y, x, y)
    assert [r2 is None for r2 in found] == [False, True, False]
