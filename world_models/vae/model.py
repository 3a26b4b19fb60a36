"""The variational autoencoder: posterior, objective and likelihood, in nats per frame, summed over pixels and latents.

It is the same for every network and data set. Images are float tensors of shape (batch, channels, height, width).
"""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from world_models.runtime.typed_json import Json
from world_models.vae import inputs
from world_models.vae.config import VAEConfig
from world_models.vae.fast import forms
from world_models.vae.likelihoods import PAPER_VARIANCE, cross_entropy, gaussian_error, log_likelihood, squared_error
from world_models.vae.networks import IMAGE_SHAPES, Decoder, Encoder, build
from world_models.vae.posterior import PointPosterior, Posterior


@dataclasses.dataclass(frozen=True)
class Terms:
    """The objective, the squared error and the KL of each frame."""

    loss_nats: Float[Tensor, " batch"]
    sse: Float[Tensor, " batch"]
    kl_nats: Float[Tensor, " batch"]


class VAE(nn.Module):
    """The V model: encoder, decoder, and the objective they were trained for.

    A conditional model needs each frame's class, `labels`. Other models ignore them.

    Attributes:
        config: sizes and objective.
        preprocess: how observations become frames, for `world_models.preprocess`.
        frame_shape: height, width and channels of its frames.
        variance: variance of the Gaussian likelihood. If the config has none, the learner sets it.

    Example:
        >>> vae = VAE(VAEConfig(z_dim=32))
        >>> num_parameters(vae)
        4348547
        >>> frames = np.zeros((5, 64, 64, 3), np.uint8)
        >>> vae.decode(vae.encode(frames).mu).shape
        torch.Size([5, 64, 64, 3])
    """

    variance: Float[Tensor, ""]

    def __init__(self, config: VAEConfig, preprocess: dict[str, Json] | None = None):
        super().__init__()
        self.config, self.preprocess = config, preprocess or {}
        channels, height, width = IMAGE_SHAPES[config.network]
        self.frame_shape = (height, width, channels)
        has_logvar = config.posterior == "normal"
        self.encoder, self.decoder = build(config.network, config.z_dim, config.hidden, has_logvar, config.num_classes)
        self.register_buffer("variance", torch.tensor(config.variance or PAPER_VARIANCE), persistent=False)

    def posterior(self, images: Tensor, labels: Int64[Tensor, " batch"] | None = None) -> Posterior:
        """q(z|x) of images in [0, 1], (batch, channels, height, width), of the weights' dtype.

        Raises:
            ValueError: the images have another shape, dtype or device.
        """
        if isinstance(self.encoder, Encoder):
            mu, logvar = forms.encode(self.encoder, images)
        else:
            height, width, channels = self.frame_shape
            inputs.check_batch("images", images, (channels, height, width), self.encoder.mu.weight)
            mu, logvar = self.encoder(images, self._one_hot(labels, len(images)))
        if logvar is None:
            mu = _float32_or_more(mu)
            return PointPosterior(mu, torch.full_like(mu, -math.inf))
        return _float_posterior(mu, logvar)

    def logits(
        self, z: Tensor, labels: Int64[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """The decoder's output before the sigmoid, for z (batch, z_dim) of the weights' dtype.

        Raises:
            ValueError: z has another shape, dtype or device.
        """
        if isinstance(self.decoder, Decoder):
            return _float32_or_more(forms.decode(self.decoder, z))
        inputs.check_batch("z", z, (self.config.z_dim,), self.decoder.linear.weight)
        return _float32_or_more(self.decoder(z, self._one_hot(labels, len(z))))

    def _one_hot(self, labels: Tensor | None, num_rows: int) -> Float[Tensor, "rows classes"]:
        """One-hot labels. An unconditional model knows no classes, so its rows are empty."""
        classes = torch.arange(self.config.num_classes, device=self.device)
        one_hot = self._labels(labels, num_rows)[:, None] == classes
        return one_hot.to(self.encoder.mu.weight.dtype)

    def _labels(self, labels: Tensor | None, num_rows: int) -> Tensor:
        """Each row's class. It is 0 for an unconditional model, whatever the labels are."""
        if not self.config.num_classes:
            return torch.zeros(num_rows, dtype=torch.int64, device=self.device)
        if labels is None:
            raise ValueError(inputs.NO_LABELS)
        return labels.to(self.device)

    def objective(
        self,
        images: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch noise"],
        beta_share: float | Float[Tensor, ""] = 1.0,
        labels: Int64[Tensor, " batch"] | None = None,
    ) -> Terms:
        """The loss of training, on sampled z: reconstruction + beta * max(KL, floor).

        Args:
            images: values in [0, 1].
            noise: standard normal, `config.noise_dim` numbers per frame.
            beta_share: beta is multiplied by this; it is below 1 during the warm-up of beta.
            labels: each frame's class, for a conditional VAE.
        """
        labels = self._labels(labels, len(images))
        posterior = self.posterior(images, labels)
        logits = self.logits(self.sampled(posterior, noise), labels.repeat_interleave(self.config.num_samples))
        return self.terms(images, posterior, logits, beta_share)

    def sampled(self, posterior: Posterior, noise: Float[Tensor, "batch noise"]) -> Float[Tensor, "samples z"]:
        """The samples of z that the objective decodes. Those of a frame follow each other."""
        times = self.config.num_samples
        return posterior.repeated(times).sample(noise.reshape(-1, self.config.z_dim))

    def terms(
        self,
        images: Float[Tensor, "batch channels height width"],
        posterior: Posterior,
        logits: Float[Tensor, "samples channels height width"],
        beta_share: float | Float[Tensor, ""] = 1.0,
    ) -> Terms:
        """The objective, given the outputs of the networks.

        Args:
            images: values in [0, 1].
            posterior: the encoder's output.
            logits: the decoder's output for `sampled` z, before the sigmoid.
            beta_share: as in `objective`.
        """
        config, num_values = self.config, math.prod(images.shape[1:])
        images = images if config.num_samples == 1 else images.repeat_interleave(config.num_samples, 0)
        sse, kl = squared_error(images, logits.sigmoid()), posterior.kl_nats()
        gaussian = config.likelihood == "gaussian"
        error = gaussian_error(sse, self.variance, num_values) if gaussian else cross_entropy(images, logits)
        if config.num_samples > 1:
            sse, error = (each.unflatten(0, (-1, config.num_samples)).mean(1) for each in (sse, error))
        floor = config.kl_tolerance * config.z_dim if config.posterior == "normal" else 0.0
        return Terms(error + beta_share * config.beta * kl.clamp(min=floor), sse, kl)

    def log_likelihood(
        self,
        images: Float[Tensor, "batch channels height width"],
        logits: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, " batch"]:
        """Log p(x|z) of each image in nats, with all constants."""
        return log_likelihood(images, logits, self.config.likelihood, self.variance)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.encoder.mu.weight.device

    @property
    def paper(self) -> tuple[Encoder, Decoder]:
        """The encoder and the decoder of a model with the paper's networks."""
        assert isinstance(self.encoder, Encoder) and isinstance(self.decoder, Decoder), self.config.network
        return self.encoder, self.decoder

    @property
    def num_values(self) -> int:
        """Number of values of a frame: height x width x channels."""
        return math.prod(self.frame_shape)

    @property
    def is_finite(self) -> bool:
        """Whether every weight is finite."""
        return all(bool(weight.isfinite().all()) for weight in self.parameters())

    @torch.no_grad()
    def encode(self, frames: Tensor | np.ndarray, labels: Tensor | None = None) -> Posterior:
        """q(z|x) of uint8 frames (batch, height, width, channels), a tensor or a NumPy array.

        Raises:
            ValueError: they are not uint8 or have another shape, or the model is conditional and has no valid labels.

        Example:
            >>> vae = VAE(VAEConfig(z_dim=32))
            >>> vae.encode(np.zeros((5, 64, 64, 3), np.uint8)).mu.shape
            torch.Size([5, 32])
        """
        batch = inputs.frames_tensor(frames, self.frame_shape).to(self.device)
        if isinstance(self.encoder, Encoder):
            return _float_posterior(*forms.encode_frames(self.encoder, batch))
        labels = self._checked_labels(labels, len(batch))
        return self.posterior(to_images(batch, self.encoder.mu.weight.dtype), labels)

    @torch.no_grad()
    def decode(self, z: Tensor, labels: Tensor | None = None) -> UInt8[Tensor, "batch height width channels"]:
        """Decode latents (batch, z_dim) to uint8 frames.

        Raises:
            ValueError: z has another shape or dtype, or the model is conditional and has no valid labels.

        Example:
            >>> vae = VAE(VAEConfig(z_dim=32))
            >>> vae.decode(torch.zeros(5, 32)).shape
            torch.Size([5, 64, 64, 3])
        """
        labels = self._checked_labels(labels, len(z) if z.ndim else 0)
        return to_frames(self.logits(z.to(self.device), labels).sigmoid())

    def _checked_labels(self, labels: Tensor | None, num_rows: int) -> Int64[Tensor, " rows"]:
        labels = self._labels(labels, num_rows)
        if self.config.num_classes:
            inputs.check_labels(labels, self.config.num_classes, num_rows)
        return labels.long()


def _float_posterior(mu: Tensor, logvar: Tensor) -> Posterior:
    """The posterior in float32, also under autocast; in float64 if the weights are."""
    return Posterior(_float32_or_more(mu), _float32_or_more(logvar))


def _float32_or_more(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def to_images(
    frames: UInt8[Tensor, "batch height width channels"], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "batch channels height width"]:
    """Convert frames to images, as the network takes them: float, channels first, in [0, 1]."""
    return frames.permute(0, 3, 1, 2).to(dtype) / 255


def to_frames(images: Float[Tensor, "batch channels height width"]) -> UInt8[Tensor, "batch height width channels"]:
    """Convert images to frames; values are rounded and clipped to 0..255."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def num_parameters(module: nn.Module) -> int:
    """Number of trainable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters())
