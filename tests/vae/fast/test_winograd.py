"""Convolutions by Winograd's algorithm give PyTorch's results and gradients for all sizes, types and processors."""

import ctypes
import functools
import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from world_models.vae.fast import winograd
from world_models.vae.fast.winograd_layer import Layer

BUILT = winograd.is_available()
needs_library = pytest.mark.skipif(not BUILT, reason="the C convolutions were not built")
SETS = range(winograd.instruction_set() + 1) if BUILT else ()
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}

CONVS = [
    (4, Layer(4, 14, 8, 6, 16)),
    (4, Layer(4, 15, 4, 5, 32)),
    (4, Layer(4, 6, 12, 2, 48)),
    (4, Layer(4, 16, 4, 1, 16)),
    (5, Layer(6, 12, 4, 4, 16)),
    (5, Layer(6, 17, 8, 5, 32)),
    (6, Layer(6, 16, 4, 6, 16)),
    (6, Layer(6, 13, 8, 3, 32)),
]
PIXEL_CONVS = [(4, Layer(4, 14, 3, 6, 16)), (4, Layer(4, 15, 3, 5, 16)), (6, Layer(6, 11, 5, 2, 32))]
DECONVS = [
    (4, Layer(4, 14, 8, 6, 16)),
    (4, Layer(4, 11, 3, 5, 32, relu=False)),
    (4, Layer(4, 4, 1, 1, 16)),
    (5, Layer(6, 13, 12, 5, 32)),
    (5, Layer(6, 7, 4, 2, 16, relu=False)),
    (6, Layer(6, 14, 8, 5, 16)),
    (6, Layer(6, 16, 3, 6, 32, relu=False)),
    (6, Layer(6, 11, 7, 4, 48)),
]


pytestmark = pytest.mark.usefixtures("one_thread")


class Arguments(NamedTuple):
    """The arguments of a layer: images, and PyTorch's weights and bias."""

    images: Tensor
    weights: Tensor
    bias: Tensor


def _random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _weights(kernel: int, layer: Layer, bias: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights that make outputs of about 0.1, and biases of about 1, so that few outputs are near a ReLU's kink."""
    weights = _random(layer.features, layer.channels, kernel, kernel, dtype=dtype, seed=1)
    signs = torch.tensor([1.0, -1.0], dtype=dtype).repeat(bias)[:bias]
    spread = 0.1 if dtype == torch.float32 else 2.0  # where rounding cannot change a sign, signs are mixed
    scale = spread / (kernel * layer.channels**0.5)
    return scale * weights, signs * (0.7 + 0.3 * _random(bias, dtype=dtype, seed=2).tanh())


def _conv_arguments(kernel: int, layer: Layer, images: int, dtype: torch.dtype = torch.float64) -> Arguments:
    wide = _random(images, layer.wide, layer.wide, layer.channels, dtype=dtype, seed=0)
    return Arguments(wide, *_weights(kernel, layer, layer.features, dtype))


def _deconv_arguments(kernel: int, layer: Layer, images: int, dtype: torch.dtype = torch.float64) -> Arguments:
    narrow = _random(images, layer.narrow, layer.narrow, layer.features, dtype=dtype, seed=0)
    return Arguments(narrow, *_weights(kernel, layer, layer.channels, dtype))


def _conv(images: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Tensor:
    return winograd.conv(images, winograd.transform_weights(weights), bias, layer)


def _deconv(images: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Tensor:
    return winograd.deconv(images, winograd.transform_weights(weights), bias, layer)


def _torch_conv(images: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Tensor:
    narrow = F.relu(F.conv2d(images.permute(0, 3, 1, 2), weights, bias, stride=2)).permute(0, 2, 3, 1)
    return narrow[:, : layer.narrow, : layer.narrow]


def _torch_deconv(images: Tensor, weights: Tensor, bias: Tensor, layer: Layer) -> Tensor:
    wide = F.conv_transpose2d(images.permute(0, 3, 1, 2), weights, bias, stride=2).permute(0, 2, 3, 1)
    wide = wide[:, : layer.wide, : layer.wide]
    return F.relu(wide) if layer.relu else wide


def _there_and_back(function: Any, arguments: Arguments, layer: Layer, images_too: bool = True) -> tuple[Tensor, ...]:
    """The output, then the gradients of weights and bias, and of the images if they have one, for one random loss."""
    leaves = [tensor.detach().clone() for tensor in arguments]
    wanted = [leaves[1], leaves[2], *([leaves[0]] if images_too else [])]
    for leaf in wanted:
        leaf.requires_grad_()
    output = function(*leaves, layer)
    loss = (output * _random(*output.shape, dtype=output.dtype, seed=3)).sum()
    return output.detach(), *torch.autograd.grad(loss, wanted)


def _assert_close(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(ours, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert float((one - other).norm()) <= TOLERANCE[one.dtype] * float(other.norm())


def _same_bits(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return all(map(torch.equal, left, right))


# the function


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("images", [1, 3, 70])
@pytest.mark.parametrize(("kernel", "layer"), CONVS)
def test_conv_and_its_gradients_equal_pytorchs(kernel: int, layer: Layer, images: int, dtype: torch.dtype):
    arguments = _conv_arguments(kernel, layer, images, dtype)
    _assert_close(_there_and_back(_conv, arguments, layer), _there_and_back(_torch_conv, arguments, layer))


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("images", [1, 3, 70])
@pytest.mark.parametrize(("kernel", "layer"), PIXEL_CONVS)
def test_conv_of_any_number_of_channels_equals_pytorchs(kernel: int, layer: Layer, images: int, dtype: torch.dtype):
    arguments = _conv_arguments(kernel, layer, images, dtype)
    ours, expected = (_there_and_back(conv, arguments, layer, images_too=False) for conv in (_conv, _torch_conv))
    _assert_close(ours, expected)


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("images", [1, 3, 70])
@pytest.mark.parametrize(("kernel", "layer"), DECONVS)
def test_deconv_and_its_gradients_equal_pytorchs(kernel: int, layer: Layer, images: int, dtype: torch.dtype):
    arguments = _deconv_arguments(kernel, layer, images, dtype)
    _assert_close(_there_and_back(_deconv, arguments, layer), _there_and_back(_torch_deconv, arguments, layer))


SIZES = {
    "kernel": st.sampled_from([4, 5, 6]),
    "narrow": st.integers(1, 7),
    "channels": st.integers(1, 9),
    "features": st.sampled_from([16, 32, 48]),
    "images": st.integers(1, 4),
    "seed": st.integers(0, 1000),
}


@needs_library
@settings(max_examples=40, deadline=None)
@given(**SIZES, beyond=st.integers(0, 3))
def test_conv_of_any_size_equals_pytorchs(
    kernel: int, narrow: int, channels: int, features: int, images: int, seed: int, beyond: int
):
    taps = (kernel + 1) // 2
    wide = 2 * ((narrow + 1) // 2 * 2 + taps - 1) + beyond
    layer = Layer(6 if taps == 3 else 4, wide, channels, narrow, features)
    images_too = channels % 4 == 0
    arguments = _conv_arguments(kernel, layer, images)
    arguments = arguments._replace(images=_random(*arguments.images.shape, dtype=torch.float64, seed=seed))
    ours, expected = (_there_and_back(conv, arguments, layer, images_too) for conv in (_conv, _torch_conv))
    _assert_close(ours, expected)


@needs_library
@settings(max_examples=40, deadline=None)
@given(**SIZES, cut=st.integers(0, 3), relu=st.booleans())
def test_deconv_of_any_size_equals_pytorchs(
    kernel: int, narrow: int, channels: int, features: int, images: int, seed: int, cut: int, relu: bool
):
    layer = Layer(4 if kernel == 4 else 6, 2 * (narrow - 1) + kernel - cut, channels, narrow, features, relu)
    arguments = _deconv_arguments(kernel, layer, images)
    arguments = arguments._replace(images=_random(*arguments.images.shape, dtype=torch.float64, seed=seed))
    _assert_close(_there_and_back(_deconv, arguments, layer), _there_and_back(_torch_deconv, arguments, layer))


@pytest.fixture(params=SETS, ids=["portable", "avx2", "avx512"][: len(SETS)])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(winograd, "instruction_set", lambda: request.param)
    return request.param


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kernel", "layer"), [CONVS[0], CONVS[2], CONVS[5]])
def test_conv_is_right_with_every_instruction_set(instruction_set: int, kernel: int, layer: Layer, dtype: torch.dtype):
    arguments = _conv_arguments(kernel, layer, 5, dtype)
    _assert_close(_there_and_back(_conv, arguments, layer), _there_and_back(_torch_conv, arguments, layer))


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kernel", "layer"), [DECONVS[1], DECONVS[3], DECONVS[7]])
def test_deconv_is_right_with_every_instruction_set(
    instruction_set: int, kernel: int, layer: Layer, dtype: torch.dtype
):
    arguments = _deconv_arguments(kernel, layer, 5, dtype)
    _assert_close(_there_and_back(_deconv, arguments, layer), _there_and_back(_torch_deconv, arguments, layer))


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kernel", "layer"), [*PIXEL_CONVS, (4, Layer(4, 14, 4, 6, 16)), (4, Layer(4, 14, 1, 6, 16))])
def test_bytes_give_the_same_result_as_floats_of_the_same_value(kernel: int, layer: Layer, dtype: torch.dtype):
    arguments = _conv_arguments(kernel, layer, 3, dtype)
    numbers = torch.randint(0, 256, arguments.images.shape, generator=torch.Generator().manual_seed(0))
    as_bytes, as_numbers = (
        _there_and_back(_conv, arguments._replace(images=numbers.to(kind)), layer, images_too=False)
        for kind in (torch.uint8, dtype)
    )
    assert _same_bits(as_bytes, as_numbers)


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_gradient_that_was_made_by_expand_is_accepted(dtype: torch.dtype):
    (kernel, layer), bias = DECONVS[5], torch.zeros(8, dtype=dtype, requires_grad=True)
    images, weights, _ = _deconv_arguments(kernel, layer, 2, dtype)
    _deconv(images, weights, bias + 100, layer).sum().backward()
    assert bias.grad is not None and bias.grad.tolist() == [2.0 * layer.wide**2] * 8


@needs_library
def test_weights_are_transformed_once_for_many_batches():
    kernel, layer = CONVS[0]
    images, weights, bias = _conv_arguments(kernel, layer, 4)
    weights.requires_grad_()
    transformed = winograd.transform_weights(weights)
    parts = torch.cat([winograd.conv(part, transformed, bias, layer) for part in images.split(1)])
    expected = _torch_conv(images, weights, bias, layer)
    ours, theirs = (torch.autograd.grad(narrow.square().sum(), weights) for narrow in (parts, expected))
    _assert_close((parts.detach(), *ours), (expected.detach(), *theirs))


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("function", "arguments_of", "layer"),
    [(winograd.conv, _conv_arguments, CONVS[0][1]), (winograd.deconv, _deconv_arguments, DECONVS[0][1])],
)
def test_the_gradient_for_a_batch_without_images_is_zero(
    function: Any, arguments_of: Any, layer: Layer, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    images, weights, bias = arguments_of(4, layer, 0, dtype)
    transformed = winograd.transform_weights(weights).requires_grad_()
    output = function(images, transformed, bias, layer)
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, 7.0))  # memory is rarely fresh
    (gradient,) = torch.autograd.grad(output.sum(), transformed)
    assert not gradient.any()


# the same every time


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_same_call_gives_the_same_bits(dtype: torch.dtype):
    kernel, layer = CONVS[1]
    arguments = _conv_arguments(kernel, layer, 70, dtype)
    assert _same_bits(_there_and_back(_conv, arguments, layer), _there_and_back(_conv, arguments, layer))


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kernel", "layer"), [*CONVS, *PIXEL_CONVS])
def test_conv_does_not_read_what_an_earlier_call_left_in_working_memory(kernel: int, layer: Layer, dtype: torch.dtype):
    arguments, images_too = _conv_arguments(kernel, layer, 3, dtype), layer.channels % 4 == 0
    first = _there_and_back(_conv, arguments, layer, images_too)
    winograd.kept_memory("work", 0, torch.uint8).fill_(255)  # a NaN in every dtype
    assert _same_bits(_there_and_back(_conv, arguments, layer, images_too), first)


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kernel", "layer"), DECONVS)
def test_deconv_does_not_read_what_an_earlier_call_left_in_working_memory(
    kernel: int, layer: Layer, dtype: torch.dtype
):
    arguments = _deconv_arguments(kernel, layer, 3, dtype)
    first = _there_and_back(_deconv, arguments, layer)
    winograd.kept_memory("work", 0, torch.uint8).fill_(255)  # a NaN in every dtype
    assert _same_bits(_there_and_back(_deconv, arguments, layer), first)


@needs_library
def test_two_threads_at_the_same_time_give_the_right_results():
    (conv_kernel, conv), (deconv_kernel, deconv) = CONVS[0], DECONVS[3]
    there = (_conv, _conv_arguments(conv_kernel, conv, 40), conv)
    back = (_deconv, _deconv_arguments(deconv_kernel, deconv, 40), deconv)
    calls = [there, back] * 6
    alone = [_there_and_back(*call) for call in calls]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda call: _there_and_back(*call), calls))
    assert all(map(_same_bits, alone, together))


# what is refused


@pytest.mark.parametrize("features", [1, 8, 17])
def test_a_number_of_features_that_fills_no_whole_vectors_is_refused(features: int):
    with pytest.raises(ValueError, match="whole vectors"):
        Layer(4, 14, 4, 6, features)


@needs_library
def test_a_gradient_for_images_of_three_channels_is_refused():
    kernel, layer = PIXEL_CONVS[0]
    with pytest.raises(ValueError, match="no gradient of images of 3 channels is computed; give a multiple of 4"):
        _there_and_back(_conv, _conv_arguments(kernel, layer, 1), layer)


@needs_library
def test_images_with_another_memory_order_are_refused():
    kernel, layer = CONVS[0]
    images, weights, bias = _conv_arguments(kernel, layer, 2)
    with pytest.raises(ValueError, match=r"wide does not lie in memory .* give wide\.contiguous\(\)"):
        _conv(images.transpose(1, 2), weights, bias, layer)


# the library


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is loaded again in this test; the loaded one is kept for other tests."""
    monkeypatch.setattr(winograd, "load_library", functools.cache(winograd.load_library.__wrapped__))


def _found_at(monkeypatch: pytest.MonkeyPatch, spec: SimpleNamespace | None) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)


@pytest.mark.parametrize("spec", [None, SimpleNamespace(origin=None)])
def test_without_a_library_winograd_is_not_available(anew: None, monkeypatch: pytest.MonkeyPatch, spec: Any):
    _found_at(monkeypatch, spec)
    assert not winograd.is_available()


def test_a_missing_library_says_how_to_get_it(anew: None, monkeypatch: pytest.MonkeyPatch):
    _found_at(monkeypatch, None)
    with pytest.raises(ImportError, match="install a C compiler, then the package again"):
        winograd.load_library()


def test_a_file_that_is_no_library_is_not_available(anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "_winograd.so").write_text("no library")
    _found_at(monkeypatch, SimpleNamespace(origin=str(tmp_path / "_winograd.so")))
    assert not winograd.is_available()


def test_a_library_without_the_functions_is_not_available(anew: None, monkeypatch: pytest.MonkeyPatch):
    _found_at(monkeypatch, SimpleNamespace(origin=torch._C.__file__))
    assert not winograd.is_available()


@needs_library
def test_a_library_of_another_version_is_not_available(anew: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: Mock(winograd_struct_bytes=Mock(return_value=1)))
    assert not winograd.is_available()
