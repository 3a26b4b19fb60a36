"""Arrays in a page: their text is unpacked to the same bytes."""

import base64
import gzip
from typing import Any

import numpy as np
import pytest

from world_models.explore.blobs import packed


def _unpacked(text: str, dtype: Any) -> np.ndarray:
    planes = np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8)
    return planes.reshape(np.dtype(dtype).itemsize, -1).T.copy().view(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_the_text_holds_every_byte(dtype: str, shape: tuple[int, ...]):
    array = np.random.default_rng(0).normal(100, 20, shape).astype(dtype)
    blob = packed(array)
    assert blob.head == {"type": dtype, "shape": list(shape)}
    assert np.array_equal(_unpacked(blob.text, f"<{array.dtype.str[1:]}").reshape(shape), array)


def test_an_array_without_numbers_is_packed():
    blob = packed(np.zeros((3, 0), np.float32))
    assert blob.head["shape"] == [3, 0]
    assert gzip.decompress(base64.b64decode(blob.text)) == b""


def test_the_order_of_the_bytes_makes_the_text_shorter():
    numbers = np.random.default_rng(0).normal(0, 0.05, 20_000).astype(np.float16)
    assert len(packed(numbers).text) < 0.95 * len(packed(numbers.view(np.uint8)).text)


def test_a_part_of_an_array_is_packed_as_it_is_read():
    array = np.arange(20, dtype=np.float32).reshape(4, 5)
    assert packed(array[:, ::2]).text == packed(array[:, ::2].copy()).text
