"""Write one shard of foreign episodes.

A shard depends only on its task, so any number of workers gives the same data set.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from world_models.convert.foreign import MEND, BrokenEpisodeError, ForeignEpisode, Source
from world_models.data.rollouts import Frame, RolloutWriter, write_rollouts
from world_models.data.shards import SKIPPED_SEEDS, SKIPPED_SOURCES, SOURCES, little_endian
from world_models.envs.preprocessing import Preprocess, preprocess
from world_models.runtime import executors, files
from world_models.runtime.errors import Stopped

NO_TELEMETRY = np.zeros(0, np.float32)
TOO_SHORT = "fewer than 2 frames, wanted 2 or more"


@dataclasses.dataclass(frozen=True)
class ImportTask:
    """Everything that a worker needs to write one shard.

    Attributes:
        path: the file to write.
        source: where the episodes are, with the names of this shard's episodes only.
        spec: how a picture becomes a frame.
        policy: name of the policy of all episodes.
        attributes: attributes of the shard.
        skip_broken: whether an episode that cannot be read is left out; otherwise the work stops.
    """

    path: Path
    source: Source
    spec: Preprocess
    policy: str
    attributes: Mapping[str, str | int]
    skip_broken: bool


@dataclasses.dataclass(frozen=True)
class Imported:
    """The result of a task.

    Attributes:
        num_episodes: number of episodes in the shard.
        broken: for each episode that was left out, a line that says why.
    """

    num_episodes: int
    broken: tuple[str, ...]


class _BrokenError(Exception):
    """The episode of this name cannot be read. It ends the writing of a shard."""

    def __init__(self, name: str, line: str):
        super().__init__(line)
        self.name, self.line = name, line


def import_shard(task: ImportTask, report: executors.Report) -> Imported:
    """Write one shard. If an episode breaks off, the shard is written again without it, so no part of it is kept.

    Args:
        task: what to write.
        report: called with the number of frames so far.

    Raises:
        Stopped: an episode cannot be read, and `skip_broken` is false. No file is kept.
    """
    broken: dict[str, str] = {}
    while found := _broken_one(task, broken, report):
        if not task.skip_broken:
            raise Stopped(f"{found.line}; {MEND}, and {files.RUN_AGAIN}")
        broken[found.name] = found.line
    return Imported(len(task.source.names) - len(broken), tuple(broken.values()))


def _broken_one(task: ImportTask, broken: Mapping[str, str], report: executors.Report) -> _BrokenError | None:
    """Write the shard without the broken episodes. Returns another one that cannot be read; then no file is kept."""
    try:
        _write(task, broken, report)
    except _BrokenError as error:
        return error
    return None


def _write(task: ImportTask, broken: Mapping[str, str], report: executors.Report) -> None:
    source, before = task.source, 0
    names = [name for name in source.names if name not in broken]
    with write_rollouts(task.path, source.reader.num_actions, source.telemetry, task.attributes) as rollouts:
        for name in names:
            before = _copy(task, name, rollouts, before, report)
        rollouts.set_attribute(SOURCES, json.dumps(names))
        if broken:
            rollouts.set_attribute(SKIPPED_SOURCES, json.dumps(list(broken)))
            rollouts.set_attribute(SKIPPED_SEEDS, json.dumps([_seed_of_name(name) for name in broken]))


def broken_line(source: Source, name: str, error: BrokenEpisodeError) -> str:
    """What is wrong with an episode, with the path of its file."""
    return f"{source.root / name / error.file}: {error}"


def _copy(task: ImportTask, name: str, rollouts: RolloutWriter, before: int, report: executors.Report) -> int:
    """Copy an episode into a shard.

    Args:
        task: the shard.
        name: the episode.
        rollouts: where it goes.
        before: number of frames before it.
        report: called with the number of frames so far.

    Returns:
        The number of frames so far.
    """
    try:
        episode = task.source.reader.open_episode(name)
        return before + _copy_rows(task, episode, rollouts, lambda count: report(before + count))
    except BrokenEpisodeError as error:
        raise _BrokenError(name, broken_line(task.source, name, error)) from None


def _copy_rows(
    task: ImportTask, episode: ForeignEpisode, rollouts: RolloutWriter, report: Callable[[int], None]
) -> int:
    """Write the rows of an episode. Returns the number of its frames."""
    num_actions, digest, step, following = task.source.reader.num_actions, hashlib.sha256(), 0, None
    for step, (frame, following, ends) in enumerate(_transitions(frames_of(episode, task.spec))):  # noqa: B007
        if episode.actions is not None and ends != (step + 1 == len(episode.actions)):
            raise BrokenEpisodeError(f"{len(episode.actions)} actions do not fit its frames, wanted one fewer")
        action, reward = _action_and_reward(episode, step, num_actions)
        terminated = ends and episode.terminated
        truncated = ends and (episode.truncated or not terminated)
        digest.update(little_endian(frame))
        digest.update(little_endian(action))
        digest.update(little_endian(reward))
        rollouts.step(frame, _telemetry(episode, step), action, float(reward), terminated, truncated)
        if step % 16 == 0:
            report(step)
    if following is None:
        raise BrokenEpisodeError(TOO_SHORT)
    num_frames = step + 2
    digest.update(little_endian(following))
    digest.update(bytes([episode.terminated]))
    rollouts.end_episode(following, _telemetry(episode, num_frames - 1), _seed(digest.digest()), task.policy)
    report(num_frames)
    return num_frames


def frames_of(episode: ForeignEpisode, spec: Preprocess) -> Iterator[Frame]:
    """The pictures of an episode as frames.

    Raises:
        BrokenEpisodeError: a picture cannot be read, or has fewer rows than the crop keeps.
    """
    for picture in episode.pictures:
        try:
            frame = preprocess(picture, spec)
        except ValueError as error:
            raise BrokenEpisodeError(str(error)) from None
        yield frame


def _transitions(frames: Iterator[Frame]) -> Iterator[tuple[Frame, Frame, bool]]:
    """Each frame, the frame after it, and whether that is the last one."""
    pairs = itertools.pairwise(frames)
    pair = next(pairs, None)
    while pair is not None:
        following = next(pairs, None)
        yield (*pair, following is None)
        pair = following


def _action_and_reward(episode: ForeignEpisode, step: int, num_actions: int) -> tuple[np.ndarray, np.ndarray]:
    """Action and reward of a step; zeros if the source has none."""
    actions, rewards = episode.actions, episode.rewards
    action = np.zeros(num_actions, np.float32) if actions is None else actions[step]
    return action, np.zeros((), np.float32) if rewards is None else np.asarray(rewards[step])


def _telemetry(episode: ForeignEpisode, step: int) -> np.ndarray:
    """The simulator's state at a picture; without columns if the source has none."""
    return NO_TELEMETRY if episode.telemetry is None else episode.telemetry[step]


def _seed(digest: bytes) -> int:
    """The first 63 bits of a digest, as a number."""
    return int.from_bytes(digest[:8], "big") >> 1


def _seed_of_name(name: str) -> int:
    """A number for an episode whose contents cannot be read."""
    return _seed(hashlib.sha256(os.fsencode(name)).digest())
