"""Merge data sets of rollouts, and keep only some of their episodes.

A shard that is kept entirely is copied byte for byte. A shard that is kept in part is written again. Nothing else of a
data set changes, so the merged one has the same frames, actions, seeds and telemetry.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from world_models.convert import conditions, shard_jobs
from world_models.convert.conditions import Condition, EpisodeFacts
from world_models.convert.config import ConvertConfig
from world_models.convert.importing import names_of
from world_models.data.rollouts import FORMAT, Rollouts, telemetry_names
from world_models.data.shards import BLOCK_ROWS, SOURCES, shard_path, shard_paths, strings, writer
from world_models.data.shards.reader import Shard
from world_models.runtime import executors, files, terminal
from world_models.runtime.cli import to_yaml

KEPT_ATTRIBUTES = (*FORMAT.common, "env_args", "renderer")
"""Attributes that a shard keeps when it is written again."""


@dataclasses.dataclass(frozen=True)
class MergeTask:
    """Everything that a worker needs to write one shard.

    Attributes:
        path: the file to write.
        source: the shard that it is made of.
        episodes: numbers of the episodes to keep, in the source.
        is_whole: whether these are all of them.
        config: the config of the conversion, as YAML.
    """

    path: Path
    source: Path
    episodes: tuple[int, ...]
    is_whole: bool
    config: str


def merge_shard(task: MergeTask, report: executors.Report) -> int:
    """Write one shard. Returns its number of frames.

    Args:
        task: what to write.
        report: called with the number of frames so far.
    """
    shard = Shard(task.source, FORMAT)
    if task.is_whole:
        with files.atomic_path(task.path) as temporary:
            shutil.copyfile(task.source, temporary)
        report(shard.num_rows)
        return shard.num_rows
    num_rows = 0
    with writer.write_shard(task.path, FORMAT, shard.row_shapes) as merged:
        merged.attributes.update(_attributes(shard, task), config=task.config, versions=json.dumps(files.versions()))
        merged.column_attributes["telemetry"] = {"names": list(telemetry_names(shard))}
        for episode in task.episodes:
            start, length = int(shard.starts[episode]), int(shard.lengths[episode])
            for first in range(start, start + length, BLOCK_ROWS):
                stop = min(first + BLOCK_ROWS, start + length)
                merged.append(**{name: shard.read(name, first, stop) for name in FORMAT.columns})
            merged.end_episode(int(shard.seeds[episode]), shard.policies[episode])
            num_rows += length
            report(num_rows)
    return num_rows


def _attributes(shard: Shard, task: MergeTask) -> Iterator[tuple[str, str | int]]:
    for name in KEPT_ATTRIBUTES:
        value = shard.attributes.get(name)
        if isinstance(value, str | int):
            yield name, value
    if names := names_of(shard, SOURCES):
        yield SOURCES, json.dumps([names[episode] for episode in task.episodes if episode < len(names)])


@dataclasses.dataclass(frozen=True)
class MergeJob:
    """A checked merging.

    Attributes:
        config: its settings.
        tasks: the shards that are still missing.
        counts: number of frames of each of them.
        num_episodes: number of episodes of all data sets.
    """

    config: ConvertConfig
    tasks: tuple[MergeTask, ...]
    counts: tuple[int, ...]
    num_episodes: int

    @property
    def is_finished(self) -> bool:
        """Whether all shards exist."""
        return not self.tasks

    @property
    def num_frames(self) -> int:
        """Number of frames of the missing shards."""
        return sum(self.counts)

    def run(self) -> None:
        """Write the missing shards, with a progress bar, and print what the data set holds."""
        shard_jobs.write_shards(self.config, merge_shard, self.tasks, self.counts)
        data = Rollouts(str(self.config.out))
        terminal.say(
            f"{data.path}: kept {len(data)} of {self.num_episodes} episodes, {data.num_rows:,} frames in "
            f"{len(data.shards)} shards" + ("" if self.tasks else ", all finished before")
        )


def prepare(config: ConvertConfig) -> MergeJob:
    """Check that the data sets fit each other, choose episodes, and find the missing shards.

    Raises:
        ValueError, OSError: the input is bad, or `out` holds another data set. Nothing was written.
    """
    kept = "the data are rollouts, whose frames stay as they are"
    config.check_unused("env", "crop", "every", "keys", "camera", reason=kept)
    config.check_unused("skip_broken", reason="a damaged shard of rollouts is made again by the command that made it")
    config.check_unused("episodes_per_shard", reason="shards of rollouts that are merged keep their episodes")
    if len(config.sources) == 1 and not (config.keep or config.drop):
        raise ValueError(
            f"{config.sources[0]} holds rollouts; name several data sets to merge them, --keep or --drop to choose "
            "episodes, or --format to write another format"
        )
    text = to_yaml(config)
    strings.check_size("the config", text)
    data_sets = [Rollouts(path) for path in config.sources]
    _check_alike(data_sets)
    chosen = [_chosen(data, config) for data in data_sets]
    _check_seeds(data_sets, chosen)
    planned = list(_plan(data_sets, chosen, Path(str(config.out)), text))
    num_episodes = sum(map(len, data_sets))
    if not planned:
        raise ValueError(f"none of the {num_episodes} episodes meets the conditions; give other ones")
    finished = _finished_shards(config, planned)
    tasks = tuple(task for index, (task, _) in enumerate(planned) if index not in finished)
    counts = tuple(int(shard.lengths[list(task.episodes)].sum()) for task, shard in planned if task in tasks)
    files.check_room(Path(str(config.out)), sum(task.source.stat().st_size for task in tasks))
    return MergeJob(config, tasks, counts, num_episodes)


def _check_alike(data_sets: Sequence[Rollouts]) -> None:
    """Check that the data sets can be one.

    Raises:
        ValueError: the message names what differs.
    """
    first = data_sets[0]
    for data in data_sets[1:]:
        for name, wanted in _common(first).items():
            found = _common(data)[name]
            if found != wanted:
                raise ValueError(
                    terminal.printable(
                        f"{data.path}: its {name} is {found}, that of {first.path} is {wanted}; only data sets that "
                        "agree in it can be merged"
                    )
                )


def _common(data: Rollouts) -> dict[str, str]:
    """What the data sets have to agree in, by name."""
    return {
        **{name: str(data.shards[0].attributes[name]) for name in FORMAT.common},
        "env_args": json.dumps(data.env_args),
        "number of action columns": str(data.num_actions),
        "telemetry": ", ".join(data.telemetry_names) or "empty",
    }


def _chosen(data: Rollouts, config: ConvertConfig) -> np.ndarray:
    """Which episodes are kept, as one truth value an episode."""
    keep, drop = conditions.parse(config.keep, "keep"), conditions.parse(config.drop, "drop")
    asks_return = any(condition.name == "return" for condition in (*keep, *drop))
    returns = data.returns() if asks_return else np.zeros(len(data))
    facts = [
        EpisodeFacts(int(seed), policy, float(earned), int(length) - 1)
        for seed, policy, earned, length in zip(data.seeds, data.policies, returns, data.lengths, strict=True)
    ]
    return np.array([_is_kept(episode, keep, drop) for episode in facts])


def _is_kept(episode: EpisodeFacts, keep: Sequence[Condition], drop: Sequence[Condition]) -> bool:
    meets = [condition.holds(episode) for condition in keep]
    return all(meets) and not any(condition.holds(episode) for condition in drop)


def _check_seeds(data_sets: Sequence[Rollouts], chosen: Sequence[np.ndarray]) -> None:
    """Check that no two data sets have an episode of the same seed.

    Raises:
        ValueError: the message names the data sets and a seed.
    """
    owners: dict[int, Path] = {}
    for data, kept in zip(data_sets, chosen, strict=True):
        seeds = dict.fromkeys(map(int, data.seeds[kept]))
        both = [seed for seed in seeds if seed in owners]
        if both:
            raise ValueError(
                f"{len(both)} seeds, such as {both[0]}, are in {owners[both[0]]} and in {data.path}: an episode of a "
                f"seed may be in one only; drop it from one of them first (--drop seed={both[0]}), or collect with "
                "another --seed"
            )
        owners |= dict.fromkeys(seeds, data.path)


def _plan(
    data_sets: Sequence[Rollouts], chosen: Sequence[np.ndarray], out: Path, config: str
) -> Iterator[tuple[MergeTask, Shard]]:
    """The tasks of all shards that keep an episode, each with the shard that it is made of."""
    index = 0
    for data, kept in zip(data_sets, chosen, strict=True):
        first = 0
        for shard in data.shards:
            episodes = np.flatnonzero(kept[first : first + len(shard.starts)])
            first += len(shard.starts)
            if len(episodes):
                is_whole = len(episodes) == len(shard.starts)
                yield MergeTask(shard_path(out, index), shard.path, tuple(episodes.tolist()), is_whole, config), shard
                index += 1


def _finished_shards(config: ConvertConfig, planned: Sequence[tuple[MergeTask, Shard]]) -> set[int]:
    """Numbers of the shards that `out` holds already.

    Raises:
        ValueError: a shard is damaged, or holds other episodes.
    """
    finished = set()
    for path in shard_paths(Path(str(config.out))):
        shard, index = Shard(path, FORMAT), int(path.stem.removeprefix("shard-"))
        if index >= len(planned) or not _is_made_of(shard, *planned[index]):
            raise ValueError(f"{path}: holds other episodes than these settings choose; choose another --out")
        finished.add(index)
    return finished


def _is_made_of(shard: Shard, task: MergeTask, source: Shard) -> bool:
    episodes = list(task.episodes)
    if task.is_whole:
        return shard.digest() == source.digest()
    return (
        np.array_equal(shard.seeds, source.seeds[episodes])
        and np.array_equal(shard.lengths, source.lengths[episodes])
        and shard.policies == tuple(source.policies[episode] for episode in episodes)
    )
