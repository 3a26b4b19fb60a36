"""Where the episodes of a LeRobot data set are. Nothing in its metadata is trusted.

| | 2.0 and 2.1 | 3.0 |
|---|---|---|
| list of episodes | `meta/episodes.jsonl` | `meta/episodes/*/*.parquet` |
| rows of an episode | a Parquet file | some rows of a Parquet file |
| frames of an episode | in these rows, or a video | in these rows, or a part of a video |
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Shaped

from world_models.convert import parquet_arrays
from world_models.convert.foreign import BrokenEpisodeError
from world_models.convert.lerobot_metadata import AGAIN, INFO_FILE, Info
from world_models.runtime import untrusted
from world_models.runtime.terminal import printable

EPISODE_LIST, EPISODE_FILES = "meta/episodes.jsonl", "meta/episodes/*/*.parquet"
MAX_LIST_BYTES = 1_000_000_000
TEMPLATE_PLACE = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
"""A place for a value in the template of a path, such as {episode_index:06d}."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an episode is.

    Attributes:
        number: number of the episode.
        rows: its number of rows.
        data: its Parquet file, as a path in the data set.
        first_row: its first row in this file.
        video: its video, as a path in the data set; empty without one.
        start_s: time of its first picture in the video.
    """

    number: int
    rows: int
    data: str
    first_row: int = 0
    video: str = ""
    start_s: float = 0.0


def filled(info: Info, name: str, **values: int | str) -> str:
    """A path of the data set, made of the template of this name.

    Raises:
        ValueError: the path leaves the data set, or its template has places for other values.
    """
    template = getattr(info, name)

    def value_of(place: re.Match[str]) -> str:
        found = values.get(place[1])
        if found is None or (isinstance(found, str) and place[2]):
            raise ValueError(_bad_path(info, name, template, "which has places for other values"))
        return str(found).zfill(int(place[2] or 0))

    path = TEMPLATE_PLACE.sub(value_of, template)
    parts = PurePosixPath(path)
    if {"{", "}"} & set(TEMPLATE_PLACE.sub("", template)):
        raise ValueError(_bad_path(info, name, template, "which has places for other values"))
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or not path.isprintable():
        raise ValueError(_bad_path(info, name, template, "which leaves the folder of the data set"))
    return path


def _bad_path(info: Info, name: str, template: str, why: str) -> str:
    return f"{info.root / INFO_FILE}: {name} is {printable(template)[:200]}, {why}; do not trust this data set"


# ---- episodes ----


def places(info: Info, camera: str) -> list[Place]:
    """Where each episode is.

    Args:
        info: of the data set.
        camera: name of the camera whose video is looked for; empty for none.

    Raises:
        ValueError: the list of episodes is damaged, or has another length than `info.json` says.
    """
    found = sorted(_own_files(info, camera) if info.has_own_files else _shared_files(info, camera), key=_number)
    if len(found) != info.num_episodes or any(place.number != number for number, place in enumerate(found)):
        raise ValueError(
            f"{info.root}: its list holds {len(found):,} episodes, and {INFO_FILE} says {info.num_episodes:,} from 0 "
            f"on; {AGAIN}"
        )
    return found


def _number(place: Place) -> int:
    return place.number


def _own_files(info: Info, camera: str) -> Iterator[Place]:
    """The episodes of version 2."""
    path = info.root / EPISODE_LIST
    if not untrusted.is_file(path, MAX_LIST_BYTES):
        raise ValueError(f"{path}: no such file, so the data set is incomplete; {AGAIN}")
    with path.open("rb") as file:
        for line in filter(bytes.strip, file):
            try:
                entry: Any = untrusted.from_json(line)
                number, rows = entry["episode_index"], entry["length"]
            except (ValueError, TypeError, KeyError):
                number = rows = None
            if type(number) is not int or type(rows) is not int or number < 0:
                raise ValueError(f"{path}: a line has no episode_index and no length; {AGAIN}")
            values = {"episode_chunk": number // info.chunk_size, "episode_index": number}
            video = filled(info, "video_path", video_key=camera, **values) if camera else ""
            yield Place(number, rows, filled(info, "data_path", **values), 0, video)


def _shared_files(info: Info, camera: str) -> Iterator[Place]:
    """The episodes of version 3. The rows of a file are those of its episodes, in the order of the whole data set."""
    columns = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
    of_video = [f"videos/{camera}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")] if camera else []
    paths = sorted(info.root.glob(EPISODE_FILES))
    tables = [_table(path, [*columns, *of_video]) for path in paths]
    if not tables:
        raise ValueError(f"{info.root / EPISODE_FILES}: no such file, so the data set is incomplete; {AGAIN}")
    table = {name: np.concatenate([part[name] for part in tables]) for name in tables[0]}
    firsts: dict[str, int] = {}
    files = []
    for chunk, number, first in zip(*(table[name].tolist() for name in columns[2:]), strict=True):
        file = filled(info, "data_path", chunk_index=int(chunk), file_index=int(number))
        firsts[file] = min(first, firsts.get(file, first))
        files.append(file)
    for index, file in enumerate(files):
        number, rows, _, _, first, *video = (table[name][index].item() for name in (*columns, *of_video))
        place = Place(int(number), int(rows), file, int(first - firsts[file]))
        if camera:
            chunk, video_number, start_s = video
            values = {"video_key": camera, "chunk_index": int(chunk), "file_index": int(video_number)}
            place = dataclasses.replace(place, video=filled(info, "video_path", **values), start_s=float(start_s))
        yield place


def _table(path: Path, columns: Sequence[str]) -> dict[str, Shaped[np.ndarray, " episodes"]]:
    try:
        with parquet_arrays.opened(path) as file:
            num_rows = file.metadata.num_rows
            if not num_rows:
                return {name: np.zeros(0) for name in columns}
            found = {name: parquet_arrays.numbers(file, name, 0, num_rows)[:, 0] for name in columns}
    except BrokenEpisodeError as error:
        raise ValueError(f"{path}: {error}; {AGAIN}") from None
    for name, values in found.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(f"{path}: {printable(name)} holds numbers below 0, or no numbers; {AGAIN}")
    return found
