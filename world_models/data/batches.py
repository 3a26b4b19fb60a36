"""Batches of frames on the device. The frames are held in the device's memory, or in the host's, or read from disk.

Several processes may train together. Each of them reads only its own blocks: block n belongs to process n modulo the
number of processes. Its part of a batch are the frames of the batch that are in its blocks. All parts together are the
batch that a single process would get. So the batches depend neither on the memory, nor on the device, nor on the number
of processes.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from world_models.data.batch import AnyBatch, Batch, HeldBatch
from world_models.data.frames import BLOCK_FRAMES, FrameSource, ShuffleWindow
from world_models.runtime.gpu import to_device

WINDOWS_IN_MEMORY = 2  # batches are cut from one window while the next one is read
DEVICE_SHARE = 0.5  # share of a GPU's free memory that frames may take


@dataclasses.dataclass(frozen=True)
class WindowLoader:
    """Loads the frames of this process, window by window. Subclasses hold them in memory, or read them from disk.

    Attributes:
        frames: the frames of all processes.
        device: the device of the batches.
        rank: number of this process.
        world: number of processes.
    """

    frames: FrameSource
    device: torch.device
    rank: int = 0
    world: int = 1

    def my_blocks(self, blocks: Int64[np.ndarray, " blocks"]) -> Bool[np.ndarray, " blocks"]:
        """Whether each of these blocks belongs to this process."""
        return blocks % self.world == self.rank

    def is_mine(self, window: ShuffleWindow) -> Bool[np.ndarray, " drawn"]:
        """Whether each frame of the window belongs to this process, in the window's order of training."""
        return np.repeat(self.my_blocks(window.blocks), self.frames.block_lengths[window.blocks])[window.order]


class _ResidentWindow(NamedTuple):
    """A window whose frames are held in memory.

    Attributes:
        window: the window.
        is_mine: whether each frame belongs to this process, in the window's order.
        frames: all frames of this process, of all windows.
        labels: their classes.
        places: positions in `frames` of this process's frames of the window, in order.
        device: the device of the batches.
    """

    window: ShuffleWindow
    is_mine: Bool[np.ndarray, " drawn"]
    frames: UInt8[Tensor, "_ height width channels"]
    labels: Int64[Tensor, " _"]
    places: Int64[Tensor, " part"]
    device: torch.device

    def take(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The positions in `frames` of the frames start..stop among this process's frames of the window, in order."""
        return (self.places[start:stop],)

    def batch(self, size: int, rows: Tensor, places: Tensor) -> AnyBatch:
        """A batch of the frames at these positions in `frames`."""
        held = HeldBatch(self.frames, self.labels, places, rows, size)
        if self.frames.device == self.device:
            return held
        return Batch(to_device(held.frames, self.device), rows, size, to_device(held.labels, self.device))


class ResidentLoader(WindowLoader):
    """Holds all frames of this process: in the device's memory if they fit into a share of it, else in the host's."""

    def load(self, windows: Iterator[ShuffleWindow]) -> Iterator[_ResidentWindow]:
        """Read all frames, then yield the windows."""
        lengths, mine = self.frames.block_lengths, self.my_blocks(np.arange(len(self.frames.block_lengths)))
        blocks = np.flatnonzero(mine)
        frames = np.empty((int(lengths[blocks].sum()), *self.frames.frame_shape), np.uint8)
        self.frames.read_into(frames, blocks, np.arange(len(frames)))
        held, labels = torch.from_numpy(frames), torch.from_numpy(self.frames.labels[np.repeat(mine, lengths)])
        if self.device.type == "cuda" and frames.nbytes < DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            held, labels = held.to(self.device), labels.to(self.device)
        # The number of earlier frames that belong to other processes, for each position. They are not held here.
        skipped = np.repeat(self.frames.block_offsets[:-1] - np.cumsum(lengths * mine) + lengths * mine, lengths)
        for window in windows:
            is_mine, positions = self.is_mine(window), window.positions[window.order]
            places = torch.from_numpy((positions - skipped[positions])[is_mine])
            yield _ResidentWindow(window, is_mine, held, labels, to_device(places, held.device), self.device)


class _StreamedWindow(NamedTuple):
    """A window that was read from disk.

    Attributes:
        window: the window.
        is_mine: whether each frame belongs to this process, in the window's order.
        frames: this process's frames of the window, in order.
        labels: their classes.
        is_buffer: whether `frames` is in a buffer that is used again for a later window.
    """

    window: ShuffleWindow
    is_mine: Bool[np.ndarray, " drawn"]
    frames: UInt8[Tensor, "part height width channels"]
    labels: Int64[Tensor, " part"]
    is_buffer: bool

    def take(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The frames start..stop among this process's frames of the window, in order, and their classes."""
        part = self.frames[start:stop]  # the buffer may be overwritten while the batch is still used
        return part.clone() if self.is_buffer else part, self.labels[start:stop]

    def batch(self, size: int, rows: Tensor, frames: Tensor, labels: Tensor) -> AnyBatch:
        """A batch of these frames."""
        return Batch(frames, rows, size, labels)


class StreamingLoader(WindowLoader):
    """Reads frames from disk, window by window. The next window is read while the current one is used."""

    def load(self, windows: Iterator[ShuffleWindow]) -> Iterator[_StreamedWindow]:
        """Yield each window after its frames were read. A window is valid until the next one is requested."""
        buffers = itertools.cycle(_Buffer(self.device, self.frames.frame_shape) for _ in range(WINDOWS_IN_MEMORY))
        with ThreadPoolExecutor(1) as reader:
            pending = (
                reader.submit(self._read, window, buffer) for window, buffer in zip(windows, buffers, strict=False)
            )
            current = next(pending)
            for following in pending:  # it is read in the background from now on
                yield current.result()
                current = following
            yield current.result()

    def _read(self, window: ShuffleWindow, buffer: "_Buffer") -> _StreamedWindow:
        mine, is_mine = self.my_blocks(window.blocks), self.is_mine(window)
        num_mine = int(is_mine.sum())
        # Position of each frame among this process's frames, in the window's order. Frames that are not drawn get one
        # last row.
        place = np.full(len(window.positions), num_mine)
        place[window.order] = np.cumsum(is_mine) - 1
        buffered = buffer.room_for(num_mine + 1)
        rows = np.repeat(mine, self.frames.block_lengths[window.blocks])
        self.frames.read_into(buffered.numpy(), window.blocks[mine], place[rows])
        frames, on_cpu = buffered[:num_mine], self.device.type == "cpu"
        labels = torch.from_numpy(self.frames.labels[window.positions[window.order][is_mine]]).to(self.device)
        return _StreamedWindow(window, is_mine, frames if on_cpu else frames.to(self.device), labels, is_buffer=on_cpu)


class _Buffer:
    """Memory for one window. It is reused, because the first access to memory takes longer than unpacking frames."""

    def __init__(self, device: torch.device, frame_shape: tuple[int, int, int]):
        self._pinned = device.type == "cuda"  # for fast transfers
        self._frames = torch.empty(0, *frame_shape, dtype=torch.uint8)

    def room_for(self, frames: int) -> Tensor:
        if len(self._frames) < frames:
            self._frames = torch.empty(frames, *self._frames.shape[1:], dtype=torch.uint8, pin_memory=self._pinned)
        return self._frames[:frames]


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a training run, epoch after epoch. The last batch of an epoch may be smaller.

    Attributes:
        frames: the training frames.
        batch_size: number of frames of a batch, all processes together.
        seed: seed of the order.
        shuffle_frames: size of the shuffle buffer, in frames.
        memory_bytes: upper bound on the host's memory for frames, all processes together.
        rank: number of this process.
        world: number of processes.

    Raises:
        ValueError: the memory holds neither all frames nor two shuffle buffers.
    """

    frames: FrameSource
    batch_size: int
    seed: int
    shuffle_frames: int
    memory_bytes: int
    rank: int = 0
    world: int = 1

    def __post_init__(self):
        need = WINDOWS_IN_MEMORY * (self.shuffle_frames + BLOCK_FRAMES) * math.prod(self.frames.frame_shape)
        if not self.is_resident and need > self.memory_bytes:
            raise ValueError(
                f"memory_gb {self.memory_bytes / 1e9:g} holds neither {self.frames.num_bytes / 1e9:.2f} GB of frames "
                f"nor two shuffle buffers ({need / 1e9:.2f} GB); raise --memory_gb or lower --shuffle_frames"
            )

    @property
    def is_resident(self) -> bool:
        """Whether all frames fit into `memory_bytes`."""
        return self.frames.num_bytes <= self.memory_bytes

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return -(-len(self.frames) // self.batch_size)

    def frames_at(self, step: int) -> int:
        """Number of frames seen after this number of steps."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * len(self.frames) + steps * self.batch_size

    def __call__(self, device: torch.device, start_step: int = 0) -> Iterator[AnyBatch]:
        """Endless batches on the device, from `start_step` on."""
        kind = ResidentLoader if self.is_resident else StreamingLoader
        first_epoch, step = divmod(start_step, self.steps_per_epoch)
        windows, skip = _skip_windows(self._windows(first_epoch), step * self.batch_size)
        loader = kind(self.frames, device, self.rank, self.world)
        return _rebatch(loader.load(windows), self.batch_size, skip)

    def _windows(self, first_epoch: int) -> Iterator[ShuffleWindow]:
        for epoch in itertools.count(first_epoch):
            yield from self.frames.windows(self.seed, epoch, self.shuffle_frames)


def _skip_windows(windows: Iterator[ShuffleWindow], frames: int) -> tuple[Iterator[ShuffleWindow], int]:
    """Skip a number of frames without reading them.

    Returns:
        The windows from the first one that has a frame left, and the number of frames to skip in that window.
    """
    for window in windows:
        if frames < len(window.order):
            return itertools.chain([window], windows), frames
        frames -= len(window.order)
    raise AssertionError("windows never end")


def _rebatch(loaded: Iterable[_ResidentWindow | _StreamedWindow], batch_size: int, skip: int) -> Iterator[AnyBatch]:
    """Cut windows into batches. A batch may span two windows, but never two epochs."""
    pieces: list[tuple[Tensor, ...]] = []
    filled = 0
    for window in loaded:
        mine_before = np.concatenate([[0], np.cumsum(window.is_mine)])
        start, skip, length = skip, 0, len(window.is_mine)
        while start < length:
            stop = min(length, start + batch_size - filled)
            rows = torch.from_numpy(filled + np.flatnonzero(window.is_mine[start:stop]))
            pieces.append((rows, *window.take(int(mine_before[start]), int(mine_before[stop]))))
            filled, start = filled + stop - start, stop
            if filled == batch_size or (start == length and window.window.ends_epoch):
                yield window.batch(filled, *_joined(pieces))
                pieces, filled = [], 0


def _joined(pieces: Sequence[tuple[Tensor, ...]]) -> Iterable[Tensor]:
    """Concatenate each column of all pieces."""
    return pieces[0] if len(pieces) == 1 else map(torch.cat, zip(*pieces, strict=True))
