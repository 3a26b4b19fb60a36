"""Pictures of a V model: reconstructions, samples, interpolations, traversals, a clip.

`digit_views.py` has those that only models of digits have.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from world_models.data.rollouts import FRAME_SHAPE, Rollouts
from world_models.drawing import grids
from world_models.vae.baselines import Baselines
from world_models.vae.model import VAE

NUM_SHOWN = 16

Frames = UInt8[np.ndarray, "_ height width channels"]
Columns = Mapping[str, Float[np.ndarray, " frames"]]


def shown_frames(frames: Frames) -> Frames:
    """The 16 evenly spread frames that every grid of reconstructions shows."""
    return frames[np.linspace(0, len(frames) - 1, NUM_SHOWN + 2).astype(int)[1:-1]]


def _decoded(vae: VAE, z: Float[Tensor, "batch z"], labels: Int64[Tensor, " batch"] | None = None) -> Frames:
    return vae.decode(z, labels).cpu().numpy()


def validation_pictures(vae: VAE, frames: Frames) -> dict[str, grids.Picture]:
    """The pictures of each validation."""
    return {
        "reconstructions": reconstructions(vae, frames),
        "samples": samples(vae),
        "interpolation": interpolation(vae, frames),
    }


def reconstructions(vae: VAE, frames: Frames) -> grids.Picture:
    """Frames (first and third row) over their reconstructions, decode(mu)."""
    shown = shown_frames(frames)
    decoded = _decoded(vae, vae.encode(shown).mu)
    half = len(shown) // 2
    return grids.grid([shown[:half], decoded[:half], shown[half:], decoded[half:]])


def samples(vae: VAE, count: int = 64, seed: int = 0) -> grids.Picture:
    """A picture of frames decoded from samples of the prior. The samples depend only on the seed."""
    return grids.sheet(dreams(vae, count, seed))


def dreams(vae: VAE, count: int, seed: int = 0) -> Frames:
    """Frames decoded from samples of the prior. A conditional model gets its classes in turn."""
    z = torch.randn(count, vae.config.z_dim, generator=torch.Generator().manual_seed(seed))
    return _decoded(vae, z, torch.arange(count) % max(1, vae.config.num_classes))


def interpolation(vae: VAE, frames: Frames, count: int = 12) -> grids.Picture:
    """Interpolate between two of the shown frames, along a straight line in z."""
    mu = vae.encode(shown_frames(frames)).mu
    weights = torch.linspace(0, 1, count, device=mu.device)[:, None]
    return grids.grid([_decoded(vae, mu[1] + weights * (mu[-2] - mu[1]))])


def comparison(vae: VAE, baselines: Baselines, frames: Frames) -> grids.Picture:
    """Frames over their reconstructions by the V model and by PCA, and over the mean frame."""
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
    return grids.labelled(grids.grid(list(rows.values())), list(rows), margin=90)


def traversal(vae: VAE, frames: Frames, kl_per_dim: Sequence[float], num_dims: int) -> grids.Picture:
    """A row for each of the `num_dims` dimensions with the highest KL: the dimension moves from -3 to 3."""
    mu = vae.encode(shown_frames(frames)[8:9]).mu
    values = torch.linspace(-3, 3, 9, device=mu.device)
    dims = np.argsort(kl_per_dim)[::-1][:num_dims].tolist()
    rows = []
    for dim in dims:
        z = mu.repeat(len(values), 1)
        z[:, dim] = values
        rows.append(_decoded(vae, z))
    return grids.labelled(grids.grid(rows), [f"z[{dim}]\n{kl_per_dim[dim]:.2f} nats" for dim in dims], margin=90)


def clip(vae: VAE, data: Rollouts, num_frames: int = 100) -> bytes:
    """A GIF of the middle of the episode with the highest return, beside its reconstruction; every second frame."""
    episode = data[int(np.argmax(data.returns()))]
    first = max(0, (len(episode) - 2 * num_frames) // 2)
    frames = episode.frames[first : first + 2 * num_frames : 2]
    return grids.clip_gif(frames, _decoded(vae, vae.encode(frames).mu))


def worst(vae: VAE, frames: Frames) -> grids.Picture:
    """Frames in rows of eight, each row over its reconstructions, decode(mu)."""
    decoded = _decoded(vae, vae.encode(frames).mu)
    starts = range(0, len(frames), 8)
    return grids.grid([rows[start : start + 8] for start in starts for rows in (frames, decoded)])


def along_telemetry(vae: VAE, mu: Float[np.ndarray, "frames z"], columns: Columns) -> grids.Picture:
    """A row for each column of telemetry: a typical frame, moved in the direction of high values of the column.

    The direction is the mean mu of the fifth of the frames with the highest values, minus the mean mu of the fifth with
    the lowest. The frame is the one whose mu is closest to the median.
    """
    typical = np.square(mu - np.median(mu, 0)).sum(1).argmin()
    start, steps = torch.from_numpy(mu[typical]), torch.linspace(-1.5, 1.5, 9)[:, None]
    rows = []
    for values in columns.values():
        order, fifth = np.argsort(values, kind="stable"), max(1, len(values) // 5)
        direction = torch.from_numpy(mu[order[-fifth:]].mean(0) - mu[order[:fifth]].mean(0))
        rows.append(_decoded(vae, start + steps * direction))
    return grids.labelled(grids.grid(rows), [name.replace("_", "\n", 1) for name in columns], margin=170)
