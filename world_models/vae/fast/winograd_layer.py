"""A layer of `_winograd.c`: its sizes, and checks of the arrays that it reads and writes.

The C library gets the sizes only from the layer. So the shapes of all arrays are compared with them first.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

FEATURES_MULTIPLE = 16
DTYPES = (torch.float32, torch.float64)
MAX_PIXELS, MAX_CHANNELS = 4096, 8192  # limits of a layer, so that products of sizes fit into 64 bits
LINES = {
    (2, 2): [[1, 0], [1, 1], [0, 1]],
    (2, 3): [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
    (3, 2): [[1, 0], [0.5, 0.5], [0.5, -0.5], [0, 1]],
}
"""Winograd's matrix G by (m, r), outputs of a tile and taps. It maps a line of a kernel to a factor for each point."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """The sizes of a convolution of stride 2, from wide to narrow images, or a transposed one, from narrow to wide.

    Attributes:
        kernel: pixels of the kernel along a side: 4 or 6. A kernel of 5 is padded with zeros to 6.
        wide: pixels along a side of a wide image.
        channels: numbers of a wide pixel.
        narrow: pixels along a side of a narrow image.
        features: numbers of a narrow pixel, a multiple of 16.
        relu: whether a ReLU follows a transposed convolution; a convolution always has one.
        tile: narrow pixels along a side that are computed at once; 3 needs fewer products if it divides `narrow`.

    Raises:
        ValueError: the C library has no algorithm for these sizes.
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
        """Length of the kernel along a side, in blocks of two pixels."""
        return self.kernel // 2

    @property
    def covered_pixels(self) -> int:
        """Pixels along a side of a wide image that the tiles read or write."""
        return 2 * (-(-self.narrow // self.tile) * self.tile + self.taps - 1)

    @property
    def padded_channels(self) -> int:
        """Number of channels, padded to a multiple of 4 for the computation."""
        return -(-self.channels // 4) * 4

    def shapes(self, images: int) -> dict[str, tuple[int, ...]]:
        """Shapes of a batch of wide images, of narrow images, and of the weights."""
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
"""Arrays that each function of the C library needs. `deconv_backward` also needs `wide` if the layer has a ReLU."""


def check_arrays(
    function: str, layer: Layer, images: int, dtype: torch.dtype, arrays: Mapping[str, Tensor | None]
) -> None:
    """Check the arrays of a call, so that C never reads or writes beyond their ends.

    Args:
        function: name of the C function without its prefix.
        layer: the sizes.
        images: number of images.
        dtype: dtype of the weights.
        arrays: arrays by the names of `_NEEDED`.

    Raises:
        ValueError: an array is missing, or has another shape, dtype, device or order in memory than the layer's.
    """
    is_conv, function = function.startswith("conv"), function.removesuffix("_packed")
    if dtype not in DTYPES:
        raise ValueError(f"weights are {dtype}; C computes in float32 and float64")
    misfits = layer.wide < layer.covered_pixels if is_conv else layer.wide > layer.covered_pixels
    if misfits and function != "pack":  # packed weights do not depend on the width of images
        raise ValueError(f"wide images of {layer.wide} pixels a side, and the tiles see {layer.covered_pixels}")
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
