"""Parquet: rollouts that `convert --format parquet` has written. Other Parquet files are refused.

A file holds whole episodes, and each line a frame (`world_models.convert.formats.parquet`). This is the alignment of
our rows, so nothing is lost: frames, actions, rewards, ends and telemetry come back bit for bit. The seed of an episode
is made from its contents, as for all data from elsewhere, and its policy is `parquet`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_models.convert import parquet_arrays
from world_models.convert.config import ConvertConfig
from world_models.convert.foreign import BrokenEpisodeError, ForeignEpisode, Source, as_float32
from world_models.data.rollouts import FORMAT
from world_models.runtime import untrusted
from world_models.runtime.typed_json import Json

SUFFIXES = (".parquet",)
METADATA = b"world_models"
TELEMETRY = "telemetry_"


@dataclasses.dataclass(frozen=True)
class Lines:
    """The lines of an episode: the file, the first of them, and their number."""

    file: str
    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class ParquetReader:
    """Reads the episodes of Parquet files.

    Attributes:
        root: the folder of all files.
        num_actions: number of columns of `actions`.
        telemetry: names of the telemetry.
        lines: where each episode is, by its name.
    """

    root: Path
    num_actions: int
    telemetry: tuple[str, ...]
    lines: Mapping[str, Lines]

    def only(self, names: Sequence[str]) -> "ParquetReader":
        """A reader that knows these episodes alone."""
        return dataclasses.replace(self, lines={name: self.lines[name] for name in names})

    def count(self, name: str) -> int:
        """Number of lines. The columns are checked."""
        lines = self.lines[name]
        with parquet_arrays.opened(self.root / lines.file) as file:
            parquet_arrays.check_rows(file, lines.first, lines.first + lines.count)
            parquet_arrays.check_pictures(file, "frame")
            for column in ("reward", "terminated", "truncated", *self._telemetry_columns()):
                parquet_arrays.check_numbers(file, column)
        return lines.count

    def open_episode(self, name: str) -> ForeignEpisode:
        """Open an episode. All but the frames is read at once, frames a few at a time."""
        lines = self.lines[name]
        with parquet_arrays.opened(self.root / lines.file) as file:
            actions = _read(file, lines, "action", self.num_actions)[:-1] if self.num_actions else None
            ends = [bool((_read(file, lines, flag)[:-1] != 0).any()) for flag in ("terminated", "truncated")]
            telemetry = [_read(file, lines, column) for column in self._telemetry_columns()]
            return ForeignEpisode(
                pictures=self._pictures(lines),
                actions=None if actions is None else as_float32("action", actions),
                rewards=as_float32("reward", _read(file, lines, "reward")[:-1, 0]),
                terminated=ends[0],
                truncated=ends[1],
                telemetry=np.concatenate(telemetry, 1).astype(np.float32) if telemetry else None,
            )

    def _telemetry_columns(self) -> list[str]:
        return [f"{TELEMETRY}{name}" for name in self.telemetry]

    def _pictures(self, lines: Lines) -> Iterator[np.ndarray]:
        with parquet_arrays.opened(self.root / lines.file) as file:
            yield from parquet_arrays.pictures(file, "frame", lines.first, lines.first + lines.count)


def _read(file: Any, lines: Lines, column: str, width: int = 1) -> np.ndarray:
    return parquet_arrays.numbers(file, column, lines.first, lines.first + lines.count, width)


def find(root: Path, files: Sequence[str], config: ConvertConfig) -> Source:
    """The episodes of these files.

    Raises:
        ValueError: pyarrow is not installed, or a file is none of our rollouts, or of others than the first one.
    """
    parquet_arrays.check_installed("parquet")
    found = {file: _described(root / file) for file in files}
    first = found[files[0]]
    for file, described in found.items():
        if dataclasses.replace(described, lines=()) != dataclasses.replace(first, lines=()):
            raise ValueError(f"{root / file}: holds other data than {files[0]}; keep data sets in folders of their own")
    lines = {
        f"{file}/episode_{number:06d}": Lines(file, start, count)
        for file, described in found.items()
        for number, start, count in described.lines
    }
    if len(lines) != sum(len(described.lines) for described in found.values()):
        raise ValueError(f"{root}: a file has an episode in two places; write the export again")
    return Source(
        root=root,
        names=tuple(lines),
        reader=ParquetReader(root, first.num_actions, first.telemetry, lines),
        description="Parquet files of rollouts",
        env=first.env,
        action_space=first.action_space,
        telemetry=first.telemetry,
    )


@dataclasses.dataclass(frozen=True)
class _Described:
    """What a file says of itself, and of each episode its number, its first line and its number of lines."""

    env: str | None
    action_space: Mapping[str, Json] | None
    num_actions: int
    telemetry: tuple[str, ...]
    lines: tuple[tuple[int, int, int], ...]


def _described(path: Path) -> _Described:
    try:
        with parquet_arrays.opened(path) as file:
            told = _told(file.schema_arrow.metadata)
            attributes = told["attributes"]
            names = tuple(map(str, told["telemetry_names"]))
            columns = {column: file.schema_arrow.field(column).type for column in file.schema_arrow.names}
            count = file.metadata.num_rows
            finals = np.flatnonzero(parquet_arrays.numbers(file, "is_final", 0, count)) if count else np.zeros(0, int)
            numbers = parquet_arrays.numbers(file, "episode", 0, count)[:, 0] if count else finals
            starts = np.concatenate([[0], finals[:-1] + 1])[: len(finals)]
            lines = zip(numbers[finals].tolist(), starts.tolist(), (finals + 1 - starts).tolist(), strict=True)
            env, space = attributes.get("env"), _object(attributes.get("action_space"))
            width = columns["action"].list_size if "action" in columns else 0
            return _Described(env if isinstance(env, str) else None, space, width, names, tuple(lines))
    except BrokenEpisodeError as error:
        raise ValueError(f"{path}: {error}; convert reads Parquet files of rollouts that it has written") from None


def _told(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The metadata that `convert` writes.

    Raises:
        BrokenEpisodeError: there are none, or they are not those of rollouts.
    """
    found: Any = _object((metadata or {}).get(METADATA))
    if found is None or found.get("format") != FORMAT.name:
        raise BrokenEpisodeError("holds no rollouts of convert")
    if not isinstance(found.get("attributes"), dict) or not isinstance(found.get("telemetry_names"), list):
        raise BrokenEpisodeError("has damaged metadata")
    return found


def _object(text: Any) -> dict[str, Json] | None:
    """A JSON object; None if the text is none."""
    try:
        found = untrusted.from_json(text)
    except (ValueError, TypeError, AttributeError):
        return None
    return dict(found) if isinstance(found, Mapping) else None
