"""What a V model sees and dreams: reconstructions, samples, interpolations, traversals, a clip."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from world_models import figures
from world_models.metrics import Baselines
from world_models.rollouts import FRAME_SHAPE, Rollouts
from world_models.vae import VAE

NUM_SHOWN = 16

Frames = UInt8[np.ndarray, "_ 64 64 3"]


def shown_frames(frames: Frames) -> Frames:
    """The frames that every reconstruction grid shows: 16, spread evenly over what there is."""
    return frames[np.linspace(0, len(frames) - 1, NUM_SHOWN + 2).astype(int)[1:-1]]


def _decoded(vae: VAE, z: Float[Tensor, "batch z"]) -> Frames:
    return vae.decode(z).cpu().numpy()


def reconstructions(vae: VAE, frames: Frames) -> figures.Picture:
    """Frames (first and third row) over decode(mu) of each."""
    shown = shown_frames(frames)
    decoded = _decoded(vae, vae.encode(shown).mu)
    half = len(shown) // 2
    return figures.grid([shown[:half], decoded[:half], shown[half:], decoded[half:]])


def samples(vae: VAE, count: int = 64, seed: int = 0) -> figures.Picture:
    """Frames decoded from the prior, of the same z each time."""
    return figures.sheet(
        _decoded(vae, torch.randn(count, vae.config.z_dim, generator=torch.Generator().manual_seed(seed)))
    )


def interpolation(vae: VAE, frames: Frames, count: int = 12) -> figures.Picture:
    """From one of the shown frames to another, along a straight line in z."""
    mu = vae.encode(shown_frames(frames)).mu
    weights = torch.linspace(0, 1, count, device=mu.device)[:, None]
    return figures.grid([_decoded(vae, mu[1] + weights * (mu[-2] - mu[1]))])


def comparison(vae: VAE, baselines: Baselines, frames: Frames) -> figures.Picture:
    """Frames over the V model's, PCA's and the mean frame's idea of them."""
    shown = shown_frames(frames)[::2]
    pca = (
        (baselines.reconstruct(torch.from_numpy(shown)) * 255)
        .round()
        .clamp(0, 255)
        .byte()
        .reshape(-1, *FRAME_SHAPE)
        .numpy()
    )
    mean = baselines.mean_frame.numpy()[None].repeat(len(shown), 0)
    rows = {"frame": shown, "V model": _decoded(vae, vae.encode(shown).mu), "PCA": pca, "mean frame": mean}
    return figures.labelled(figures.grid(list(rows.values())), list(rows), margin=90)


def traversal(vae: VAE, frames: Frames, kl_per_dim: Sequence[float], num_dims: int) -> figures.Picture:
    """One frame with one latent dimension after the other moved from -3 to 3, by falling KL."""
    mu = vae.encode(shown_frames(frames)[8:9]).mu
    values = torch.linspace(-3, 3, 9, device=mu.device)
    dims = np.argsort(kl_per_dim)[::-1][:num_dims].tolist()
    rows = []
    for dim in dims:
        z = mu.repeat(len(values), 1)
        z[:, dim] = values
        rows.append(_decoded(vae, z))
    return figures.labelled(figures.grid(rows), [f"z[{dim}]\n{kl_per_dim[dim]:.2f} nats" for dim in dims], margin=90)


def clip(vae: VAE, data: Rollouts, num_frames: int = 100) -> bytes:
    """Every other frame of the middle of the best episode beside its reconstruction, as a GIF."""
    episode = data[int(np.argmax(data.returns()))]
    first = max(0, (len(episode) - 2 * num_frames) // 2)
    frames = episode.frames[first : first + 2 * num_frames : 2]
    return figures.clip_gif(frames, _decoded(vae, vae.encode(frames).mu))
