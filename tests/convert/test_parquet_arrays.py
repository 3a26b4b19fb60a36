"""Parquet files of strangers are checked before memory is taken for them."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
from lerobot_files import png
from pyarrow import parquet

from world_models.convert import parquet_arrays
from world_models.convert.foreign import BrokenEpisodeError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Five rows of tensors, and of pictures."""
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(30, dtype=np.int32).reshape(5, 2, 3))
    pictures = pa.array([{"bytes": png(np.full((8, 8, 3), row, np.uint8)), "path": None} for row in range(5)])
    parquet.write_table(pa.table({"tensor": tensors, "picture": pictures}), tmp_path / "a.parquet", row_group_size=2)
    return tmp_path / "a.parquet"


def test_rows_of_an_extension_type_are_numbers(path: Path):
    with parquet_arrays.opened(path) as file:
        found = parquet_arrays.numbers(file, "tensor", 1, 5, 6)
    np.testing.assert_array_equal(found, np.arange(6, 30).reshape(4, 6))


def test_pictures_are_decoded_across_row_groups(path: Path):
    with parquet_arrays.opened(path) as file:
        found = [int(picture[0, 0, 0]) for picture in parquet_arrays.pictures(file, "picture", 1, 4)]
    assert found == [1, 2, 3]


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (-1, 2), (3, 3)])
def test_rows_that_are_not_there_are_refused(path: Path, start: int, stop: int):
    with parquet_arrays.opened(path) as file, pytest.raises(BrokenEpisodeError, match="5 rows, wanted rows"):
        parquet_arrays.numbers(file, "tensor", start, stop, 6)


def test_a_header_that_claims_too_much_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parquet_arrays, "MAX_RATIO", 0.1)
    with pytest.raises(BrokenEpisodeError, match="claims more bytes than a file of this size can hold"):
        parquet_arrays.opened(path).__enter__()


def test_a_packed_page_of_zeros_is_refused_by_its_header(tmp_path: Path):
    """A file of some kilobytes that would become 100 megabytes."""
    table = pa.table({"picture": pa.array([{"bytes": bytes(100_000_000)}])})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 50_000
    with pytest.raises(BrokenEpisodeError, match="claims more bytes"):
        parquet_arrays.opened(tmp_path / "a.parquet").__enter__()


def test_pictures_of_too_many_pixels_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("world_models.convert.formats.images.MAX_PIXELS", 10)
    with parquet_arrays.opened(path) as file, pytest.raises(BrokenEpisodeError, match="a picture of 64 pixels"):
        next(parquet_arrays.pictures(file, "picture", 0, 5))


def test_a_column_of_texts_is_named(path: Path):
    parquet.write_table(pa.table({"a": ["x"]}), path)
    with parquet_arrays.opened(path) as file, pytest.raises(BrokenEpisodeError, match="a is string, wanted numbers"):
        parquet_arrays.check_numbers(file, "a")
