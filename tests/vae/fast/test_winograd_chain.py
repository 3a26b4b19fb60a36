"""Several layers in a row, packed or not, give the same bits as `winograd.py` layer by layer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from world_models.vae.fast import winograd, winograd_chain
from world_models.vae.fast.forms import CONVS, DECONVS
from world_models.vae.fast.winograd import Packed
from world_models.vae.fast.winograd_layer import Layer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not winograd.is_available(), reason="the C convolutions were not built"),
]

DTYPES = [torch.float32, torch.float64]


def _random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def _weights(layers: tuple[Layer, ...], function: str, dtype: torch.dtype) -> list[Tensor]:
    """Transformed weights and bias of each layer."""
    found = []
    for layer in layers:
        shape, bias = layer.shapes(0)["weights"], layer.features if function == "conv" else layer.channels
        found += [_random(*shape, dtype=dtype) / shape[1], _random(bias, dtype=dtype)]
    return found


def _packed(weights: list[Tensor], layers: tuple[Layer, ...], function: str) -> list[Tensor | Packed]:
    packed = [winograd.pack(values, layer, function) for values, layer in zip(weights[::2], layers, strict=True)]  # type: ignore[arg-type]
    return [part for pair in zip(packed, weights[1::2], strict=True) for part in pair]


def _layer_by_layer(function: str, images: Tensor, weights: list[Tensor], layers: tuple[Layer, ...]) -> Tensor:
    one = winograd.conv if function == "conv" else winograd.deconv
    for layer, values, bias in zip(layers, weights[::2], weights[1::2], strict=True):
        images = one(images, values, bias, layer)
    return images


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    ("function", "chain", "layers", "shape"),
    [
        ("conv", winograd_chain.conv_chain, CONVS, (64, 64, 3)),
        ("deconv", winograd_chain.deconv_chain, DECONVS, (5, 5, 128)),
    ],
    ids=["conv", "deconv"],
)
def test_a_chain_of_layers_equals_single_layers(
    function: str, chain: Any, layers: Any, shape: tuple[int, ...], is_packed: bool, count: int, dtype: torch.dtype
):
    weights, images = _weights(layers, function, dtype), _random(count, *shape, dtype=dtype)
    given = _packed(weights, layers, function) if is_packed else weights
    assert torch.equal(chain(images, given, layers), _layer_by_layer(function, images, weights, layers))


def test_the_result_of_a_deconv_chain_does_not_change_in_the_next_call():
    weights = _weights(DECONVS, "deconv", torch.float32)
    first, second = (_random(1, 5, 5, 128, dtype=torch.float32) * scale for scale in (1, 2))
    found = winograd_chain.deconv_chain(first, weights, DECONVS)
    before = found.clone()
    winograd_chain.deconv_chain(second, weights, DECONVS)
    assert torch.equal(found, before)


def test_packing_weights_of_another_layer_is_refused():
    weights = _weights(CONVS[:1], "conv", torch.float32)[0]
    with pytest.raises(ValueError, match="weights is"):
        winograd.pack(weights, CONVS[1], "conv")


def test_packed_weights_of_another_layer_are_refused():
    weights = _packed(_weights(CONVS[:1], "conv", torch.float32), CONVS[:1], "conv")
    with pytest.raises(ValueError, match="weights is"):
        winograd_chain.conv_chain(torch.zeros(1, 30, 30, 32), weights, CONVS[1:2])
