"""q(z|x), what the encoder says of a frame: a normal distribution, or all of it in one point. Nats per frame."""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Posterior:
    """q(z|x): a normal distribution with diagonal covariance for each frame."""

    mu: Float[Tensor, "batch z"]
    logvar: Float[Tensor, "batch z"]

    def sample(self, noise: Float[Tensor, "batch z"] | None = None) -> Float[Tensor, "batch z"]:
        """Z = mu + exp(logvar / 2) * noise, the reparameterisation (Kingma & Welling 2014, section 2.4)."""
        return self.mu + torch.exp(self.logvar / 2) * (torch.randn_like(self.mu) if noise is None else noise)

    def repeated(self, times: int) -> "Posterior":
        """Each frame's posterior so many times in a row."""
        if times == 1:
            return self
        mu, logvar = (tensor.repeat_interleave(times, 0) for tensor in (self.mu, self.logvar))
        return dataclasses.replace(self, mu=mu, logvar=logvar)

    def kl_nats_per_dim(self) -> Float[Tensor, "batch z"]:
        """Divergence from N(0, 1) of each latent dimension."""
        return 0.5 * (self.mu.square() + self.logvar.exp() - self.logvar - 1)

    def kl_nats(self) -> Float[Tensor, " batch"]:
        """Divergence from N(0, I) (Kingma & Welling 2014, appendix B)."""
        return self.kl_nats_per_dim().sum(1)

    def log_prob(self, z: Float[Tensor, "batch z"]) -> Float[Tensor, " batch"]:
        """Log q(z|x)."""
        return -0.5 * ((z - self.mu).square() / self.logvar.exp() + self.logvar + math.log(2 * math.pi)).sum(1)


@dataclasses.dataclass(frozen=True)
class Point(Posterior):
    """All of q(z|x) in one place, a plain autoencoder's code: no noise reaches z, and no KL is charged."""

    def kl_nats_per_dim(self) -> Float[Tensor, "batch z"]:
        """None is charged; that of a point from a density is infinite."""
        return torch.zeros_like(self.mu)


def prior_log_prob(z: Float[Tensor, "batch z"]) -> Float[Tensor, " batch"]:
    """Log N(z; 0, I)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
