"""Several data sets of rollouts, opened together: one sequence of episodes, split in each set."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from world_models.data.rollouts import BLOCK_ROWS, Rollouts
from world_models.data.split import Split, split_episodes
from world_models.runtime import files
from world_models.runtime.terminal import printable


class SeveralRollouts(Rollouts):
    """Several data sets of rollouts as one sequence of episodes: those of the first set, then those of the next.

    The sets may be of different environments. `path`, `env`, `env_args`, `action_space`, `num_actions` and
    `telemetry_names` are those of the first set.

    Args:
        sets: the data sets, two or more.

    Raises:
        ValueError: the frames of the sets were made in different ways, or an episode is in two sets.
    """

    def __init__(self, sets: Sequence[Rollouts]):
        first = sets[0]
        self._sets = tuple(sets)
        self.path, self.env, self.env_args, self.preprocess = first.path, first.env, first.env_args, first.preprocess
        self.action_space, self.num_actions = first.action_space, first.num_actions
        self.telemetry_names = first.telemetry_names
        self._check_preprocess()
        for pair in itertools.combinations(sets, 2):
            _check_no_shared_episode(*pair)
        self._hold(tuple(shard for each in sets for shard in each.shards))

    @property
    def sets(self) -> tuple[Rollouts, ...]:
        """The data sets."""
        return self._sets

    def digest(self) -> str:
        """Sha256 of the digests of the sets, in their order."""
        return files.sha256(*(each.digest().encode() for each in self._sets))

    def __repr__(self) -> str:
        return f"SeveralRollouts({printable(self.name)}, {len(self)} episodes, {self.num_rows} frames)"

    def _check_preprocess(self) -> None:
        for each in self._sets:
            if each.preprocess != self.preprocess:
                raise ValueError(
                    f"{each.path}: frames with preprocess {json.dumps(each.preprocess)}, those of {self.path} have "
                    f"{json.dumps(self.preprocess)}; name data sets that were collected with the same --crop"
                )


def _check_no_shared_episode(one: Rollouts, other: Rollouts) -> None:
    """Refuse sets with an episode in both: it would count twice, and could be trained on and held out."""
    seeds, own, others = np.intersect1d(one.seeds, other.seeds, return_indices=True)
    for seed, episode, twin in zip(seeds.tolist(), own.tolist(), others.tolist(), strict=True):
        if _are_equal((one, episode), (other, twin)):
            raise ValueError(
                f"{other.path}: its episode of seed {seed} is also in {one.path}; leave one of the sets out, or "
                "collect with another --seed"
            )


def _are_equal(*episodes: tuple[Rollouts, int]) -> bool:
    """Whether two episodes have the same actions, rewards and frames. Stops reading at the first difference."""
    (shard, start, rows), (other, other_start, other_rows) = (data.locate(episode) for data, episode in episodes)
    return rows == other_rows and all(
        np.array_equal(
            shard.read(column, start + row, start + min(row + BLOCK_ROWS, rows)),
            other.read(column, other_start + row, other_start + min(row + BLOCK_ROWS, rows)),
        )
        for column in ("actions", "rewards", "frames")
        for row in range(0, rows, BLOCK_ROWS)
    )


def open_rollouts(paths: str | Path | Sequence[str | Path]) -> Rollouts:
    """Open one data set of rollouts, or several together.

    Raises:
        FileNotFoundError, ValueError: as `Rollouts` and `SeveralRollouts`.
    """
    return together([Rollouts(path) for path in ([paths] if isinstance(paths, str | Path) else paths)])


def together(sets: Sequence[Rollouts]) -> Rollouts:
    """Several data sets as one; a single one stays what it is."""
    return sets[0] if len(sets) == 1 else SeveralRollouts(sets)


def set_of_episodes(data: Rollouts) -> Int64[np.ndarray, " episodes"]:
    """The number of the set that each episode is in."""
    return np.repeat(np.arange(len(data.sets)), [len(each) for each in data.sets])


def split_sets(data: Rollouts, split_seed: int) -> Split:
    """Hold out episodes of each set, as `split_episodes` does.

    The same seed gives the same track in every set of an environment. So a seed that one set holds out is not trained
    on in another: such an episode is in neither part.

    Raises:
        ValueError: a set has fewer than two episodes, or none of its episodes is left for training.
    """
    splits = [_split(each, split_seed) for each in data.sets]
    held_out = [set(each.seeds[list(split.val)].tolist()) for each, split in zip(data.sets, splits, strict=True)]
    train: list[int] = []
    val: list[int] = []
    first = 0
    for number, (each, split) in enumerate(zip(data.sets, splits, strict=True)):
        elsewhere = set[int]().union(
            *(held_out[k] for k, other in enumerate(data.sets) if k != number and other.env == each.env)
        )
        left = [first + episode for episode in split.train if int(each.seeds[episode]) not in elsewhere]
        if not left:
            raise ValueError(
                f"{each.path}: other sets hold out all tracks that it would train on; collect with another --seed"
            )
        train += left
        val += [first + episode for episode in split.val]
        first += len(each)
    return Split(tuple(train), tuple(val))


def _split(data: Rollouts, split_seed: int) -> Split:
    try:
        return split_episodes(data.seeds, split_seed)
    except ValueError as error:
        raise ValueError(f"{data.path}: {error}") from None
