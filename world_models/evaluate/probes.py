"""Probes: how much of the simulator's state can be read from features of a frame, on tracks the probe never saw."""

import dataclasses
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
"""Strengths tried, of which each target takes the one that is best on the last fifth of the training rows."""

PIXEL_ROWS = 4000
"""Frames that a probe on raw pixels is fitted on. Capped, because a frame has more pixels than there are frames."""

Rows = Float[np.ndarray, "_ _"]


@dataclasses.dataclass(frozen=True)
class Seen:
    """The features that probes read, and the telemetry that they predict.

    Attributes:
        mu: posterior means.
        pca: coefficients of the principal components.
        pixels: raw values.
        telemetry: the simulator's state.
    """

    mu: Float[np.ndarray, "frames z"]
    pca: Float[np.ndarray, "frames k"]
    pixels: UInt8[np.ndarray, "frames values"]
    telemetry: Float[np.ndarray, "frames S"]

    def __len__(self) -> int:
        return len(self.mu)

    def where(self, chosen: Bool[np.ndarray, " frames"]) -> "Seen":
        """Some of the frames."""
        return Seen(self.mu[chosen], self.pca[chosen], self.pixels[chosen], self.telemetry[chosen])


def read(names: Sequence[str], fitted: Seen, scored: Seen) -> dict[str, dict[str, float | None]]:
    """R2 of every probe for every column of telemetry, by what it reads and how, such as `mu_linear`."""

    def r2(name: str) -> dict[str, float | None]:
        probe, features = PROBES[name]
        rows = getattr(fitted, features), fitted.telemetry, getattr(scored, features), scored.telemetry
        return dict(zip(names, probe(*rows), strict=True))

    return dict(zip(PROBES, threads.in_threads(r2, [*PROBES]), strict=True))


def _pixels_r2(
    train_x: UInt8[np.ndarray, "_ values"], train_y: Rows, test_x: UInt8[np.ndarray, "_ values"], test_y: Rows
) -> list[float | None]:
    train, test = (np.linspace(0, len(x) - 1, min(len(x), PIXEL_ROWS)).astype(int) for x in (train_x, test_x))
    return linear_r2(train_x[train].astype(np.float32), train_y[train], test_x[test].astype(np.float32), test_y[test])


def linear_r2(train_x: Rows, train_y: Rows, test_x: Rows, test_y: Rows) -> list[float | None]:
    """R2 of ridge regression on standardised features, for each target; None where it never varies."""
    # By hand: on 20,000 x 32, scikit-learn's Ridge gives the same R2 in 1.2 times the processor time. RidgeCV takes
    # 2 times as long and chooses other strengths, by which R2 differs by up to 0.3.
    wide = train_x.shape[1] > len(train_x)
    train, tests = (x.astype(np.float32 if wide else np.float64) for x in (train_x, test_x))
    center, scale = train.mean(0), train.std(0) + 1e-8
    for x in (train, tests):  # in place, since pixels are many
        x -= center
        x /= scale
    products = train @ train.T if wide else None  # most of the work, so done once for all fits
    fitted = len(train) - len(train) // 5
    part = None if products is None else products[:fitted, :fitted]
    tried = _ridge(train[:fitted], train_y[:fitted], train[fitted:], part)
    best = np.square(tried - train_y[fitted:]).sum(1).argmin(0)
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
    """Predictions of linear regression with each strength of the ridge.

    Args:
        train: standardised features.
        train_y: targets.
        tests: features to predict from.
        products: `train @ train.T` where features outnumber rows. Then the smaller, dual system of equations is solved.
        ridges: the strengths.
    """
    offset = train_y.mean(0, dtype=np.float64)
    targets = train_y - offset
    matrix = (train.T @ train if products is None else products).astype(np.float64)
    right = train.T @ targets if products is None else targets
    predicted = []
    for ridge in ridges:
        # Positive definite, so Cholesky's factors serve, which are half the work of those of `np.linalg.solve`.
        positive = torch.from_numpy(matrix.copy())
        positive.diagonal().add_(ridge * len(train))
        factor = torch.linalg.cholesky(positive)
        weights = torch.cholesky_solve(torch.from_numpy(right), factor).numpy()
        if products is not None:
            weights = train.T @ weights.astype(train.dtype)
        predicted.append(tests @ weights + offset)
    return np.stack(predicted)


def mlp_r2(train_x: Rows, train_y: Rows, test_x: Rows, test_y: Rows, seed: int = 0) -> list[float | None]:
    """R2 of a network with two hidden layers of 128 ReLUs, one for all targets; None where one never varies."""
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
    """A network with PyTorch's usual weights, but from a generator of its own: others draw at the same time."""
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
    "pixels_linear": (_pixels_r2, "pixels"),  # takes as long as both networks, so it starts first
    "mu_mlp": (mlp_r2, "mu"),
    "pca_mlp": (mlp_r2, "pca"),
    "mu_linear": (linear_r2, "mu"),
    "pca_linear": (linear_r2, "pca"),
}
"""Each probe and the attribute of `Seen` that it reads."""
