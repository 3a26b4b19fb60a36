"""Structural similarity."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from world_models.vae.ssim import ssim


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28), (3, 6, 20)])
def test_it_is_the_value_of_torchmetrics(shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, *shape, generator=generator)
    others = (images + 0.2 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    expected = structural_similarity_index_measure(others, images, reduction="none", data_range=1.0)
    torch.testing.assert_close(ssim(others, images), expected, rtol=0, atol=1e-6)


def test_flat_images_have_a_finite_value():
    black, white = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert ssim(black, black).item() == pytest.approx(1)
    assert 0 <= ssim(black, white).item() < 0.01


def test_equal_images_have_one():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(images, images), torch.ones(2))
