"""The episodes of a folder of shards, as a sequence."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

from world_models.data.shards import Format, shard_path, shard_paths
from world_models.data.shards.reader import Shard
from world_models.runtime import files
from world_models.runtime.paths import resolved
from world_models.runtime.terminal import printable


def open_shards(path: str | Path, fmt: Format, verify: bool = False) -> tuple[Shard, ...]:
    """Open and check a folder of shards, or a single shard.

    Raises:
        FileNotFoundError: there is nothing at the path, or no shard in the folder.
        ValueError: a shard is damaged, a shard between others is missing, or shards belong to different data sets.
    """
    path = resolved(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; name a folder of {fmt.name} shards")
    paths = [path] if path.is_file() else shard_paths(path)
    if not paths:
        raise FileNotFoundError(f"{path}: no shard-*.h5 in it; name a folder of {fmt.name} shards")
    if path.is_dir():
        _check_no_gap(path, paths)
    shards = tuple(Shard(p, fmt, verify) for p in paths)
    for shard in shards[1:]:
        for name in fmt.common:
            if shard.attributes[name] != shards[0].attributes[name]:
                raise ValueError(
                    f"{shard.path}: its {name} is {printable(str(shard.attributes[name]))}, that of "
                    f"{shards[0].path.name} is {printable(str(shards[0].attributes[name]))}; keep data sets in folders "
                    "of their own"
                )
        for name, row_shape in shard.row_shapes.items():
            if row_shape != shards[0].row_shapes[name]:
                raise ValueError(
                    f"{shard.path}: a row of {name} is {row_shape}, in {shards[0].path.name} it is "
                    f"{shards[0].row_shapes[name]}; keep data sets in folders of their own"
                )
    return shards


def _check_no_gap(folder: Path, paths: list[Path]) -> None:
    for index, found in enumerate(paths):
        if found != shard_path(folder, index):
            missing = shard_path(folder, index).name
            raise ValueError(f"{folder}: {missing} is missing, so it is incomplete; run the command that made it again")


AnyEpisode = TypeVar("AnyEpisode")


class ShardedEpisodes(Sequence[AnyEpisode]):
    """The episodes of a folder of shards as one sequence, in the order of the files. Each is read when it is indexed.

    Attributes:
        path: the folder or the shard that was opened.
        shards: the shards.
        lengths, seeds: number of rows and environment's seed of each episode, int64 (E,).
        policies: name of the policy that drove each episode.
        skipped_seeds: seeds of the episodes that were left out, because they ended during their warm-up or
            could not be read.

    Raises:
        FileNotFoundError, ValueError: as in `open_shards`, or all episodes were left out.
    """

    def __init__(self, path: str | Path, fmt: Format, verify: bool = False):
        self.path = resolved(path)
        self._hold(open_shards(self.path, fmt, verify))
        if not len(self.lengths):
            raise ValueError(f"{path}: holds no episode, each ended in its warm-up; collect with fewer --warmup_steps")

    def _hold(self, shards: tuple[Shard, ...]) -> None:
        """Index the episodes of these shards."""
        self.shards = shards
        self.lengths = np.concatenate([shard.lengths for shard in self.shards])
        self.seeds = np.concatenate([shard.seeds for shard in self.shards])
        self.policies = tuple(policy for shard in self.shards for policy in shard.policies)
        self.skipped_seeds = tuple(seed for shard in self.shards for seed in shard.skipped_seeds)
        self._starts = np.concatenate([shard.starts for shard in self.shards])
        self._shard_of = np.repeat(np.arange(len(self.shards)), [len(shard.starts) for shard in self.shards])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> AnyEpisode: ...
    @overload
    def __getitem__(self, index: slice) -> list[AnyEpisode]: ...
    def __getitem__(self, index: int | slice) -> AnyEpisode | list[AnyEpisode]:
        """Read an episode from disk; a slice reads several."""
        if isinstance(index, slice):
            return [self.read_episode(i) for i in range(len(self))[index]]
        return self.read_episode(range(len(self))[index])

    def read_episode(self, episode: int) -> AnyEpisode:
        """Read the episode of this number from disk. Subclasses implement it."""
        raise AssertionError("a subclass for each format implements this")

    @property
    def num_rows(self) -> int:
        """Number of rows of all shards: T transitions and one final frame for each episode.

        Example:
            >>> world_models.Rollouts("rollouts/carracing").num_rows  # 6 episodes of 40 steps
            246
        """
        return int(self.lengths.sum())

    def locate(self, episode: int) -> tuple[Shard, int, int]:
        """The shard that holds an episode, the episode's first row in it, and the episode's number of rows.

        Example:
            >>> shard, first_row, num_rows = world_models.Rollouts("rollouts/carracing").locate(3)
            >>> shard.path.name, first_row, num_rows
            ('shard-00001.h5', 41, 41)
        """
        return self.shards[self._shard_of[episode]], int(self._starts[episode]), int(self.lengths[episode])

    def digest(self) -> str:
        """Sha256 of the columns of all shards. Data sets with equal digests have equal columns.

        Example:
            >>> len(world_models.Rollouts("rollouts/carracing").digest())
            64
        """
        return files.sha256(*(shard.digest().encode() for shard in self.shards))
