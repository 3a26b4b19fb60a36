"""The paper's architecture: its size, its shapes, and the fast forms of its transposed convolutions."""

import pytest
import torch
from torch import Tensor, nn

from world_models.networks import HIDDEN, Decoder, Encoder
from world_models.vae import VAE, VAEConfig, num_parameters


def test_parameter_count_is_the_papers():
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
    layers: list[nn.Module] = [decoder.linear, decoder.deconv2, decoder.deconv3]
    assert _shapes(layers, torch.randn(1, 32), decoder) == [(1024,), (64, 13, 13), (32, 30, 30)]


def test_mu_and_logvar_come_from_heads_of_their_own():
    mu, logvar = Encoder(4)(torch.rand(1, 3, 64, 64))
    assert not torch.allclose(mu, logvar)


def _reference(decoder: Decoder, z: Tensor) -> Tensor:
    """The decoder as the paper writes it: four transposed convolutions of a 1x1 map."""
    hidden = decoder.linear(z)[:, :, None, None]
    for deconv in (decoder.deconv1, decoder.deconv2, decoder.deconv3):
        hidden = torch.relu(deconv(hidden))
    return decoder.deconv4(hidden)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("batch", [1, 7])
def test_first_deconv_as_a_matmul_is_the_transposed_convolution(dtype: torch.dtype, tolerance: float, batch: int):
    torch.manual_seed(0)
    decoder, hidden = Decoder(5).to(dtype), torch.randn(batch, HIDDEN, dtype=dtype)
    expected = decoder.deconv1(hidden[:, :, None, None])
    torch.testing.assert_close(decoder._first_deconv(hidden), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("batch", [1, 3])
def test_last_deconv_in_its_fast_form_is_the_transposed_convolution(dtype: torch.dtype, tolerance: float, batch: int):
    torch.manual_seed(0)
    decoder, hidden = Decoder(5).to(dtype), torch.randn(batch, 32, 30, 30, dtype=dtype)
    torch.testing.assert_close(decoder._last_deconv(hidden), decoder.deconv4(hidden), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_decoder_is_the_papers_function(dtype: torch.dtype, tolerance: float):
    torch.manual_seed(0)
    decoder, z = Decoder(5).to(dtype), torch.randn(4, 5, dtype=dtype)
    torch.testing.assert_close(decoder(z), _reference(decoder, z), rtol=0, atol=tolerance)


def test_gradients_through_the_fast_forms_are_those_of_the_transposed_convolutions():
    torch.manual_seed(0)
    decoder, z = Decoder(5).double(), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    wanted = [z, *decoder.parameters()]
    ours = torch.autograd.grad(decoder(z).square().sum(), wanted)
    papers = torch.autograd.grad(_reference(decoder, z).square().sum(), wanted)
    for ours_of_one, papers_of_one in zip(ours, papers, strict=True):
        torch.testing.assert_close(ours_of_one, papers_of_one, rtol=1e-9, atol=1e-10)
