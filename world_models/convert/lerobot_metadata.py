"""`meta/info.json` of a LeRobot data set of version 2.0, 2.1 or 3.0: version, fps, features, paths of the files.

Nothing in it is trusted. `lerobot_places` finds the episodes.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from world_models.data.step_tables import numbered
from world_models.runtime import untrusted
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import is_number

INFO_FILE = "meta/info.json"
MAX_INFO_BYTES = 10_000_000
VERSIONS = ("v2.0", "v2.1", "v3.0")
AGAIN = "download or write the data set again"
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
