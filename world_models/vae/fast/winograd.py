"""Strided convolutions on a CPU by Winograd's algorithm: `_winograd.c` as functions that autograd knows.

A convolution with a kernel of 2r x 2r and stride 2 takes (m + r - 1)^2 products for m x m outputs instead of (m r)^2:
about half. Its weights are transformed once (`transform_weights`, in PyTorch, differentiable) and used for many images.
Without gradients they may be packed once, too: to pack them takes longer than to convolve a few images.
Images are channel-last. Many threads may call at once, and one call computes on its own thread alone.
"""

import ctypes
import dataclasses
import functools
import importlib.util
import threading
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from world_models.vae.fast.winograd_layer import DTYPES as DTYPES
from world_models.vae.fast.winograd_layer import LINES, check_arrays
from world_models.vae.fast.winograd_layer import Layer as Layer


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
    spec = importlib.util.find_spec("world_models.vae.fast._winograd")
    if spec is None or spec.origin is None:
        raise ImportError("the C convolutions were not built; install a C compiler, then the package again")
    library = ctypes.CDLL(spec.origin)
    library.winograd_struct_bytes.restype = library.winograd_work_bytes.restype = ctypes.c_int64
    library.winograd_pack.restype = None
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


def kept_memory(name: str, size: int, dtype: torch.dtype) -> Tensor:
    """Memory of this thread, which is reused because fresh memory is slow to touch. It grows as needed."""
    have = getattr(_memory, name, None)
    if have is None or have.dtype != dtype or have.numel() < size:
        have = torch.empty(size, dtype=dtype)
        setattr(_memory, name, have)
    return have


def _work(size: int) -> int:
    """Working memory of a call, aligned for vector instructions."""
    start = kept_memory("work", size + 64, torch.uint8).data_ptr()
    return start + -start % 64


@dataclasses.dataclass(frozen=True)
class Packed:
    """Transformed weights in the order in which C reads them here."""

    values: Float[Tensor, "points depth features"]


def _sizes(layer: Layer, as_bytes: bool) -> _Layer:
    return _Layer(
        taps=layer.taps,
        tile=layer.tile,
        width=layer.wide,
        channels=layer.padded_channels,
        stored=layer.channels,
        bytes=as_bytes,
        size=layer.narrow,
        features=layer.features,
        relu=layer.relu,
    )


def pack(weights: Tensor, layer: Layer, function: Literal["conv", "deconv"]) -> Packed:
    """Pack transformed weights once, for many calls of `winograd_chain`.

    Raises:
        ValueError: they are of another shape, dtype, device or order in memory than the layer's.
    """
    check_arrays("pack", layer, 0, weights.dtype, {"weights": weights})
    packed = torch.empty_like(weights)
    _library().winograd_pack(
        instruction_set(),
        weights.dtype.itemsize,
        ctypes.byref(_sizes(layer, False)),
        int(function == "deconv"),
        ctypes.c_void_p(weights.data_ptr()),
        ctypes.c_void_p(packed.data_ptr()),
    )
    return Packed(packed)


def call(function: str, layer: Layer, images: int, dtype: torch.dtype, **arrays: Tensor | None) -> None:
    """Call C: the one place where it is given images; all memory is checked first.

    Raises:
        ValueError: an array is missing, or of another shape, dtype, device or order in memory than the layer's.
    """
    check_arrays(function, layer, images, dtype, arrays)
    if not images:
        return
    library, number_bytes = _library(), dtype.itemsize
    wide = arrays.get("wide")
    sizes = _sizes(layer, wide is not None and wide.dtype == torch.uint8)
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


def transform_weights(weights: Tensor, tile: int = 2) -> Float[Tensor, "points depth features"]:
    """Weights (features, channels, kernel, kernel) as `conv` and `deconv` take them.

    They become (m + r - 1)^2 matrices, from a block's numbers to features.
    A 5x5 kernel gets zeros at its end, which change nothing.

    Raises:
        ValueError: no square kernels, or none that a tile of this size has an algorithm for.
    """
    if weights.ndim != 4 or weights.shape[2] != weights.shape[3] or (tile, -(-weights.shape[2] // 2)) not in LINES:
        raise ValueError(f"weights of shape {tuple(weights.shape)} and tiles of {tile}; there is no such algorithm")
    features, channels, kernel, _ = weights.shape
    padded = F.pad(weights, (0, kernel % 2, 0, kernel % 2, 0, -channels % 4)) if kernel % 2 or channels % 4 else weights
    taps = padded.shape[2] // 2
    # To (tap, tap, row, column, channel, feature) by steps that each copy whole runs: ten times faster than at once.
    pixels_last = padded.flatten(2).transpose(0, 1).contiguous().flatten(0, 1)
    pixels_first = pixels_last.t().contiguous().unflatten(0, (taps, 2, taps, 2))
    taps_first = pixels_first.transpose(1, 2).reshape(taps * taps, -1)
    lines = torch.tensor(LINES[tile, taps], dtype=weights.dtype)
    return (torch.kron(lines, lines) @ taps_first).reshape((tile + taps - 1) ** 2, -1, features)


def num_images(images: Tensor) -> int:
    """Of a batch; what has no axis is refused later, by `call`."""
    return len(images) if images.ndim else 0


def _room_like(weights: Tensor, images: int) -> Tensor:
    """Where a gradient is written, or what it is of no images."""
    return torch.empty_like(weights) if images else torch.zeros_like(weights)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wide: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Tensor:
        images = num_images(wide)
        narrow = weights.new_empty(layer.shapes(images)["narrow"])
        call("conv", layer, images, weights.dtype, wide=wide, weights=weights, bias=bias, narrow=narrow)
        ctx.layer = layer
        ctx.save_for_backward(wide, weights, narrow)
        return narrow

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, None]:
        wide, weights, narrow = ctx.saved_tensors
        wide_gradient = torch.empty_like(wide) if ctx.needs_input_grad[0] else None
        weights_gradient, bias_gradient = _room_like(weights, len(wide)), weights.new_zeros(ctx.layer.features)
        call(
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
        images = num_images(narrow)
        wide = weights.new_empty(layer.shapes(images)["wide"])
        call("deconv", layer, images, weights.dtype, narrow=narrow, weights=weights, bias=bias, wide=wide)
        ctx.layer = layer
        ctx.save_for_backward(narrow, weights, *([wide] if layer.relu else []))
        return wide

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        narrow, weights, *wide = ctx.saved_tensors
        narrow_gradient, weights_gradient = torch.empty_like(narrow), _room_like(weights, len(narrow))
        bias_gradient = weights.new_zeros(ctx.layer.channels)
        call(
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


def conv(wide: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Float[Tensor, "batch narrow narrow features"]:
    """ReLU(convolution + bias).

    Args:
        wide: images (batch, wide, wide, channels), of the weights' dtype or uint8. Their gradient needs channels that
            are a multiple of 4.
        weights: transformed ones, (points, depth, features), float32 or float64.
        bias: (features,).
        layer: the sizes.

    Raises:
        ValueError: something is of another shape, dtype, device or order in memory.
    """
    return _Conv.apply(wide, weights, bias, layer)  # type: ignore[return-value]


def deconv(narrow: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Float[Tensor, "batch wide wide channels"]:
    """Transposed convolution + bias, and a ReLU if the layer has one; cut to `wide` pixels a side.

    Args:
        narrow: images (batch, narrow, narrow, features), of the weights' dtype.
        weights: transformed ones, (points, depth, features), float32 or float64.
        bias: (channels,).
        layer: the sizes.

    Raises:
        ValueError: something is of another shape, dtype, device or order in memory.
    """
    return _Deconv.apply(narrow, weights, bias, layer)  # type: ignore[return-value]
