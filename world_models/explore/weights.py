"""A model's networks as a list of layers, so that the page's JavaScript computes any network without knowing its name.

There are two kinds of layers: `conv` is a convolution and `deconv` a transposed one. A linear layer is a convolution of
an image of one pixel. Images are height x width x channel in the page, so weights that read or write flattened images
are sorted anew.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float16, Float64
from torch import nn

from world_models.runtime.typed_json import Json
from world_models.vae.digit_networks import DenseDecoder, DenseEncoder, DigitDecoder, DigitEncoder
from world_models.vae.model import VAE
from world_models.vae.networks import Decoder, Encoder

Size = tuple[int, int, int]
"""Height, width and channels."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        kind: a convolution, or a transposed one.
        input, output: sizes of the images.
        kernel: its weights.
        bias: one number for each output channel.
        stride, padding: of the convolution.
        relu: whether negative results become 0.
    """

    kind: Literal["conv", "deconv"]
    input: Size
    output: Size
    kernel: Float64[np.ndarray, "rows columns inputs outputs"]
    bias: Float64[np.ndarray, " outputs"]
    stride: int = 1
    padding: int = 0
    relu: bool = False

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear layer: its input is a single pixel, and every weight is used once."""
        return self.input[:2] == (1, 1) and self.padding == 0


def layers(vae: VAE) -> dict[str, list[Layer]]:
    """The layers of a model's `encoder` and `decoder`.

    The encoder's last layer gives mu and, after it, logvar. A conditional model has the class, one-hot, at the end of
    the first layer's input.
    """
    height, width, channels = vae.frame_shape
    image = (height, width, channels)
    return {"encoder": _joined(_encoder(vae.encoder, image)), "decoder": _joined(_decoder(vae.decoder))}


def _encoder(encoder: Encoder | DenseEncoder | DigitEncoder, image: Size) -> list[Layer]:
    if isinstance(encoder, DenseEncoder):
        return [*(_linear(each, relu=True) for each in _linears(encoder.layers)), _heads(encoder)]
    found: list[Layer] = []
    for conv in (module for module in encoder.children() if isinstance(module, nn.Conv2d)):
        found.append(_conv(conv, found[-1].output if found else image))
    return [*found, _heads(encoder, found[-1].output)]


def _decoder(decoder: Decoder | DenseDecoder | DigitDecoder) -> list[Layer]:
    if isinstance(decoder, DenseDecoder):
        return [*(_linear(each, relu=True) for each in _linears(decoder.layers)), _linear(decoder.pixels)]
    deconvs = [module for module in decoder.children() if isinstance(module, nn.ConvTranspose2d)]
    first = deconvs[0]
    side = math.isqrt(decoder.linear.out_features // first.in_channels)
    size = (side, side, first.in_channels)
    found = [_linear(decoder.linear, relu=isinstance(decoder, DigitDecoder), writes=size)]
    for deconv in deconvs:
        found.append(_deconv(deconv, size, relu=deconv is not deconvs[-1]))
        size = found[-1].output
    return found


def _linears(modules: nn.ModuleList) -> list[nn.Linear]:
    return [module for module in modules if isinstance(module, nn.Linear)]


def _heads(encoder: Encoder | DenseEncoder | DigitEncoder, reads: Size | None = None) -> Layer:
    """The linear layers to mu and logvar, as one layer."""
    heads = [_linear(head, reads=reads) for head in (encoder.mu, encoder.logvar) if head is not None]
    return dataclasses.replace(
        heads[0],
        output=(1, 1, sum(len(head.bias) for head in heads)),
        kernel=np.concatenate([head.kernel for head in heads], 3),
        bias=np.concatenate([head.bias for head in heads]),
    )


def _linear(module: nn.Linear, relu: bool = False, reads: Size | None = None, writes: Size | None = None) -> Layer:
    """A linear layer that reads or writes an image, if its size is given.

    PyTorch flattens an image channel by channel, and the page pixel by pixel.
    """
    weight, bias = _numbers(module.weight).T, _numbers(module.bias)
    if reads:
        weight = weight[_by_pixel(reads)]
    if writes:
        weight, bias = weight[:, _by_pixel(writes)], bias[_by_pixel(writes)]
    size_in, size_out = (1, 1, weight.shape[0]), (1, 1, weight.shape[1])
    return Layer("conv", size_in, size_out, weight[None, None], bias, relu=relu)


def _by_pixel(size: Size) -> np.ndarray:
    """For each value of an image, pixel by pixel, its position in the image that is sorted by channels."""
    height, width, channels = size
    return np.arange(math.prod(size)).reshape(channels, height, width).transpose(1, 2, 0).reshape(-1)


def _conv(module: nn.Conv2d, size: Size) -> Layer:
    kernel = _numbers(module.weight).transpose(2, 3, 1, 0)
    side, stride, padding = len(kernel), module.stride[0], int(module.padding[0])
    height, width = ((each + 2 * padding - side) // stride + 1 for each in size[:2])
    output = (height, width, module.out_channels)
    return Layer("conv", size, output, kernel, _bias(module), stride, padding, relu=True)


def _deconv(module: nn.ConvTranspose2d, size: Size, relu: bool) -> Layer:
    kernel = _numbers(module.weight).transpose(2, 3, 0, 1)
    side, stride, padding = len(kernel), module.stride[0], int(module.padding[0])
    height, width = ((each - 1) * stride - 2 * padding + side for each in size[:2])
    output = (height, width, module.out_channels)
    return Layer("deconv", size, output, kernel, _bias(module), stride, padding, relu)


def _bias(module: nn.Conv2d | nn.ConvTranspose2d) -> Float64[np.ndarray, " outputs"]:
    assert module.bias is not None, "our networks have biases"
    return _numbers(module.bias)


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _joined(found: Sequence[Layer]) -> list[Layer]:
    """Join two linear layers without a ReLU in between into one, if that takes fewer weights.

    The paper's decoder begins with two such layers. They have three quarters of the model's weights, and their product
    has a thirtieth of that.
    """
    first, second, *rest = found
    if first.relu or not (first.is_linear and second.is_linear):
        return [*found]
    taps = np.moveaxis(second.kernel, 2, 0).reshape(first.output[2], -1)  # (inputs, rows x columns x outputs)
    product = first.kernel[0, 0] @ taps
    if product.size > first.kernel.size + second.kernel.size:
        return [*found]
    bias = first.bias @ taps + np.tile(second.bias, taps.shape[1] // len(second.bias))
    joined = Layer("conv", first.input, (1, 1, len(bias)), product[None, None], bias, relu=second.relu)
    return [joined, *rest]


def packed(networks: Mapping[str, Sequence[Layer]]) -> tuple[dict[str, Json], Float16[np.ndarray, " weights"]]:
    """All weights in one array of float16, and a description of the layers that says where each layer's weights are.

    A layer's weights and biases are divided by the power of two above their largest, so that float16 can hold them.
    """
    numbers: list[np.ndarray] = []
    described: dict[str, Json] = {}
    start = 0
    for name, network in networks.items():
        listed: list[Json] = []
        for layer in network:
            places: dict[str, Json] = {}
            for part, values in (("kernel", layer.kernel), ("bias", layer.bias)):
                scale = _power_of_two_above(values)
                numbers.append((values / scale).astype(np.float16).reshape(-1))
                places[part] = {"start": start, "scale": scale}
                start += values.size
            listed.append(
                {
                    "kind": layer.kind,
                    "input": list(layer.input),
                    "output": list(layer.output),
                    "side": len(layer.kernel),
                    "stride": layer.stride,
                    "padding": layer.padding,
                    "relu": layer.relu,
                    **places,
                }
            )
        described[name] = listed
    return described, np.concatenate(numbers)


def _power_of_two_above(values: np.ndarray) -> float:
    largest = float(np.abs(values).max())
    return 2.0 ** math.ceil(math.log2(largest)) if largest > 0 else 1.0
