"""Probes: regressions that predict the simulator's state from features of a frame. They are scored on new tracks."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import nn

from world_models.runtime import threads

HIDDEN = 128
EPOCHS = 25
BATCH = 256
RIDGES = (1e-3, 1e-1, 10.0)
"""Strengths of ridge regression. Each target takes the one with the lowest error on the last fifth of the rows."""

SINGLE_PRECISION_ROWS = 1000
"""From this number of rows on, products of raw pixels are in float32, which halves their time. With fewer rows, the
ridge is too small to make up for their rounding: the system of alike frames may have no solution."""

PIXEL_ROWS = 4000
"""Largest number of frames for a probe of raw pixels. Capped, because a frame has more pixels than there are frames."""

Rows = Float[np.ndarray, "_ _"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples for probes: the features that they read and the telemetry that they predict, for some frames.

    Attributes:
        mu: posterior means.
        pca: coefficients of the principal components.
        pixels: raw pixels.
        telemetry: the simulator's state.
    """

    mu: Float[np.ndarray, "frames z"]
    pca: Float[np.ndarray, "frames k"]
    pixels: UInt8[np.ndarray, "frames values"]
    telemetry: Float[np.ndarray, "frames S"]

    def __len__(self) -> int:
        return len(self.mu)

    def where(self, chosen: Bool[np.ndarray, " frames"]) -> "Examples":
        """Some of the frames."""
        return Examples(self.mu[chosen], self.pca[chosen], self.pixels[chosen], self.telemetry[chosen])


def fit_and_score(
    names: Sequence[str], *samples: tuple[Examples, Examples]
) -> list[dict[str, dict[str, float | None]]]:
    """Fit all probes on each sample and score them. All fits share one pool of threads.

    Args:
        names: names of the columns of telemetry.
        samples: the frames to fit the probes on, and the frames to score them on.

    Returns:
        For each sample, R2 by name of the probe, such as `mu_linear`, and by column of telemetry.
    """

    def r2(fit: tuple[str, tuple[Examples, Examples]]) -> dict[str, float | None]:
        name, (fitted, scored) = fit
        probe, features = PROBES[name]
        rows = getattr(fitted, features), fitted.telemetry, getattr(scored, features), scored.telemetry
        return dict(zip(names, probe(*rows), strict=True))

    fits = list(itertools.product(PROBES, samples))  # the longest fits come first, so that no thread ends much later
    found = dict(zip([*itertools.product(PROBES, range(len(samples)))], threads.in_threads(r2, fits), strict=True))
    return [{name: found[name, index] for name in PROBES} for index in range(len(samples))]


def _pixels_r2(
    train_x: UInt8[np.ndarray, "_ values"], train_y: Rows, test_x: UInt8[np.ndarray, "_ values"], test_y: Rows
) -> list[float | None]:
    train, test = (np.linspace(0, len(x) - 1, min(len(x), PIXEL_ROWS)).astype(int) for x in (train_x, test_x))
    return linear_r2(train_x[train].astype(np.float32), train_y[train], test_x[test].astype(np.float32), test_y[test])


def linear_r2(train_x: Rows, train_y: Rows, test_x: Rows, test_y: Rows) -> list[float | None]:
    """R2 of ridge regression on standardised features, for each target; None if a target is constant."""
    # On 20,000 x 32, scikit-learn's Ridge gives the same R2 but takes 1.2 times the processor time. RidgeCV takes 2
    # times as long and chooses other strengths, which changes R2 by up to 0.3.
    wide = train_x.shape[1] > len(train_x)
    single = wide and len(train_x) >= SINGLE_PRECISION_ROWS
    train, tests = (x.astype(np.float32 if single else np.float64) for x in (train_x, test_x))
    center, scale = train.mean(0), train.std(0) + 1e-8
    for x in (train, tests):  # in place, because raw pixels take much memory
        x -= center
        x /= scale
    products = train @ train.T if wide else None  # most of the work, so it is done once for all fits
    num_fitted = len(train) - len(train) // 5
    part = None if products is None else products[:num_fitted, :num_fitted]
    trials = _ridge(train[:num_fitted], train_y[:num_fitted], train[num_fitted:], part)
    best = np.square(trials - train_y[num_fitted:]).sum(1).argmin(0)
    chosen, which = np.unique(best, return_inverse=True)
    predicted = _ridge(train, train_y, tests, products, [RIDGES[index] for index in chosen])
    return _r2(predicted[which, :, np.arange(len(which))].T, test_y)


def _ridge(
    train: Rows,
    train_y: Rows,
    tests: Rows,
    products: Rows | None = None,
    ridges: Sequence[float] = RIDGES,
) -> Float[np.ndarray, "ridges tests targets"]:
    """Predictions of ridge regression with each strength.

    Args:
        train: standardised features.
        train_y: targets.
        tests: features to predict from.
        products: `train @ train.T` if there are more features than rows. Then the smaller, dual system is solved.
        ridges: the strengths.
    """
    offset = train_y.mean(0, dtype=np.float64)
    targets = train_y - offset
    matrix = (train.T @ train if products is None else products).astype(np.float64)
    right = train.T @ targets if products is None else targets
    predicted = []
    for ridge in ridges:
        # The matrix is positive definite, so Cholesky's method works. It is half the work of `np.linalg.solve`.
        positive = torch.from_numpy(matrix.copy())
        positive.diagonal().add_(ridge * len(train))
        factor = torch.linalg.cholesky(positive)
        weights = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
        if products is not None:
            weights = train.T @ weights.astype(train.dtype)
        predicted.append(tests @ weights + offset)
    return np.stack(predicted)


def mlp_r2(train_x: Rows, train_y: Rows, test_x: Rows, test_y: Rows, seed: int = 0) -> list[float | None]:
    """R2 of one network with two hidden layers of 128 ReLUs, for each target; None if a target is constant."""
    x_center, x_scale = train_x.mean(0), train_x.std(0) + 1e-8
    y_center, y_scale = train_y.mean(0), train_y.std(0) + 1e-8
    x, y, tests = (
        torch.from_numpy(((rows - center) / scale).astype(np.float32))
        for rows, center, scale in (
            (train_x, x_center, x_scale),
            (train_y, y_center, y_scale),
            (test_x, x_center, x_scale),
        )
    )
    generator = torch.Generator().manual_seed(seed)
    network = _network(x.shape[1], y.shape[1], generator)
    _fit(network, x, y, generator)
    with torch.inference_mode():
        return _r2(network(tests).numpy() * y_scale + y_center, test_y)


def _network(num_features: int, num_targets: int, generator: torch.Generator) -> nn.Sequential:
    """A network with PyTorch's usual first weights. `generator` draws them, because other threads draw numbers too."""
    sizes = ((num_features, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, num_targets))
    layers: list[Any] = [nn.utils.skip_init(nn.Linear, *size) for size in sizes]
    for layer in layers:
        bound = 1 / math.sqrt(layer.in_features)
        nn.init.uniform_(layer.weight, -bound, bound, generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator)
    first, second, last = layers
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


def _fit(network: nn.Module, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> None:
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(2, steps))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()


def _r2(predicted: Rows, target: Rows) -> list[float | None]:
    error = np.square(target - predicted.astype(np.float64)).sum(0)
    spread = np.square(target - target.mean(0, dtype=np.float64)).sum(0)
    return [float(1 - e / s) if s > 1e-9 and np.isfinite(e / s) else None for e, s in zip(error, spread, strict=True)]


PROBES: Mapping[str, tuple[Callable[..., list[float | None]], str]] = {
    "pixels_linear": (_pixels_r2, "pixels"),  # first, because it takes as long as both networks
    "mu_mlp": (mlp_r2, "mu"),
    "pca_mlp": (mlp_r2, "pca"),
    "mu_linear": (linear_r2, "mu"),
    "pca_linear": (linear_r2, "pca"),
}
"""Each probe and the attribute of `Examples` that it reads."""
