"""LeRobot: a local data set of version 2.0, 2.1 or 3.0, one camera of it.

`meta/info.json` says which columns and cameras there are. Row t of an episode of N rows becomes:

| column | row t becomes |
|---|---|
| the camera, `observation.image` or `observation.images.NAME` | the frame x_t |
| `action` | the action a_t, which was chosen after seeing x_t |
| `next.reward` | the reward of a_t |
| `next.done`, `next.truncated`, `next.terminated` | how a_t ended the episode |
| `observation.state` | telemetry at x_t |

An episode of N rows has N - 1 transitions. The last row's action, reward and end are lost, because the frame after it
was not stored. So most data sets of demonstrations, which set `next.done` in the last row alone, become episodes
that are truncated. LeRobot's evaluation, and our own `--format lerobot`, store the final frame in one more row, whose
other values repeat those of the row before. Then nothing is lost, and the end is in the last row but one. An end in an
earlier row is an error.

`next.done` alone counts as terminated. With `next.truncated`, a step that is done and not truncated is terminated. Only
our own exports have `next.terminated`, which says it directly. Without any of them, the episode is truncated.

One program of LeRobot is an exception: `gym_manipulator` stores the frame that follows an action in the action's row.
No file says that it was written so. Do not import such recordings.

Frames are pictures in the Parquet files (`image`), or in videos (`video`), which may hold several episodes. In a video,
row t takes the picture at the row's `timestamp`, counted from the beginning of the episode, as LeRobot does. A picture
is decoded when it is needed. Tasks in words, other cameras and other columns are not read.

LeRobot itself is not imported. Paths in the metadata that leave the data set's folder are refused.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_models.convert import lerobot_metadata, lerobot_places, parquet_arrays, timed_video
from world_models.convert.config import ConvertConfig
from world_models.convert.foreign import BrokenEpisodeError, ForeignEpisode, Source, as_float32
from world_models.convert.lerobot_metadata import INFO_FILE, Feature, Info
from world_models.convert.lerobot_places import Place
from world_models.runtime.terminal import printable

SUFFIXES = (f"/{INFO_FILE}",)
ACTION, REWARD, STATE, TIME, NUMBER = "action", "next.reward", "observation.state", "timestamp", "episode_index"
DONE, TRUNCATED, TERMINATED = "next.done", "next.truncated", "next.terminated"
MAX_ACTIONS = 10_000


@dataclasses.dataclass(frozen=True)
class LerobotReader:
    """Reads the episodes of a LeRobot data set.

    Attributes:
        root: its folder.
        camera: name of the camera.
        is_video: whether its frames are in videos.
        fps: pictures per second.
        widths: how many numbers a row has of each column that is read.
        places: where each episode is, by its name.
    """

    root: Path
    camera: str
    is_video: bool
    fps: float
    widths: Mapping[str, int]
    places: Mapping[str, Place]

    @property
    def num_actions(self) -> int:
        """Number of columns of `actions`; 0 without actions."""
        return self.widths.get(ACTION, 0)

    def only(self, names: Sequence[str]) -> "LerobotReader":
        """A reader that knows these episodes alone."""
        return dataclasses.replace(self, places={name: self.places[name] for name in names})

    def count(self, name: str) -> int:
        """Number of rows. The columns of the Parquet file, its length and that of the video are checked."""
        place = self.places[name]
        with _named(place.data), parquet_arrays.opened(self.root / place.data) as file:
            parquet_arrays.check_rows(file, place.first_row, place.first_row + place.rows)
            for column in (*self.widths, *((TIME,) if self.is_video else ())):
                parquet_arrays.check_numbers(file, column)
            if not self.is_video:
                parquet_arrays.check_pictures(file, self.camera)
        if self.is_video:
            with _named(place.video):
                seconds = place.start_s + (place.rows - 1) / self.fps
                timed_video.check_length(self.root / place.video, seconds, self.fps)
        return place.rows

    def open_episode(self, name: str) -> ForeignEpisode:
        """Open an episode. All but the frames is read at once, frames one after the other."""
        place = self.places[name]
        with _named(place.data), parquet_arrays.opened(self.root / place.data) as file:
            columns = {column: self._rows(file, place, column, width) for column, width in self.widths.items()}
            numbers = self._rows(file, place, NUMBER)
            if (numbers != place.number).any():
                raise BrokenEpisodeError(
                    f"the rows of episode {place.number} hold {NUMBER} {numbers[numbers != place.number][0]}"
                )
            times = self._times(file, place) if self.is_video else None
            terminated, truncated = _ends(columns)
            actions, rewards, state = (columns.get(column) for column in (ACTION, REWARD, STATE))
            return ForeignEpisode(
                pictures=self._stored(place) if times is None else self._filmed(place, times),
                actions=None if actions is None else as_float32(ACTION, actions[:-1]),
                rewards=None if rewards is None else as_float32(REWARD, rewards[:-1, 0]),
                terminated=terminated,
                truncated=truncated,
                telemetry=None if state is None else state.astype(np.float32),
            )

    def _rows(self, file: Any, place: Place, column: str, width: int = 1) -> np.ndarray:
        return parquet_arrays.numbers(file, column, place.first_row, place.first_row + place.rows, width)

    def _times(self, file: Any, place: Place) -> np.ndarray:
        """Times of the rows in the video, in seconds."""
        times = self._rows(file, place, TIME)[:, 0].astype(np.float64)
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any() or times[0] < 0:
            raise BrokenEpisodeError(f"{TIME} does not rise from row to row")
        return place.start_s + times

    def _stored(self, place: Place) -> Iterator[np.ndarray]:
        with _named(place.data), parquet_arrays.opened(self.root / place.data) as file:
            yield from parquet_arrays.pictures(file, self.camera, place.first_row, place.first_row + place.rows)

    def _filmed(self, place: Place, times: np.ndarray) -> Iterator[np.ndarray]:
        with _named(place.video):
            yield from timed_video.pictures_at(self.root / place.video, times, self.fps)


@contextlib.contextmanager
def _named(file: str) -> Iterator[None]:
    """Put the name of the file that is read before the message of an error of the block."""
    try:
        yield
    except BrokenEpisodeError as error:
        raise BrokenEpisodeError(f"{file}: {error.reason}") from None


def _ends(columns: Mapping[str, np.ndarray]) -> tuple[bool, bool]:
    """Whether the last transition terminated the episode, and whether it truncated it.

    Raises:
        BrokenEpisodeError: an earlier row is an end.
    """
    flags = {name: columns[name][:-1, 0] != 0 for name in (DONE, TRUNCATED, TERMINATED) if name in columns}
    for name, values in flags.items():
        early = np.flatnonzero(values[:-1])
        if len(early):
            raise BrokenEpisodeError(
                f"{name} is set in row {early[0]} of {len(values) + 1}, wanted in the last two rows only"
            )
    last = {name: bool(len(values) and values[-1]) for name, values in flags.items()}
    truncated = last.get(TRUNCATED, False)
    return last.get(TERMINATED, last.get(DONE, False) and not truncated), truncated


# ---- finding a data set ----


def find(root: Path, files: Sequence[str], config: ConvertConfig) -> Source:
    """The episodes of the data set that these files are.

    Raises:
        ValueError: a package is missing, there are several data sets, their metadata are damaged, or there is no such
            camera.
    """
    parquet_arrays.check_installed("lerobot")
    if len(files) > 1:
        raise ValueError(
            f"{root}: holds {len(files):,} LeRobot data sets, such as {Path(files[0]).parents[1]}; name one of them"
        )
    info = lerobot_metadata.read_info(root / Path(files[0]).parents[1])
    camera = _camera(info, config.camera)
    is_video = info.features[camera].dtype == "video"
    if is_video:
        timed_video.check_installed()
    widths = _widths(info)
    places = lerobot_places.places(info, camera if is_video else "")
    named = {f"episode_{place.number:06d}": place for place in places}
    return Source(
        root=info.root,
        names=tuple(named),
        reader=LerobotReader(info.root, camera, is_video, info.fps, widths, named),
        description=f"a LeRobot data set of version {info.version[1:]}, camera {printable(camera)}",
        env=info.robot,
        telemetry=info.features[STATE].labels("state") if STATE in widths else (),
    )


def _camera(info: Info, wanted: str | None) -> str:
    """The name of the camera to read."""
    cameras = [name for name, feature in info.features.items() if _is_camera(feature)]
    named = [name for name in cameras if wanted in (None, name, name.rpartition(".")[2])]
    if len(named) == 1:
        return named[0]
    if not cameras:
        raise ValueError(f"{info.root}: no camera (image or video) among its features; choose another data set")
    shown = printable(", ".join(cameras))[:300]
    found = f"no camera {printable(str(wanted))}" if wanted else f"{len(cameras)} cameras"
    raise ValueError(f"{info.root}: {found}; choose one by --camera NAME: {shown}")


def _is_camera(feature: Feature) -> bool:
    return feature.dtype in lerobot_metadata.CAMERA_KINDS and not feature.is_depth


def _widths(info: Info) -> dict[str, int]:
    """The columns of numbers that are read, and how many a row has of each."""
    single = (REWARD, DONE, TRUNCATED, TERMINATED)
    widths = {name: info.features[name].width for name in (ACTION, *single, STATE) if name in info.features}
    for name, width in widths.items():
        most = 1 if name in single else MAX_ACTIONS
        if not 0 < width <= most:
            raise ValueError(
                f"{info.root}: {name} has {width:,} numbers a row, wanted 1 to {most:,}; choose another data set"
            )
    return widths
