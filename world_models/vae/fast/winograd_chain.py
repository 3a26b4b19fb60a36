"""Several layers of `winograd.py` one after the other, without gradients, in memory that is reused."""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from world_models.vae.fast import winograd
from world_models.vae.fast.winograd import Packed
from world_models.vae.fast.winograd_layer import Layer

Weights = Sequence[Tensor | Packed]
"""For each layer in order: transformed weights, packed or not, and a bias."""


def conv_chain(
    wide: Tensor, weights: Weights, layers: Sequence[Layer]
) -> Float[Tensor, "batch narrow narrow features"]:
    """Compute convolutions, each with a ReLU. The next call in the same thread overwrites the result.

    Args:
        wide: images of the first layer, of the weights' dtype or uint8.
        weights: weights of the layers.
        layers: sizes of the layers.

    Raises:
        ValueError: as in `winograd.conv`.
    """
    for index, (layer, transformed, bias) in enumerate(_layers(layers, weights)):
        shape = layer.shapes(winograd.num_images(wide))["narrow"]
        narrow = _kept(f"narrow_{index}", shape, bias.dtype)
        _call("conv", layer, transformed, wide=wide, narrow=narrow, bias=bias)
        wide = narrow
    return wide


def deconv_chain(
    narrow: Tensor, weights: Weights, layers: Sequence[Layer]
) -> Float[Tensor, "batch wide wide channels"]:
    """Compute transposed convolutions. The result is a new tensor, which later calls do not overwrite.

    Args:
        narrow: images of the first layer, of the weights' dtype.
        weights: weights of the layers.
        layers: sizes of the layers.

    Raises:
        ValueError: as in `winograd.deconv`.
    """
    for index, (layer, transformed, bias) in enumerate(_layers(layers, weights)):
        shape, is_last = layer.shapes(winograd.num_images(narrow))["wide"], index == len(layers) - 1
        wide = torch.empty(shape, dtype=bias.dtype) if is_last else _kept(f"wide_{index}", shape, bias.dtype)
        _call("deconv", layer, transformed, narrow=narrow, wide=wide, bias=bias)
        narrow = wide
    return narrow


def _layers(layers: Sequence[Layer], weights: Weights) -> Iterator[tuple[Layer, Tensor | Packed, Tensor]]:
    return zip(layers, weights[::2], weights[1::2], strict=True)  # type: ignore[return-value]: biases are tensors


def _kept(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = math.prod(shape)
    return winograd.kept_memory(name, size, dtype)[:size].view(shape)


def _call(function: str, layer: Layer, weights: Tensor | Packed, *, bias: Tensor, **images: Tensor) -> None:
    if isinstance(weights, Packed):
        function, weights = f"{function}_packed", weights.values
    count = winograd.num_images(next(iter(images.values())))
    winograd.call(function, layer, count, bias.dtype, weights=weights, bias=bias, **images)
