"""Arrays as text inside a page: compressed with gzip and written in base64. A browser unpacks both by itself.

The bytes of numbers are sorted before they are compressed: the first bytes of all numbers, then the second bytes, and
so on. The bytes with the exponents are alike, so they take little room.
"""

import base64
from typing import NamedTuple

import deflate
import numpy as np

from world_models.runtime.typed_json import Json

LEVEL = 9
"""libdeflate's level: 12 makes a page 1 % smaller and takes much longer."""
TYPES = ("float16", "float32", "uint8")


class Blob(NamedTuple):
    """An array in a page.

    Attributes:
        type: the type of its numbers, one of `TYPES`.
        shape: its shape.
        text: its bytes, packed.
    """

    type: str
    shape: tuple[int, ...]
    text: str

    @property
    def head(self) -> dict[str, Json]:
        """What the page has to know about the text."""
        return {"type": self.type, "shape": list(self.shape)}


def packed(array: np.ndarray) -> Blob:
    """Pack an array of float16, float32 or uint8; little-endian, rows first."""
    kind = array.dtype.name
    assert kind in TYPES, kind
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    planes = little.reshape(-1, 1).view(np.uint8).T.tobytes()
    text = base64.b64encode(deflate.gzip_compress(planes, LEVEL)).decode()
    return Blob(kind, array.shape, text)
