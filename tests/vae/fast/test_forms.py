"""The fast forms of the networks give the definition's outputs and gradients, in any number of threads."""

import copy
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_models.runtime import threads
from world_models.vae.config import VAEConfig
from world_models.vae.fast import forms, winograd, winograd_layer
from world_models.vae.model import VAE, num_parameters
from world_models.vae.networks import Decoder, Encoder

CPU = torch.device("cpu")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
BUILT = winograd.is_available()
needs_library = pytest.mark.skipif(not BUILT, reason="the C convolutions were not built")
FORMS = [pytest.param("winograd", marks=needs_library), "rewritten"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(forms, "choose", lambda device: request.param)
    return request.param


def _random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _images(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return _random(count, 3, 64, 64, dtype=dtype).sigmoid()


def _network(kind: type[nn.Module], z_dim: int, dtype: torch.dtype = torch.float64) -> Any:
    """A network with biases. In float32 they are large, so that rounding cannot move an output across a ReLU's kink."""
    network = kind(z_dim).to(dtype)
    for index, parameter in enumerate(network.parameters()):
        values, is_bias = _random(*parameter.shape, dtype=dtype, seed=index), parameter.ndim == 1
        if dtype == torch.float32:
            values = values.sign() if is_bias else values / 4
        parameter.data = values if is_bias else values * parameter.std()
    return network


def _assert_close(ours: Tensor, expected: Tensor) -> None:
    assert ours.shape == expected.shape
    assert float((ours - expected).norm()) <= TOLERANCE[ours.dtype] * float(expected.norm())


def _assert_same_function(network: nn.Module, fast: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
    """Outputs and the gradients of every parameter are those of the definition.

    The definition is computed in float64, and the outputs are summed with positive weights: where sums nearly cancel,
    float32's rounding alone exceeds the tolerance, PyTorch's too.
    """
    exact = copy.deepcopy(network).double()
    outputs, expected = fast(inputs), exact(inputs.double())
    expected = torch.cat(expected, 1) if isinstance(expected, tuple) else expected
    assert outputs.dtype == inputs.dtype
    _assert_close(outputs.detach(), expected.detach())
    loss = _random(*expected.shape, dtype=inputs.dtype, seed=1).abs()
    ours = torch.autograd.grad((outputs * loss).sum(), list(network.parameters()))
    theirs = torch.autograd.grad((expected * loss).sum(), list(exact.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == inputs.dtype
        _assert_close(one, other)


# the function


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch", "z_dim"), [(1, 32), (3, 5), (9, 1)])
def test_the_fast_encoder_equals_its_definition(form: str, batch: int, z_dim: int, dtype: torch.dtype):
    encoder = _network(Encoder, z_dim, dtype)
    _assert_same_function(encoder, lambda images: torch.cat(forms.encode(encoder, images), 1), _images(batch, dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch", "z_dim"), [(1, 32), (3, 5), (9, 1)])
def test_the_fast_decoder_equals_its_definition(form: str, batch: int, z_dim: int, dtype: torch.dtype):
    decoder = _network(Decoder, z_dim, dtype)
    _assert_same_function(decoder, lambda z: forms.decode(decoder, z), _random(batch, z_dim, dtype=dtype, seed=2))


def test_the_gradient_of_z_equals_that_of_the_definition(form: str):
    decoder, z = _network(Decoder, 4), _random(3, 4).requires_grad_()
    ours, expected = (
        torch.autograd.grad(images.square().sum(), z)[0] for images in (forms.decode(decoder, z), decoder(z))
    )
    _assert_close(ours, expected)


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_bytes_are_encoded_like_images_in_0_to_1(dtype: torch.dtype):
    encoder = _network(Encoder, 5, dtype)
    frames = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights, images = forms.prepare_encoder(encoder), frames.permute(0, 3, 1, 2).to(dtype) / 255
    with torch.no_grad():
        for ours, expected in zip(forms.run_encoder(weights, frames), encoder(images), strict=True):
            _assert_close(ours, expected)


@needs_library
def test_gradients_for_bytes_equal_those_for_images_in_0_to_1():
    encoder = _network(Encoder, 5)
    frames = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    of_bytes = forms.run_encoder(forms.prepare_encoder(encoder), frames)
    of_images = encoder(frames.permute(0, 3, 1, 2).double() / 255)
    ours, expected = (
        torch.autograd.grad(torch.cat(heads, 1).square().sum(), list(encoder.parameters()))
        for heads in (of_bytes, of_images)
    )
    for one, other in zip(ours, expected, strict=True):
        _assert_close(one, other)


@needs_library
def test_weights_are_prepared_once_for_any_number_of_batches():
    decoder, z = _network(Decoder, 3), _random(6, 3)
    weights = forms.prepare_decoder(decoder)
    parts = torch.cat([forms.run_decoder(weights, part) for part in z.split(2)])
    _assert_close(parts.detach(), decoder(z).detach())


@needs_library
def test_the_two_fast_forms_compute_the_same(monkeypatch: pytest.MonkeyPatch):
    vae, images = VAE(VAEConfig(z_dim=3)).double(), _images(2)
    answers = []
    for form in ("winograd", "rewritten"):
        monkeypatch.setattr(forms, "choose", lambda device, form=form: form)
        answers.append(forms.decode(vae.paper[1], forms.encode(vae.paper[0], images)[0]).detach())
    _assert_close(*answers)


# the layers


PAPERS_LAYERS = {
    "encoder.conv1": (32, 3, 4, 4),
    "encoder.conv2": (64, 32, 4, 4),
    "encoder.conv3": (128, 64, 4, 4),
    "encoder.conv4": (256, 128, 4, 4),
    "encoder.mu": (32, 1024),
    "encoder.logvar": (32, 1024),
    "decoder.linear": (1024, 32),
    "decoder.deconv1": (1024, 128, 5, 5),
    "decoder.deconv2": (128, 64, 5, 5),
    "decoder.deconv3": (64, 32, 6, 6),
    "decoder.deconv4": (32, 3, 6, 6),
}


def test_each_form_has_the_parameters_of_the_papers_layers(form: str):
    vae = VAE(VAEConfig())
    vae.objective(_images(1, torch.float32), _random(1, 32, dtype=torch.float32)).loss_nats.sum().backward()
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    assert set(shapes) == {f"{layer}.{kind}" for layer in PAPERS_LAYERS for kind in ("weight", "bias")}
    assert {layer: shapes[f"{layer}.weight"] for layer in PAPERS_LAYERS} == PAPERS_LAYERS


def test_each_form_has_the_papers_number_of_parameters(form: str):
    assert num_parameters(VAE(VAEConfig())) == 4_348_547


def test_every_parameter_gets_a_gradient_in_each_form(form: str):
    vae = VAE(VAEConfig(z_dim=3))
    vae.objective(_images(1, torch.float32), _random(1, 3, dtype=torch.float32)).loss_nats.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in vae.parameters())


# the choice


@needs_library
def test_a_cpu_with_the_library_computes_by_winograd():
    assert forms.choose(CPU) == "winograd"


def test_a_cpu_without_the_library_computes_the_rewritten_form(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(winograd, "is_available", lambda: False)
    assert forms.choose(CPU) == "rewritten"


def test_autocast_computes_the_rewritten_form():
    with torch.autocast("cpu", torch.bfloat16):
        assert forms.choose(CPU) == "rewritten"


def test_a_gpu_computes_the_rewritten_form():
    assert forms.choose(torch.device("cuda", 1)) == "rewritten"


def test_autocast_reaches_the_layers():
    encoder = _network(Encoder, 3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mu, _ = forms.encode(encoder, _images(1, torch.float32))
    assert mu.dtype == torch.bfloat16


# parts and threads


@pytest.mark.parametrize("batch", [1, 8, 15, 16, 17, 40])
def test_a_batch_encoded_in_parts_equals_the_whole_batch(form: str, two_threads: None, batch: int):
    encoder, images = _network(Encoder, 3), _images(batch)
    with torch.no_grad():
        for ours, expected in zip(forms.encode(encoder, images), encoder(images), strict=True):
            _assert_close(ours, expected)


@pytest.mark.parametrize("batch", [1, 8, 15, 16, 17, 40])
def test_a_batch_decoded_in_parts_equals_the_whole_batch(form: str, two_threads: None, batch: int):
    decoder, z = _network(Decoder, 3), _random(batch, 3)
    with torch.no_grad():
        _assert_close(forms.decode(decoder, z), decoder(z))


@needs_library
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_batch_in_parts_is_computed_without_a_graph(two_threads: None, mode: Any):
    vae, images = VAE(VAEConfig(z_dim=3)), _images(20, torch.float32)
    with mode():
        mu, _ = forms.encode(vae.paper[0], images)
        assert not mu.requires_grad and not forms.decode(vae.paper[1], mu).requires_grad


@pytest.mark.parametrize(("threads", "rows", "parts"), [(1, 100, 1), (2, 15, 1), (2, 16, 2), (4, 20, 2), (4, 64, 4)])
def test_a_batch_is_split_between_threads_if_it_is_large_enough(
    monkeypatch: pytest.MonkeyPatch, threads: int, rows: int, parts: int
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    cut = forms.split(torch.arange(rows))
    assert len(cut) == parts
    assert torch.cat(list(cut)).tolist() == list(range(rows))


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_of_at_most_one_row_is_not_split(rows: int):
    assert [len(part) for part in forms.split(torch.zeros(rows, 3))] == [rows]


@pytest.mark.parametrize("parts", [[3], [3, 1], [5, 2, 4, 1]])
def test_results_of_threads_are_in_the_order_of_the_parts(parts: list[int]):
    assert threads.in_threads(lambda part: part * 10, parts) == [part * 10 for part in parts]


def test_no_more_parts_are_computed_at_a_time_than_there_are_threads(two_threads: None):
    assert len(set(threads.in_threads(lambda part: threading.get_ident(), range(6)))) <= 2


@pytest.mark.parametrize("number", [1, 2, 3])
def test_threads_do_not_change_the_number_of_threads_of_pytorch(two_threads: None, number: int):
    torch.set_num_threads(number)
    threads.in_threads(lambda part: part, [1, 2])
    assert torch.get_num_threads() == number


def test_pytorch_starts_no_threads_within_a_part(two_threads: None):
    assert threads.in_threads(lambda part: torch.get_num_threads(), [1, 2]) == [1, 1]


@pytest.mark.parametrize("parts", [[1], [1, 2]])
@pytest.mark.parametrize("enabled", [False, True])
def test_parts_compute_gradients_if_the_caller_does(enabled: bool, parts: list[int]):
    with torch.set_grad_enabled(enabled):
        assert threads.in_threads(lambda part: torch.is_grad_enabled(), parts) == [enabled] * len(parts)


@pytest.mark.parametrize("parts", [[1], [1, 2]])
@pytest.mark.parametrize("enabled", [False, True])
def test_parts_use_inference_mode_if_the_caller_does(enabled: bool, parts: list[int]):
    with torch.inference_mode(enabled):
        modes = threads.in_threads(lambda part: torch.is_inference_mode_enabled(), parts)
    assert modes == [enabled] * len(parts)


def _fails(part: int) -> int:
    if part == 2:
        raise RuntimeError("part 2 failed")
    return part


@pytest.mark.parametrize("parts", [[2], [1, 2], [2, 1]])
def test_an_error_in_a_part_is_raised_to_the_caller(parts: list[int]):
    with pytest.raises(RuntimeError, match="part 2 failed"):
        threads.in_threads(_fails, parts)


def test_an_error_in_a_part_does_not_change_the_number_of_threads(two_threads: None):
    with pytest.raises(RuntimeError, match="part 2 failed"):
        threads.in_threads(_fails, [1, 2])
    assert torch.get_num_threads() == 2


def test_threads_can_be_used_after_an_error_in_a_part():
    with pytest.raises(RuntimeError, match="part 2 failed"):
        threads.in_threads(_fails, [1, 2])
    assert threads.in_threads(_fails, [1, 3]) == [1, 3]


# the layers' sizes


@pytest.mark.parametrize("layers", [forms.CONVS, forms.DECONVS])
def test_the_input_of_each_layer_fits_the_output_of_the_previous_one(layers: tuple[winograd_layer.Layer, ...]):
    narrowing = layers if layers is forms.CONVS else layers[::-1]
    for wider, narrower in itertools.pairwise(narrowing):
        assert (wider.narrow, wider.features) == (narrower.wide, narrower.channels)


def test_the_fast_layers_leave_out_only_pixels_that_are_not_used():
    encoder = _network(Encoder, 3)
    cut = F.relu(encoder.conv1(_images(1)))
    cut[:, :, forms.CONVS[0].narrow :], cut[:, :, :, forms.CONVS[0].narrow :] = torch.nan, torch.nan
    assert encoder.conv2(cut).isfinite().all()
