"""The paper's encoder and decoder (Ha & Schmidhuber 2018, appendix A.1), for 64x64x3 images.

These networks define the functions. The faster forms in `fast/` compute the same functions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from world_models.vae.digit_networks import DenseDecoder, DenseEncoder, DigitDecoder, DigitEncoder

HIDDEN = 1024
IMAGE_SHAPES = {"paper": (3, 64, 64), "mlp": (1, 28, 28), "conv": (1, 28, 28)}
"""Channels, height and width of the images that a network takes, by its name."""


class Encoder(nn.Module):
    """From images to the mean and log variance of q(z|x): four 4x4 convolutions of stride 2, two linear heads."""

    def __init__(self, z_dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 4, stride=2)
        self.conv2 = nn.Conv2d(32, 64, 4, stride=2)
        self.conv3 = nn.Conv2d(64, 128, 4, stride=2)
        self.conv4 = nn.Conv2d(128, 256, 4, stride=2)
        self.mu = nn.Linear(HIDDEN, z_dim)
        self.logvar = nn.Linear(HIDDEN, z_dim)

    def forward(
        self, images: Float[Tensor, "batch 3 64 64"]
    ) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"]]:
        """The posterior's mu and logvar."""
        hidden = images
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):  # 31, 14, 6, 2 pixels wide
            hidden = F.relu(conv(hidden))
        hidden = hidden.flatten(1)
        return self.mu(hidden), self.logvar(hidden)


class Decoder(nn.Module):
    """From latents to images: linear to 1024, then transposed convolutions 5x5, 5x5, 6x6, 6x6 of stride 2."""

    def __init__(self, z_dim: int):
        super().__init__()
        self.linear = nn.Linear(z_dim, HIDDEN)
        self.deconv1 = nn.ConvTranspose2d(HIDDEN, 128, 5, stride=2)
        self.deconv2 = nn.ConvTranspose2d(128, 64, 5, stride=2)
        self.deconv3 = nn.ConvTranspose2d(64, 32, 6, stride=2)
        self.deconv4 = nn.ConvTranspose2d(32, 3, 6, stride=2)

    def forward(self, z: Float[Tensor, "batch z"]) -> Float[Tensor, "batch 3 64 64"]:
        """The images before the last sigmoid, as logits."""
        hidden = self.linear(z)[:, :, None, None]
        for deconv in (self.deconv1, self.deconv2, self.deconv3):  # 5, 13, 30 pixels wide
            hidden = F.relu(deconv(hidden))
        return self.deconv4(hidden)  # 64


def build(
    network: str, z_dim: int, hidden: Sequence[int], has_logvar: bool, num_classes: int
) -> tuple[Encoder | DenseEncoder | DigitEncoder, Decoder | DenseDecoder | DigitDecoder]:
    """Make the encoder and the decoder of a network, by its name in `IMAGE_SHAPES`."""
    if network == "mlp":
        return DenseEncoder(z_dim, hidden, has_logvar, num_classes), DenseDecoder(z_dim, hidden, num_classes)
    if network == "conv":
        return DigitEncoder(z_dim, has_logvar), DigitDecoder(z_dim)
    return Encoder(z_dim), Decoder(z_dim)


@torch.no_grad()
def initialise_he(network: nn.Module) -> None:
    """Initialise convolutions by He et al. 2015, so that signals keep their size through ReLUs; set all biases to 0.

    In a transposed convolution only one tap in stride^2 meets an input pixel, so its weights are larger. The decoder's
    first one has a single input pixel, so only one tap meets it, and its signal shrinks to a third. Linear layers keep
    PyTorch's weights.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            taps = math.prod(layer.kernel_size)
            if isinstance(layer, nn.ConvTranspose2d):
                taps /= math.prod(layer.stride)
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / (layer.in_channels * taps)))
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
