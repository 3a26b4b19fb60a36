"""The paper's architecture: its size, its shapes, and its layers."""

from itertools import pairwise
from typing import Any, cast, get_args, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from world_models.runs.description import ARCHITECTURES
from world_models.vae.config import VAEConfig
from world_models.vae.digit_networks import DigitEncoder
from world_models.vae.model import VAE, num_parameters
from world_models.vae.networks import IMAGE_SHAPES, Decoder, Encoder, initialise_he


def test_every_network_that_a_config_may_name_can_be_built_and_saved():
    assert set(get_args(get_type_hints(VAEConfig)["network"])) == set(IMAGE_SHAPES) == set(ARCHITECTURES)


def test_the_number_of_parameters_is_the_papers():
    assert num_parameters(VAE(VAEConfig())) == 4_348_547


@pytest.mark.parametrize("z_dim", [1, 2, 32, 64])
def test_encoder_gives_mu_and_logvar_of_every_image(z_dim: int):
    mu, logvar = Encoder(z_dim)(torch.rand(3, 3, 64, 64))
    assert mu.shape == logvar.shape == (3, z_dim)


@pytest.mark.parametrize("z_dim", [1, 2, 32, 64])
def test_decoder_gives_an_image_of_every_z(z_dim: int):
    assert Decoder(z_dim)(torch.randn(3, z_dim)).shape == (3, 3, 64, 64)


def _shapes(modules: list[nn.Module], run: Tensor, network: nn.Module) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    for module in modules:
        module.register_forward_hook(lambda _module, _args, output: shapes.append(tuple(output.shape[1:])))
    network(run)
    return shapes


def test_encoder_layers_have_the_papers_shapes():
    encoder = Encoder(32)
    layers: list[nn.Module] = [encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4]
    assert _shapes(layers, torch.rand(1, 3, 64, 64), encoder) == [(32, 31, 31), (64, 14, 14), (128, 6, 6), (256, 2, 2)]


def test_decoder_layers_have_the_papers_shapes():
    decoder = Decoder(32)
    layers: list[nn.Module] = [
        decoder.linear,
        decoder.deconv1,
        decoder.deconv2,
        decoder.deconv3,
        decoder.deconv4,
    ]
    shapes = [(1024,), (128, 5, 5), (64, 13, 13), (32, 30, 30), (3, 64, 64)]
    assert _shapes(layers, torch.randn(1, 32), decoder) == shapes


def test_mu_and_logvar_have_separate_layers():
    mu, logvar = Encoder(4)(torch.rand(1, 3, 64, 64))
    assert not torch.allclose(mu, logvar)


def _plain(layers: list[nn.Module], kink_after: list[nn.Module], hidden: Tensor) -> Tensor:
    """Layers one after the other, with a ReLU after some."""
    for layer in layers:
        hidden = layer(hidden).relu() if layer in kink_after else layer(hidden)
    return hidden


def test_encoder_has_a_relu_after_each_convolution_and_none_after_its_heads():
    encoder, images = Encoder(6), torch.rand(4, 3, 64, 64)
    convs: list[nn.Module] = [encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4]
    hidden = _plain(convs, convs, images).flatten(1)
    assert all(map(torch.equal, encoder(images), (encoder.mu(hidden), encoder.logvar(hidden))))


def test_decoder_has_a_relu_after_each_transposed_convolution_but_the_last_and_none_after_its_linear_layer():
    decoder, z = Decoder(6), torch.randn(4, 6)
    deconvs: list[nn.Module] = [decoder.deconv1, decoder.deconv2, decoder.deconv3, decoder.deconv4]
    hidden = decoder.linear(z)[:, :, None, None]
    assert torch.equal(decoder(z), _plain(deconvs, deconvs[:-1], hidden))


def test_logits_may_be_of_either_sign():
    decoder = Decoder(6)
    bias = decoder.deconv4.bias
    assert bias is not None
    with torch.no_grad():
        bias.copy_(torch.tensor([-5.0, 0.0, 5.0]))
    logits = decoder(torch.zeros(1, 6))
    assert logits.min() < 0 < logits.max()


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_the_latents_of_an_image_do_not_depend_on_other_images(batch: int):
    encoder, images = Encoder(3).double(), torch.rand(5, 3, 64, 64, dtype=torch.float64)
    for part, whole in zip(encoder(images[:batch]), encoder(images), strict=True):
        torch.testing.assert_close(part, whole[:batch], rtol=0, atol=1e-12)


# MNIST's


def _count(**config: Any) -> int:
    return num_parameters(VAE(VAEConfig(**config)))


def test_the_tutorials_vae_has_the_tutorials_layers():
    dense = 784 * 400 + 400 + 2 * (400 * 20 + 20) + 20 * 400 + 400 + 400 * 784 + 784
    assert _count(network="mlp", z_dim=20) == dense == 652_824


def test_the_tutorials_autoencoder_has_one_output_layer():
    dense = 784 * 128 + 128 + 128 * 64 + 64 + 64 * 128 + 128 + 128 * 784 + 784
    assert _count(network="mlp", z_dim=64, hidden=(128,), posterior="point") == dense


def test_the_decoder_has_the_encoders_layers_in_reverse():
    vae = VAE(VAEConfig(network="mlp", z_dim=2, hidden=(50, 30)))
    widths = [tuple(weight.shape) for name, weight in vae.named_parameters() if name.endswith("weight")]
    assert widths == [(2, 30), (2, 30), (50, 784), (30, 50), (30, 2), (50, 30), (784, 50)]


def test_classes_add_ten_inputs_to_encoder_and_decoder():
    assert _count(network="mlp", num_classes=10) - _count(network="mlp") == 2 * 10 * 400


@pytest.mark.parametrize("config", [{"network": "mlp"}, {"network": "mlp", "hidden": (30, 20)}, {"network": "conv"}])
@pytest.mark.parametrize("posterior", ["normal", "point"])
@pytest.mark.parametrize("z_dim", [1, 20])
def test_digits_are_encoded_and_decoded(config: dict[str, Any], posterior: str, z_dim: int):
    vae = VAE(VAEConfig(z_dim=z_dim, posterior=cast(Any, posterior), **config))
    found = vae.posterior(torch.rand(3, 1, 28, 28))
    assert found.mu.shape == found.logvar.shape == (3, z_dim)
    assert vae.logits(found.mu).shape == (3, 1, 28, 28)


def test_the_small_convolutions_halve_the_image_twice():
    encoder = DigitEncoder(4)
    assert _shapes([encoder.conv1, encoder.conv2], torch.rand(1, 1, 28, 28), encoder) == [(16, 14, 14), (32, 7, 7)]


# weights to begin with


def _seeded(he: bool) -> VAE:
    torch.manual_seed(0)
    vae = VAE(VAEConfig())
    if he:
        initialise_he(vae)
    return vae


def _power(layers: list[nn.Module], run: Tensor, network: nn.Module) -> list[float]:
    """Mean square of the output of each layer, before its ReLU."""
    powers: list[float] = []
    for layer in layers:
        layer.register_forward_hook(lambda _layer, _args, output: powers.append(output.square().mean().item()))
    network(run)
    return powers


def test_with_he_initialisation_a_signal_keeps_its_size_through_convolutions():
    vae = _seeded(he=True)
    encoder = vae.paper[0]
    powers = _power([encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4], torch.randn(32, 3, 64, 64), encoder)
    assert all(0.5 < after / before < 2 for before, after in pairwise(powers))


def test_with_pytorchs_initialisation_a_signal_becomes_smaller_through_convolutions():
    encoder = _seeded(he=False).paper[0]
    powers = _power([encoder.conv1, encoder.conv2, encoder.conv3, encoder.conv4], torch.randn(32, 3, 64, 64), encoder)
    assert all(after / before < 0.5 for before, after in pairwise(powers))


def test_with_he_initialisation_a_signal_keeps_its_size_through_transposed_convolutions():
    decoder = _seeded(he=True).paper[1]
    layers: list[nn.Module] = [decoder.linear, decoder.deconv1, decoder.deconv2, decoder.deconv3, decoder.deconv4]
    powers = _power(layers, torch.randn(32, 32), decoder)
    first, *others = (after / before for before, after in pairwise(powers))
    assert first == pytest.approx(2 / 6.25, rel=0.2)  # of 25 taps one meets a pixel, not one in four
    assert all(0.3 < ratio < 2 for ratio in others)


def test_he_initialisation_keeps_linear_weights_and_sets_biases_to_0():
    he, torchs = _seeded(he=True), _seeded(he=False)
    for name, parameter in he.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        else:
            same = torch.equal(parameter, torchs.get_parameter(name))
            assert same == isinstance(he.get_submodule(name.removesuffix(".weight")), nn.Linear), name
