"""The work of training on digits: as in tutorials (the baseline), and by this package."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from world_models.bench.measuring import Work, steps_for
from world_models.data.batches import Batches
from world_models.data.frames import ImageSet
from world_models.train_vae.learner import Learner
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

NUM_IMAGES = 10_000
BATCH = 128


def works(folder: Path, device: torch.device, seconds: float) -> dict[str, Work]:
    """Train the tutorials' VAE on random images: from files in MNIST's format, and from memory."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (NUM_IMAGES, 28, 28, 1), np.uint8), rng.integers(0, 10, NUM_IMAGES)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, values in {"images-idx3": images[..., 0], "labels-idx1": labels.astype(np.uint8)}.items():
        header = np.array([0x0800 + values.ndim, *values.shape], ">i4").tobytes()
        for part in ("train", "t10k"):
            (raw / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    loader = DataLoader(MNIST(str(folder), transform=ToTensor()), BATCH, shuffle=True)
    learner = Learner(
        VAE(VAEConfig(20, kl_tolerance=0.0, likelihood="bernoulli", network="mlp")).to(device), 0, 0.0, False
    )
    batches = Batches(ImageSet(images, labels), BATCH, 0, NUM_IMAGES, images.nbytes)
    step = _tutorial_step(device)
    return {
        "tutorial": steps_for(
            lambda batch: step(batch[0]), _forever(loader), lambda batch: len(batch[0]), seconds, device
        ),
        "mlp": steps_for(
            lambda batch: learner.learn(batch, 1e-3, 1.0), batches(device), lambda batch: batch.size, seconds, device
        ),
    }


def _forever(loader: DataLoader[Any]) -> Iterator[Any]:
    return itertools.chain.from_iterable(itertools.repeat(loader))


class Tutorial(nn.Module):
    """The VAE of the tutorials, 784-400-20-400-784."""

    def __init__(self):
        super().__init__()
        self.hidden, self.mu, self.logvar = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.up, self.out = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reconstruction, mu and logvar."""
        hidden = F.relu(self.hidden(pixels))
        mu, logvar = self.mu(hidden), self.logvar(hidden)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return torch.sigmoid(self.out(F.relu(self.up(z)))), mu, logvar

    def loss(self, pixels: Tensor) -> Tensor:
        """The negative ELBO in nats, summed over the batch."""
        shown, mu, logvar = self(pixels)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return F.binary_cross_entropy(shown, pixels, reduction="sum") + kl


def _tutorial_step(device: torch.device) -> Callable[[Tensor], None]:
    """A training step as in the tutorials."""
    model = Tutorial().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        loss = model.loss(images.to(device).flatten(1))
        loss.backward()
        optimizer.step()
        loss.item()  # the tutorials' progress bars show it

    return step
