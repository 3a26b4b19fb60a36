"""Strided convolutions on a CPU by Winograd's algorithm: `_winograd.c` as functions that autograd knows.

A convolution with a kernel of 2r x 2r and stride 2 takes (m + r - 1)^2 products for m x m outputs instead of (m r)^2:
about half. Its weights are transformed once (`transform_weights`, in PyTorch, differentiable) and used for many images.
Images are channel-last. Many threads may call at once, and one call computes on its own thread alone.
"""

import ctypes
import dataclasses
import functools
import importlib.util
import math
import threading
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

FEATURES_MULTIPLE = 16
_LINES = {
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
    """

    kernel: Literal[4, 6]
    wide: int
    channels: int
    narrow: int
    features: int
    relu: bool = True
    tile: Literal[2, 3] = 2

    def __post_init__(self):
        assert self.features % FEATURES_MULTIPLE == 0, "a narrow pixel fills whole vectors"
        assert (self.tile, self.taps) in _LINES, "there is no such algorithm"

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


class _Layer(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("taps", "tile", "width", "channels", "stored", "bytes", "size", "features", "relu")
    )


_NAMES = ("wide", "narrow", "weights", "bias")


class _Arrays(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in (*_NAMES, *(f"{name}_gradient" for name in _NAMES)))


@functools.cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("world_models._winograd")
    if spec is None or spec.origin is None:
        raise ImportError("the C convolutions were not built; install a C compiler, then the package again")
    library = ctypes.CDLL(spec.origin)
    library.winograd_struct_bytes.restype = library.winograd_work_bytes.restype = ctypes.c_int64
    if library.winograd_struct_bytes() != ctypes.sizeof(_Layer) + 1000 * ctypes.sizeof(_Arrays):
        raise ImportError("the C convolutions are of another version; install the package again")
    return library


def is_available() -> bool:
    """Whether the C library was built."""
    try:
        _library()
    except (ImportError, OSError, AttributeError):
        return False
    return True


@functools.cache
def instruction_set() -> int:
    """The fastest that this processor has: 0 portable, 1 AVX2, 2 AVX-512."""
    return _library().winograd_best()


_memory = threading.local()


def _kept(name: str, size: int, dtype: torch.dtype) -> Tensor:
    """Memory of this thread, used again and again since fresh memory is slow to touch; it grows when it must."""
    have = getattr(_memory, name, None)
    if have is None or have.dtype != dtype or have.numel() < size:
        have = torch.empty(size, dtype=dtype)
        setattr(_memory, name, have)
    return have


def _work(size: int) -> int:
    """Working memory of a call, at an address that vectors like."""
    start = _kept("work", size + 64, torch.uint8).data_ptr()
    return start + -start % 64


def _call(function: str, layer: Layer, images: int, dtype: torch.dtype, **arrays: Tensor | None) -> None:
    library, number_bytes = _library(), dtype.itemsize
    wide = arrays.get("wide")
    sizes = _Layer(
        taps=layer.taps,
        tile=layer.tile,
        width=layer.wide,
        channels=layer.padded_channels,
        stored=layer.channels,
        bytes=wide is not None and wide.dtype == torch.uint8,
        size=layer.narrow,
        features=layer.features,
        relu=layer.relu,
    )
    for array in arrays.values():
        assert array is None or array.is_contiguous(), "C reads memory in one order"
    pointers = _Arrays(**{name: array.data_ptr() for name, array in arrays.items() if array is not None})
    work = _work(library.winograd_work_bytes(ctypes.byref(sizes), number_bytes))
    getattr(library, f"winograd_{function}")(
        instruction_set(),
        number_bytes,
        ctypes.byref(sizes),
        ctypes.c_int64(images),
        ctypes.c_void_p(work),
        ctypes.byref(pointers),
    )


def transform_weights(
    weights: Float[Tensor, "features channels kernel kernel"], tile: int = 2
) -> Float[Tensor, "points depth features"]:
    """Weights as `conv` and `deconv` take them: (m + r - 1)^2 matrices, from a block's numbers to features.

    A 5x5 kernel gets zeros at its end, which change nothing.
    """
    features, channels, kernel, _ = weights.shape
    padded = F.pad(weights, (0, kernel % 2, 0, kernel % 2, 0, -channels % 4)) if kernel % 2 or channels % 4 else weights
    taps = padded.shape[2] // 2
    # To (tap, tap, row, column, channel, feature) by steps that each copy whole runs: ten times faster than at once.
    pixels_last = padded.flatten(2).transpose(0, 1).contiguous().flatten(0, 1)
    pixels_first = pixels_last.t().contiguous().unflatten(0, (taps, 2, taps, 2))
    taps_first = pixels_first.transpose(1, 2).reshape(taps * taps, -1)
    lines = torch.tensor(_LINES[tile, taps], dtype=weights.dtype)
    return (torch.kron(lines, lines) @ taps_first).reshape((tile + taps - 1) ** 2, -1, features)


def _room_like(weights: Tensor, images: int) -> Tensor:
    """Where a gradient is written, or what it is of no images."""
    return torch.empty_like(weights) if images else torch.zeros_like(weights)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wide: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Tensor:
        narrow = weights.new_empty(len(wide), layer.narrow, layer.narrow, layer.features)
        _call("conv", layer, len(wide), weights.dtype, wide=wide, weights=weights, bias=bias, narrow=narrow)
        ctx.layer = layer
        ctx.save_for_backward(wide, weights, narrow)
        return narrow

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        wide, weights, narrow = ctx.saved_tensors
        wide_gradient = torch.empty_like(wide) if ctx.needs_input_grad[0] else None
        assert wide_gradient is None or ctx.layer.channels % 4 == 0, "nobody asks for the gradient of pixels"
        weights_gradient, bias_gradient = _room_like(weights, len(wide)), weights.new_zeros(ctx.layer.features)
        _call(
            "conv_backward",
            ctx.layer,
            len(wide),
            weights.dtype,
            wide=wide,
            weights=weights,
            narrow=narrow,
            narrow_gradient=gradients[0].contiguous(),
            weights_gradient=weights_gradient,
            bias_gradient=bias_gradient,
            wide_gradient=wide_gradient,
        )
        return wide_gradient, weights_gradient, bias_gradient, None


class _Deconv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, narrow: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Tensor:
        wide = weights.new_empty(len(narrow), layer.wide, layer.wide, layer.channels)
        _call("deconv", layer, len(narrow), weights.dtype, narrow=narrow, weights=weights, bias=bias, wide=wide)
        ctx.layer = layer
        ctx.save_for_backward(narrow, weights, *([wide] if layer.relu else []))
        return wide

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        narrow, weights, *wide = ctx.saved_tensors
        narrow_gradient, weights_gradient = torch.empty_like(narrow), _room_like(weights, len(narrow))
        bias_gradient = weights.new_zeros(ctx.layer.channels)
        _call(
            "deconv_backward",
            ctx.layer,
            len(narrow),
            weights.dtype,
            narrow=narrow,
            weights=weights,
            wide=wide[0] if wide else None,
            wide_gradient=gradients[0].contiguous(),
            weights_gradient=weights_gradient,
            bias_gradient=bias_gradient,
            narrow_gradient=narrow_gradient,
        )
        return narrow_gradient, weights_gradient, bias_gradient, None


def conv(
    wide: Float[Tensor, "batch wide wide channels"] | UInt8[Tensor, "batch wide wide channels"],
    weights: Float[Tensor, "points depth features"],
    bias: Float[Tensor, " features"],
    layer: Layer,
) -> Float[Tensor, "batch narrow narrow features"]:
    """ReLU(convolution + bias); a gradient for `wide` needs channels that are a multiple of 4."""
    assert layer.wide >= layer.seen, "every pixel that the tiles see is there"
    return _Conv.apply(wide, weights, bias, layer)  # type: ignore[return-value]


def conv_chain(
    wide: Float[Tensor, "batch wide wide channels"] | UInt8[Tensor, "batch wide wide channels"],
    weights: Sequence[Tensor],
    layers: Sequence[Layer],
) -> Float[Tensor, "batch narrow narrow features"]:
    """One `conv` after the other without gradients, in memory that is used again: good until this thread's next call.

    Args:
        wide: the first one's images.
        weights: transformed weights and bias of each in turn.
        layers: their sizes.
    """
    for index, (layer, transformed, bias) in enumerate(zip(layers, weights[::2], weights[1::2], strict=True)):
        shape = (len(wide), layer.narrow, layer.narrow, layer.features)
        narrow = _kept(f"images_{index}", math.prod(shape), transformed.dtype)[: math.prod(shape)].view(shape)
        _call("conv", layer, len(wide), transformed.dtype, wide=wide, weights=transformed, bias=bias, narrow=narrow)
        wide = narrow
    return wide


def deconv(
    narrow: Float[Tensor, "batch narrow narrow features"],
    weights: Float[Tensor, "points depth features"],
    bias: Float[Tensor, " channels"],
    layer: Layer,
) -> Float[Tensor, "batch wide wide channels"]:
    """Transposed convolution + bias, and a ReLU if the layer has one; cut to `wide` pixels a side."""
    return _Deconv.apply(narrow, weights, bias, layer)  # type: ignore[return-value]
