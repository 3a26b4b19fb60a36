"""Import other people's data: foreign episodes become shards of rollouts."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from isal import isal_zlib

from world_models.convert import formats, shard_import, shard_jobs
from world_models.convert.config import ConvertConfig
from world_models.convert.foreign import MEND, BrokenEpisodeError, Source
from world_models.data.rollouts import FORMAT, Rollouts
from world_models.data.shards import (
    SKIPPED_SOURCES,
    SOURCES,
    shard_path,
    shard_paths,
    strings,
    writer,
)
from world_models.data.shards.reader import Shard
from world_models.drawing import grids
from world_models.envs.preprocessing import Preprocess, parse_crop
from world_models.runtime import files, terminal, untrusted
from world_models.runtime.cli import to_yaml
from world_models.runtime.errors import Stopped

NUM_FIRST_FRAMES = 8
IDENTITY = ("every", "keys", "camera", "episodes_per_shard")
"""Settings that define an import, besides the attributes of its shards."""
MAX_WARNINGS = 10
BYTES_PER_SHARD = 30_000
AGAIN = "give the same settings, or choose another --out"


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
    tasks: tuple[shard_import.ImportTask, ...]
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
        results = shard_jobs.write_shards(
            self.config, shard_import.import_shard, self.tasks, self.counts, self.first_frames
        )
        _report(self, results)


def prepare(config: ConvertConfig) -> ImportJob:
    """Find the episodes, decode some frames of the first one, and find the missing shards.

    Raises:
        ValueError, OSError: the input is bad, or `out` holds another data set. Nothing was written.
    """
    config.check_unused(
        "keep", "drop", reason="conditions choose among rollouts; import first, then filter the rollouts"
    )
    name, source = formats.find(config)
    config.check_unused("minari", reason="it is for writing a Minari data set")
    config.check_unused("lerobot", reason="it is for writing a LeRobot data set")
    if name != "video":
        config.check_unused("every", reason=f"it is for videos, and this is {name}")
    if name not in ("npz", "minari"):
        config.check_unused("keys", reason=f"it is for npz files and Minari, and this is {name}")
    if name != "lerobot":
        config.check_unused("camera", reason=f"it is for LeRobot data sets, and this is {name}")
    spec = Preprocess(parse_crop(config.crop, None))
    first = _first_frames(source, spec, config.skip_broken)
    size, out = config.episodes_per_shard, Path(str(config.out))
    planned = [source.names[start : start + size] for start in range(0, len(source.names), size)]
    attributes = _attributes(config, name, source, spec)
    finished = _finished_shards(config, planned, attributes)
    tasks = tuple(
        shard_import.ImportTask(shard_path(out, index), source.only(names), spec, name, attributes, config.skip_broken)
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
        broken.append(shard_import.broken_line(source, name, found))
        if not skip_broken:
            raise ValueError(f"{broken[0]}; {MEND}")
    raise ValueError(f"none of the {len(source.names)} episodes can be read; the first: {broken[0]}")


def _first_frames_of(source: Source, name: str, spec: Preprocess) -> _FirstFrames | BrokenEpisodeError:
    """The first frames of an episode, or why it cannot be read."""
    try:
        episode = source.reader.open_episode(name)
        pictures = list(itertools.islice(episode.pictures, NUM_FIRST_FRAMES))
        if len(pictures) < 2:
            raise BrokenEpisodeError(shard_import.TOO_SHORT)
        shown = dataclasses.replace(episode, pictures=iter(pictures))
        return _FirstFrames(np.stack(list(shard_import.frames_of(shown, spec))), pictures[0].shape[:2])
    except BrokenEpisodeError as error:
        return error


def _count(task: shard_import.ImportTask, name: str) -> int:
    """Number of frames of an episode, by the header of its file; 0 if it will be left out.

    Raises:
        ValueError: it cannot be read, and `skip_broken` is false.
    """
    try:
        return task.source.reader.count(name)
    except BrokenEpisodeError as error:
        if not task.skip_broken:
            raise ValueError(f"{shard_import.broken_line(task.source, name, error)}; {MEND}") from None
        return 0


def _bytes_per_frame(first: _FirstFrames) -> float:
    """Estimated number of bytes of a frame in a shard."""
    packed = isal_zlib.compress(first.frames.tobytes(), writer.PACKING_LEVEL)
    return len(packed) / len(first.frames)


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


def _report(job: ImportJob, results: Sequence[shard_import.Imported]) -> None:
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
