"""Rows of latents by their number in the whole data set. They are held in memory if they fit, else read in blocks."""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int64, Shaped

from world_models.data.latents import FORMAT
from world_models.data.shards import BLOCK_ROWS
from world_models.data.shards.reader import Shard

OnePerWindow = Int64[np.ndarray, " windows"]
"""One integer for each window."""
Windows = dict[str, Shaped[np.ndarray, "windows rows *shape"]]
"""Columns by name; the first axis counts windows, the second counts rows of a window."""

FLAGS = ("terminated", "truncated")
"""Columns that are always held in memory: they are a hundredth of the bytes, and HDF5 reads them ten times slower."""


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """Shape and dtype of a row of each column in memory.

    One shard may hold float16 and another float32. The dtype in memory is the wider one.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> "RowLayout":
        """The layout of a data set's rows."""
        dtypes = {name: np.result_type(*{shard.column_dtypes[name] for shard in shards}) for name in FORMAT.columns}
        return cls(shards[0].row_shapes, dtypes)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, all columns together."""
        return sum(math.prod(self.shapes[name]) * dtype.itemsize for name, dtype in self.dtypes.items())

    def empty(self, name: str, *counts: int) -> np.ndarray:
        """An uninitialised array for rows of a column."""
        return np.empty((*counts, *self.shapes[name]), self.dtypes[name])


def open_rows(shards: Sequence[Shard], memory_bytes: float) -> "RowsInMemory | RowsInBlocks":
    """Open the rows of a data set within a memory limit. At least one block is held, even if it exceeds the limit."""
    layout = RowLayout.of(shards)
    fits = sum(shard.num_rows for shard in shards) * layout.row_bytes <= memory_bytes
    return RowsInMemory(shards, layout) if fits else RowsInBlocks(shards, layout, memory_bytes)


class RowsInMemory:
    """Rows that are read once and held in memory."""

    def __init__(self, shards: Sequence[Shard], layout: RowLayout, names: Sequence[str] = tuple(FORMAT.columns)):
        num_rows = sum(shard.num_rows for shard in shards)
        self._columns = {name: layout.empty(name, num_rows) for name in names}
        stop = 0
        for shard in shards:
            start, stop = stop, stop + shard.num_rows
            for name, column in self._columns.items():
                column[start:stop] = shard.read(name)

    def windows(self, starts: OnePerWindow, counts: OnePerWindow, rows: int) -> Windows:
        """Read the `counts[k]` rows from row `starts[k]` on into window k.

        Every window has room for `rows` rows. The values after its last row are undefined.
        """
        chosen = starts[:, None] + np.minimum(np.arange(rows), counts[:, None] - 1)
        return {name: np.take(column, chosen, axis=0) for name, column in self._columns.items()}


class RowsInBlocks:
    """Reads rows in blocks of 1,024 neighbours, and keeps the most recently used blocks.

    Args:
        shards: the shards of the data set.
        layout: the layout of its rows.
        memory_bytes: upper bound on the memory of the kept blocks; one block is always kept.
    """

    def __init__(self, shards: Sequence[Shard], layout: RowLayout, memory_bytes: float):
        self._layout = layout
        self._names = [name for name in FORMAT.columns if name not in FLAGS]
        self._flags = RowsInMemory(shards, layout, FLAGS)
        self._blocks = [
            (shard, range(row, min(row + BLOCK_ROWS, shard.num_rows)))
            for shard in shards
            for row in range(0, shard.num_rows, BLOCK_ROWS)
        ]
        self._firsts = [0, *itertools.accumulate(len(rows) for _, rows in self._blocks)]
        kept = max(1, int(memory_bytes // (BLOCK_ROWS * layout.row_bytes)))
        self._block = functools.lru_cache(maxsize=kept)(self._read_block)

    def _read_block(self, block: int) -> Mapping[str, np.ndarray]:
        shard, rows = self._blocks[block]
        return {name: shard.read(name, rows.start, rows.stop) for name in self._names}

    def windows(self, starts: OnePerWindow, counts: OnePerWindow, rows: int) -> Windows:
        """As `RowsInMemory.windows`."""
        found = {name: self._layout.empty(name, len(starts), rows) for name in self._names}
        for window, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
            for place, columns, piece in self._pieces(start, count):
                for name, column in columns.items():
                    found[name][window, place : place + piece.stop - piece.start] = column[piece]
            for name in self._names:
                found[name][window, count:] = 0
        return found | self._flags.windows(starts, counts, rows)

    def _pieces(self, start: int, count: int) -> Iterator[tuple[int, Mapping[str, np.ndarray], slice]]:
        """Split `count` rows from row `start` on by block: offset of a piece, its block's columns, its rows in them."""
        block, done = bisect.bisect_right(self._firsts, start) - 1, 0
        while done < count:
            inside = start + done - self._firsts[block]
            size = min(count - done, len(self._blocks[block][1]) - inside)
            yield done, self._block(block), slice(inside, inside + size)
            block, done = block + 1, done + size
