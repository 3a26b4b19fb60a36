"""q(z|x), the encoder's output for each frame: a normal distribution or a single point."""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Posterior:
    """q(z|x): a normal distribution with diagonal covariance for each frame.

    Attributes:
        mu: mean of each latent dimension.
        logvar: natural logarithm of the variance of each latent dimension.

    Example:
        >>> Posterior(torch.zeros(2, 32), torch.zeros(2, 32)).kl_nats()
        tensor([0., 0.])
    """

    mu: Float[Tensor, "batch z"]
    logvar: Float[Tensor, "batch z"]

    def sample(self, noise: Float[Tensor, "batch z"] | None = None) -> Float[Tensor, "batch z"]:
        """Z = mu + exp(logvar / 2) * noise, the reparameterisation (Kingma & Welling 2014, section 2.4).

        Args:
            noise: standard normal; None draws it with PyTorch's generator.

        Example:
            >>> posterior = Posterior(mu=torch.ones(2, 3), logvar=torch.zeros(2, 3))
            >>> posterior.sample(noise=torch.full((2, 3), 0.5))
            tensor([[1.5000, 1.5000, 1.5000],
                    [1.5000, 1.5000, 1.5000]])
        """
        return self.mu + torch.exp(self.logvar / 2) * (torch.randn_like(self.mu) if noise is None else noise)

    def repeated(self, times: int) -> "Posterior":
        """Repeat each frame's posterior `times` times: (batch * times, z). The copies of a frame follow each other.

        Example:
            >>> Posterior(mu=torch.tensor([[1.0], [2.0]]), logvar=torch.zeros(2, 1)).repeated(2).mu.flatten()
            tensor([1., 1., 2., 2.])
        """
        if times == 1:
            return self
        mu, logvar = (tensor.repeat_interleave(times, 0) for tensor in (self.mu, self.logvar))
        return dataclasses.replace(self, mu=mu, logvar=logvar)

    def kl_nats_per_dim(self) -> Float[Tensor, "batch z"]:
        """KL divergence from N(0, 1) of each latent dimension, in nats.

        (mu^2 + sigma^2 - log sigma^2 - 1) / 2, as in Kingma & Welling 2014, appendix B.

        Example:
            >>> Posterior(mu=torch.tensor([[0.0, 2.0]]), logvar=torch.zeros(1, 2)).kl_nats_per_dim()
            tensor([[0., 2.]])
        """
        return 0.5 * (self.mu.square() + self.logvar.exp() - self.logvar - 1)

    def kl_nats(self) -> Float[Tensor, " batch"]:
        """KL divergence from N(0, I) in nats, summed over the latent dimensions.

        Example:
            >>> Posterior(mu=torch.tensor([[0.0, 2.0]]), logvar=torch.zeros(1, 2)).kl_nats()
            tensor([2.])
        """
        return self.kl_nats_per_dim().sum(1)

    def log_prob(self, z: Float[Tensor, "batch z"]) -> Float[Tensor, " batch"]:
        """Logarithm of the density q(z|x) at z, in nats.

        -((z - mu)^2 / sigma^2 + log sigma^2 + log 2 pi) / 2, summed over the latent dimensions.

        Example:
            >>> Posterior(mu=torch.zeros(1, 32), logvar=torch.zeros(1, 32)).log_prob(torch.zeros(1, 32))
            tensor([-29.4060])
        """
        return -0.5 * ((z - self.mu).square() / self.logvar.exp() + self.logvar + math.log(2 * math.pi)).sum(1)


@dataclasses.dataclass(frozen=True)
class PointPosterior(Posterior):
    """The posterior of a plain autoencoder: z is mu, without noise, and the loss has no KL."""

    def kl_nats_per_dim(self) -> Float[Tensor, "batch z"]:
        """Zeros. The divergence of a point from a density is infinite, so it is left out of the loss."""
        return torch.zeros_like(self.mu)


def prior_log_prob(z: Float[Tensor, "batch z"]) -> Float[Tensor, " batch"]:
    """Logarithm of the density N(z; 0, I), in nats."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
