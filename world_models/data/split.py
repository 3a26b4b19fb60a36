"""Split episodes into training and validation by their seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from world_models.runtime import files


@dataclasses.dataclass(frozen=True)
class Split:
    """Numbers of the episodes for training and of those for validation. No episode is in both."""

    train: tuple[int, ...]
    val: tuple[int, ...]


def split_episodes(
    seeds: Sequence[int] | Int64[np.ndarray, " episodes"], split_seed: int, val_share: float = 0.1
) -> Split:
    """Hold out the episodes with the lowest sha256 of "split_seed,episode_seed": the share `val_share`, at least one.

    The split depends only on the seeds of the episodes, not on their files or their order.

    Raises:
        ValueError: fewer than two episodes.
    """
    if len(seeds) < 2:
        raise ValueError(f"{len(seeds)} episode cannot be split into training and validation; collect at least 2")
    num_val = max(1, round(val_share * len(seeds)))
    ranked = sorted(range(len(seeds)), key=lambda i: files.sha256(f"{split_seed},{seeds[i]}".encode()))
    return Split(tuple(sorted(ranked[num_val:])), tuple(sorted(ranked[:num_val])))
