"""The paper's convolutional encoder and decoder (Ha & Schmidhuber 2018, appendix A.1), 64x64x3 images.

These are the definition. What runs are the faster forms of the same functions in `formulations.py`.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

HIDDEN = 1024


class Encoder(nn.Module):
    """Images to the mean and log variance of q(z|x): four 4x4 convolutions of stride 2, two linear heads."""

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
    """Latents to images: linear to 1024, then transposed convolutions 5x5, 5x5, 6x6, 6x6 of stride 2."""

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
