"""The summary of a data set of latents, read back from its shards: counts, moments, and a check that they decode.

One shard at a time is in memory. Sums are taken in the order of the files. So the summary depends neither on the number
of processes that encoded nor on interruptions.
"""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from world_models.data.latent_summary import Contents
from world_models.data.latents import FORMAT, Latents
from world_models.data.rollouts import Rollouts
from world_models.data.shards.episodes import ShardedEpisodes
from world_models.vae import metrics
from world_models.vae.likelihoods import squared_error
from world_models.vae.metrics import Moments
from world_models.vae.model import VAE, to_images
from world_models.vae.noise import noise
from world_models.vae.posterior import Posterior

CHECKED_ROWS = 512
CHECK_SEED = 0xC4EC
TOLERANCE = 1e-3
MISMATCH = (
    "{rows} stored latents decode with SSE {mu_sse:.4g} (mu) and {z_sse:.4g} (z), fresh ones with {fresh_mu_sse:.4g} "
    "and {fresh_z_sse:.4g}: they are damaged or belong to other frames; delete the folder and encode again"
)
NO_ENDS = (
    "none of the {} episodes terminated, so a memory model cannot learn when an episode ends; collect some that do, "
    "for example with configs/laps/collect.yaml"
)
UNUSABLE = "{:.2%} of the rows hold numbers that no z can be sampled from; check the training, or encode in float32"
MAX_LOGVAR = 87.0  # float32 holds neither exp(89) nor the full precision of exp(-88)


def summarise(latents: Latents) -> Contents:
    """Count the data set, and compute the moments of each latent dimension."""
    mu, sigma, sigma_squared, kl = (Moments(0, *torch.zeros(2, latents.z_dim, dtype=torch.float64)) for _ in range(4))
    for shard in latents.shards:
        mu_rows, logvar_rows = (torch.from_numpy(shard.read(name)).double() for name in ("mu", "logvar"))
        posterior = _usable(mu_rows, logvar_rows)
        mu.add(posterior.mu)
        sigma.add(posterior.logvar.div(2).exp())
        sigma_squared.add(posterior.logvar.exp())
        kl.add(posterior.kl_nats_per_dim())
    return Contents(
        format=FORMAT.name,
        format_version=FORMAT.version,
        episodes=len(latents),
        terminated_episodes=sum(int(shard.read("terminated").sum()) for shard in latents.shards),
        rows=latents.num_rows,
        transitions=latents.num_rows - len(latents),
        z_dim=latents.z_dim,
        num_actions=latents.num_actions,
        dtype=latents.shards[0].column_dtypes["mu"],
        preprocess=latents.preprocess,
        unusable_share=1 - mu.count / latents.num_rows,
        mu_mean=_numbers(mu.mean),
        mu_std=_numbers(mu.variance.sqrt()),
        mu_variance=_numbers(mu.variance),
        sigma_mean=_numbers(sigma.mean),
        sigma_squared_mean=_numbers(sigma_squared.mean),
        z_mean=_numbers(mu.mean),
        z_variance=_numbers(mu.variance + sigma_squared.mean),
        kl_nats_per_dim=_numbers(kl.mean),
        kl_nats=_number(float(kl.mean.sum())),
    )


def _usable(mu: Float[Tensor, "rows z"], logvar: Float[Tensor, "rows z"]) -> Posterior:
    """The posteriors of the rows from which z can be sampled."""
    rows: Bool[Tensor, " rows"] = (mu.isfinite() & (logvar.abs() <= MAX_LOGVAR)).all(1)
    return Posterior(mu[rows], logvar[rows])


def _numbers(column: Float[Tensor, " z"]) -> list[float | None]:
    return [_number(value) for value in column.tolist()]


def _number(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None


@dataclasses.dataclass(frozen=True)
class Check:
    """Squared errors of frames decoded from stored latents, and of the same frames decoded from fresh latents.

    Attributes:
        rows: number of rows, drawn at random.
        mu_sse, z_sse: SSE of decode(mu) and decode(z) with stored mu and logvar; z is sampled with fixed noise.
        fresh_mu_sse, fresh_z_sse: the same with mu and logvar that are encoded again.
    """

    rows: int
    mu_sse: float
    z_sse: float
    fresh_mu_sse: float
    fresh_z_sse: float

    @property
    def passed(self) -> bool:
        """Whether the errors of stored and fresh latents agree to a thousandth."""
        pairs = ((self.mu_sse, self.fresh_mu_sse), (self.z_sse, self.fresh_z_sse))
        return all(abs(stored - fresh) <= TOLERANCE * fresh for stored, fresh in pairs)  # False for NaN

    def as_json(self) -> dict[str, float | int | bool | None]:
        """The fields and `passed`."""
        return {name: _number(value) for name, value in dataclasses.asdict(self).items()} | {"passed": self.passed}


@torch.inference_mode()
def check(latents: Latents, data: Rollouts, vae: VAE, num_rows: int = CHECKED_ROWS) -> Check:
    """Decode stored and fresh latents of rows that a fixed seed chooses, and compare them with the frames."""
    rng = np.random.default_rng(CHECK_SEED)
    rows = np.sort(rng.choice(latents.num_rows, min(num_rows, latents.num_rows), replace=False))
    images = _read_rows(data, "frames", rows)
    stored = [torch.from_numpy(_read_rows(latents, name, rows).astype(np.float32)) for name in ("mu", "logvar")]
    noise_rows = noise(CHECK_SEED, 0, len(rows), latents.z_dim)
    sums = torch.zeros(4, dtype=torch.float64)
    for batch, mu, logvar, eps in zip(
        metrics.batches(images), *(column.split(metrics.BATCH) for column in (*stored, noise_rows)), strict=True
    ):
        pixels = to_images(batch.to(vae.device))
        stored_posterior, fresh = Posterior(mu.to(vae.device), logvar.to(vae.device)), vae.posterior(pixels)
        zs = [z for each in (stored_posterior, fresh) for z in (each.mu, each.sample(eps.to(vae.device)))]
        sums += torch.stack([squared_error(pixels, vae.logits(z).sigmoid()).double().sum() for z in zs]).cpu()
    return Check(len(rows), *(sums / len(rows)).tolist())


def warnings(contents: Contents, check: Check) -> list[str]:
    """Warnings about a data set, one line each."""
    lines = [] if check.passed else [MISMATCH.format(**dataclasses.asdict(check))]
    lines += [UNUSABLE.format(contents.unusable_share)] if contents.unusable_share else []
    return lines + ([] if contents.terminated_episodes else [NO_ENDS.format(contents.episodes)])


def _read_rows(episodes: ShardedEpisodes, column: str, rows: Int64[np.ndarray, " rows"]) -> np.ndarray:
    """Read rows of a column by their numbers in the whole data set. Each is read alone, because they are far apart."""
    offsets = np.cumsum([0] + [shard.num_rows for shard in episodes.shards])
    shards = np.searchsorted(offsets, rows, side="right") - 1
    places = ((episodes.shards[shard], int(row)) for shard, row in zip(shards, rows - offsets[shards], strict=True))
    return np.concatenate([shard.read(column, row, row + 1) for shard, row in places])
