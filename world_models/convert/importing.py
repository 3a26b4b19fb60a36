"""Import other people's data: foreign episodes become shards of rollouts.

A shard depends only on its task, so any number of workers gives the same data set.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from isal import isal_zlib

from world_models.convert import formats, shard_jobs
from world_models.convert.config import ConvertConfig
from world_models.convert.foreign import BrokenEpisodeError, ForeignEpisode, Source
from world_models.data.rollouts import FORMAT, Frame, Rollouts, RolloutWriter, write_rollouts
from world_models.data.shards import (
    SKIPPED_SEEDS,
    SKIPPED_SOURCES,
    SOURCES,
    little_endian,
    shard_path,
    shard_paths,
    strings,
    writer,
)
from world_models.data.shards.reader import Shard
from world_models.drawing import grids
from world_models.envs.preprocessing import Preprocess, parse_crop, preprocess
from world_models.runtime import executors, files, terminal, untrusted
from world_models.runtime.cli import to_yaml
from world_models.runtime.errors import Stopped

NO_TELEMETRY = np.zeros(0, np.float32)
NUM_FIRST_FRAMES = 8
TOO_SHORT = "fewer than 2 frames, wanted 2 or more"
IDENTITY = ("every", "keys", "episodes_per_shard")
"""Settings that define an import, besides the attributes of its shards."""
MAX_WARNINGS = 10
BYTES_PER_SHARD = 30_000
AGAIN = "give the same settings, or choose another --out"
MEND = "mend it, or leave such episodes out by --skip_broken true"


# ---- the work of a worker ----


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


def _line(source: Source, name: str, error: BrokenEpisodeError) -> str:
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
        raise _BrokenError(name, _line(task.source, name, error)) from None


def _copy_rows(
    task: ImportTask, episode: ForeignEpisode, rollouts: RolloutWriter, report: Callable[[int], None]
) -> int:
    """Write the rows of an episode. Returns the number of its frames."""
    num_actions, digest, step, following = task.source.reader.num_actions, hashlib.sha256(), 0, None
    for step, (frame, following, ends) in enumerate(_transitions(_frames(episode, task.spec))):  # noqa: B007
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


def _frames(episode: ForeignEpisode, spec: Preprocess) -> Iterator[Frame]:
    for picture in episode.pictures:
        try:
            frame = preprocess(picture, spec)
        except ValueError as error:  # such as fewer rows than the crop keeps
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


# ---- the job ----


@dataclasses.dataclass(frozen=True)
class ImportJob:
    """A checked import.

    Attributes:
        config: its settings.
        source: all episodes.
        tasks: the shards that are still missing.
        counts: number of frames of each of them, by the headers of the files.
        note: lines that are printed before the work begins.
        first_frames: picture of the first frames.
    """

    config: ConvertConfig
    source: Source
    tasks: tuple[ImportTask, ...]
    counts: tuple[int, ...]
    note: tuple[str, ...]
    first_frames: grids.Picture

    @property
    def is_finished(self) -> bool:
        """Whether all shards exist."""
        return not self.tasks

    @property
    def num_frames(self) -> int:
        """Number of frames to import, by the headers of the files."""
        return sum(self.counts)

    def run(self) -> None:
        """Write the missing shards, with a progress bar, and print what the data set holds."""
        terminal.say(*self.note)
        results = shard_jobs.write_shards(self.config, import_shard, self.tasks, self.counts, self.first_frames)
        _report(self, results)


def prepare(config: ConvertConfig) -> ImportJob:
    """Find the episodes, decode some frames of the first one, and find the missing shards.

    Raises:
        ValueError, OSError: the input is bad, or `out` holds another data set. Nothing was written.
    """
    config.check_unused("keep", "drop", reason="they choose among rollouts; import first, then filter the rollouts")
    name, source = formats.find(config)
    config.check_unused("minari", reason="it is for writing a Minari data set")
    if name != "video":
        config.check_unused("every", reason=f"it is for videos, and this is {name}")
    if name not in ("npz", "minari"):
        config.check_unused("keys", reason=f"it is for npz files and Minari, and this is {name}")
    spec = Preprocess(parse_crop(config.crop, None))
    first = _first_frames(source, spec, config.skip_broken)
    size, out = config.episodes_per_shard, Path(str(config.out))
    planned = [source.names[start : start + size] for start in range(0, len(source.names), size)]
    attributes = _attributes(config, name, source, spec)
    finished = _finished_shards(config, planned, attributes)
    tasks = tuple(
        ImportTask(
            shard_path(out, index), dataclasses.replace(source, names=names), spec, name, attributes, config.skip_broken
        )
        for index, names in enumerate(planned)
        if index not in finished
    )
    for task in tasks:
        _check_names(task.source.names)
    counts = tuple(sum(_count(task, name) for name in task.source.names) for task in tasks)
    files.check_room(out, round(sum(counts) * _bytes_per_frame(first)) + len(tasks) * BYTES_PER_SHARD)
    rows = f", rows {spec.crop[0]}:{spec.crop[1]}" if spec.crop else ""
    height, width = first.size
    note = (
        f"{config.sources[0]}: {len(source.names):,} episodes ({source.description})",
        f"frames: {height}x{width}{rows} -> {spec.size}x{spec.size}; the first ones are shown in "
        f"{out / shard_jobs.FIRST_FRAMES}",
    )
    return ImportJob(config, source, tasks, counts, note if tasks else (), grids.grid([first.frames]))


def _attributes(config: ConvertConfig, name: str, source: Source, spec: Preprocess) -> dict[str, str | int]:
    num_actions = source.reader.num_actions
    unknown = [None] * num_actions  # the bounds of the space
    space = source.action_space or {"type": "Box", "shape": [num_actions], "low": unknown, "high": unknown}
    text = to_yaml(config)
    strings.check_size("the config", text)
    return {
        "env": config.env or source.env or name,
        "preprocess": json.dumps(dataclasses.asdict(spec)),
        "action_space": json.dumps(space),
        "warmup_steps": 0,
        "config": text,
    }


def _check_names(names: Sequence[str]) -> None:
    """Check that a shard has room for the names of its episodes.

    Raises:
        ValueError: it has not.
    """
    num_bytes = len(json.dumps(names))
    if num_bytes > strings.MAX_ATTRIBUTE_BYTES:
        raise ValueError(
            f"the names of the {len(names)} episodes of a shard take {num_bytes:,} bytes, and there is room for "
            f"{strings.MAX_ATTRIBUTE_BYTES:,}; give fewer --episodes_per_shard"
        )


@dataclasses.dataclass(frozen=True)
class _FirstFrames:
    """The first frames of the first episode, and the height and width of its first picture."""

    frames: np.ndarray
    size: tuple[int, int]


def _first_frames(source: Source, spec: Preprocess, skip_broken: bool) -> _FirstFrames:
    """The first frames of the first episode that can be read.

    Raises:
        ValueError: it cannot be read, and `skip_broken` is false; or none can be read.
    """
    broken = []
    for name in source.names:
        found = _first_frames_of(source, name, spec)
        if isinstance(found, _FirstFrames):
            return found
        broken.append(_line(source, name, found))
        if not skip_broken:
            raise ValueError(f"{broken[0]}; {MEND}")
    raise ValueError(f"none of the {len(source.names)} episodes can be read; the first: {broken[0]}")


def _first_frames_of(source: Source, name: str, spec: Preprocess) -> _FirstFrames | BrokenEpisodeError:
    """The first frames of an episode, or why it cannot be read."""
    try:
        episode = source.reader.open_episode(name)
        pictures = list(itertools.islice(episode.pictures, NUM_FIRST_FRAMES))
        if len(pictures) < 2:
            raise BrokenEpisodeError(TOO_SHORT)
        shown = dataclasses.replace(episode, pictures=iter(pictures))
        return _FirstFrames(np.stack(list(_frames(shown, spec))), pictures[0].shape[:2])
    except BrokenEpisodeError as error:
        return error


def _count(task: ImportTask, name: str) -> int:
    """Number of frames of an episode, by the header of its file; 0 if it will be left out.

    Raises:
        ValueError: it cannot be read, and `skip_broken` is false.
    """
    try:
        return task.source.reader.count(name)
    except BrokenEpisodeError as error:
        if not task.skip_broken:
            raise ValueError(f"{_line(task.source, name, error)}; {MEND}") from None
        return 0


def _bytes_per_frame(first: _FirstFrames) -> float:
    """Estimated number of bytes of a frame in a shard."""
    packed = isal_zlib.compress(first.frames.tobytes(), writer.PACKING_LEVEL)
    return len(packed) / len(first.frames)


# ---- shards that exist ----


def _finished_shards(
    config: ConvertConfig, planned: Sequence[Sequence[str]], attributes: Mapping[str, str | int]
) -> set[int]:
    """Numbers of the shards in `out` that are finished. A shard to which episodes have come since is not.

    Raises:
        ValueError: `out` holds another data set, or a shard is damaged.
    """
    finished = set()
    wanted = _identity(to_yaml(config), attributes)
    for path in shard_paths(Path(str(config.out))):
        shard, index = Shard(path, FORMAT), int(path.stem.removeprefix("shard-"))
        if SOURCES not in shard.attributes:
            raise ValueError(f"{path}: rollouts that were not imported; choose another --out")
        found = _identity(str(shard.attributes["config"]), shard.attributes)
        differing = [f"{name} {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name]]
        if differing:
            raise ValueError(f"{config.out} holds an import of {'; '.join(differing)}: {AGAIN}")
        names = planned[index] if index < len(planned) else ()
        read, skipped = names_of(shard, SOURCES), names_of(shard, SKIPPED_SOURCES)
        held = [name for name in names if name in {*read, *skipped}]
        if [name for name in held if name not in skipped] != read or held != list(names[: len(read) + len(skipped)]):
            raise ValueError(f"{path}: holds other episodes than {config.sources[0]}; choose another --out")
        if len(held) == len(names) and (config.skip_broken or not skipped):
            finished.add(index)
    return finished


def _identity(config: str, attributes: Mapping[str, object]) -> dict[str, str]:
    """What defines an import, by name.

    Args:
        config: the config, as YAML.
        attributes: the attributes of a shard.
    """
    try:
        settings = dict(untrusted.from_yaml(config))
    except (TypeError, ValueError):
        settings = {}
    chosen = {name: json.dumps(settings.get(name)) for name in IDENTITY}
    return {name: str(attributes[name]) for name in FORMAT.common} | chosen


def names_of(shard: Shard, attribute: str) -> list[str]:
    """The names in one of a shard's attributes `sources` and `skipped_sources`; empty if it has none."""
    value = shard.json_attribute(attribute) if attribute in shard.attributes else []
    return [str(name) for name in value] if isinstance(value, list) else []


# ---- the end ----


def _report(job: ImportJob, results: Sequence[Imported]) -> None:
    """Print what the data set holds, and which episodes were left out."""
    out = str(job.config.out)
    broken = [line for result in results for line in result.broken]
    terminal.warn(*(f"left out: {line}" for line in broken[:MAX_WARNINGS]))
    if len(broken) > MAX_WARNINGS:
        terminal.warn(f"left out: {len(broken) - MAX_WARNINGS} more, see the attribute {SKIPPED_SOURCES} of the shards")
    try:
        data = Rollouts(out)
    except ValueError:
        raise Stopped(f"{out}: none of the {len(job.source.names)} episodes could be read") from None
    terminal.say(
        f"{out}: {len(data)} episodes, {data.num_rows:,} frames in {len(data.shards)} shards"
        + ("" if job.tasks else ", all finished before")
    )
    num_equal = len(data) - len(np.unique(data.seeds))
    if num_equal:
        terminal.warn(
            f"{out}: {num_equal} of {len(data)} episodes equal another one, so an episode may be in training and in "
            "validation; remove the doubles from the source, and import it again"
        )
