"""The metadata of a LeRobot data set, in the layouts of its versions 2.0, 2.1 and 3.0. Nothing in them is trusted.

| | 2.0 and 2.1 | 3.0 |
|---|---|---|
| `meta/info.json` | version, fps, features, paths of the files | the same |
| list of episodes | `meta/episodes.jsonl` | `meta/episodes/*/*.parquet` |
| rows of an episode | a Parquet file | some rows of a Parquet file |
| frames of an episode | in these rows, or a video | in these rows, or a part of a video |
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Shaped

from world_models.convert import parquet_arrays
from world_models.convert.foreign import BrokenEpisodeError
from world_models.data.step_tables import numbered
from world_models.runtime import untrusted
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import is_number

INFO_FILE, EPISODE_LIST, EPISODE_FILES = "meta/info.json", "meta/episodes.jsonl", "meta/episodes/*/*.parquet"
MAX_INFO_BYTES, MAX_LIST_BYTES = 10_000_000, 1_000_000_000
VERSIONS = ("v2.0", "v2.1", "v3.0")
AGAIN = "download or write the data set again"
PLACE = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
"""A place for a value in the template of a path, such as {episode_index:06d}."""
CAMERA_KINDS = ("image", "video")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One column, or a camera.

    Attributes:
        dtype: its type; `image` and `video` are cameras.
        shape: shape of a row.
        names: names of its numbers; None if there are none.
        is_depth: whether a camera's pictures are distances, not colours.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    is_depth: bool

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return math.prod(self.shape)

    def labels(self, name: str) -> tuple[str, ...]:
        """A name for each number of a row: those of the data set, or `name` with a number."""
        return tuple(self.names or numbered(name, self.width))


@dataclasses.dataclass(frozen=True)
class Info:
    """What `meta/info.json` says.

    Attributes:
        root: the folder of the data set.
        version: version of the layout, such as v3.0.
        fps: pictures per second.
        features: columns and cameras by their name.
        data_path, video_path: templates of the paths of files; the second one is empty without videos.
        chunk_size: number of episodes of a folder in version 2.
        num_episodes: number of episodes.
        robot: what was driven; None if it is unknown.
    """

    root: Path
    version: str
    fps: float
    features: Mapping[str, Feature]
    data_path: str
    video_path: str
    chunk_size: int
    num_episodes: int
    robot: str | None

    @property
    def has_own_files(self) -> bool:
        """Whether each episode has files of its own, as in version 2."""
        return self.version.startswith("v2")


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


def read_info(root: Path) -> Info:
    """Read `meta/info.json`.

    Raises:
        ValueError: it is damaged, or of another version.
    """
    path = root / INFO_FILE
    found = _object(path)
    chunk_size, robot = found.get("chunks_size"), found.get("robot_type")
    is_named = isinstance(robot, str) and robot.isprintable() and 0 < len(robot.strip()) <= 200 and robot != "unknown"
    return Info(
        root=root,
        version=found["codebase_version"],
        fps=float(found["fps"]),
        features={name: _feature(path, name, value) for name, value in found["features"].items()},
        data_path=found["data_path"],
        video_path=str(found.get("video_path") or ""),
        chunk_size=int(chunk_size) if is_number(chunk_size) and chunk_size >= 1 else 1000,
        num_episodes=found["total_episodes"],
        robot=robot if is_named else None,
    )


def _object(path: Path) -> dict[str, Any]:
    """The object in `info.json`, with the values that it needs."""
    try:
        found: Any = untrusted.from_json(untrusted.read_text(path, MAX_INFO_BYTES) or "")
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}); {AGAIN}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is no JSON object; {AGAIN}")
    version, fps, episodes = (found.get(name) for name in ("codebase_version", "fps", "total_episodes"))
    if version not in VERSIONS:
        raise ValueError(
            f"{path}: codebase_version is {printable(str(version))}, wanted {', '.join(VERSIONS)}; convert the data "
            "set with LeRobot's own scripts"
        )
    for name, fits, wanted in (
        ("fps", is_number(fps) and fps > 0, "a number above 0"),
        ("total_episodes", type(episodes) is int and episodes > 0, "a number above 0"),
        ("data_path", isinstance(found.get("data_path"), str), "a text"),
        ("features", isinstance(found.get("features"), dict), "an object"),
    ):
        if not fits:
            raise ValueError(f"{path}: {name} is {printable(str(found.get(name)))[:100]}, wanted {wanted}; {AGAIN}")
    return found


def _feature(path: Path, name: str, value: Any) -> Feature:
    shape = value.get("shape") if isinstance(value, dict) else None
    if not isinstance(shape, list) or any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(
            f"{path}: the shape of {printable(name)} is {printable(str(shape))[:100]}, wanted sizes; {AGAIN}"
        )
    feature = Feature(str(value.get("dtype")), tuple(shape), None, _is_depth(value))
    return dataclasses.replace(feature, names=_names(value.get("names"), feature.width))


def _names(value: Any, width: int) -> tuple[str, ...] | None:
    """Names of the numbers of a feature, which may be in an object under one key, such as `motors`."""
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    if isinstance(value, dict) and all(type(place) is int for place in value.values()):
        value = sorted(value, key=value.__getitem__)
    if not isinstance(value, list) or len(value) != width or len(set(map(str, value))) != width:
        return None
    are_texts = all(isinstance(name, str) and name.strip() and name.isprintable() for name in value)
    return tuple(value) if are_texts else None


def _is_depth(value: Mapping[str, Any]) -> bool:
    infos = [info for info in (value.get("info"), value.get("video_info")) if isinstance(info, dict)]
    return any(info.get("is_depth_map") is True or info.get("video.is_depth_map") is True for info in infos)


# ---- paths ----


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

    path = PLACE.sub(value_of, template)
    parts = PurePosixPath(path)
    if {"{", "}"} & set(PLACE.sub("", template)):
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
