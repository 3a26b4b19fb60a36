"""Measures of a V model. SSE is summed over a frame's values; a frame of CarRacing has 12,288."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from world_models.runtime import distributed, threads
from world_models.vae.labelled_frames import BATCH, Frames, LabelledFrames
from world_models.vae.likelihoods import squared_error
from world_models.vae.model import VAE, to_images
from world_models.vae.posterior import Posterior, prior_log_prob
from world_models.vae.ssim import ssim

USED_KL_NATS = 0.05  # a latent dimension with more KL than this counts as used
ACTIVE_VARIANCE = 0.01  # a dimension whose mu has more variance than this is active (Burda et al. 2016)


def batches(frames: Frames, size: int = BATCH) -> Iterator[UInt8[Tensor, "batch height width channels"]]:
    """The frames in order, in batches of `size`."""
    for start in range(0, len(frames), size):
        yield torch.from_numpy(frames[start : start + size])


def psnr_db(sse: float, num_values: int) -> float:
    """Peak signal-to-noise ratio of values in [0, 1], in dB.

    Args:
        sse: squared error, summed over the values.
        num_values: number of values.
    """
    return 10 * math.log10(num_values / max(sse, 1e-12))


@dataclasses.dataclass
class Moments:
    """Sums over frames in float64, for the mean and variance of each latent dimension."""

    count: int = 0
    total: Float[Tensor, " z"] | float = 0.0
    squares: Float[Tensor, " z"] | float = 0.0

    def add(self, values: Float[Tensor, "batch z"]) -> None:
        """Add a batch."""
        values = values.double().cpu()
        self.count += len(values)
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    def sum_up(self, device: torch.device) -> None:
        """Add the sums of all other processes; they are exchanged as tensors on `device`."""
        packed = torch.stack([torch.as_tensor(self.total), torch.as_tensor(self.squares)]).to(device)
        count = torch.tensor(float(self.count), dtype=torch.float64, device=device)
        distributed.sum_up([packed, count])
        self.count, (self.total, self.squares) = int(count), packed.cpu()

    @property
    def mean(self) -> Float[Tensor, " z"]:
        """Mean of each dimension."""
        return torch.as_tensor(self.total) / self.count

    @property
    def variance(self) -> Float[Tensor, " z"]:
        """Variance of each dimension."""
        return (torch.as_tensor(self.squares) / self.count - self.mean.square()).clamp(min=0)


@dataclasses.dataclass(frozen=True)
class Validation:
    """The validation metrics. `loss_nats` is the objective on a sampled z; `sse` and `psnr_db` are those of decode(mu).

    A plain autoencoder has no KL, so its `kl_nats` and `dims_used` are None.
    """

    sse: float
    kl_nats: float | None
    loss_nats: float
    psnr_db: float
    active_units: int
    dims_used: int | None

    def known(self) -> dict[str, float]:
        """The metrics that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@torch.inference_mode()
def validate(vae: VAE, held_out: LabelledFrames, noise: Float[Tensor, "frames noise"]) -> Validation:
    """Compute the validation metrics of held-out frames.

    If several processes train together, each scores a part of the frames. All of them get the metrics of all frames.

    Args:
        vae: the model.
        held_out: the held-out frames.
        noise: standard normal noise of the objective, one row per frame.
    """
    world, z_dim = distributed.world(), vae.config.z_dim
    mine = np.array_split(np.arange(len(held_out)), world.size)[world.rank]
    columns = Moments(0, *torch.zeros(2, 3 + 2 * z_dim, dtype=torch.float64))  # sse, kl, loss, each mu, each kl
    for (batch, labels), eps in zip(held_out.at(mine).batches(), noise[mine].split(BATCH), strict=False):
        images = to_images(batch.to(vae.device))
        posterior = vae.posterior(images, labels)
        sse = squared_error(images, vae.logits(posterior.mu, labels).sigmoid())
        loss = vae.objective(images, eps.to(vae.device), labels=labels).loss_nats
        scores = torch.stack([sse, posterior.kl_nats(), loss], 1)
        columns.add(torch.cat([scores, posterior.mu, posterior.kl_nats_per_dim()], 1))
    columns.sum_up(vae.device)
    sse, kl_nats, loss_nats = columns.mean[:3].tolist()
    mu_variance, kl_means = columns.variance[3 : 3 + z_dim], columns.mean[3 + z_dim :]
    has_kl = vae.config.posterior == "normal"
    return Validation(
        sse=sse,
        kl_nats=kl_nats if has_kl else None,
        loss_nats=loss_nats,
        psnr_db=psnr_db(sse, vae.num_values) if math.isfinite(sse) else math.nan,
        active_units=int((mu_variance > ACTIVE_VARIANCE).sum()),
        dims_used=int((kl_means > USED_KL_NATS).sum()) if has_kl else None,
    )


class FrameScores(NamedTuple):
    """The scores and the posterior of each frame.

    Attributes:
        error_map: squared error of decode(mu) at each pixel, summed over colours, mean over the frames.
        sse: squared error of decode(mu).
        ssim: structural similarity of decode(mu).
        elbo: ELBO of one sampled z, in nats.
        mu: posterior mean.
        variance: posterior variance, sigma squared.
        kl: KL of each latent dimension, in nats.
    """

    error_map: Float[np.ndarray, "height width"]
    sse: Float[np.ndarray, " frames"]
    ssim: Float[np.ndarray, " frames"]
    elbo: Float[np.ndarray, " frames"]
    mu: Float[np.ndarray, "frames z"]
    variance: Float[np.ndarray, "frames z"]
    kl: Float[np.ndarray, "frames z"]


def score_frames(vae: VAE, data: LabelledFrames, seed: int = 0) -> FrameScores:
    """Encode and decode frames, and score each of them. `seed` determines the sampled z of the ELBO."""
    noise = torch.randn(len(data), vae.config.z_dim, generator=torch.Generator().manual_seed(seed))

    def score(part: tuple[tuple[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        (batch, labels), eps = part
        images = to_images(batch.to(vae.device))
        posterior = vae.posterior(images, labels)
        means = vae.logits(posterior.mu, labels).sigmoid()
        z = posterior.sample(eps.to(vae.device))
        elbo = vae.log_likelihood(images, vae.logits(z, labels)) - posterior.kl_nats()
        errors = (images - means).square_().sum(1).double()
        similarity, kl = ssim(means, images), posterior.kl_nats_per_dim()
        error_map = errors.sum(0, keepdim=True)
        return error_map, errors.sum((1, 2)), similarity, elbo, posterior.mu, posterior.logvar.exp(), kl

    with torch.inference_mode():
        parts = threads.in_threads(score, [*zip(data.batches(), noise.split(BATCH), strict=False)])
        errors, *columns = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return FrameScores(errors.sum(0) / len(data), *columns)


@dataclasses.dataclass(frozen=True)
class MeanScores:
    """Scores of a model, mean over some frames.

    Attributes:
        sse: squared error of decode(mu), summed over a frame's values.
        psnr_db: peak signal-to-noise ratio of that error.
        ssim: structural similarity of decode(mu).
        kl_nats: KL, summed over the latent dimensions.
        kl_per_dim: KL of each latent dimension, in nats.
        active_units: number of dimensions whose mu has variance above 0.01.
        dims_used: number of dimensions with KL above 0.05 nats.
        elbo_nats: ELBO of one sampled z.
    """

    sse: float
    psnr_db: float
    ssim: float
    kl_nats: float
    kl_per_dim: list[float]
    active_units: int
    dims_used: int
    elbo_nats: float


def mean_scores(frame_scores: FrameScores, num_values: int) -> MeanScores:
    """Average the scores of frames that have `num_values` values each."""
    sse, elbo, kl = (getattr(frame_scores, name).mean(0, dtype=np.float64) for name in ("sse", "elbo", "kl"))
    return MeanScores(
        sse=float(sse),
        psnr_db=psnr_db(float(sse), num_values),
        ssim=float(frame_scores.ssim.mean(dtype=np.float64)),
        kl_nats=float(kl.sum()),
        kl_per_dim=kl.tolist(),
        active_units=int((frame_scores.mu.var(0, dtype=np.float64) > ACTIVE_VARIANCE).sum()),
        dims_used=int((kl > USED_KL_NATS).sum()),
        elbo_nats=float(elbo),
    )


def measure(vae: VAE, data: LabelledFrames, seed: int = 0) -> MeanScores:
    """Score frames and return the `mean_scores`. `seed` determines the sampled z of the ELBO."""
    return mean_scores(score_frames(vae, data, seed), vae.num_values)


@torch.inference_mode()
def iwae_nats(vae: VAE, data: LabelledFrames, samples: Sequence[int] = (1, 10, 100), seed: int = 0) -> dict[str, float]:
    """The importance-weighted bound on log p(x) (Burda et al. 2016, eq. 8) in nats, mean over the frames.

    With one sample it is the ELBO with a sampled KL. With more samples it grows towards log p(x). Smaller numbers of
    samples use the first samples of the largest number.

    Returns:
        The bound for each number in `samples`, by that number as text.
    """
    generator = torch.Generator().manual_seed(seed)
    totals = dict.fromkeys(samples, 0.0)
    for batch, labels in data.batches():
        images = to_images(batch.to(vae.device))
        posterior = vae.posterior(images, labels)
        log_weights = functools.partial(_log_weights, vae, images, posterior, labels)
        noise = [torch.randn(posterior.mu.shape, generator=generator) for _ in range(max(samples))]
        weights = torch.stack(threads.in_threads(log_weights, noise))
        for k in samples:
            totals[k] += float((torch.logsumexp(weights[:k], 0) - math.log(k)).sum())
    return {str(k): total / len(data) for k, total in totals.items()}


def _log_weights(
    vae: VAE,
    images: Float[Tensor, "batch channels height width"],
    posterior: Posterior,
    labels: Int64[Tensor, " batch"],
    noise: Float[Tensor, "batch z"],
) -> Float[Tensor, " batch"]:
    """Log p(x|z) + log p(z) - log q(z|x) for one sampled z per image; float64."""
    z = posterior.sample(noise.to(images.device))
    likelihood = vae.log_likelihood(images, vae.logits(z, labels))
    return (likelihood + prior_log_prob(z) - posterior.log_prob(z)).double()
