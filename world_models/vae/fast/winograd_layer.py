"""What a layer of `_winograd.c` is: its sizes, and the arrays that it reads and writes.

C knows sizes by the layer alone, so that arrays are compared with them before it gets any.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

FEATURES_MULTIPLE = 16
DTYPES = (torch.float32, torch.float64)
MAX_PIXELS, MAX_CHANNELS = 4096, 8192  # of a layer, so that no product of sizes passes 64 bits
LINES = {
    (2, 2): [[1, 0], [1, 1], [0, 1]],
    (2, 3): [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    (3, 2): [[1, 0], [0.5, 0.5], [0.5, -0.5], [0, 1]],
}
"""Winograd's G for tiles of m outputs and r taps: a line of a kernel to what is multiplied with at each point."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """The sizes of a convolution of stride 2 (from its wide side to its narrow one) or a transposed one (back).

    Attributes:
        kernel: pixels of the kernel along a side: 4 or 6. One of 5 is one of 6 with zeros at its end.
        wide: pixels along a side of a wide image.
        channels: of a wide pixel.
        narrow: pixels along a side of a narrow image.
        features: of a narrow pixel, a multiple of 16.
        relu: whether a ReLU follows a transposed convolution; one always follows a convolution.
        tile: narrow pixels along a side that are computed at once; 3 needs fewer products where it divides `narrow`.

    Raises:
        ValueError: C has no algorithm for these sizes.
    """

    kernel: Literal[4, 6]
    wide: int
    channels: int
    narrow: int
    features: int
    relu: bool = True
    tile: Literal[2, 3] = 2

    def __post_init__(self):
        pixels, numbers = (self.wide, self.narrow), (self.channels, self.features)
        if not (all(1 <= n <= MAX_PIXELS for n in pixels) and all(1 <= n <= MAX_CHANNELS for n in numbers)):
            raise ValueError(f"{self}: give 1 to {MAX_PIXELS} pixels along a side, 1 to {MAX_CHANNELS} numbers a pixel")
        if self.features % FEATURES_MULTIPLE:
            raise ValueError(f"{self.features} features fill no whole vectors; give a multiple of {FEATURES_MULTIPLE}")
        if self.kernel % 2 or (self.tile, self.taps) not in LINES:
            raise ValueError(f"there is no algorithm for kernel {self.kernel} and tile {self.tile}")

    @property
    def taps(self) -> int:
        """Pixels of the kernel in blocks of two."""
        return self.kernel // 2

    @property
    def seen(self) -> int:
        """Pixels along a side of a wide image that the tiles see."""
        return 2 * (-(-self.narrow // self.tile) * self.tile + self.taps - 1)

    @property
    def padded_channels(self) -> int:
        """Channels as they are computed with."""
        return -(-self.channels // 4) * 4

    def shapes(self, images: int) -> dict[str, tuple[int, ...]]:
        """Shapes of so many images, and of the weights."""
        return {
            "wide": (images, self.wide, self.wide, self.channels),
            "narrow": (images, self.narrow, self.narrow, self.features),
            "weights": ((self.tile + self.taps - 1) ** 2, 4 * self.padded_channels, self.features),
        }


_NEEDED = {
    "pack": ("weights",),
    "conv": ("wide", "weights", "bias", "narrow"),
    "conv_backward": ("wide", "weights", "narrow", "narrow_gradient", "weights_gradient", "bias_gradient"),
    "deconv": ("narrow", "weights", "bias", "wide"),
    "deconv_backward": (
        *("narrow", "weights", "wide_gradient", "narrow_gradient"),
        *("weights_gradient", "bias_gradient"),
    ),
}
"""What each function of the library reads and writes, but for what the layer decides."""


def check_arrays(
    function: str, layer: Layer, images: int, dtype: torch.dtype, arrays: Mapping[str, Tensor | None]
) -> None:
    """Refuse what C would read or write beyond its end.

    Args:
        function: of the library, without its prefix.
        layer: the sizes.
        images: their number.
        dtype: of the numbers.
        arrays: by the names of `_NEEDED`.

    Raises:
        ValueError: an array is missing, or of another shape, dtype, device or order in memory than the layer's.
    """
    is_conv, function = function.startswith("conv"), function.removesuffix("_packed")
    if dtype not in DTYPES:
        raise ValueError(f"weights are {dtype}; C computes in float32 and float64")
    misfits = layer.wide < layer.seen if is_conv else layer.wide > layer.seen
    if misfits and function != "pack":  # weights are the same whatever the images' width
        raise ValueError(f"wide images of {layer.wide} pixels a side, and the tiles see {layer.seen}")
    needs_wide = function == "deconv_backward" and layer.relu
    missing = {*_NEEDED[function], *(["wide"] if needs_wide else [])} - {
        name for name in arrays if arrays[name] is not None
    }
    if missing:
        raise ValueError(f"{function} needs {', '.join(sorted(missing))}")
    shapes = layer.shapes(images) | {"bias": (layer.features if is_conv else layer.channels,)}
    for name, array in arrays.items():
        if array is None:
            continue
        shape = shapes[name.removesuffix("_gradient")]
        dtypes = (dtype, torch.uint8) if is_conv and name == "wide" else (dtype,)
        if tuple(array.shape) != shape or array.dtype not in dtypes or array.device.type != "cpu":
            found = f"{name} is {array.dtype} {tuple(array.shape)} on {array.device}"
            raise ValueError(f"{found}; {function} takes {dtype} {shape} on cpu")
        if array.layout != torch.strided or not array.is_contiguous():
            raise ValueError(f"{name} does not lie in memory in the order of its axes; give {name}.contiguous()")
    if is_conv and arrays.get("wide_gradient") is not None and layer.channels != layer.padded_channels:
        raise ValueError(f"no gradient of images of {layer.channels} channels is computed; give a multiple of 4")
