"""Minari: a local data set with image observations, as Minari 0.4 and 0.5 store it in HDF5.

`ROOT/ID/data/` holds `metadata.json` and `main_data.hdf5`, which has a group `episode_0`, `episode_1`, ... for each
episode. An episode of T steps has:

| array | shape | row t becomes |
|---|---|---|
| `observations` | (T + 1, height, width, channels) | the frame x_t |
| `actions` | (T, ...) | the action a_t, which was chosen after seeing x_t, as float32 columns |
| `rewards`, `terminations`, `truncations` | (T,) | the reward and the ends that a_t caused |
| `infos/telemetry/NAME` | (T + 1,) | telemetry at x_t; only in data sets that `convert` has written |

Nothing is lost at the ends of an episode, because Minari stores the observation after the last action. If observations
are a dict, `--keys.frames` names the image in it. Its other entries are not read. Images may be stored as arrays or as
JPEG. An episode without an end, such as one that the end of the collecting has cut off, is truncated.

Minari itself is not imported. Its own reader would make the environment that the file names, and so run code.
"""

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float32
from PIL import Image

from world_models.convert import hdf5_arrays, minari_description
from world_models.convert.config import ConvertConfig
from world_models.convert.foreign import BrokenEpisodeError, ForeignEpisode, Source, as_float32
from world_models.convert.minari_description import METADATA_FILE
from world_models.envs import action_columns
from world_models.runtime.terminal import printable

SUFFIXES = (".hdf5", ".arrow")
DATA_FOLDER, MAIN_FILE = "data", "main_data.hdf5"
TELEMETRY = "infos/telemetry"
MAX_ACTIONS = 10_000
BLOCK_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class MinariReader:
    """Reads the episodes of a Minari data set.

    Attributes:
        path: the file `main_data.hdf5`.
        images: path of the images in an episode, such as `observations/pixels`.
        shape: shape of an image.
        num_actions: number of columns of `actions`.
        telemetry: names of the telemetry.
    """

    path: Path
    images: str
    shape: tuple[int, ...]
    num_actions: int
    telemetry: tuple[str, ...] = ()

    def only(self, names: Sequence[str]) -> "MinariReader":
        """The same reader, which knows no single episodes."""
        return self

    def count(self, name: str) -> int:
        """Number of images. The shapes of all arrays are checked."""
        with hdf5_arrays.opened(self.path) as file:
            return len(self._images(self._checked(file, name)))

    def open_episode(self, name: str) -> ForeignEpisode:
        """Open an episode. All but the images is read at once, images a few at a time."""
        with hdf5_arrays.opened(self.path) as file:
            episode = self._checked(file, name)
            steps = len(self._images(episode)) - 1
            ends = [_end(episode, flags, steps) for flags in ("terminations", "truncations")]
            return ForeignEpisode(
                pictures=self._pictures(name),
                actions=_numbers(episode, "actions").reshape(steps, self.num_actions),
                rewards=_numbers(episode, "rewards").reshape(steps),
                terminated=ends[0],
                truncated=ends[1],
                telemetry=self._telemetry(episode, steps + 1),
            )

    def _checked(self, file: h5py.File, name: str) -> h5py.Group:
        """An episode whose arrays have shapes that fit each other."""
        episode = hdf5_arrays.group(file, name)
        num_images = len(self._images(episode))
        if num_images < 2:
            raise BrokenEpisodeError(f"{num_images} observations, wanted 2 or more")
        widths = {"actions": self.num_actions, "rewards": 1, "terminations": 1, "truncations": 1}
        for key, width in widths.items():
            found = hdf5_arrays.array(episode, key)
            if found.dtype.kind not in action_columns.NUMBERS:
                raise BrokenEpisodeError(f"{key} is {found.dtype}, wanted numbers")
            if len(found) != num_images - 1 or math.prod(found.shape[1:]) != width:
                raise BrokenEpisodeError(
                    f"{key} is {found.shape}, wanted {num_images - 1} rows of {width} for {num_images} observations"
                )
        return episode

    def _images(self, episode: h5py.Group) -> h5py.Dataset:
        """The images, as arrays or as rows of bytes of JPEG, which need not be of one length."""
        found = hdf5_arrays.array(episode, self.images)
        if h5py.check_vlen_dtype(found.dtype) == np.uint8:
            return found
        if found.dtype != np.uint8 or (found.shape[1:] != self.shape and found.ndim != 2):
            shape = (found.shape[0], *self.shape)
            raise BrokenEpisodeError(f"{self.images} is {found.dtype} {found.shape}, wanted uint8 {shape} or JPEG")
        return found

    def _pictures(self, name: str) -> Iterator[np.ndarray]:
        with hdf5_arrays.opened(self.path) as file:
            images = self._images(self._checked(file, name))
            is_jpeg = images.shape[1:] != self.shape
            height = images.chunks[0] if images.chunks else 1
            rows = max(1, BLOCK_BYTES // math.prod(self.shape) // height) * height  # whole chunks
            for start in range(0, len(images), rows):
                for image in images[start : start + rows]:
                    yield _with_channels(_decoded(image, self.shape) if is_jpeg else image)

    def _telemetry(self, episode: h5py.Group, rows: int) -> Float32[np.ndarray, "rows S"] | None:
        if not self.telemetry:
            return None
        columns = [hdf5_arrays.array(episode, f"{TELEMETRY}/{name}") for name in self.telemetry]
        if any(column.shape != (rows,) or column.dtype.kind != "f" for column in columns):
            raise BrokenEpisodeError(f"{TELEMETRY} has other shapes than ({rows},), or holds no numbers")
        return np.stack([column[:].astype(np.float32) for column in columns], axis=1)


def _numbers(episode: h5py.Group, key: str) -> Float32[np.ndarray, "..."]:
    """An array as float32."""
    return as_float32(key, hdf5_arrays.array(episode, key)[()])


def _end(episode: h5py.Group, key: str, steps: int) -> bool:
    """Whether the last step has this end flag.

    Raises:
        BrokenEpisodeError: an earlier step has it.
    """
    flags = hdf5_arrays.array(episode, key)[:].reshape(-1) != 0
    early = np.flatnonzero(flags[:-1])
    if len(early):
        raise BrokenEpisodeError(f"{key} is set at step {early[0]} of {steps}, wanted at the last one only")
    return bool(flags[-1])


def _decoded(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An image from the bytes of a JPEG file, which has to have this shape."""
    with Image.open(io.BytesIO(data.tobytes()), formats=("JPEG",)) as image:
        if (image.height, image.width) == shape[:2]:
            found = np.asarray(image)
            if found.shape == shape:
                return found
        raise BrokenEpisodeError(f"an image is {image.height}x{image.width} {image.mode}, wanted {shape}")


def _with_channels(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else image[..., None]


# ---- finding a data set ----


def find(root: Path, files: Sequence[str], config: ConvertConfig) -> Source:
    """The episodes of the data set that these files are.

    Raises:
        ValueError: there is no data set, there are several, or its observations hold no image.
    """
    path = root / _main_file(root, files)
    metadata = minari_description.read(path.with_name(METADATA_FILE))
    images, shape = minari_description.image(path, metadata, config.keys)
    space = minari_description.action_space(path, metadata)
    num_actions = action_columns.num_columns(space)
    if num_actions > MAX_ACTIONS:
        raise ValueError(f"{path}: actions of more than {MAX_ACTIONS:,} columns; choose another data set")
    try:
        with hdf5_arrays.opened(path) as file:
            names, telemetry = _episodes(file, metadata)
    except BrokenEpisodeError as error:
        raise ValueError(f"{path}: {error}; download or write the data set again") from None
    return Source(
        root=path,
        names=names,
        reader=MinariReader(path, f"observations{images}", shape, num_actions, telemetry),
        description=f"the Minari data set {printable(str(metadata.get('dataset_id')))}",
        env=minari_description.env_id(metadata),
        action_space=action_columns.describe_space(space),
        telemetry=telemetry,
    )


def _main_file(root: Path, files: Sequence[str]) -> str:
    found = [file for file in files if Path(file).name == MAIN_FILE]
    if len(found) > 1:
        raise ValueError(
            f"{root}: holds {len(found)} Minari data sets, such as {Path(found[0]).parent}; name one, as --data ROOT/ID"
        )
    if not found and any(file.endswith(".arrow") for file in files):
        raise ValueError(f"{root}: a data set in Arrow files, wanted HDF5; write it again with data_format='hdf5'")
    if not found or not (root / found[0]).with_name(METADATA_FILE).exists():
        raise ValueError(f"{root}: no {MAIN_FILE} with {METADATA_FILE} next to it, so this is no Minari data set")
    return found[0]


def _episodes(file: h5py.File, metadata: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the episodes, and of the telemetry of the first one."""
    count = metadata.get("total_episodes")
    if type(count) is not int or not 0 < count <= len(file):
        raise BrokenEpisodeError(f"{METADATA_FILE} says {count} episodes, and the file holds {len(file)}")
    return tuple(f"episode_{number}" for number in range(count)), _telemetry_names(file)


def _telemetry_names(file: h5py.File) -> tuple[str, ...]:
    """The names of the telemetry of the first episode, in the order in which they were written."""
    try:
        names = tuple(hdf5_arrays.group(file, f"episode_0/{TELEMETRY}"))
    except BrokenEpisodeError:
        return ()
    return names if all(map(str.isprintable, names)) else ()
