"""Frames as batches on the device, in one order whatever the memory, split by episode.

The order of an epoch is fixed by seed, epoch and the size of the shuffle buffer: the epoch's blocks (up to 64
neighbouring rows of an episode) are shuffled, then cut into windows of `shuffle_frames`, and each window's frames are
shuffled. Whether the frames are resident on the device, in memory, or streamed window by window changes nothing.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from world_models import files
from world_models.rollouts import FRAME_BYTES, FRAME_SHAPE, Rollouts
from world_models.shards.reader import Shard

BLOCK_FRAMES = 64
WINDOWS_IN_MEMORY = 2  # the one that batches come from and the one being read
Device = Literal["auto", "cpu", "cuda"]


def torch_device(name: Device) -> torch.device:
    """The device that a setting names; auto takes a GPU if there is one.

    Raises:
        ValueError: a GPU is asked for where there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("device is cuda, and torch finds no GPU; give cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


@dataclasses.dataclass(frozen=True)
class Split:
    """Episodes for training and, none of them among those, for validation."""

    train: tuple[int, ...]
    val: tuple[int, ...]


def split_episodes(
    seeds: Sequence[int] | Int64[np.ndarray, " episodes"], split_seed: int, val_share: float = 0.1
) -> Split:
    """Hold out the share of episodes with the lowest sha256 of "split_seed,episode_seed", at least one.

    Whether an episode is held out depends on its seed and on how many there are, not on files or order.

    Raises:
        ValueError: fewer than two episodes.
    """
    if len(seeds) < 2:
        raise ValueError(f"{len(seeds)} episode cannot be split into training and validation; collect at least 2")
    num_val = max(1, round(val_share * len(seeds)))
    ranked = sorted(range(len(seeds)), key=lambda i: files.sha256(f"{split_seed},{seeds[i]}".encode()))
    return Split(tuple(sorted(ranked[num_val:])), tuple(sorted(ranked[:num_val])))


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of an epoch.

    Attributes:
        blocks: the blocks it is made of.
        positions: positions of their frames, block by block.
        order: the order in which they are handed out: the k-th is `positions[order[k]]`.
    """

    blocks: Int64[np.ndarray, " blocks"]
    positions: Int64[np.ndarray, " frames"]
    order: Int64[np.ndarray, " frames"]


class FrameSet:
    """The frames of some episodes of a data set, by position 0 .. len - 1; final frames are among them."""

    def __init__(self, data: Rollouts, episodes: Sequence[int]):
        blocks = [block for episode in episodes for block in _blocks(*data.locate(episode))]
        self._shards, self._starts, self._stops = zip(*blocks, strict=True)
        self.block_lengths = np.subtract(self._stops, self._starts, dtype=np.int64)
        self.block_offsets = np.concatenate([[0], np.cumsum(self.block_lengths)])

    def __len__(self) -> int:
        return int(self.block_offsets[-1])

    @property
    def num_bytes(self) -> int:
        """Bytes of all frames, uint8."""
        return len(self) * FRAME_BYTES

    def read_block(self, block: int, column: str = "frames") -> np.ndarray:
        """A block's frames, or another column's rows, from disk."""
        return self._shards[block].read(column, self._starts[block], self._stops[block])

    def read_all(self) -> UInt8[np.ndarray, "frames 64 64 3"]:
        """All frames, by position."""
        return self._read_window(np.arange(len(self.block_lengths)), np.arange(len(self)))

    def read_spread(self, count: int, column: str = "frames") -> np.ndarray:
        """Up to `count` frames, evenly spread over the positions, or another column's rows for the same frames."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)
        blocks = np.searchsorted(self.block_offsets, chosen, side="right") - 1
        rows = (
            self.read_block(block, column)[chosen[blocks == block] - self.block_offsets[block]]
            for block in np.unique(blocks).tolist()
        )
        first = next(rows)
        spread = np.empty((len(chosen), *first.shape[1:]), first.dtype)
        stop = 0
        for block in itertools.chain([first], rows):
            start, stop = stop, stop + len(block)
            spread[start:stop] = block
        return spread

    def read_window(self, window: Window) -> UInt8[np.ndarray, "frames 64 64 3"]:
        """The frames of a window, in its order."""
        places = np.empty_like(window.order)
        places[window.order] = np.arange(len(places))
        return self._read_window(window.blocks, places)

    def _read_window(
        self, blocks: Int64[np.ndarray, " blocks"], places: Int64[np.ndarray, " frames"]
    ) -> UInt8[np.ndarray, "frames 64 64 3"]:
        frames = np.empty((len(places), *FRAME_SHAPE), np.uint8)
        start = 0
        for block in blocks:
            stop = start + self.block_lengths[block]
            frames[places[start:stop]] = self.read_block(int(block))
            start = stop
        return frames

    def windows(self, seed: int, epoch: int, shuffle_frames: int) -> Iterator[Window]:
        """An epoch's windows, in order; they hold every position once."""
        rng = np.random.default_rng([seed, epoch])
        blocks = rng.permutation(len(self.block_lengths))
        group = (np.cumsum(self.block_lengths[blocks]) - 1) // max(1, shuffle_frames)
        for chosen in np.split(blocks, np.flatnonzero(np.diff(group)) + 1):
            positions = np.concatenate([np.arange(*self.block_offsets[block : block + 2]) for block in chosen])
            yield Window(chosen, positions, rng.permutation(len(positions)))


def _blocks(shard: Shard, start: int, rows: int) -> list[tuple[Shard, int, int]]:
    """An episode cut where the file's rows are multiples of 64, so that a read unpacks few chunks twice."""
    inner = range((start // BLOCK_FRAMES + 1) * BLOCK_FRAMES, start + rows, BLOCK_FRAMES)
    cuts = [start, *inner, start + rows]
    return [(shard, first, last) for first, last in itertools.pairwise(cuts)]


Take = Callable[[int, int], UInt8[Tensor, "frames 64 64 3"]]


class Resident:
    """All frames held in memory: the device's where half of what is free there is enough, else the host's."""

    def __init__(self, frames: FrameSet, device: torch.device):
        self._device = device
        self._frames = torch.from_numpy(frames.read_all())
        if device.type == "cuda" and frames.num_bytes < torch.cuda.mem_get_info(device)[0] / 2:
            self._frames = self._frames.to(device)

    def load(self, windows: Iterator[Window]) -> Iterator[tuple[int, Take]]:
        """Of each window its length, and a function that takes frames a..b of its order to the device."""
        for window in windows:
            positions = torch.from_numpy(window.positions[window.order]).to(self._frames.device)
            yield len(positions), lambda a, b, positions=positions: self._frames[positions[a:b]].to(self._device)


class Streamed:
    """Frames read from disk, window by window, the next one while batches come from this one."""

    def __init__(self, frames: FrameSet, device: torch.device):
        self._frames, self._device = frames, device

    def load(self, windows: Iterator[Window]) -> Iterator[tuple[int, Take]]:
        """Of each window its length, and a function that takes frames a..b of its order to the device."""
        with ThreadPoolExecutor(1) as reader:
            future = reader.submit(self._frames.read_window, next(windows))
            while future is not None:
                frames = torch.from_numpy(future.result())
                following = next(windows, None)
                future = reader.submit(self._frames.read_window, following) if following is not None else None
                yield len(frames), lambda a, b, frames=frames: frames[a:b].to(self._device)


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a training run, epoch after epoch; an epoch's last batch may be smaller.

    Attributes:
        frames: what to train on.
        batch_size: frames of a batch.
        seed: decides the order.
        shuffle_frames: size of the shuffle buffer.
        memory_bytes: bound on the memory that frames take on the host.
    """

    frames: FrameSet
    batch_size: int
    seed: int
    shuffle_frames: int
    memory_bytes: int

    def __post_init__(self):
        need = WINDOWS_IN_MEMORY * (self.shuffle_frames + BLOCK_FRAMES) * FRAME_BYTES
        if not self.is_resident and need > self.memory_bytes:
            raise ValueError(
                f"memory_gb {self.memory_bytes / 1e9:g} holds neither {self.frames.num_bytes / 1e9:.2f} GB of frames "
                f"nor two shuffle buffers ({need / 1e9:.2f} GB); raise --memory_gb or lower --shuffle_frames"
            )

    @property
    def is_resident(self) -> bool:
        """Whether all frames fit into the memory bound."""
        return self.frames.num_bytes <= self.memory_bytes

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.frames) // self.batch_size)

    def frames_at(self, step: int) -> int:
        """Frames seen after so many steps."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * len(self.frames) + steps * self.batch_size

    def __call__(self, device: torch.device, start_step: int = 0) -> Iterator[UInt8[Tensor, "batch 64 64 3"]]:
        """Endless batches on the device, from any step on."""
        source = Resident(self.frames, device) if self.is_resident else Streamed(self.frames, device)
        first_epoch, step = divmod(start_step, self.steps_per_epoch)
        for epoch in itertools.count(first_epoch):
            skip = step * self.batch_size if epoch == first_epoch else 0
            windows, skip = _skip_windows(self.frames.windows(self.seed, epoch, self.shuffle_frames), skip)
            yield from _rebatch(source.load(windows), self.batch_size, skip)


def _skip_windows(windows: Iterator[Window], frames: int) -> tuple[Iterator[Window], int]:
    """The windows from the one that holds the frame on, and the frame's place in it: the others are never read."""
    for window in windows:
        if frames < len(window.order):
            return itertools.chain([window], windows), frames
        frames -= len(window.order)
    raise AssertionError("an epoch's step lies in the epoch")


def _rebatch(
    loaded: Iterable[tuple[int, Take]], batch_size: int, skip: int
) -> Iterator[UInt8[Tensor, "batch 64 64 3"]]:
    """Cut windows into batches; one that spans two windows is put together from both."""
    pieces: list[Tensor] = []
    room = batch_size
    for length, take in loaded:
        start, skip = skip, 0
        while start < length:
            stop = min(length, start + room)
            pieces.append(take(start, stop))
            room, start = room - (stop - start), stop
            if not room:
                yield torch.cat(pieces) if len(pieces) > 1 else pieces[0]
                pieces, room = [], batch_size
    if pieces:
        yield torch.cat(pieces)


def noise(seed: int, step: int, batch_size: int, z_dim: int) -> Tensor:
    """Standard normal noise of a step, by position in the batch: the same on every device and after a resume."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.randn(batch_size, z_dim, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))
