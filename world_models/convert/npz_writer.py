"""Writes an npz file array by array and block by block, so a file larger than the memory can be written.

`numpy.load` reads it without pickles. Equal arrays give equal bytes, because the file holds no times.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from world_models.runtime import files

PACKING_LEVEL = 1  # level 6 takes 1,290 bytes for a frame of CarRacing, not 1,810, and three times as long

Append = Callable[[Shaped[np.ndarray, "rows ..."]], None]
"""Appends rows to an array."""


class NpzWriter:
    """An npz file that is being written; made by `write_npz`."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive

    @contextlib.contextmanager
    def array(self, name: str, dtype: str, shape: tuple[int, ...]) -> Iterator[Append]:
        """Write one array in a `with` block.

        Args:
            name: its key in the file.
            dtype: its dtype, such as float16. Rows are converted to it.
            shape: its shape. The first axis counts all rows that the block will append.

        Example:
            >>> from pathlib import Path
            >>> with write_npz(Path("squares.npz")) as npz, npz.array("squares", "int32", (3,)) as append:
            ...     append(np.array([0, 1]))
            ...     append(np.array([4]))
            >>> np.load("squares.npz")["squares"].tolist()
            [0, 1, 4]
        """
        kind, num_rows = np.dtype(dtype).newbyteorder("<"), 0
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)

            def append(rows: Shaped[np.ndarray, "rows ..."]) -> None:
                nonlocal num_rows
                assert rows.shape[1:] == shape[1:], (name, rows.shape, shape)
                num_rows += len(rows)
                member.write(np.ascontiguousarray(rows, kind).tobytes())

            yield append
        assert num_rows == shape[0], (name, num_rows, shape)


@contextlib.contextmanager
def write_npz(path: Path, comment: str = "") -> Iterator[NpzWriter]:
    """Write an npz file in a `with` block. If the block raises, no file is written.

    Args:
        path: the file.
        comment: the comment of the zip archive. Programs that read arrays do not see it.

    Raises:
        Stopped: the disk took no more.
    """
    with (
        files.whole(path) as temporary,
        temporary.open("xb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=PACKING_LEVEL) as archive,
    ):
        archive.comment = comment.encode()
        yield NpzWriter(archive)


def read_comment(path: Path) -> str | None:
    """The comment of an npz file; None if the file is no zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.decode(errors="replace")
    except (zipfile.BadZipFile, OSError):
        return None
