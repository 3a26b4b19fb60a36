"""Batches of frames on the device: from its own memory, from the host's, or streamed from disk; always the same.

Several processes may train together. Each reads its own blocks and no others (the n-th block is that of process n
modulo their number), and its part of a batch is what lies in those blocks; together they hold the batch that one
process alone would see. So the order never depends on memory, device, or number of processes.
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

from world_models.data.frames import BLOCK_FRAMES, FrameSource, Window

WINDOWS_IN_MEMORY = 2  # the one that batches come from and the one being read
DEVICE_SHARE = 0.5  # of a GPU's free memory, for resident frames


class Batch(NamedTuple):
    """This process's part of a batch.

    Attributes:
        frames: on the device.
        rows: where they stand in the whole batch, ascending.
        size: frames of the whole batch.
        labels: the frames' classes, 0 of all where there are no classes; on the device.
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
        """The batch without its frames from position `size` on."""
        if size >= self.size:
            return self
        kept = int((self.rows < size).sum())
        return Batch(self.frames[:kept], self.rows[:kept], size, self.labels[:kept])


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a process's frames come from.

    Attributes:
        frames: those of all processes.
        device: where batches go.
        rank: number of this process among `world` of them.
    """

    frames: FrameSource
    device: torch.device
    rank: int = 0
    world: int = 1

    def my_blocks(self, blocks: Int64[np.ndarray, " blocks"]) -> Bool[np.ndarray, " blocks"]:
        """Which blocks are read by this process."""
        return blocks % self.world == self.rank

    def is_mine(self, window: Window) -> Bool[np.ndarray, " drawn"]:
        """Whether a frame of the window, in its order, is this process's."""
        return np.repeat(self.my_blocks(window.blocks), self.frames.block_lengths[window.blocks])[window.order]


class _ResidentWindow(NamedTuple):
    """A window of frames that are held in memory. `is_mine` marks, in the window's order, those of this process."""

    window: Window
    is_mine: Bool[np.ndarray, " drawn"]
    frames: UInt8[Tensor, "_ height width channels"]
    rows: Int64[Tensor, " part"]
    device: torch.device

    def take(self, start: int, stop: int) -> Tensor:
        """Frames start..stop of this process's frames of the window, in order, on the device."""
        # Six times as fast as frames[rows]; rows are 64-bit, since 10 million frames have more than 2^31 bytes.
        return self.frames.index_select(0, self.rows[start:stop]).to(self.device, non_blocking=True)


class Resident(Source):
    """Holds all frames of a process: in the device's memory if they fit into a share of it, else in the host's."""

    def load(self, windows: Iterator[Window]) -> Iterator[_ResidentWindow]:
        """Windows, as soon as all frames have been read."""
        lengths, mine = self.frames.block_lengths, self.my_blocks(np.arange(len(self.frames.block_lengths)))
        blocks = np.flatnonzero(mine)
        frames = np.empty((int(lengths[blocks].sum()), *self.frames.frame_shape), np.uint8)
        self.frames.read_into(frames, blocks, np.arange(len(frames)))
        held = torch.from_numpy(frames)
        if self.device.type == "cuda" and frames.nbytes < DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            held = held.to(self.device)
        # From a position to where its frame is held: blocks of others are skipped.
        skipped = np.repeat(self.frames.block_offsets[:-1] - np.cumsum(lengths * mine) + lengths * mine, lengths)
        for window in windows:
            is_mine, positions = self.is_mine(window), window.positions[window.order]
            rows = torch.from_numpy((positions - skipped[positions])[is_mine])
            yield _ResidentWindow(window, is_mine, held, rows.to(held.device), self.device)


class _StreamedWindow(NamedTuple):
    """A window that was read from disk. The frames of this process are neighbours in its buffer."""

    window: Window
    is_mine: Bool[np.ndarray, " drawn"]
    frames: UInt8[Tensor, "part height width channels"]
    is_buffer: bool

    def take(self, start: int, stop: int) -> Tensor:
        """Frames start..stop of this process's frames of the window, in order, on the device."""
        part = self.frames[start:stop]
        return part.clone() if self.is_buffer else part  # the buffer is written again while the batch is in use


class Streamed(Source):
    """Reads frames from disk, window by window. The next window is read while this one is used."""

    def load(self, windows: Iterator[Window]) -> Iterator[_StreamedWindow]:
        """Windows, each as soon as its frames have been read. A window may be used until the next one is asked for."""
        buffers = itertools.cycle(_Buffer(self.device, self.frames.frame_shape) for _ in range(WINDOWS_IN_MEMORY))
        with ThreadPoolExecutor(1) as reader:
            pending = (
                reader.submit(self._read, window, buffer) for window, buffer in zip(windows, buffers, strict=False)
            )
            current = next(pending)
            for following in pending:  # is being read from here on
                yield current.result()
                current = following
            yield current.result()

    def _read(self, window: Window, buffer: "_Buffer") -> _StreamedWindow:
        mine, is_mine = self.my_blocks(window.blocks), self.is_mine(window)
        num_mine = int(is_mine.sum())
        # In this process's order, of each of the window's frames. A last row takes the frames that are not drawn.
        place = np.full(len(window.positions), num_mine)
        place[window.order] = np.cumsum(is_mine) - 1
        buffered = buffer.room_for(num_mine + 1)
        rows = np.repeat(mine, self.frames.block_lengths[window.blocks])
        self.frames.read_into(buffered.numpy(), window.blocks[mine], place[rows])
        frames = buffered[:num_mine]
        on_cpu = self.device.type == "cpu"
        return _StreamedWindow(window, is_mine, frames if on_cpu else frames.to(self.device), is_buffer=on_cpu)


class _Buffer:
    """Memory for one window. It is reused, because touching fresh memory takes longer than unpacking the frames."""

    def __init__(self, device: torch.device, frame_shape: tuple[int, int, int]):
        self._pinned = device.type == "cuda"  # for fast transfers
        self._frames = torch.empty(0, *frame_shape, dtype=torch.uint8)

    def room_for(self, frames: int) -> Tensor:
        if len(self._frames) < frames:
            self._frames = torch.empty(frames, *self._frames.shape[1:], dtype=torch.uint8, pin_memory=self._pinned)
        return self._frames[:frames]


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a training run, epoch after epoch; an epoch's last batch may be smaller.

    Attributes:
        frames: what to train on.
        batch_size: frames of a batch, in all processes together.
        seed: decides the order.
        shuffle_frames: size of the shuffle buffer.
        memory_bytes: bound on the memory that frames take on the host, in all processes together.
        rank: number of this process among `world` of them.
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

    def __call__(self, device: torch.device, start_step: int = 0) -> Iterator[Batch]:
        """Endless batches on the device, from any step on."""
        kind = Resident if self.is_resident else Streamed
        first_epoch, step = divmod(start_step, self.steps_per_epoch)
        windows, skip = _skip_windows(self._windows(first_epoch), step * self.batch_size)
        source = kind(self.frames, device, self.rank, self.world)
        return _rebatch(source.load(windows), self.batch_size, skip, self.frames.labels)

    def _windows(self, first_epoch: int) -> Iterator[Window]:
        for epoch in itertools.count(first_epoch):
            yield from self.frames.windows(self.seed, epoch, self.shuffle_frames)


def _skip_windows(windows: Iterator[Window], frames: int) -> tuple[Iterator[Window], int]:
    """The windows from the one with this frame on, and the frame's place in it. Earlier windows are never read."""
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
    """Each column of all pieces."""
    return pieces[0] if len(pieces) == 1 else map(torch.cat, zip(*pieces, strict=True))
