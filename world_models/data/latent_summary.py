"""latents.json: counts and moments of a data set of latents, a check, and its sources. It imports no torch.

`Contents` and `Sources` have a field for each key, in the file's order. So a new key is a new field.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from world_models.runtime import files, typed_json, untrusted
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json

SUMMARY_FILE = "latents.json"
MAX_BYTES = 10_000_000  # it holds a few numbers for each dimension
LARGEST_MOMENT = float(np.finfo(np.float32).max)  # readers sample z in float32

PerDimension = Sequence[float | None]
"""A number for each latent dimension; None if it is not finite."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """Counts of the data set, and moments of each latent dimension over all rows, final frames included.

    logvar is clipped neither in training nor on disk. So there may be rows from which no z can be sampled. The moments
    leave those rows out.

    Attributes:
        format, format_version, dtype, preprocess: as in the shards.
        episodes, rows, z_dim: numbers of episodes, rows and latent dimensions.
        terminated_episodes: number of episodes that the environment ended; the others were truncated.
        transitions: number of rows with an action.
        num_actions: number of columns of `actions`.
        unusable_share: share of rows with a number that is not finite (float16 ends at 65,504), or with a logvar whose
            variance float32 cannot hold.
        mu_mean, mu_std, mu_variance: mean, standard deviation and variance of mu.
        sigma_mean, sigma_squared_mean: mean of the posterior's standard deviation and of its variance.
        z_mean, z_variance: mean and variance of sampled z: E[mu], and Var[mu] + E[sigma^2].
        kl_nats_per_dim, kl_nats: KL from N(0, 1), mean over rows, for each dimension and summed over dimensions.
    """

    format: str
    format_version: int
    episodes: int
    terminated_episodes: int
    rows: int
    transitions: int
    z_dim: int
    num_actions: int
    dtype: str
    preprocess: Mapping[str, Json]
    unusable_share: float
    mu_mean: PerDimension
    mu_std: PerDimension
    mu_variance: PerDimension
    sigma_mean: PerDimension
    sigma_squared_mean: PerDimension
    z_mean: PerDimension
    z_variance: PerDimension
    kl_nats_per_dim: PerDimension
    kl_nats: float | None


@dataclasses.dataclass(frozen=True)
class Sources:
    """The model and the rollouts that the latents were made from.

    Attributes:
        vae, vae_sha256: folder of the model, and sha256 of its weights.
        data, rollouts_digest: folder of the rollouts, and their digest.
        versions: versions of the programs that made the file.
    """

    vae: str
    vae_sha256: str
    data: str
    rollouts_digest: str
    versions: Mapping[str, str]


class Fingerprint(NamedTuple):
    """Counts and digests of shards. A summary of the same shards has the same values under these keys."""

    episodes: int
    rows: int
    z_dim: int
    vae_sha256: str
    rollouts_digest: str


def save(folder: Path, contents: Contents, check: Mapping[str, float | int | None], sources: Sources) -> None:
    """Write latents.json; `check` says whether the latents decode."""
    found, made_from = typed_json.plain(contents), typed_json.plain(sources)
    files.write_json(folder / SUMMARY_FILE, found | {"check": check} | made_from)


def read_z_moments(
    folder: Path, fingerprint: Fingerprint
) -> tuple[Float64[np.ndarray, " z"], Float64[np.ndarray, " z"]]:
    """Mean and variance of each dimension of a sampled z, over all rows.

    Args:
        folder: folder of the latents.
        fingerprint: counts and digests of the shards that the file must describe.

    Raises:
        ValueError: the file is missing or damaged, or describes other shards, or a dimension of z is constant.
    """
    path, again = folder / SUMMARY_FILE, "run encode again, which writes it when it ends"
    text = untrusted.read_text(path, MAX_BYTES)
    if text is None:
        raise ValueError(f"{path}: no such file, and z_mean and z_variance stand there; {again}")
    try:
        summary = untrusted.from_json(text)
        if not isinstance(summary, dict):
            raise TypeError
        mean, variance = (np.array(summary.get(name), np.float64) for name in ("z_mean", "z_variance"))
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{path}: damaged, or z_mean and z_variance are no lists of numbers; {again}") from None
    for name, wanted in fingerprint._asdict().items():
        if (found := summary.get(name)) != wanted:
            said = printable(f"it sums up other shards ({name} is {found}, here {wanted})")
            raise ValueError(f"{path}: {said}; {again}")
    for name, values in {"z_mean": mean, "z_variance": variance}.items():
        if values.shape != (fingerprint.z_dim,) or not (np.abs(values) < LARGEST_MOMENT).all():
            raise ValueError(f"{path}: {name} is not {fingerprint.z_dim} finite numbers; {again}")
    if variance.min() <= 0:
        constant = np.flatnonzero(variance <= 0).tolist()
        raise ValueError(f"{path}: z never varies in dimension {constant[0]}, so it has no unit; use z as it is")
    return mean, variance
