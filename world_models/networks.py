"""The paper's convolutional encoder and decoder (Ha & Schmidhuber 2018, appendix A.1), 64x64x3 images."""

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
        hidden = F.relu(self._first_deconv(self.linear(z)))
        hidden = F.relu(self.deconv2(hidden))  # 5 -> 13 pixels wide
        hidden = F.relu(self.deconv3(hidden))  # 30
        return self._last_deconv(hidden)  # 64

    def _first_deconv(self, hidden: Float[Tensor, "batch 1024"]) -> Float[Tensor, "batch 128 5 5"]:
        """`deconv1` of a 1x1 map, which is a linear map and eight times faster as one."""
        weight, bias = self.deconv1.weight, self.deconv1.bias
        assert bias is not None
        return (hidden @ weight.flatten(1)).unflatten(1, (128, 5, 5)) + bias[:, None, None]

    def _last_deconv(self, hidden: Float[Tensor, "batch 32 30 30"]) -> Float[Tensor, "batch 3 64 64"]:
        """`deconv4` as a sub-pixel convolution (Shi et al. 2016): faster, since 12 channels keep a core busier than 3.

        Of a 6x6 kernel of stride 2, each of the four pixels in a 2x2 block sees a 3x3 kernel of its own.
        """
        weight, bias = self.deconv4.weight, self.deconv4.bias
        assert bias is not None
        phases = weight.unflatten(2, (3, 2)).unflatten(4, (3, 2))  # in, out, row, row phase, column, column phase
        kernels = phases.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).flip(-2, -1)
        return F.pixel_shuffle(F.conv2d(hidden, kernels, padding=2), 2) + bias[:, None, None]
