"""A model as a list of layers: computed one after the other, they give what PyTorch gives."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from world_models.explore import weights
from world_models.explore.weights import Layer
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE, to_images

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = {
    "paper": {},
    "paper with many dimensions": {"z_dim": 2000},
    "conv": {"network": "conv", "z_dim": 5},
    "mlp": {"network": "mlp", "hidden": (30, 20), "z_dim": 3},
    "conditional": {"network": "mlp", "hidden": (30,), "z_dim": 3, "num_classes": 10},
    "point": {"network": "mlp", "hidden": (30,), "z_dim": 3, "posterior": "point"},
}


def _vae(name: str) -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(**MODELS[name])).eval()


def _computed(layers: list[Layer], values: np.ndarray) -> np.ndarray:
    """The output of the layers, height x width x channel, as the page computes it."""
    for layer in layers:
        image = torch.from_numpy(values.reshape(layer.input).transpose(2, 0, 1)[None].copy())
        order = (3, 2, 0, 1) if layer.kind == "conv" else (2, 3, 0, 1)
        kernel, compute = layer.kernel.transpose(order), F.conv2d if layer.kind == "conv" else F.conv_transpose2d
        arguments: Any = torch.from_numpy(kernel.copy()), torch.from_numpy(layer.bias), layer.stride, layer.padding
        found = compute(image, *arguments)
        found = F.relu(found) if layer.relu else found
        values = found[0].permute(1, 2, 0).numpy()
        assert values.shape == layer.output
    return values.reshape(-1)


def _one_hot(vae: VAE, label: int) -> np.ndarray:
    return np.eye(vae.config.num_classes)[label] if vae.config.num_classes else np.zeros(0)


@pytest.mark.parametrize("name", MODELS)
def test_the_decoders_layers_give_the_models_logits(name: str):
    vae, z = _vae(name), np.random.default_rng(0).standard_normal(MODELS[name].get("z_dim", 32))
    found = _computed(weights.layers(vae)["decoder"], np.concatenate([z, _one_hot(vae, 7)]))
    with torch.inference_mode():
        wanted = vae.logits(torch.from_numpy(z[None]).float(), torch.tensor([7]))[0].permute(1, 2, 0)
    assert np.allclose(found, wanted.reshape(-1), atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "paper with many dimensions"])
def test_the_encoders_layers_give_mu_and_logvar(name: str):
    vae = _vae(name)
    frame = np.random.default_rng(0).integers(0, 256, vae.frame_shape, np.uint8)
    found = _computed(weights.layers(vae)["encoder"], np.concatenate([frame.reshape(-1) / 255, _one_hot(vae, 7)]))
    with torch.inference_mode():
        posterior = vae.posterior(to_images(torch.from_numpy(frame[None])), torch.tensor([7]))
    heads = [posterior.mu] if vae.config.posterior == "point" else [posterior.mu, posterior.logvar]
    assert np.allclose(found, torch.cat(heads, 1)[0], atol=1e-4)


def test_the_papers_first_two_layers_are_stored_as_their_product():
    layers = weights.layers(_vae("paper"))["decoder"]
    assert layers[0].kernel.shape == (1, 1, 32, 5 * 5 * 128)
    assert sum(layer.kernel.size for layer in layers) < 500_000


def test_the_product_is_left_out_if_it_is_larger():
    layers = weights.layers(_vae("paper with many dimensions"))["decoder"]
    assert layers[0].output == (1, 1, 1024)


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_weights_of_any_size_keep_three_digits(factor: float):
    networks = weights.layers(_vae("mlp"))
    layer = networks["decoder"][0]
    kernel = layer.kernel * factor
    described: Any
    described, numbers = weights.packed({"decoder": [Layer("conv", layer.input, layer.output, kernel, layer.bias)]})
    place = described["decoder"][0]["kernel"]
    found = numbers[place["start"] : place["start"] + kernel.size].astype(np.float64) * place["scale"]
    assert np.allclose(found, kernel.reshape(-1), rtol=1e-3, atol=1e-6 * factor)


def test_weights_that_are_all_zero_stay_zero():
    zeros = Layer("conv", (1, 1, 2), (1, 1, 3), np.zeros((1, 1, 2, 3)), np.zeros(3))
    assert not weights.packed({"decoder": [zeros]})[1].any()
