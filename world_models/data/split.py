"""Episodes for training and for validation, told apart by their seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from world_models.runtime import files


@dataclasses.dataclass(frozen=True)
class Split:
    """Episodes for training and, none of them among those, for validation."""

    train: tuple[int, ...]
    val: tuple[int, ...]


def split_episodes(
    seeds: Sequence[int] | Int64[np.ndarray, " episodes"], split_seed: int, val_share: float = 0.1
) -> Split:
    """Hold out the share of episodes with the lowest sha256 of "split_seed,episode_seed", at least one.

    Whether an episode is held out depends on its seed and on how many there are, not on files or order.

    Raises:
        ValueError: fewer than two episodes.
    """
    if len(seeds) < 2:
        raise ValueError(f"{len(seeds)} episode cannot be split into training and validation; collect at least 2")
    num_val = max(1, round(val_share * len(seeds)))
    ranked = sorted(range(len(seeds)), key=lambda i: files.sha256(f"{split_seed},{seeds[i]}".encode()))
    return Split(tuple(sorted(ranked[num_val:])), tuple(sorted(ranked[:num_val])))
