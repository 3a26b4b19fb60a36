"""The settings of the V model and its objective."""

import dataclasses
import math
from typing import Literal

from world_models.runtime.errors import require, require_bounds

MIN_VARIANCE = 1e-6
MAX_Z_DIM, MAX_LAYERS, MAX_WIDTH, MAX_CLASSES = 10_000, 8, 8192, 1000  # checked before memory is allocated


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The V model and its objective.

    Attributes:
        z_dim: number of latent dimensions.
        beta: weight of the KL in the objective.
        kl_tolerance: KL floor in nats per latent dimension: the objective has max(KL, kl_tolerance * z_dim).
        likelihood: gaussian (squared error) or bernoulli (cross-entropy).
        variance: variance of the Gaussian, per value. A smaller one gives sharper frames and costs more nats. 0.5 makes
            the objective the paper's SSE + KL. null takes the optimal one: it is the mean squared error, which falls
            during training (sigma-VAE, Rybkin et al. 2021).
        num_samples: number of samples of z over which the objective averages the reconstruction error.
        network: paper takes CarRacing's 64x64x3 frames; mlp (fully connected) and conv (small, convolutional) take
            MNIST's 28x28x1 images.
        hidden: widths of mlp's hidden layers, such as [512,256], from the image to z; the decoder reverses them.
        posterior: normal; or point, which makes it a plain autoencoder: z = mu, no noise, no KL.
        num_classes: number of classes of a conditional VAE, whose encoder and decoder get each frame's class (mlp
            only): 10 for MNIST's digits, 0 for a VAE that is not conditional.
    """

    z_dim: int = 32
    beta: float = 1.0
    kl_tolerance: float = 0.5
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    variance: float | None = 0.003
    num_samples: int = 1
    network: Literal["paper", "mlp", "conv"] = "paper"
    hidden: tuple[int, ...] = (400,)
    posterior: Literal["normal", "point"] = "normal"
    num_classes: int = 0

    def __post_init__(self):
        require(1 <= self.z_dim <= MAX_Z_DIM, f"vae.z_dim is {self.z_dim}; give 1 to {MAX_Z_DIM:,}")
        fits = 1 <= len(self.hidden) <= MAX_LAYERS and all(1 <= width <= MAX_WIDTH for width in self.hidden)
        require(fits, f"vae.hidden is {list(self.hidden)}; give 1 to {MAX_LAYERS} widths of 1 to {MAX_WIDTH:,}")
        require(
            0 <= self.num_classes <= MAX_CLASSES, f"vae.num_classes is {self.num_classes}; give 0 to {MAX_CLASSES:,}"
        )
        require_bounds(self, "vae.", num_samples=(1, 1000))
        conditional, point = self.num_classes > 0, self.posterior == "point"
        require(
            not conditional or self.network == "mlp",
            f"vae.num_classes: network {self.network} takes no classes; give network mlp",
        )
        require(not point or self.network != "paper", "the paper's network has no point posterior; give mlp or conv")
        require(0 <= self.beta < math.inf, f"vae.beta is {self.beta}; give 0 or more")
        require(0 <= self.kl_tolerance < math.inf, f"vae.kl_tolerance is {self.kl_tolerance}; give 0 or more")
        if self.variance is not None:
            require(
                MIN_VARIANCE <= self.variance < math.inf, f"vae.variance is {self.variance}; give 1e-6 or more, or null"
            )

    @property
    def noise_dim(self) -> int:
        """Number of random numbers that the objective takes for each frame."""
        return self.num_samples * self.z_dim
