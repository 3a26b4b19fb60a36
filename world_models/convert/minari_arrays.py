"""Writes the arrays of a Minari data set: an HDF5 file with a group for each episode.

Minari's own writer takes whole episodes, and cannot pack frames without loss. So it is not used here.
"""

import dataclasses
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import h5py
import numpy as np
from isal import isal_zlib

from world_models.convert.formats.minari import TELEMETRY
from world_models.data.latents import Latents
from world_models.data.rollouts import FRAME_SHAPE, Rollouts, telemetry_names
from world_models.data.shards import steady_file
from world_models.data.shards.reader import Shard
from world_models.data.shards.writer import PACKING_LEVEL
from world_models.runtime import executors

CHUNK_ROWS, BLOCK_ROWS = 16, 512
GZIP_LEVEL = 4
"""What the file says about the packing of frames. Readers do not need it."""


def write(
    path: Path, data: Rollouts | Latents, space: gymnasium.Space, observations: str, report: executors.Report
) -> None:
    """Write the HDF5 file. HDF5 works in a thread of its own, see `SteadyFile`.

    Args:
        path: the file.
        data: what is written.
        space: space of the actions.
        observations: latents only: `mu`, or `mu_logvar`.
        report: called with the number of rows so far.

    Raises:
        Stopped: the disk took no more, or a shard cannot be read.
    """
    with steady_file.atomic_file(path) as steady, ThreadPoolExecutor(1, "hdf5") as thread:
        rows = _written_rows(steady, data, space, observations)
        try:
            while (count := thread.submit(next, rows, None).result()) is not None:
                steady.check()
                report(count)
        finally:
            thread.submit(rows.close).result()


def _written_rows(
    steady: steady_file.SteadyFile, data: Rollouts | Latents, space: gymnasium.Space, observations: str
) -> Generator[int, None, None]:
    """Write the file step by step. Gives the number of rows so far after each step."""
    number, before = 0, 0
    with h5py.File(steady, "w") as file:
        for shard in data.shards:
            episodes = zip(
                shard.starts.tolist(), shard.lengths.tolist(), shard.seeds.tolist(), shard.policies, strict=True
            )
            for start, rows, seed, policy in episodes:
                group = file.create_group(f"episode_{number}")
                group.attrs.update({"id": number, "total_steps": rows - 1, "seed": seed, "policy": policy})
                source = _Episode(shard, start, rows, space)
                for count in source.write(group, observations):
                    yield before + count
                number, before = number + 1, before + rows
                yield before


@dataclasses.dataclass(frozen=True)
class _Episode:
    """An episode of a shard: its first row, its number of rows, and the space of its actions."""

    shard: Shard
    start: int
    rows: int
    space: gymnasium.Space

    def write(self, group: h5py.Group, observations: str) -> Iterator[int]:
        """Write all arrays. Gives the number of rows of the longest ones so far."""
        if "frames" in self.shard.row_shapes:
            yield from self._frames(group)
            self._telemetry(group)
        else:
            has_both = observations == "mu_logvar"
            self._copy(group, "observations/mu" if has_both else "observations", "mu", self.rows)
            self._copy(group, "observations/logvar" if has_both else "infos/logvar", "logvar", self.rows)
        steps = self.rows - 1
        self._copy(group, "actions", "actions", steps, self.space)
        for name, column in (("rewards", "rewards"), ("terminations", "terminated"), ("truncations", "truncated")):
            self._copy(group, name, column, steps)

    def _blocks(self, column: str, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """The first rows of a column, block by block, each with the number of its first row."""
        for first in range(0, rows, BLOCK_ROWS):
            stop = min(first + BLOCK_ROWS, rows)
            yield first, self.shard.read(column, self.start + first, self.start + stop)

    def _copy(self, group: h5py.Group, name: str, column: str, rows: int, space: gymnasium.Space | None = None) -> None:
        """Copy the first rows of a column; those of actions in the shape and dtype of their space."""
        shape = self.shard.row_shapes[column] if space is None else space.shape or ()
        dtype = self.shard.column_dtypes[column] if space is None else space.dtype
        array = group.create_dataset(name, (rows, *shape), dtype)
        for first, block in self._blocks(column, rows) if array.size else ():
            array[first : first + len(block)] = block.reshape(len(block), *shape).astype(array.dtype)

    def _telemetry(self, group: h5py.Group) -> None:
        names = telemetry_names(self.shard)
        if not names:
            return
        owner = group.create_group(TELEMETRY, track_order=True)
        arrays = [owner.create_dataset(name, (self.rows,), np.float32) for name in names]
        for first, block in self._blocks("telemetry", self.rows):
            for array, values in zip(arrays, block.T, strict=True):
                array[first : first + len(block)] = values

    def _frames(self, group: h5py.Group) -> Iterator[int]:
        """Write frames in whole chunks that are packed here, in the format of HDF5's gzip filter but faster."""
        shape, height = (self.rows, *FRAME_SHAPE), min(CHUNK_ROWS, self.rows)
        array = group.create_dataset(
            "observations",
            shape,
            np.uint8,
            chunks=(height, *FRAME_SHAPE),
            compression="gzip",
            compression_opts=GZIP_LEVEL,
        )
        for first, block in self._blocks("frames", self.rows):  # a block is whole chunks, but for the last one
            for row in range(0, len(block), height):
                chunk = block[row : row + height]
                missing = bytes((height - len(chunk)) * chunk[0].nbytes)  # the last chunk is whole on disk, too
                packed = isal_zlib.compress(chunk.tobytes() + missing, PACKING_LEVEL)
                array.id.write_direct_chunk((first + row, 0, 0, 0), packed)
            yield first + len(block)
