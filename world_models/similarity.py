"""SSIM, the structural similarity of images (Wang et al. 2004), by two matrix products instead of convolutions."""

import torch
from jaxtyping import Float
from torch import Tensor

SIGMA, RADIUS = 1.5, 5  # of the Gaussian window, in pixels
STABILISERS = 0.01**2, 0.03**2  # C1 and C2 for values in [0, 1]


def ssim(
    images: Float[Tensor, "batch channels height width"], others: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """Structural similarity of pairs of images with values in [0, 1]: the mean over channels and pixels.

    Wang et al. 2004, equation 13, with their Gaussian window of 11 pixels and sigma of 1.5. Where a window reaches over
    an edge, the image is mirrored there, as in torchmetrics.

    Raises:
        ValueError: images of fewer than 6 pixels a side, which cannot be mirrored.

    Example:
        >>> ssim(torch.ones(2, 3, 64, 64), torch.ones(2, 3, 64, 64))
        tensor([1., 1.])
    """
    x, y = images.contiguous(), others.contiguous()
    down, across = (_window_means(size).to(x) for size in x.shape[2:])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        down @ (values @ across.T) for values in (x, y, x.square(), y.square(), x * y)
    )
    variances = (mean_xx - mean_x.square()).clamp(min=0) + (mean_yy - mean_y.square()).clamp(min=0)
    covariance = mean_xy - mean_x * mean_y
    c1, c2 = STABILISERS
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean((1, 2, 3))


def _window_means(size: int) -> Float[Tensor, "size size"]:
    """A matrix that takes a line of pixels to its weighted means around each of them."""
    if size <= RADIUS:
        raise ValueError(f"SSIM wants images of more than {RADIUS} pixels a side, these have {size}")
    offsets = torch.arange(-RADIUS, RADIUS + 1)
    weights = torch.softmax(-offsets.square() / (2 * SIGMA**2), 0)
    last = size - 1
    pixels = last - (last - (torch.arange(size)[:, None] + offsets).abs()).abs()  # mirrored at both ends
    return torch.zeros(size, size).scatter_add(1, pixels, weights.expand(size, -1))
