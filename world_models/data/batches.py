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

from world_models.data.frames import BLOCK_FRAMES, FrameSource, ShuffleWindow

WINDOWS_IN_MEMORY = 2  # batches are cut from one window while the next one is read
DEVICE_SHARE = 0.5  # share of a GPU's free memory that frames may take


class Batch(NamedTuple):
    """This process's part of a batch.

    Attributes:
        frames: the frames, on the device.
        rows: positions of these frames in the whole batch, ascending.
        size: number of frames of the whole batch.
        labels: classes of the frames, on the device; all 0 if the data set has no classes.
    """

    frames: UInt8[Tensor, "part height width channels"]
    rows: Int64[Tensor, " part"]
    size: int
    labels: Int64[Tensor, " part"]

    @classmethod
    def whole(cls, frames: UInt8[Tensor, "batch height width channels"]) -> "Batch":
        """A whole batch of frames without classes."""
        rows = torch.arange(len(frames))
        return cls(frames, rows, len(frames), torch.zeros_like(rows, device=frames.device))

    def cut(self, size: int) -> "Batch":
        """The batch with only its first `size` frames."""
        if size >= self.size:
            return self
        kept = int((self.rows < size).sum())
        return Batch(self.frames[:kept], self.rows[:kept], size, self.labels[:kept])


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
        rows: positions in `frames` of this process's frames of the window, in order.
        device: the device of the batches.
    """

    window: ShuffleWindow
    is_mine: Bool[np.ndarray, " drawn"]
    frames: UInt8[Tensor, "_ height width channels"]
    rows: Int64[Tensor, " part"]
    device: torch.device

    def take(self, start: int, stop: int) -> Tensor:
        """The frames start..stop among this process's frames of the window, in order, on the device."""
        # Six times as fast as frames[rows]. The rows are 64-bit numbers, because 10 million frames exceed 2^31 bytes.
        return self.frames.index_select(0, self.rows[start:stop]).to(self.device, non_blocking=True)


class ResidentLoader(WindowLoader):
    """Holds all frames of this process: in the device's memory if they fit into a share of it, else in the host's."""

    def load(self, windows: Iterator[ShuffleWindow]) -> Iterator[_ResidentWindow]:
        """Read all frames, then yield the windows."""
        lengths, mine = self.frames.block_lengths, self.my_blocks(np.arange(len(self.frames.block_lengths)))
        blocks = np.flatnonzero(mine)
        frames = np.empty((int(lengths[blocks].sum()), *self.frames.frame_shape), np.uint8)
        self.frames.read_into(frames, blocks, np.arange(len(frames)))
        held = torch.from_numpy(frames)
        if self.device.type == "cuda" and frames.nbytes < DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            held = held.to(self.device)
        # The number of earlier frames that belong to other processes, for each position. They are not held here.
        skipped = np.repeat(self.frames.block_offsets[:-1] - np.cumsum(lengths * mine) + lengths * mine, lengths)
        for window in windows:
            is_mine, positions = self.is_mine(window), window.positions[window.order]
            rows = torch.from_numpy((positions - skipped[positions])[is_mine])
            yield _ResidentWindow(window, is_mine, held, rows.to(held.device), self.device)


class _StreamedWindow(NamedTuple):
    """A window that was read from disk.

    Attributes:
        window: the window.
        is_mine: whether each frame belongs to this process, in the window's order.
        frames: this process's frames of the window, in order.
        is_buffer: whether `frames` is in a buffer that is used again for a later window.
    """

    window: ShuffleWindow
    is_mine: Bool[np.ndarray, " drawn"]
    frames: UInt8[Tensor, "part height width channels"]
    is_buffer: bool

    def take(self, start: int, stop: int) -> Tensor:
        """The frames start..stop among this process's frames of the window, in order, on the device."""
        part = self.frames[start:stop]
        return part.clone() if self.is_buffer else part  # the buffer may be overwritten while the batch is still used


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
        frames = buffered[:num_mine]
        on_cpu = self.device.type == "cpu"
        return _StreamedWindow(window, is_mine, frames if on_cpu else frames.to(self.device), is_buffer=on_cpu)


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

    def __call__(self, device: torch.device, start_step: int = 0) -> Iterator[Batch]:
        """Endless batches on the device, from `start_step` on."""
        kind = ResidentLoader if self.is_resident else StreamingLoader
        first_epoch, step = divmod(start_step, self.steps_per_epoch)
        windows, skip = _skip_windows(self._windows(first_epoch), step * self.batch_size)
        loader = kind(self.frames, device, self.rank, self.world)
        return _rebatch(loader.load(windows), self.batch_size, skip, self.frames.labels)

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


def _rebatch(
    loaded: Iterable[_ResidentWindow | _StreamedWindow],
    batch_size: int,
    skip: int,
    labels: Int64[np.ndarray, " frames"],
) -> Iterator[Batch]:
    """Cut windows into batches. A batch may span two windows, but never two epochs."""
    pieces: list[tuple[Tensor, ...]] = []
    filled = 0
    for piece in loaded:
        mine_before = np.concatenate([[0], np.cumsum(piece.is_mine)])
        start, skip, length = skip, 0, len(piece.is_mine)
        while start < length:
            stop = min(length, start + batch_size - filled)
            rows = torch.from_numpy(filled + np.flatnonzero(piece.is_mine[start:stop]))
            frames = piece.take(int(mine_before[start]), int(mine_before[stop]))
            positions = piece.window.positions[piece.window.order[start:stop][piece.is_mine[start:stop]]]
            classes = torch.from_numpy(labels[positions]).to(frames.device, non_blocking=True)
            pieces.append((frames, rows, classes))
            filled, start = filled + stop - start, stop
            if filled == batch_size or (start == length and piece.window.ends_epoch):
                frames, rows, classes = _joined(pieces)
                yield Batch(frames, rows, filled, classes)
                pieces, filled = [], 0


def _joined(pieces: Sequence[tuple[Tensor, ...]]) -> Iterable[Tensor]:
    """Concatenate each column of all pieces."""
    return pieces[0] if len(pieces) == 1 else map(torch.cat, zip(*pieces, strict=True))
