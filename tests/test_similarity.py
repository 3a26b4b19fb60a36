"""SSIM, against the one of torchmetrics, which convolves."""

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from world_models.similarity import ssim


def _pairs(*shape: int) -> tuple[Tensor, Tensor]:
    """Blurred noise, and the same with some noise of its own."""
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.rand(*shape, generator=generator) for _ in range(2))
    blurred = torch.nn.functional.avg_pool2d(images, 5, stride=1, padding=2)
    return blurred, (blurred + 0.1 * noise).clamp(max=1)


@pytest.mark.parametrize("shape", [(4, 3, 64, 64), (2, 1, 28, 28), (1, 3, 6, 20)])
def test_ssim_is_that_of_torchmetrics(shape: tuple[int, ...]):
    images, others = _pairs(*shape)
    expected = structural_similarity_index_measure(images, others, reduction="none", data_range=1.0)
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(ssim(images, others), expected, rtol=1e-4, atol=1e-5)


def test_ssim_takes_images_however_they_lie_in_memory():
    images, others = _pairs(2, 3, 64, 64)
    channels_last = images.to(memory_format=torch.channels_last)
    assert torch.equal(ssim(channels_last, others), ssim(images, others))


def test_ssim_of_flat_images_is_one():
    assert ssim(torch.ones(2, 3, 64, 64), torch.ones(2, 3, 64, 64)).tolist() == pytest.approx([1, 1])


def test_images_too_small_to_be_mirrored_are_refused():
    with pytest.raises(ValueError, match="more than 5 pixels a side, these have 5"):
        ssim(torch.ones(1, 3, 5, 64), torch.ones(1, 3, 5, 64))
