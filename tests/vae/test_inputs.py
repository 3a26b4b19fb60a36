"""The V model's inputs: all others are refused before a layer or C reads their memory."""

import doctest
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from world_models.vae import inputs
from world_models.vae.config import VAEConfig
from world_models.vae.fast import forms, winograd, winograd_chain
from world_models.vae.fast.winograd_layer import Layer
from world_models.vae.model import VAE, to_images

pytestmark = pytest.mark.usefixtures("one_thread")
needs_library = pytest.mark.skipif(not winograd.is_available(), reason="the C convolutions were not built")
LINE = r"[^\n]*"


@pytest.fixture(scope="module")
def paper() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=4)).eval()


@pytest.fixture(scope="module")
def conditional() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=2, network="mlp", hidden=(8,), num_classes=10)).eval()


def frames(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)


def images(count: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)


# encode: what is taken


def test_arrays_and_tensors_with_any_memory_order_give_the_same_latents(paper: VAE):
    given = frames(3)
    wide = np.repeat(given, 2, axis=1)
    expected = paper.encode(given).mu
    fixed = given.copy()
    fixed.setflags(write=False)
    kinds = [
        *(torch.from_numpy(given), torch.from_numpy(wide)[:, ::2], wide[:, ::2], fixed),
        *(given[:, ::-1].copy()[:, ::-1], np.asfortranarray(given), given.view(np.ndarray)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of arrays that cannot be written to
        assert all(torch.equal(paper.encode(kind).mu, expected) for kind in kinds)


def test_an_empty_batch_has_no_latents(paper: VAE):
    posterior = paper.encode(frames(0))
    assert posterior.mu.shape == posterior.logvar.shape == (0, 4)
    assert paper.decode(torch.zeros(0, 4)).shape == (0, 64, 64, 3)


def test_a_batch_has_the_latents_of_its_frames(paper: VAE):
    given = frames(130)  # more images than C computes at a time
    whole, parts = paper.encode(given).mu, [paper.encode(part).mu for part in (given[:1], given[1:129], given[129:])]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_of_another_dtype_gives_its_own_latents(dtype: torch.dtype):
    torch.manual_seed(0)
    model = VAE(VAEConfig(z_dim=4))
    expected, pixels = model.encode(frames()).mu, to_images(torch.from_numpy(frames()), dtype)
    model = model.to(dtype)
    posterior = model.encode(frames())
    assert posterior.mu.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(posterior.mu.float(), expected, rtol=0.05, atol=0.02)
    torch.testing.assert_close(posterior.mu.float(), model.encoder(pixels)[0].float(), rtol=1e-2, atol=1e-2)
    assert model.decode(torch.zeros(2, 4, dtype=dtype)).shape == (2, 64, 64, 3)


def test_autocast_accepts_the_dtype_of_the_weights_and_its_own(paper: VAE):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            assert paper.posterior(images(dtype=dtype)).mu.shape == (2, 4)


# encode: what is refused

FLOATS = "become frames by"
REFUSED: dict[str, tuple[Any, str]] = {
    "float array": (
        frames() / np.float32(255),
        f"frames are float32, and the model takes uint8 of 0 to 255; {LINE}{FLOATS}",
    ),
    "float tensor": (torch.rand(2, 64, 64, 3), f"frames are torch.float32{LINE}{FLOATS}"),
    "images": (images(), f"frames are torch.float32{LINE}{FLOATS}"),
    "int64": (frames().astype(np.int64), "frames are int64, and the model takes uint8 of 0 to 255$"),
    "int8": (frames().astype(np.int8), "frames are int8"),
    "bool": (torch.ones(1, 64, 64, 3, dtype=torch.bool), "frames are torch.bool"),
    "one frame": (
        frames()[0],
        r"frames of shape \(64, 64, 3\), and the model takes \(batch, 64, 64, 3\)" + LINE + r"frame\[None\]",
    ),
    "channels first": (frames().transpose(0, 3, 1, 2), f"channels come last{LINE}transpose"),
    "no channels": (frames()[..., 0], f"the model takes {LINE}preprocess"),
    "RGBA": (np.zeros((1, 64, 64, 4), np.uint8), f"the model takes {LINE}preprocess"),
    "observations": (np.zeros((1, 96, 96, 3), np.uint8), f"the model takes {LINE}preprocess"),
    "sequences": (np.zeros((2, 5, 64, 64, 3), np.uint8), "the model takes"),
    "nothing": (np.zeros((), np.uint8), r"frames of shape \(\)"),
    "meta": (torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device="meta"), "give a dense one that holds data"),
    "sparse": (torch.zeros(1, 64, 64, 3, dtype=torch.uint8).to_sparse(), "give a dense one that holds data"),
}


@pytest.mark.parametrize(("given", "found"), REFUSED.values(), ids=REFUSED)
def test_values_that_are_no_frames_are_refused_in_one_line(paper: VAE, given: Any, found: str):
    with pytest.raises(ValueError, match=rf"^(?=[^\n]*$){LINE}{found}"):
        paper.encode(given)


def test_a_value_that_is_neither_array_nor_tensor_is_refused():
    with pytest.raises(ValueError, match="frames are a list; give a NumPy array or a tensor, uint8"):
        inputs.frames_tensor([[0]], (64, 64, 3))


def test_digits_without_a_channel_are_refused_with_what_to_do(conditional: VAE):
    with pytest.raises(ValueError, match=r"give frames\[\.\.\., None\]"):
        conditional.encode(np.zeros((2, 28, 28), np.uint8))


LABELS: dict[str, tuple[Any, str]] = {
    "none": (None, "give each frame's class as labels"),
    "too few": (torch.tensor([1]), r"labels of shape \(1,\); give one for each of 2: \(2,\)"),
    "a column": (torch.tensor([[1], [2]]), r"labels of shape \(2, 1\)"),
    "floats": (torch.tensor([1.0, 2.0]), "labels are torch.float32; give whole numbers"),
    "bools": (torch.tensor([True, False]), "labels are torch.bool"),
    "too high": (torch.tensor([1, 10]), "labels of 1 to 10; the model knows the classes 0 to 9"),
    "negative": (torch.tensor([-1, 1]), "labels of -1 to 1; the model knows"),
}


@pytest.mark.parametrize(("labels", "found"), LABELS.values(), ids=LABELS)
def test_labels_that_are_no_classes_are_refused(conditional: VAE, labels: Any, found: str):
    for function, given in (
        (conditional.encode, np.zeros((2, 28, 28, 1), np.uint8)),
        (conditional.decode, torch.zeros(2, 2)),
    ):
        with pytest.raises(ValueError, match=found):
            function(given, labels)  # type: ignore[operator]


def test_labels_of_any_integer_dtype_are_accepted(conditional: VAE):
    given = np.zeros((2, 28, 28, 1), np.uint8)
    expected = conditional.encode(given, torch.tensor([1, 7])).mu
    for dtype in (torch.uint8, torch.int32):
        assert torch.equal(conditional.encode(given, torch.tensor([1, 7], dtype=dtype)).mu, expected)
    assert conditional.encode(given[:0], torch.tensor([], dtype=torch.int64)).mu.shape == (0, 2)


# posterior and decode

IMAGES: dict[str, tuple[Any, str]] = {
    "8x8": (torch.rand(2, 3, 8, 8), r"images of shape \(2, 3, 8, 8\), and the model takes \(batch, 3, 64, 64\)"),
    "channels last": (torch.rand(2, 64, 64, 3), "the model takes"),
    "one": (torch.rand(3, 64, 64), r"give a batch of one by \[None\]"),
    "number": (torch.tensor(1.0), r"images of shape \(\)"),
    "float64": (images(dtype=torch.float64), r"images of torch.float64, and the weights are torch.float32"),
    "float16": (images(dtype=torch.float16), "images of torch.float16"),
    "bfloat16": (images(dtype=torch.bfloat16), "images of torch.bfloat16"),
    "uint8": (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "images of torch.uint8"),
    "int64": (torch.zeros(2, 3, 64, 64, dtype=torch.int64), "images of torch.int64"),
    "meta": (images().to("meta"), "images on meta, and the model is on cpu"),
    "sparse": (images().to_sparse(), "images in a torch.sparse_coo tensor"),
}


@pytest.mark.parametrize(("given", "found"), IMAGES.values(), ids=IMAGES)
def test_images_that_do_not_fit_the_layers_are_refused(paper: VAE, given: Tensor, found: str):
    for function in (paper.posterior, lambda images: forms.encode(paper.paper[0], images)):
        with pytest.raises(ValueError, match=found):
            function(given)


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_the_digit_networks_refuse_bad_input_in_the_same_way(network: Any):
    model = VAE(VAEConfig(z_dim=2, network=network, hidden=(8,)))
    with pytest.raises(ValueError, match=r"images of shape \(2, 1, 8, 8\), and the model takes \(batch, 1, 28, 28\)"):
        model.posterior(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"z of torch.float64, and the weights are torch.float32"):
        model.decode(torch.zeros(2, 2, dtype=torch.float64))


Z: dict[str, tuple[Any, str]] = {
    "float64": (
        torch.zeros(2, 4, dtype=torch.float64),
        r"z of torch.float64, and the weights are torch.float32; give .to",
    ),
    "integers": (torch.zeros(2, 4, dtype=torch.int64), "z of torch.int64"),
    "too wide": (torch.zeros(2, 5), r"z of shape \(2, 5\), and the model takes \(batch, 4\)"),
    "one": (torch.zeros(4), r"give a batch of one by \[None\]"),
    "sequences": (torch.zeros(2, 3, 4), r"z of shape \(2, 3, 4\)"),
    "number": (torch.tensor(1.0), r"z of shape \(\)"),
}


@pytest.mark.parametrize(("given", "found"), Z.values(), ids=Z)
def test_z_that_does_not_fit_the_decoder_is_refused(paper: VAE, given: Tensor, found: str):
    for function in (paper.decode, paper.logits, lambda z: forms.decode(paper.paper[1], z)):
        with pytest.raises(ValueError, match=found):
            function(given)


def test_images_and_z_may_have_any_memory_order(paper: VAE):
    wide, z = images(4), torch.rand(4, 3)
    with torch.no_grad():
        assert torch.equal(paper.posterior(wide[::2]).mu, paper.posterior(wide[::2].clone()).mu)
        last = wide.to(memory_format=torch.channels_last)
        torch.testing.assert_close(paper.posterior(last).mu, paper.posterior(wide).mu)
        assert torch.equal(paper.logits(z.t()), paper.logits(z.t().contiguous()))


def test_the_gradient_of_pixels_equals_that_of_the_definition(paper: VAE):
    model, pixels = VAE(VAEConfig(z_dim=4)).double(), images(dtype=torch.float64).requires_grad_()
    ours, expected = (
        torch.autograd.grad(mu.sin().sum(), pixels)[0]
        for mu in (forms.encode(model.paper[0], pixels)[0], model.paper[0](pixels)[0])
    )
    torch.testing.assert_close(ours, expected)


# C

LAYER = Layer(4, 14, 8, 6, 16)


def conv_arguments(layer: Layer = LAYER, images: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    shapes = layer.shapes(images)
    return {
        "wide": torch.rand(shapes["wide"], dtype=dtype),
        "weights": torch.rand(shapes["weights"], dtype=dtype),
        "bias": torch.rand(layer.features, dtype=dtype),
    }


def deconv_arguments(layer: Layer = LAYER) -> dict[str, Tensor]:
    arguments = conv_arguments(layer)
    return {
        "narrow": torch.rand(layer.shapes(2)["narrow"]),
        "weights": arguments["weights"],
        "bias": torch.rand(layer.channels),
    }


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "smaller": lambda tensor: tensor[..., :-1].contiguous(),
    "larger": lambda tensor: torch.cat([tensor, tensor], -1),
    "an axis more": lambda tensor: tensor[None],
    "a number": lambda tensor: tensor.sum(),
    "float64": lambda tensor: tensor.double(),
    "float16": lambda tensor: tensor.half(),
    "int32": lambda tensor: tensor.int(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "meta": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
    "expanded": lambda tensor: tensor[:1].expand(tensor.shape),
    "every second": lambda tensor: torch.cat([tensor, tensor], -1)[..., ::2],
}


FORMS: dict[str, tuple[str, Callable[..., Any], Callable[..., Any]]] = {
    "conv": ("wide", conv_arguments, lambda of: winograd.conv(**of, layer=LAYER)),
    "conv_chain": (
        "wide",
        conv_arguments,
        lambda of: winograd_chain.conv_chain(of["wide"], [of["weights"], of["bias"]], [LAYER]),
    ),
    "deconv": ("narrow", deconv_arguments, lambda of: winograd.deconv(**of, layer=LAYER)),
}


@needs_library
@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", ["images", "weights", "bias"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_refuses_arrays_that_do_not_fit_the_layer(form: str, name: str, change: Callable[[Tensor], Tensor]):
    images, make_arguments, run = FORMS[form]
    arguments, changed = make_arguments(), images if name == "images" else name
    arguments[changed] = change(arguments[changed])
    with pytest.raises(ValueError):
        run(arguments)


@needs_library
def test_a_refusal_names_what_was_found_and_what_is_accepted():
    arguments = conv_arguments() | {"wide": torch.rand(2, 8, 8, 8)}
    with pytest.raises(ValueError) as caught:
        winograd.conv(**arguments, layer=LAYER)
    assert str(caught.value) == (
        "wide is torch.float32 (2, 8, 8, 8) on cpu; conv takes torch.float32 (2, 14, 14, 8) on cpu"
    )


@needs_library
@pytest.mark.parametrize("function", ["conv", "conv_backward", "deconv", "deconv_backward"])
def test_a_call_with_a_missing_array_is_refused(function: str):
    with pytest.raises(ValueError, match=f"{function} needs "):
        winograd.call(function, LAYER, 2, torch.float32)


@needs_library
def test_bytes_are_refused_by_deconv():
    arguments = deconv_arguments()
    with pytest.raises(ValueError, match=r"narrow is torch.uint8"):
        winograd.deconv(arguments["narrow"].byte(), arguments["weights"], arguments["bias"], LAYER)


@needs_library
def test_images_smaller_than_the_tiles_are_refused_by_conv_and_larger_ones_by_deconv():
    small, large = Layer(4, 12, 8, 6, 16), Layer(4, 16, 8, 6, 16)
    with pytest.raises(ValueError, match="wide images of 12 pixels a side, and the tiles see 14"):
        winograd.conv(**conv_arguments(small), layer=small)
    with pytest.raises(ValueError, match="wide images of 12"):
        winograd_chain.conv_chain(torch.rand(2, 12, 12, 8), [*conv_arguments(small).values()][1:], [small])
    with pytest.raises(ValueError, match="wide images of 16 pixels a side, and the tiles see 14"):
        winograd.deconv(**deconv_arguments(large), layer=large)


@needs_library
def test_a_second_derivative_is_refused_and_not_taken_to_be_0():
    arguments = conv_arguments(dtype=torch.float64)
    weights = arguments["weights"].requires_grad_()
    loss = winograd.conv(arguments["wide"], weights, arguments["bias"], LAYER).square().sum()
    (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        gradient.sum().backward()


SIZES = [(4, 0, 8, 6, 16), (4, 14, 8, -1, 16), (4, 14, 0, 6, 16), (4, 2**40, 8, 6, 16), (6, 14, 8, 6, 16, True, 3)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_layer_of_impossible_sizes_is_refused(sizes: Any):
    with pytest.raises(ValueError):
        Layer(*sizes)


@pytest.mark.parametrize("shape", [(16, 8, 4), (16, 8, 4, 5), (16, 8, 9, 9)])
def test_weights_of_a_size_without_an_algorithm_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="there is no such algorithm"):
        winograd.transform_weights(torch.rand(shape))


ODD_CALLS = """
import sys
import torch
from world_models.vae.fast import forms, winograd, winograd_chain
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE
from world_models.vae.fast.winograd_layer import Layer
assert not __debug__ or sys.exit("this is to run by python -O")
vae, layer = VAE(VAEConfig(z_dim=4)), Layer(4, 14, 8, 6, 16)
weights, bias = torch.rand(layer.shapes(1)["weights"]), torch.rand(16)
wide, narrow = torch.rand(1, 14, 14, 8), torch.rand(1, 6, 6, 16)
calls = [
    lambda: vae.posterior(torch.rand(1, 3, 8, 8)),
    lambda: vae.posterior(torch.rand(1, 3, 64, 64).double()),
    lambda: vae.decode(torch.rand(1, 5)),
    lambda: vae.decode(torch.rand(1, 4).double()),
    lambda: winograd.conv(wide[:, :2, :2].contiguous(), weights, bias, layer),
    lambda: winograd.conv(wide.transpose(1, 2), weights, bias, layer),
    lambda: winograd.conv(wide, weights.double(), bias, layer),
    lambda: winograd.conv(wide.half(), weights.half(), bias.half(), layer),
    lambda: winograd.deconv(narrow[..., :1].contiguous(), weights, torch.rand(8), layer),
    lambda: winograd.deconv(narrow, weights, bias[:1], layer),
    lambda: winograd_chain.conv_chain(torch.rand(1, 8, 8, 8), [weights, bias], [layer]),
    lambda: Layer(4, 14, 8, 6, 17),
    lambda: winograd.conv(torch.rand(1, 14, 14, 3, requires_grad=True), weights[:, :16].contiguous(), bias,
                          Layer(4, 14, 3, 6, 16)).sum().backward(),
]
for number, call in enumerate(calls):
    try:
        call()
    except ValueError as error:
        print(number, error)
"""


@pytest.mark.slow
@needs_library
def test_bad_calls_are_refused_also_by_python_without_assertions():
    done = subprocess.run([sys.executable, "-O", "-c", ODD_CALLS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [str(number) for number in range(13)]


def test_the_examples_run():
    for method in (VAE.encode, VAE.decode):
        (example,) = doctest.DocTestFinder(recurse=False).find(method, globs={**globals()})
        assert example.examples and not doctest.DocTestRunner().run(example).failed
