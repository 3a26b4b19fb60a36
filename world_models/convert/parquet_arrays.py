"""Columns of a Parquet file that anybody may have written. Nothing is read before the file's header is checked.

Rows are read a few at a time. So a file of many episodes needs no more memory than a short one. Pickles are never
loaded, and paths in a file are never followed.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from world_models.convert.foreign import BrokenEpisodeError
from world_models.convert.formats import images
from world_models.runtime import untrusted
from world_models.runtime.terminal import printable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

BUFFER_BYTES = 1 << 20
"""Bytes of a file that are read at once. Without this limit, pyarrow reads whole columns."""
MAX_RATIO = 1100
"""Largest number of bytes that one packed byte may become. Deflate reaches 1,032 at the best."""
ROWS, PICTURES = 4096, 16
"""Rows of numbers, and pictures, that are unpacked at once."""
MAX_NUMBERS_BYTES = 1 << 31
"""Most memory that a column of one episode may take. A packed column of zeros is small, however long it is."""


def check_installed(extra: str) -> None:
    """Check that pyarrow is installed.

    Args:
        extra: the extra of this package that brings it, which is also the name of the format.

    Raises:
        ValueError: it is not.
    """
    try:
        import pyarrow as pyarrow
    except ImportError:
        raise ValueError(f"format {extra} needs pyarrow; pip install 'world_models[{extra}]'") from None


@contextlib.contextmanager
def opened(path: Path) -> Iterator["parquet.ParquetFile"]:
    """Open a file. Every error of the block becomes `BrokenEpisodeError`."""
    from pyarrow import parquet

    try:
        if not untrusted.is_file(path):
            raise BrokenEpisodeError("no such file")
        with path.open("rb") as stream, parquet.ParquetFile(stream, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
            _check_size(file, path.stat().st_size)
            yield file
    except BrokenEpisodeError:
        raise
    except Exception as error:  # pyarrow raises whatever a damaged file makes it trip over
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise BrokenEpisodeError(f"cannot be read as Parquet ({reason[:200]})") from None


def _check_size(file: "parquet.ParquetFile", file_bytes: int) -> None:
    """Check that the header claims no more bytes than a file of this size can hold."""
    metadata = file.metadata
    claimed = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if not 0 <= claimed <= MAX_RATIO * file_bytes:
        raise BrokenEpisodeError("claims more bytes than a file of this size can hold; do not trust this file")


def check_rows(file: "parquet.ParquetFile", start: int, stop: int) -> None:
    """Check that a file has the rows start..stop.

    Raises:
        BrokenEpisodeError: it has not.
    """
    if not 0 <= start < stop <= file.metadata.num_rows:
        raise BrokenEpisodeError(f"{file.metadata.num_rows:,} rows, wanted rows {start:,} to {stop:,} for the episode")


def check_numbers(file: "parquet.ParquetFile", name: str) -> np.dtype:
    """Check that a column holds numbers or lists of numbers. Returns their dtype.

    Raises:
        BrokenEpisodeError: it does not, or there is no such column.
    """
    import pyarrow as pa

    kind = found = _type(file, name)
    while isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.BaseExtensionType):
        kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise BrokenEpisodeError(f"{printable(name)} is {printable(str(found))[:100]}, wanted numbers")
    return np.dtype(kind.to_pandas_dtype())


def numbers(
    file: "parquet.ParquetFile", name: str, start: int, stop: int, width: int = 1
) -> Shaped[np.ndarray, "rows width"]:
    """Read the rows start..stop of a column of numbers or of lists of numbers.

    Args:
        file: the file.
        name: the column.
        start: the first row.
        stop: the row behind the last one.
        width: how many numbers a row has, also in lists of lists.

    Raises:
        BrokenEpisodeError: there are other numbers, or too many.
    """
    dtype = check_numbers(file, name)
    check_rows(file, start, stop)
    num_bytes = (stop - start) * width * dtype.itemsize
    if num_bytes > MAX_NUMBERS_BYTES:
        raise BrokenEpisodeError(
            f"{printable(name)} takes {num_bytes:,} bytes in memory, wanted {MAX_NUMBERS_BYTES:,} at most"
        )
    values = np.empty((stop - start, width), dtype)
    for first, column in _batches(file, name, start, stop, ROWS):
        flat = _flat(column)
        if len(flat) != len(column) * width or flat.null_count:
            raise BrokenEpisodeError(f"{printable(name)} has gaps or other lengths, wanted {width} numbers a row")
        values[first : first + len(column)] = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    return values


def _flat(column: "pa.Array") -> "pa.Array":
    """The numbers of lists, also of lists of lists."""
    import pyarrow as pa

    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            column = column.flatten()
        else:
            return column


def check_pictures(file: "parquet.ParquetFile", name: str) -> None:
    """Check that a column holds packed pictures: a struct with `bytes`, as `Image` of Hugging Face `datasets`.

    Raises:
        BrokenEpisodeError: it does not, or there is no such column.
    """
    import pyarrow as pa

    kind = _type(file, name)
    is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not is_struct or not _is_binary(kind.field("bytes").type):
        raise BrokenEpisodeError(f"{printable(name)} is {printable(str(kind))[:100]}, wanted pictures with their bytes")


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def pictures(file: "parquet.ParquetFile", name: str, start: int, stop: int) -> Iterator[np.ndarray]:
    """Decode the pictures of the rows start..stop, one after the other.

    Raises:
        BrokenEpisodeError: one cannot be decoded, or is only a path to another file.
    """
    check_pictures(file, name)
    check_rows(file, start, stop)
    for first, column in _batches(file, name, start, stop, PICTURES):
        for number, packed in enumerate(column.field("bytes"), first):
            data = packed.as_py()
            if data is None:
                raise BrokenEpisodeError(f"{printable(name)} of row {start + number} is not stored in the file")
            try:
                yield images.decoded(io.BytesIO(data))
            except BrokenEpisodeError:
                raise
            except Exception as error:  # Pillow raises whatever a damaged picture makes it trip over
                reason = printable(" ".join(str(error).split()))[:100] or type(error).__name__
                raise BrokenEpisodeError(
                    f"{printable(name)} of row {start + number} cannot be read as a picture ({reason})"
                ) from None


def _type(file: "parquet.ParquetFile", name: str) -> Any:
    """The Arrow type of a column."""
    schema = file.schema_arrow
    index = schema.get_field_index(name)
    if index < 0:
        raise BrokenEpisodeError(f"no column {printable(name)}, or several of this name")
    return schema.field(index).type


def _batches(
    file: "parquet.ParquetFile", name: str, start: int, stop: int, size: int
) -> Iterator[tuple[int, "pa.Array"]]:
    """The rows start..stop of a column, `size` at a time, each with the number of rows before it."""
    groups, first = _row_groups(file, start, stop)
    for batch in file.iter_batches(size, row_groups=groups, columns=[name], use_threads=False):
        low, high = max(start, first), min(stop, first + len(batch))
        if low < high:
            yield low - start, batch.column(0).slice(low - first, high - low)
        first += len(batch)
        if first >= stop:
            return


def _row_groups(file: "parquet.ParquetFile", start: int, stop: int) -> tuple[Sequence[int], int]:
    """Numbers of the row groups that hold rows start..stop, and the first row of these groups."""
    metadata = file.metadata
    ends = np.cumsum([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)])
    low, high = np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop, side="left")
    return range(int(low), int(high) + 1), int(ends[low - 1]) if low else 0
