"""Faster forms of the paper's networks. They compute the functions that `networks.py` defines, with its parameters.

There are two forms. `choose` names the form for a device:

- *winograd*, for a CPU. `winograd.py` computes the strided convolutions with fewer multiplications. The decoder's
  linear layer and its first transposed convolution become one matrix, because there is no activation between them.
  Both heads become one matrix. The last row and column of the first convolution are left out, because the second does
  not read them. Weights are prepared once, by differentiable operations, and used for any number of batches.
- *rewritten*, for a GPU, or a CPU without the C library. The first convolution works on blocks of pixels. Both heads
  become one matrix. The first transposed convolution is a matrix product, and the last is a sub-pixel convolution (Shi
  et al. 2016).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from world_models.runtime.threads import in_threads
from world_models.vae import inputs
from world_models.vae.fast import winograd, winograd_chain, winograd_layer
from world_models.vae.fast.prepared import PreparedOnce
from world_models.vae.fast.winograd_layer import Layer
from world_models.vae.networks import IMAGE_SHAPES, Decoder, Encoder

CONVS = (
    Layer(4, 64, 3, 30, 32, tile=3),
    Layer(4, 30, 32, 14, 64),
    Layer(4, 14, 64, 6, 128, tile=3),
    Layer(4, 6, 128, 2, 256),
)
DECONVS = (Layer(6, 13, 64, 5, 128), Layer(6, 30, 32, 13, 64), Layer(6, 64, 3, 30, 32, relu=False))
MIN_PART = 8
"""In training, a thread gets at least this many frames."""
MIN_ENCODED_PART = 4
"""Without gradients, a thread gets at least this many frames or latents."""

Pixels = Float[Tensor, "batch 64 64 3"] | UInt8[Tensor, "batch 64 64 3"]
Weights = tuple[Any, ...]
"""A network's weights for the winograd form: tensors, or packed weights if no gradient is needed."""


def choose(device: torch.device) -> Literal["winograd", "rewritten"]:
    """The fastest form on a device. Under autocast it is not winograd, because the C library ignores autocast."""
    on_cpu = device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return "winograd" if on_cpu and winograd.is_available() else "rewritten"


def _by_winograd(weight: Tensor) -> bool:
    """Whether layers with such weights are computed in C, which supports float32 and float64."""
    return choose(weight.device) == "winograd" and weight.dtype in winograd_layer.DTYPES


def encode(encoder: Encoder, images: Tensor) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"]]:
    """Mu and logvar of images (batch, 3, 64, 64): the result of `encoder(images)`.

    Raises:
        ValueError: the images have another shape, dtype or device than the encoder takes.
    """
    inputs.check_batch("images", images, IMAGE_SHAPES["paper"], encoder.conv1.weight)
    if images.requires_grad or not _by_winograd(encoder.conv1.weight):  # C computes no gradient of pixels
        return _rewritten_encoder(encoder, images)
    pixels = images.permute(0, 2, 3, 1).contiguous()
    return run_encoder(prepare_encoder(encoder), pixels) if torch.is_grad_enabled() else _encode_pixels(encoder, pixels)


@torch.no_grad()
def encode_frames(
    encoder: Encoder, frames: UInt8[Tensor, "batch 64 64 3"]
) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"]]:
    """Mu and logvar of frames on the encoder's device, without gradients. Several threads may call it at once."""
    weight = encoder.conv1.weight
    if not _by_winograd(weight):
        return _rewritten_encoder(encoder, frames.permute(0, 3, 1, 2).to(weight.dtype) / 255)
    return _encode_pixels(encoder, frames.contiguous())


def _encode_pixels(encoder: Encoder, pixels: Pixels) -> tuple[Tensor, Tensor]:
    weights = _packed_encoder(encoder)
    parts = in_threads(lambda part: run_encoder(weights, part), split(pixels, MIN_ENCODED_PART))
    mu, logvar = zip(*parts, strict=True)
    return torch.cat(mu), torch.cat(logvar)


def decode(decoder: Decoder, z: Tensor) -> Float[Tensor, "batch 3 64 64"]:
    """The images as logits, for z (batch, z_dim): the result of `decoder(z)`.

    Raises:
        ValueError: z has another shape, dtype or device than the decoder takes.
    """
    inputs.check_batch("z", z, (decoder.linear.in_features,), decoder.linear.weight)
    if not _by_winograd(decoder.linear.weight):
        return _rewritten_decoder(decoder, z)
    if torch.is_grad_enabled():
        return run_decoder(prepare_decoder(decoder), z)
    weights = _packed_decoder(decoder)
    return torch.cat(in_threads(lambda part: run_decoder(weights, part), split(z, MIN_ENCODED_PART)))


def split(rows: Tensor, min_part: int = MIN_PART) -> Sequence[Tensor]:
    """Cut a batch into one part per thread, but into fewer parts if they would have less than `min_part` rows."""
    return rows.tensor_split(max(1, min(torch.get_num_threads(), len(rows) // min_part)))


def prepare_encoder(encoder: Encoder) -> Weights:
    """Transformed weights and bias of each convolution, then matrix and bias of both heads."""
    convs = (encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4)
    heads = torch.cat([encoder.mu.weight, encoder.logvar.weight])
    channel_last = heads.unflatten(1, (256, 4)).transpose(1, 2).flatten(1)
    bias = torch.cat([encoder.mu.bias, encoder.logvar.bias])
    return (*_transformed(convs, CONVS), channel_last, bias)


def prepare_decoder(decoder: Decoder) -> Weights:
    """Matrix and bias of the first two layers, then transformed weights and bias of each transposed convolution."""
    assert decoder.deconv1.bias is not None
    both = torch.cat([decoder.linear.weight.t(), decoder.linear.bias[None]]) @ decoder.deconv1.weight.flatten(1)
    channel_last = both.unflatten(1, (128, 25)).transpose(1, 2)
    bias = channel_last[-1] + decoder.deconv1.bias
    return (
        channel_last[:-1].flatten(1),
        bias.flatten(),
        *_transformed((decoder.deconv2, decoder.deconv3, decoder.deconv4), DECONVS),
    )


def _transformed(modules: Sequence[nn.Conv2d | nn.ConvTranspose2d], layers: Sequence[Layer]) -> Weights:
    pairs = (
        (winograd.transform_weights(module.weight, layer.tile), module.bias)
        for module, layer in zip(modules, layers, strict=True)
    )
    return tuple(tensor for pair in pairs for tensor in pair if tensor is not None)


def _pack_encoder(encoder: Encoder) -> Weights:
    """`prepare_encoder`, packed. The first layer is not packed, because uint8 frames need its weights scaled."""
    first, first_bias, *convs = prepare_encoder(encoder)
    return (first, first_bias, *_packed(convs[:-2], CONVS[1:], "conv"), *convs[-2:])


def _pack_decoder(decoder: Decoder) -> Weights:
    """`prepare_decoder`, packed."""
    first, first_bias, *deconvs = prepare_decoder(decoder)
    return (first, first_bias, *_packed(deconvs, DECONVS, "deconv"))


def _packed(weights: Sequence[Tensor], layers: Sequence[Layer], function: Literal["conv", "deconv"]) -> Weights:
    pairs = zip(weights[::2], weights[1::2], layers, strict=True)
    return tuple(part for values, bias, layer in pairs for part in (winograd.pack(values, layer, function), bias))


def _parameters(network: nn.Module) -> list[Tensor]:
    """The weights and biases of the layers, also if they are parametrised."""
    layers: Iterator[Any] = network.children()
    return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]


_packed_encoder = PreparedOnce(_pack_encoder, _parameters)
_packed_decoder = PreparedOnce(_pack_decoder, _parameters)


def run_encoder(weights: Weights, pixels: Pixels) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"]]:
    """Mu and logvar of pixels in [0, 1], or of uint8 frames."""
    *convs, heads, heads_bias = weights
    if pixels.dtype == torch.uint8:
        convs[0] = convs[0] / 255
    if torch.is_grad_enabled():
        hidden = pixels
        for layer, transformed, bias in zip(CONVS, convs[::2], convs[1::2], strict=True):
            hidden = winograd.conv(hidden, transformed, bias, layer)
    else:
        hidden = winograd_chain.conv_chain(pixels, convs, CONVS)
    mu, logvar = F.linear(hidden.flatten(1), heads, heads_bias).chunk(2, 1)
    return mu, logvar


def run_decoder(weights: Weights, z: Float[Tensor, "batch z"]) -> Float[Tensor, "batch 3 64 64"]:
    """The images as logits."""
    first, first_bias, *deconvs = weights
    hidden = F.relu(z @ first + first_bias).unflatten(1, (5, 5, 128))
    if torch.is_grad_enabled():
        for layer, transformed, bias in zip(DECONVS, deconvs[::2], deconvs[1::2], strict=True):
            hidden = winograd.deconv(hidden, transformed, bias, layer)
    else:
        hidden = winograd_chain.deconv_chain(hidden, deconvs, DECONVS)
    return hidden.permute(0, 3, 1, 2)


def _rewritten_encoder(encoder: Encoder, images: Tensor) -> tuple[Tensor, Tensor]:
    blocks = F.pixel_unshuffle(images, 2)  # channel, row in the block, column in the block
    kernel = encoder.conv1.weight.unflatten(2, (2, 2)).unflatten(4, (2, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    hidden = F.relu(F.conv2d(blocks, kernel, encoder.conv1.bias))
    for conv in (encoder.conv2, encoder.conv3, encoder.conv4):
        hidden = F.relu(conv(hidden))
    heads, bias = (
        torch.cat(pair) for pair in zip(*(_linear(head) for head in (encoder.mu, encoder.logvar)), strict=True)
    )
    mu, logvar = F.linear(hidden.flatten(1), heads, bias).chunk(2, 1)
    return mu, logvar


def _linear(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def _rewritten_decoder(decoder: Decoder, z: Tensor) -> Tensor:
    hidden = decoder.linear(z)
    assert decoder.deconv1.bias is not None and decoder.deconv4.bias is not None
    hidden = (hidden @ decoder.deconv1.weight.flatten(1)).unflatten(1, (128, 5, 5)) + decoder.deconv1.bias[
        :, None, None
    ]
    hidden = F.relu(decoder.deconv2(F.relu(hidden)))
    hidden = F.relu(decoder.deconv3(hidden))
    # Each of the four pixels of a 2x2 block has its own 3x3 kernel: every second row and column of the 6x6 kernel.
    phases = decoder.deconv4.weight.unflatten(2, (3, 2)).unflatten(4, (3, 2)).permute(1, 3, 5, 0, 2, 4)
    blocks = F.conv2d(hidden, phases.flatten(0, 2).flip(-2, -1), padding=2)
    return F.pixel_shuffle(blocks, 2) + decoder.deconv4.bias[:, None, None]
