"""Frames by position, of rollouts or in memory, and the order in which training sees them.

Seed, epoch and the size of the shuffle buffer determine the order of an epoch. First the epoch's blocks (up to 64
neighbouring rows of an episode) are shuffled. Then they are grouped into windows of about `shuffle_frames` frames. Then
the frames of each window are shuffled. `batches.py` makes batches in this order. The order depends neither on where the
frames are held nor on the number of processes. An epoch has each frame once, unless `WeightedFrameSet` in `weighted.py`
draws them.
"""

import abc
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from world_models.data.episode import FRAME_SHAPE, Episode
from world_models.data.rollouts import Rollouts
from world_models.data.shards.reader import Shard
from world_models.runtime.host import available_cores

BLOCK_FRAMES = 64


@dataclasses.dataclass(frozen=True)
class ShuffleWindow:
    """The frames that are shuffled together.

    Attributes:
        blocks: numbers of its blocks.
        positions: positions of the blocks' frames, block by block.
        order: order of training: the k-th frame of the window is at `positions[order[k]]`. Frames that are not drawn
            are not in it.
        ends_epoch: whether it is the last window of its epoch.
    """

    blocks: Int64[np.ndarray, " blocks"]
    positions: Int64[np.ndarray, " frames"]
    order: Int64[np.ndarray, " drawn"]
    ends_epoch: bool


class Drawn(NamedTuple):
    """The frames of an epoch: of block `blocks[k]` the rows from `starts[k]` to before `stops[k]`."""

    blocks: Int64[np.ndarray, " drawn"]
    starts: Int64[np.ndarray, " drawn"]
    stops: Int64[np.ndarray, " drawn"]


class FrameSource(abc.ABC):
    """Frames by position 0 .. len - 1, in blocks of neighbouring frames.

    Args:
        block_lengths: number of frames of each block.
        frame_shape: height, width and channels.
        labels: each frame's class; None makes it 0 for all frames.
    """

    def __init__(
        self,
        block_lengths: Int64[np.ndarray, " blocks"],
        frame_shape: tuple[int, int, int] = FRAME_SHAPE,
        labels: Int64[np.ndarray, " frames"] | None = None,
    ):
        self.block_lengths, self.frame_shape = block_lengths, frame_shape
        self.block_offsets = np.concatenate([[0], np.cumsum(block_lengths)])
        self.labels = (
            np.broadcast_to(np.int64(0), len(self)) if labels is None else labels
        )  # the former takes no memory

    def __len__(self) -> int:
        return int(self.block_offsets[-1])

    @property
    def num_bytes(self) -> int:
        """Bytes of all frames as uint8."""
        return len(self) * math.prod(self.frame_shape)

    @abc.abstractmethod
    def read_block(self, block: int, column: str = "frames") -> np.ndarray:
        """Read the frames of a block, or the same rows of another column."""

    @abc.abstractmethod
    def read_into(
        self,
        frames: UInt8[np.ndarray, "_ height width channels"],
        blocks: Int64[np.ndarray, " blocks"],
        places: Int64[np.ndarray, " rows"],
    ) -> None:
        """Read blocks into `frames`: the k-th frame of the blocks goes to `frames[places[k]]`."""

    def read_all(self) -> UInt8[np.ndarray, "frames height width channels"]:
        """Read all frames, in the order of their positions."""
        frames = np.empty((len(self), *self.frame_shape), np.uint8)
        self.read_into(frames, np.arange(len(self.block_lengths)), np.arange(len(self)))
        return frames

    def spread_positions(self, count: int) -> Int64[np.ndarray, " frames"]:
        """Up to `count` positions, evenly spread."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)

    def read_spread(self, count: int, column: str = "frames") -> np.ndarray:
        """Read the frames at the positions of `spread_positions`, or the same rows of another column."""
        chosen = self.spread_positions(count)
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

    def drawn(self, seed: int, epoch: int) -> Drawn:
        """The frames of an epoch, as many as the source has. Here every frame is drawn once, in each epoch."""
        num_blocks = len(self.block_lengths)
        return Drawn(np.arange(num_blocks), np.zeros(num_blocks, np.int64), self.block_lengths)

    def windows(self, seed: int, epoch: int, shuffle_frames: int) -> Iterator[ShuffleWindow]:
        """The windows of an epoch, in order. Every drawn frame is in exactly one of them."""
        rng = np.random.default_rng([seed, epoch])
        drawn = self.drawn(seed, epoch)
        order = rng.permutation(len(drawn.blocks))
        blocks, starts, stops = (column[order] for column in drawn)
        group = (np.cumsum(stops - starts) - 1) // max(1, shuffle_frames)
        seen = 0
        for part in np.split(np.arange(len(blocks)), np.flatnonzero(np.diff(group)) + 1):
            chosen = blocks[part]
            positions = np.concatenate([np.arange(*self.block_offsets[block : block + 2]) for block in chosen])
            first = np.cumsum(self.block_lengths[chosen]) - self.block_lengths[chosen]
            rows = np.concatenate(
                [np.arange(*ends) for ends in zip(first + starts[part], first + stops[part], strict=True)]
            )
            seen += len(rows)
            yield ShuffleWindow(chosen, positions, rows[rng.permutation(len(rows))], ends_epoch=seen == len(self))


class FrameSet(FrameSource):
    """The frames of some episodes of a data set, final frames included."""

    def __init__(self, data: Rollouts, episodes: Sequence[int]):
        self._data, self._episodes = data, episodes
        blocks = [block for episode in episodes for block in _blocks(*data.locate(episode))]
        self._shards, self._starts, self._stops = zip(*blocks, strict=True)
        super().__init__(np.subtract(self._stops, self._starts, dtype=np.int64))

    def episodes(self, max_frames: int | None = None) -> Iterator[Episode]:
        """The episodes in order. If they have more than `max_frames` frames, only an evenly spread part of them."""
        count = len(self._episodes)
        if max_frames is not None and len(self) > max_frames:
            count = max(1, count * max_frames // len(self))
        chosen = np.linspace(0, len(self._episodes) - 1, count).astype(int)
        return (self._data[self._episodes[index]] for index in chosen)

    def read_block(self, block: int, column: str = "frames") -> np.ndarray:
        """Read the frames of a block, or the same rows of another column, from disk."""
        return self._shards[block].read(column, self._starts[block], self._stops[block])

    def read_into(
        self,
        frames: UInt8[np.ndarray, "_ 64 64 3"],
        blocks: Int64[np.ndarray, " blocks"],
        places: Int64[np.ndarray, " rows"],
    ) -> None:
        """Read blocks with one thread per core: the k-th frame of the blocks goes to `frames[places[k]]`."""
        starts = np.concatenate([[0], np.cumsum(self.block_lengths[blocks])])

        def read(index: int) -> None:
            block, place = blocks[index], starts[index]
            first = self._starts[block]
            for row, piece in self._shards[block].pieces("frames", first, self._stops[block]):
                at = place + row - first
                frames[places[at : at + len(piece)]] = piece

        with ThreadPoolExecutor(available_cores()) as readers:
            for done in [readers.submit(read, index) for index in range(len(blocks))]:
                done.result()


class ImageSet(FrameSource):
    """Labelled images in memory. They belong to no episode."""

    def __init__(self, frames: UInt8[np.ndarray, "frames height width channels"], labels: Int64[np.ndarray, " frames"]):
        cuts = [*range(0, len(frames), BLOCK_FRAMES), len(frames)]
        height, width, channels = frames.shape[1:]
        super().__init__(np.diff(np.array(cuts, np.int64)), (height, width, channels), labels)
        self._frames = frames

    def read_block(self, block: int, column: str = "frames") -> np.ndarray:
        """Read the frames of a block. Images have no other column."""
        assert column == "frames", column
        return self._frames[slice(*self.block_offsets[block : block + 2])]

    def read_into(
        self,
        frames: UInt8[np.ndarray, "_ height width channels"],
        blocks: Int64[np.ndarray, " blocks"],
        places: Int64[np.ndarray, " rows"],
    ) -> None:
        """Copy blocks: the k-th frame of the blocks goes to `frames[places[k]]`."""
        if len(blocks):
            frames[places] = np.concatenate([self.read_block(block) for block in blocks.tolist()])


def _blocks(shard: Shard, start: int, rows: int) -> list[tuple[Shard, int, int]]:
    """Cut an episode at rows that are multiples of 64. Then few chunks of the shard are unpacked twice."""
    inner = range((start // BLOCK_FRAMES + 1) * BLOCK_FRAMES, start + rows, BLOCK_FRAMES)
    cuts = [start, *inner, start + rows]
    return [(shard, first, last) for first, last in itertools.pairwise(cuts)]
