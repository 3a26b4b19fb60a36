"""Codes that a memory model can predict: the V model's z, and principal components for comparison."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from world_models.data.episode import Episode
from world_models.evaluate.foresight.memory import EncodedEpisode
from world_models.vae.baselines import Baselines
from world_models.vae.metrics import batches
from world_models.vae.model import VAE

Images = Float[Tensor, "batch values"]
Frames = UInt8[Tensor, "batch height width channels"]


@dataclasses.dataclass(frozen=True)
class Code:
    """A code of frames.

    Attributes:
        encode: gives mean and standard deviation of z for a batch of frames.
        decode: gives images with values in [0, 1], flattened, for a batch of z.
    """

    encode: Callable[[Frames], tuple[Tensor, Tensor]]
    decode: Callable[[Tensor], Images]


def code_of_vae(vae: VAE) -> Code:
    """The code of a V model."""

    def encode(frames: Frames) -> tuple[Tensor, Tensor]:
        posterior = vae.encode(frames)
        return posterior.mu.cpu(), torch.exp(posterior.logvar / 2).cpu()

    def decode(z: Tensor) -> Images:
        return vae.logits(z.to(vae.device)).sigmoid().permute(0, 2, 3, 1).flatten(1).cpu()

    return Code(encode, decode)


def code_of_pca(baselines: Baselines, frames: Frames) -> Code:
    """The coefficients of principal components as z, scaled to variance 1 over `frames`."""
    scale = baselines.coefficients(frames).std(0).clamp_min(1e-6)

    def encode(frames: Frames) -> tuple[Tensor, Tensor]:
        z = baselines.coefficients(frames) / scale
        return z, torch.zeros_like(z)

    def decode(z: Tensor) -> Images:
        return baselines.mean + (z * scale) @ baselines.components

    return Code(encode, decode)


def encode_episode(code: Code, episode: Episode) -> EncodedEpisode:
    """Encode an episode."""
    encoded = [code.encode(batch) for batch in batches(episode.frames)]
    mu, std = (torch.cat(part) for part in zip(*encoded, strict=True))
    return EncodedEpisode(mu, std, torch.from_numpy(episode.actions))
