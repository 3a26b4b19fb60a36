"""Strided convolutions on a CPU by Winograd's algorithm: `_winograd.c` as autograd functions.

A convolution with a kernel of 2r x 2r and stride 2 takes (m + r - 1)^2 products for m x m outputs instead of (m r)^2:
about half. `transform_weights` transforms the weights once, by differentiable PyTorch operations, for many images.
Without gradients `pack` packs them once too, because packing takes longer than the convolution of a few images.
Images are channel-last. Each call uses one thread. Several threads may call at once.
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

from world_models.vae.fast.winograd_layer import LINES, Layer, check_arrays


class _Layer(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("taps", "tile", "width", "channels", "stored", "bytes", "size", "features", "relu")
    )


_NAMES = ("wide", "narrow", "weights", "bias")


class _Arrays(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in (*_NAMES, *(f"{name}_gradient" for name in _NAMES)))


@functools.cache
def load_library() -> ctypes.CDLL:
    """Load the C library.

    Raises:
        ImportError: the library was not built, or was built for another version of this file.
    """
    spec = importlib.util.find_spec("world_models.vae.fast._winograd")
    if spec is None or spec.origin is None:
        raise ImportError("the C convolutions were not built; install a C compiler, then the package again")
    library = ctypes.CDLL(spec.origin)
    library.winograd_struct_bytes.restype = library.winograd_work_bytes.restype = ctypes.c_int64
    library.winograd_pack.restype = None
    if library.winograd_struct_bytes() != ctypes.sizeof(_Layer) + 1000 * ctypes.sizeof(_Arrays):
        raise ImportError("the C convolutions belong to another version; install the package again")
    return library


def is_available() -> bool:
    """Whether the C library was built."""
    try:
        load_library()
    except (ImportError, OSError, AttributeError):
        return False
    return True


@functools.cache
def instruction_set() -> int:
    """The fastest instruction set of this processor: 0 portable, 1 AVX2, 2 AVX-512."""
    return load_library().winograd_best()


_memory = threading.local()


def kept_memory(name: str, size: int, dtype: torch.dtype) -> Tensor:
    """Memory of this thread for at least `size` numbers. It is reused, because the first access to memory is slow."""
    memory = getattr(_memory, name, None)
    if memory is None or memory.dtype != dtype or memory.numel() < size:
        memory = torch.empty(size, dtype=dtype)
        setattr(_memory, name, memory)
    return memory


def _work(size: int) -> int:
    """Address of `size` bytes of working memory for a call, aligned for vector instructions."""
    start = kept_memory("work", size + 64, torch.uint8).data_ptr()
    return start + -start % 64


@dataclasses.dataclass(frozen=True)
class Packed:
    """Transformed weights in the order in which the C library reads them on this processor."""

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
        ValueError: they have another shape, dtype, device or order in memory than the layer's.
    """
    check_arrays("pack", layer, 0, weights.dtype, {"weights": weights})
    packed = torch.empty_like(weights)
    load_library().winograd_pack(
        instruction_set(),
        weights.dtype.itemsize,
        ctypes.byref(_sizes(layer, False)),
        int(function == "deconv"),
        ctypes.c_void_p(weights.data_ptr()),
        ctypes.c_void_p(packed.data_ptr()),
    )
    return Packed(packed)


def call(function: str, layer: Layer, images: int, dtype: torch.dtype, **arrays: Tensor | None) -> None:
    """Check all arrays and call a function of the C library. All calls with images go through here.

    Raises:
        ValueError: an array is missing, or has another shape, dtype, device or order in memory than the layer's.
    """
    check_arrays(function, layer, images, dtype, arrays)
    if not images:
        return
    library, number_bytes = load_library(), dtype.itemsize
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
    """Transform weights (features, channels, kernel, kernel) for `conv` and `deconv`.

    The result is (m + r - 1)^2 matrices, each from a block's numbers to features. A 5x5 kernel is padded with zeros to
    6x6, which does not change the result.

    Raises:
        ValueError: the kernels are not square, or there is no algorithm for them with tiles of this size.
    """
    if weights.ndim != 4 or weights.shape[2] != weights.shape[3] or (tile, -(-weights.shape[2] // 2)) not in LINES:
        raise ValueError(f"weights of shape {tuple(weights.shape)} and tiles of {tile}; there is no such algorithm")
    features, channels, kernel, _ = weights.shape
    padded = F.pad(weights, (0, kernel % 2, 0, kernel % 2, 0, -channels % 4)) if kernel % 2 or channels % 4 else weights
    taps = padded.shape[2] // 2
    # To (tap, tap, row, column, channel, feature). Each step copies long runs: ten times faster than in one step.
    pixels_last = padded.flatten(2).transpose(0, 1).contiguous().flatten(0, 1)
    pixels_first = pixels_last.t().contiguous().unflatten(0, (taps, 2, taps, 2))
    taps_first = pixels_first.transpose(1, 2).reshape(taps * taps, -1)
    lines = torch.tensor(LINES[tile, taps], dtype=weights.dtype)
    return (torch.kron(lines, lines) @ taps_first).reshape((tile + taps - 1) ** 2, -1, features)


def num_images(images: Tensor) -> int:
    """Number of images of a batch. A tensor without axes gives 0; `call` refuses it."""
    return len(images) if images.ndim else 0


def _room_like(weights: Tensor, images: int) -> Tensor:
    """An uninitialised gradient for C to write, or zeros if there are no images."""
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
        wide: images (batch, wide, wide, channels), of the weights' dtype or uint8. Their gradient is computed only if
            the number of channels is a multiple of 4.
        weights: transformed weights (points, depth, features), float32 or float64.
        bias: bias (features,).
        layer: the sizes.

    Raises:
        ValueError: an array has another shape, dtype, device or order in memory.
    """
    return _Conv.apply(wide, weights, bias, layer)  # type: ignore[return-value]


def deconv(narrow: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Float[Tensor, "batch wide wide channels"]:
    """Transposed convolution + bias, cut to `wide` pixels along a side, then a ReLU if the layer has one.

    Args:
        narrow: images (batch, narrow, narrow, features), of the weights' dtype.
        weights: transformed weights (points, depth, features), float32 or float64.
        bias: bias (channels,).
        layer: the sizes.

    Raises:
        ValueError: an array has another shape, dtype, device or order in memory.
    """
    return _Deconv.apply(narrow, weights, bias, layer)  # type: ignore[return-value]
