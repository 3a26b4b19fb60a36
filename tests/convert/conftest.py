"""Data that the tests of `convert` share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from world_models.data.latents import write_latents
from world_models.data.rollouts import FORMAT as ROLLOUTS
from world_models.data.shards.episodes import open_shards


@pytest.fixture
def make_latents(make_rollouts: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes latents of synthetic rollouts: one list of episode lengths (in steps) for each shard."""

    def make(*shards: list[int], dtype: str = "float32", z_dim: int = 4, scale: float = 1.0) -> Path:
        folder = tmp_path / "latents"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for source in open_shards(make_rollouts(*shards), ROLLOUTS):
            with np.errstate(over="ignore"):  # of float16
                mu, logvar = (scale * rng.standard_normal((2, source.num_rows, z_dim))).astype(dtype)
            attributes = {"vae_sha256": "ab" * 32, "config": "dtype: float32\n"}
            with write_latents(folder / source.path.name, source, z_dim, dtype, attributes) as latents:
                latents.append(mu, logvar)
        return folder

    return make
