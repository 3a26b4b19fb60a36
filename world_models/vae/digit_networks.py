"""Encoders and decoders of MNIST's 28x28x1 images: dense layers, or a few convolutions."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

DIGIT_VALUES = 28 * 28
DIGIT_FEATURES = 32 * 7 * 7


class Heads(nn.Module):
    """Linear layers from features to the mean and the log variance of q(z|x); a point posterior has no log variance."""

    def __init__(self, width: int, z_dim: int, has_logvar: bool):
        super().__init__()
        self.mu = nn.Linear(width, z_dim)
        self.logvar = nn.Linear(width, z_dim) if has_logvar else None

    def heads(
        self, hidden: Float[Tensor, "batch width"]
    ) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"] | None]:
        """The posterior's mu and logvar."""
        return self.mu(hidden), None if self.logvar is None else self.logvar(hidden)


class DenseEncoder(Heads):
    """Fully connected layers with ReLU, from a digit to q(z|x). A one-hot class is appended to the pixels."""

    def __init__(self, z_dim: int, hidden: Sequence[int], has_logvar: bool = True, num_classes: int = 0):
        super().__init__(hidden[-1], z_dim, has_logvar)
        self.layers = _dense([DIGIT_VALUES + num_classes, *hidden])

    def forward(
        self, images: Float[Tensor, "batch 1 28 28"], *classes: Float[Tensor, "batch classes"]
    ) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"] | None]:
        """The posterior's mu and logvar."""
        return self.heads(_relu_each(self.layers, torch.cat([images.flatten(1), *classes], 1)))


class DenseDecoder(nn.Module):
    """Fully connected layers from z to a digit, the encoder's in reverse order. A one-hot class is appended to z."""

    def __init__(self, z_dim: int, hidden: Sequence[int], num_classes: int = 0):
        super().__init__()
        self.layers = _dense([z_dim + num_classes, *reversed(hidden)])
        self.pixels = nn.Linear(hidden[0], DIGIT_VALUES)

    @property
    def linear(self) -> nn.Linear:
        """The layer that takes z."""
        return self.layers[0]  # type: ignore[return-value]: ModuleList does not know its modules' type

    def forward(
        self, z: Float[Tensor, "batch z"], *classes: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch 1 28 28"]:
        """The images before the last sigmoid, as logits."""
        return self.pixels(_relu_each(self.layers, torch.cat([z, *classes], 1))).unflatten(1, (1, 28, 28))


class DigitEncoder(Heads):
    """Two 4x4 convolutions of stride 2 with 16 and 32 channels and ReLU, from a digit to q(z|x)."""

    def __init__(self, z_dim: int, has_logvar: bool = True):
        super().__init__(DIGIT_FEATURES, z_dim, has_logvar)
        self.conv1 = nn.Conv2d(1, 16, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2, padding=1)

    def forward(
        self, images: Float[Tensor, "batch 1 28 28"], *no_classes: Float[Tensor, "batch 0"]
    ) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"] | None]:
        """The posterior's mu and logvar."""
        hidden = F.relu(self.conv2(F.relu(self.conv1(images))))  # 14 and 7 pixels wide
        return self.heads(hidden.flatten(1))


class DigitDecoder(nn.Module):
    """A linear layer to 7x7x32, then two 4x4 transposed convolutions of stride 2, from z to a digit."""

    def __init__(self, z_dim: int):
        super().__init__()
        self.linear = nn.Linear(z_dim, DIGIT_FEATURES)
        self.deconv1 = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)
        self.deconv2 = nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1)

    def forward(
        self, z: Float[Tensor, "batch z"], *no_classes: Float[Tensor, "batch 0"]
    ) -> Float[Tensor, "batch 1 28 28"]:
        """The images before the last sigmoid, as logits."""
        hidden = F.relu(self.linear(z)).unflatten(1, (32, 7, 7))
        return self.deconv2(F.relu(self.deconv1(hidden)))


def _dense(widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))


def _relu_each(layers: nn.ModuleList, hidden: Tensor) -> Tensor:
    for layer in layers:
        hidden = F.relu(layer(hidden))
    return hidden
