"""The variational autoencoder: posterior, likelihoods, KL, ELBO. Nats per frame, summed over pixels and latents."""

import dataclasses
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from world_models import formulations
from world_models.config import require
from world_models.networks import Decoder, Encoder

NUM_VALUES = 64 * 64 * 3
PAPER_VARIANCE = 0.5  # with which a Gaussian's exponent is the SSE
MIN_VARIANCE = 1e-6
USED_KL_NATS = 0.05  # a latent dimension with more KL than this is in use
ACTIVE_VARIANCE = 0.01  # one whose mu varies more than this over the data is active (Burda et al. 2016)


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The V model and its objective.

    Attributes:
        z_dim: latent dimensions.
        beta: weight of the KL in the objective.
        kl_tolerance: KL floor in nats per latent dimension: the objective has max(KL, kl_tolerance * z_dim).
        likelihood: gaussian (squared error) or bernoulli (cross-entropy).
        variance: of the Gaussian, per value: null is the optimal one, which is the mean squared error itself, followed
            as it falls in training (sigma-VAE, Rybkin et al. 2021); 0.5 makes the objective the paper's SSE + KL.
    """

    z_dim: int = 32
    beta: float = 1.0
    kl_tolerance: float = 0.5
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    variance: float | None = None

    def __post_init__(self):
        require(self.z_dim >= 1, f"vae.z_dim is {self.z_dim}; give 1 or more")
        require(0 <= self.beta < math.inf, f"vae.beta is {self.beta}; give 0 or more")
        require(0 <= self.kl_tolerance < math.inf, f"vae.kl_tolerance is {self.kl_tolerance}; give 0 or more")
        if self.variance is not None:
            require(
                MIN_VARIANCE <= self.variance < math.inf, f"vae.variance is {self.variance}; give 1e-6 or more, or null"
            )


@dataclasses.dataclass(frozen=True)
class Posterior:
    """q(z|x): a normal distribution with diagonal covariance for each frame."""

    mu: Float[Tensor, "batch z"]
    logvar: Float[Tensor, "batch z"]

    def sample(self, noise: Float[Tensor, "batch z"] | None = None) -> Float[Tensor, "batch z"]:
        """Z = mu + exp(logvar / 2) * noise, the reparameterisation (Kingma & Welling 2014, section 2.4)."""
        return self.mu + torch.exp(self.logvar / 2) * (torch.randn_like(self.mu) if noise is None else noise)

    def kl_nats_per_dim(self) -> Float[Tensor, "batch z"]:
        """Divergence from N(0, 1) of each latent dimension."""
        return 0.5 * (self.mu.square() + self.logvar.exp() - self.logvar - 1)

    def kl_nats(self) -> Float[Tensor, " batch"]:
        """Divergence from N(0, I) (Kingma & Welling 2014, appendix B)."""
        return self.kl_nats_per_dim().sum(1)

    def log_prob(self, z: Float[Tensor, "batch z"]) -> Float[Tensor, " batch"]:
        """Log q(z|x)."""
        return -0.5 * ((z - self.mu).square() / self.logvar.exp() + self.logvar + math.log(2 * math.pi)).sum(1)


def prior_log_prob(z: Float[Tensor, "batch z"]) -> Float[Tensor, " batch"]:
    """Log N(z; 0, I)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


def squared_error(
    images: Float[Tensor, "batch 3 64 64"], means: Float[Tensor, "batch 3 64 64"]
) -> Float[Tensor, " batch"]:
    """SSE: summed over the frame's 12,288 values in [0, 1]."""
    return (images - means).square().sum((1, 2, 3))


def cross_entropy(
    images: Float[Tensor, "batch 3 64 64"], logits: Float[Tensor, "batch 3 64 64"]
) -> Float[Tensor, " batch"]:
    """Bernoulli cross-entropy, summed over the frame's values."""
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").sum((1, 2, 3))


def log_likelihood(
    images: Float[Tensor, "batch 3 64 64"],
    logits: Float[Tensor, "batch 3 64 64"],
    likelihood: str,
    variance: float | Float[Tensor, ""] = PAPER_VARIANCE,
) -> Float[Tensor, " batch"]:
    """Log p(x|z) with all its constants."""
    if likelihood == "bernoulli":
        return -cross_entropy(images, logits)
    error = gaussian_error(squared_error(images, logits.sigmoid()), torch.as_tensor(variance))
    return -error - 0.5 * NUM_VALUES * math.log(2 * math.pi * PAPER_VARIANCE)


def gaussian_error(sse: Float[Tensor, " batch"], variance: Float[Tensor, ""]) -> Float[Tensor, " batch"]:
    """Negative log-likelihood of a Gaussian less a constant, so that it is the SSE at the paper's variance."""
    return sse / (2 * variance) + 0.5 * NUM_VALUES * torch.log(2 * variance)


@dataclasses.dataclass(frozen=True)
class Terms:
    """The objective and its parts, each per frame."""

    loss_nats: Float[Tensor, " batch"]
    sse: Float[Tensor, " batch"]
    kl_nats: Float[Tensor, " batch"]


class VAE(nn.Module):
    """The V model: encoder, decoder, and what they were trained for.

    Attributes:
        config: sizes and objective.
        preprocess: how observations have to be turned into frames; `world_models.preprocess` takes it.
        variance: of the Gaussian likelihood; where the config has none, the learner sets it.
    """

    variance: Float[Tensor, ""]

    def __init__(self, config: VAEConfig, preprocess: dict[str, Any] | None = None):
        super().__init__()
        self.config, self.preprocess = config, preprocess or {}
        self.encoder, self.decoder = Encoder(config.z_dim), Decoder(config.z_dim)
        self.register_buffer("variance", torch.tensor(config.variance or PAPER_VARIANCE), persistent=False)

    def posterior(self, images: Float[Tensor, "batch 3 64 64"]) -> Posterior:
        """q(z|x) of images in [0, 1]."""
        mu, logvar = formulations.encode(self.encoder, images)
        return Posterior(mu.float(), logvar.float())  # the mathematics stays in float32 under autocast

    def logits(self, z: Float[Tensor, "batch z"]) -> Float[Tensor, "batch 3 64 64"]:
        """The decoder's output before the sigmoid."""
        return formulations.decode(self.decoder, z).float()

    def objective(
        self,
        images: Float[Tensor, "batch 3 64 64"],
        noise: Float[Tensor, "batch z"],
        beta_share: float | Float[Tensor, ""] = 1.0,
    ) -> Terms:
        """What training minimises, on one sampled z: reconstruction + beta * max(KL, floor).

        Args:
            images: in [0, 1].
            noise: standard normal, a row a frame.
            beta_share: share of beta that applies, below 1 during its warm-up.
        """
        posterior = self.posterior(images)
        return self.terms(images, posterior, self.logits(posterior.sample(noise)), beta_share)

    def terms(
        self,
        images: Float[Tensor, "batch 3 64 64"],
        posterior: Posterior,
        logits: Float[Tensor, "batch 3 64 64"],
        beta_share: float | Float[Tensor, ""] = 1.0,
    ) -> Terms:
        """The objective of what the networks made of the images."""
        sse, kl = squared_error(images, logits.sigmoid()), posterior.kl_nats()
        gaussian = self.config.likelihood == "gaussian"
        error = gaussian_error(sse, self.variance) if gaussian else cross_entropy(images, logits)
        floor = self.config.kl_tolerance * self.config.z_dim
        return Terms(error + beta_share * self.config.beta * kl.clamp(min=floor), sse, kl)

    def log_likelihood(
        self, images: Float[Tensor, "batch 3 64 64"], logits: Float[Tensor, "batch 3 64 64"]
    ) -> Float[Tensor, " batch"]:
        """Log p(x|z) with all its constants."""
        return log_likelihood(images, logits, self.config.likelihood, self.variance)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.mu.weight.device

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "batch 64 64 3"] | UInt8[Any, "batch 64 64 3"]) -> Posterior:
        """q(z|x) of uint8 frames (a tensor or a NumPy array)."""
        return self.posterior(to_images(torch.as_tensor(frames).to(self.device)))

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "batch z"]) -> UInt8[Tensor, "batch 64 64 3"]:
        """The frames that latents stand for."""
        return to_frames(self.logits(z.to(self.device)).sigmoid())


def to_images(frames: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """Frames as the network sees them: float, channel first, in [0, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 255


def to_frames(images: Float[Tensor, "batch 3 height width"]) -> UInt8[Tensor, "batch height width 3"]:
    """Images as frames."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def num_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters())
