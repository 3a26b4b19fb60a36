"""NumPy files: an npz file is an episode, also in subfolders.

Two layouts are known by the names of their arrays. Element t of each array is:

| layout | arrays | frame t | action, reward and end t |
|---|---|---|---|
| ctallec | observations, actions, rewards, terminals | seen after action t | led to frame t |
| hardmaru | obs, action | seen before action t | chosen after seeing frame t |

- ctallec: row t takes action, reward and end of t + 1. Element 0 of these is lost, because the frame before it was not
  stored. There may be more actions than frames; the rest was planned and never taken.
- hardmaru: row t takes action t. The last action is lost, because the frame after it was not stored. There are no
  rewards.
- Other names are given by `--keys.frames` and so on. They are aligned as hardmaru's. There may also be one element
  fewer than frames, as in Gymnasium's order; then nothing is lost.

The last step of an episode terminates it if its end flag is set, else it truncates it. These files have one flag for
both kinds of end, so an episode that a time limit ended may count as terminated.

Pickles are never loaded. The size of an array is read from its header and compared with the size of the file before
memory is taken. Pictures are unpacked a few at a time.
"""

import dataclasses
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from world_models.convert import npz_arrays
from world_models.convert.config import ConvertConfig, Keys
from world_models.convert.foreign import MAX_PIXELS, MEND, BrokenEpisodeError, ForeignEpisode, Source

SUFFIXES = (".npz",)
MAX_ACTIONS = 10_000
BLOCK_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the arrays of a file are called, and how they are aligned.

    Attributes:
        name: name for messages.
        keys: names of the arrays.
        shift: row t takes element t + shift of actions, rewards and ends.
    """

    name: str
    keys: Keys
    shift: int = 0


LAYOUTS = (
    Layout("ctallec", Keys("observations", "actions", "rewards", "terminals"), shift=1),
    Layout("hardmaru", Keys("obs", "action")),
)


@dataclasses.dataclass(frozen=True)
class NpzReader:
    """Reads npz files of one layout.

    Attributes:
        root: the folder of all episodes.
        layout: names and alignment of the arrays.
        num_actions: number of columns of `actions`.
    """

    root: Path
    layout: Layout
    num_actions: int

    def only(self, names: Sequence[str]) -> "NpzReader":
        """The same reader, which knows no single episodes."""
        return self

    def count(self, name: str) -> int:
        """Number of pictures, by the header of their array. All headers of the file are checked."""
        with npz_arrays.opened(self.root / name) as archive:
            return self._checked(archive)[str(self.layout.keys.frames)].shape[0]

    def open_episode(self, name: str) -> ForeignEpisode:
        """Open an episode. Actions, rewards and ends are read at once, pictures a few at a time."""
        keys, path = self.layout.keys, self.root / name
        with npz_arrays.opened(path) as archive:
            arrays = self._checked(archive)
            steps = arrays[str(keys.frames)].shape[0] - 1
            actions = self._numbers(archive, arrays, keys.actions, steps)
            rewards = self._numbers(archive, arrays, keys.rewards, steps)
            terminated = self._terminated(archive, arrays, steps)
        return ForeignEpisode(
            pictures=_pictures(path, str(keys.frames)),
            actions=None if actions is None else actions.reshape(steps, self.num_actions),
            rewards=None if rewards is None else rewards.reshape(steps),
            terminated=terminated,
        )

    def _checked(self, archive: zipfile.ZipFile) -> dict[str, npz_arrays.NpzArray]:
        """The headers of the arrays, whose shapes fit each other."""
        keys = self.layout.keys
        wanted = [key for key in dataclasses.astuple(keys) if key is not None]
        arrays = {key: npz_arrays.header(archive, key) for key in wanted}
        frames = arrays[str(keys.frames)]
        _check_frames(str(keys.frames), frames)
        num_actions = num_columns(arrays, keys)
        if num_actions != self.num_actions:
            raise BrokenEpisodeError(
                f"actions of {num_actions} columns, wanted {self.num_actions} as in the first file"
            )
        for key in wanted[1:]:
            self._check_length(key, arrays[key], frames.shape[0])
        for key in (keys.rewards, keys.terminated):
            if key is not None and math.prod(arrays[key].shape[1:]) != 1:
                raise BrokenEpisodeError(f"{key} is {arrays[key]}, wanted one number a frame")
        return arrays

    def _check_length(self, key: str, array: npz_arrays.NpzArray, num_frames: int) -> None:
        have = array.shape[0] if array.shape else 0
        if self.layout.shift:
            fits = have == num_frames or (key == self.layout.keys.actions and have > num_frames)
            wanted = f"{num_frames}"
        else:
            fits = have in (num_frames, num_frames - 1)
            wanted = f"{num_frames} or {num_frames - 1}"
        if not fits:
            raise BrokenEpisodeError(f"{key} has {have} elements, wanted {wanted} for {num_frames} frames")

    def _numbers(
        self, archive: zipfile.ZipFile, arrays: Mapping[str, npz_arrays.NpzArray], key: str | None, steps: int
    ) -> np.ndarray | None:
        """The elements of `steps` rows as float32; None without such an array."""
        if key is None:
            return None
        found = npz_arrays.read(archive, key, arrays[key])[self.layout.shift :][:steps]
        with np.errstate(over="ignore", invalid="ignore"):
            values = found.astype(np.float32)
        if not np.isfinite(values).all():
            raise BrokenEpisodeError(f"{key} holds numbers that are not finite in float32")
        return values

    def _terminated(self, archive: zipfile.ZipFile, arrays: Mapping[str, npz_arrays.NpzArray], steps: int) -> bool:
        key = self.layout.keys.terminated
        if key is None:
            return False
        flags = npz_arrays.read(archive, key, arrays[key]).reshape(-1)[: self.layout.shift + steps] != 0
        early = np.flatnonzero(flags[:-1])
        if len(early):
            raise BrokenEpisodeError(
                f"{key} is set at element {early[0]} of {len(flags)}, wanted at the last one only; "
                "give each episode a file of its own"
            )
        return bool(flags[-1])


def num_columns(arrays: Mapping[str, npz_arrays.NpzArray], keys: Keys) -> int:
    """Number of columns of the actions; 0 if there are none.

    Raises:
        BrokenEpisodeError: they are too many.
    """
    if keys.actions is None:
        return 0
    columns = math.prod(arrays[keys.actions].shape[1:])
    if not 0 < columns <= MAX_ACTIONS:
        raise BrokenEpisodeError(f"{keys.actions} is {arrays[keys.actions]}, wanted 1 to {MAX_ACTIONS:,} columns")
    return columns


def find(root: Path, files: Sequence[str], config: ConvertConfig) -> Source:
    """The episodes among these files: every file is one. The first file that can be read shows the layout.

    Raises:
        ValueError: its arrays are of no known layout, and `config.keys` names none; or no file can be read.
    """
    errors = []
    for file in files if config.skip_broken else files[:1]:
        reader = _reader_for(root, file, config)
        if isinstance(reader, NpzReader):
            return Source(root, tuple(files), reader, f"npz files, {_described(reader.layout)}")
        errors.append(f"{root / file}: {reader}")
    if config.skip_broken:
        raise ValueError(f"{root}: none of its npz files can be read, for example {errors[0]}; choose another --data")
    raise ValueError(f"{errors[0]}; {MEND}")


def _reader_for(root: Path, file: str, config: ConvertConfig) -> NpzReader | BrokenEpisodeError:
    """A reader for files like this one, or why it cannot be read."""
    try:
        with npz_arrays.opened(root / file) as archive:
            layout = _layout(archive, config.keys, root / file)
            arrays = {key: npz_arrays.header(archive, key) for key in (layout.keys.actions,) if key is not None}
            return NpzReader(root, layout, num_columns(arrays, layout.keys))
    except BrokenEpisodeError as error:
        return error


def _described(layout: Layout) -> str:
    return f"layout {layout.name}: {', '.join(key for key in dataclasses.astuple(layout.keys) if key is not None)}"


def _layout(archive: zipfile.ZipFile, keys: Keys, path: Path) -> Layout:
    names = {name.removesuffix(".npy") for name in archive.namelist()}
    if keys.frames is not None:
        missing = [key for key in dataclasses.astuple(keys) if key is not None and key not in names]
        if missing:
            raise ValueError(
                f"{path}: no array {', '.join(missing)}; it holds {npz_arrays.listed(names)}; give other --keys"
            )
        return Layout("--keys", keys)
    for layout in LAYOUTS:
        if set(dataclasses.astuple(layout.keys)) - {None} <= names:
            return layout
    raise ValueError(
        f"{path}: holds {npz_arrays.listed(names)}, which is neither ctallec's layout (observations, actions, rewards, "
        "terminals) nor hardmaru's (obs, action); name its arrays by --keys.frames, --keys.actions, --keys.rewards and "
        "--keys.terminated"
    )


def _check_frames(key: str, frames: npz_arrays.NpzArray) -> None:
    if frames.dtype != np.uint8 or len(frames.shape) not in (3, 4):
        raise BrokenEpisodeError(
            f"{key} is {frames}, wanted uint8 (frames, height, width, 3), or without the last axis for grey ones"
        )
    if frames.is_fortran:
        raise BrokenEpisodeError(f"{key} is stored in Fortran's order; save np.ascontiguousarray({key})")
    if frames.shape[3:] not in ((), (1,), (3,)):
        raise BrokenEpisodeError(
            f"{key} is {frames}, wanted 3 (RGB) or 1 (grey) on the last axis; move or cut the channels"
        )
    if not 0 < math.prod(frames.shape[1:3]) <= MAX_PIXELS:
        raise BrokenEpisodeError(f"{key} is {frames}, wanted pictures of 1 to {MAX_PIXELS:,} pixels")
    if frames.shape[0] < 2:
        raise BrokenEpisodeError(f"{key} holds {frames.shape[0]} frames, wanted 2 or more")


def _pictures(path: Path, key: str) -> Iterator[np.ndarray]:
    """The pictures, unpacked a few at a time."""
    with npz_arrays.opened(path) as archive, npz_arrays.array(archive, key) as (header, stream):
        count, *shape = header.shape
        row_bytes = math.prod(shape)
        block = max(1, BLOCK_BYTES // max(1, row_bytes))
        for start in range(0, count, block):
            rows = min(block, count - start)
            pictures = np.frombuffer(npz_arrays.exactly(stream, rows * row_bytes, key), np.uint8).reshape(rows, *shape)
            yield from pictures if len(shape) == 3 else pictures[..., None]
