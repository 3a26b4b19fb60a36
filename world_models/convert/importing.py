"""Write foreign episodes as shards of rollouts. A shard depends only on its task, so any number of workers may help."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from world_models.convert.foreign import BrokenEpisodeError, ForeignEpisode, Picture, Reader
from world_models.data.rollouts import Frame, RolloutWriter, write_rollouts
from world_models.data.shards import SKIPPED_SEEDS
from world_models.envs.preprocessing import Preprocess, preprocess
from world_models.runtime import executors
from world_models.runtime.errors import Stopped

NO_TELEMETRY = np.zeros(0, np.float32)
SOURCES, SKIPPED_SOURCES = "sources", "skipped_sources"
"""Attributes of a shard: JSON lists of the names of its episodes, and of those that could not be read."""


@dataclasses.dataclass(frozen=True)
class ImportTask:
    """Everything that a worker needs to write one shard.

    Attributes:
        path: the file to write.
        reader: reads the source.
        names: names of the shard's episodes.
        spec: how a picture becomes a frame.
        policy: name of the policy of all episodes.
        attributes: attributes of the shard.
        skip_broken: whether an episode that cannot be read is left out; otherwise the work stops.
    """

    path: Path
    reader: Reader
    names: tuple[str, ...]
    spec: Preprocess
    policy: str
    attributes: Mapping[str, str | int]
    skip_broken: bool


@dataclasses.dataclass(frozen=True)
class Imported:
    """The result of a task.

    Attributes:
        num_frames: number of frames.
        broken: for each episode that was left out, why it could not be read.
    """

    num_frames: int
    broken: tuple[str, ...]


class _BrokenError(Exception):
    """The episode of this name cannot be read."""

    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.name, self.reason = name, reason


def import_shard(task: ImportTask, report: executors.Report) -> Imported:
    """Write one shard. If an episode breaks off, the shard is written again without it, so no half of it is kept.

    Args:
        task: what to write.
        report: called with the number of frames so far.

    Raises:
        Stopped: an episode cannot be read, and `skip_broken` is false. No file is kept.
    """
    broken: dict[str, str] = {}
    while True:
        try:
            return Imported(_write(task, broken, report), tuple(broken.values()))
        except _BrokenError as error:
            if not task.skip_broken:
                raise Stopped(f"{error.reason}; mend the file, or leave it out with --skip_broken true") from None
            broken[error.name] = error.reason


def _write(task: ImportTask, broken: Mapping[str, str], report: executors.Report) -> int:
    num_frames = 0
    with write_rollouts(task.path, task.reader.num_actions, (), task.attributes) as rollouts:
        for name in task.names:
            if name not in broken:
                num_frames += _copy(task, name, rollouts, lambda count, before=num_frames: report(before + count))
        rollouts.set_attribute(SOURCES, json.dumps([name for name in task.names if name not in broken]))
        if broken:
            rollouts.set_attribute(SKIPPED_SOURCES, json.dumps(list(broken)))
            rollouts.set_attribute(SKIPPED_SEEDS, json.dumps([seed_of(name.encode()) for name in broken]))
    return num_frames


def _copy(task: ImportTask, name: str, rollouts: RolloutWriter, report: Callable[[int], object]) -> int:
    """Copy one episode into the shard. Returns its number of frames."""
    try:
        episode = task.reader.open_episode(name)
        return _copy_rows(episode, _frames(episode, task.spec), rollouts, task, report)
    except BrokenEpisodeError as error:
        raise _BrokenError(name, str(error)) from error


def _copy_rows(  # the episode, its frames, and where they go
    episode: ForeignEpisode,
    frames: Iterator[Frame],
    rollouts: RolloutWriter,
    task: ImportTask,
    report: Callable[[int], object],
) -> int:
    """Write the rows of one episode. Its seed is a digest of its contents, so equal episodes have equal seeds."""
    digest, step, last = hashlib.sha256(), 0, None
    for (frame, last), ends in _with_last(itertools.pairwise(frames)):
        action, reward = _action(episode, step, task.reader.num_actions), _reward(episode, step)
        terminated = ends and episode.terminated
        for part in (frame, action, np.float32(reward)):
            digest.update(little_endian(np.asarray(part)))
        rollouts.step(frame, NO_TELEMETRY, action, reward, terminated, ends and not terminated)
        step += 1
        if step % 16 == 0:
            report(step)
    if last is None:
        raise BrokenEpisodeError("fewer than 2 frames, wanted at least one step from a frame to the next")
    _check_length(episode, step)
    digest.update(little_endian(last) + bytes([episode.terminated]))
    rollouts.end_episode(last, NO_TELEMETRY, _as_seed(digest.digest()), task.policy)
    report(step + 1)
    return step + 1
