"""Encode rollouts with a trained V model: latents/<name>/shard-*.h5, what a memory model trains on.

Examples:
  python -m world_models.encode                                             rollouts/carracing by runs/vae
  python -m world_models.encode --data rollouts/paper --vae runs/paper --out latents/paper --dtype float16

Each shard of rollouts gets its mirror: mu and logvar of every row, with actions, rewards and ends. Run the same
command again after a crash, or after collecting more, and only what is missing is encoded.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from world_models import checkpoints, files, tracking
from world_models.config import require, run_command, to_yaml
from world_models.frames import Device, torch_device
from world_models.latents import FORMAT, SUMMARY_FILE, Latents, write_latents
from world_models.metrics import Moments
from world_models.rollouts import Rollouts
from world_models.shards import shard_path, shard_paths
from world_models.shards.reader import Shard
from world_models.vae import VAE


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """What to encode, and with which model.

    Attributes:
        data: folder of rollouts.
        vae: folder of a train_vae run.
        out: folder of the latents.
        weights: best (lowest validation loss) or last.
        batch_size: frames encoded at once.
        dtype: of mu and logvar on disk.
        device: auto takes a GPU if there is one.
    """

    data: str = "rollouts/carracing"
    vae: str = "runs/vae"
    out: str = "latents/carracing"
    weights: checkpoints.Weights = "best"
    batch_size: int = 256
    dtype: Literal["float32", "float16"] = "float32"
    device: Device = "auto"

    def __post_init__(self):
        require(self.batch_size >= 1, f"batch_size is {self.batch_size}; give 1 or more")


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked encoding: the shards still to be made."""

    config: EncodeConfig
    data: Rollouts
    vae: VAE
    vae_sha256: str
    todo: tuple[int, ...]


def prepare(config: EncodeConfig) -> Job:
    """Check everything that can be wrong before the first frame, and find what is left to do."""
    data = Rollouts(config.data)
    vae = checkpoints.load_vae(config.vae, config.weights, torch_device(config.device))
    checkpoints.check_preprocess(data.preprocess, data.path, vae, config.vae)
    job = Job(config, data, vae, files.file_sha256(checkpoints.weights_path(config.vae, config.weights)), ())
    there = _shards_there(job)
    todo = tuple(index for index in range(len(data.shards)) if index not in there)
    rows = sum(data.shards[index].num_rows for index in todo)
    files.check_room(Path(config.out), rows * vae.config.z_dim * 2 * np.dtype(config.dtype).itemsize)
    return dataclasses.replace(job, todo=todo)


def _shards_there(job: Job) -> set[int]:
    """Shards that `out` holds already; one whose rollouts have grown since is not counted.

    Raises:
        ValueError: the folder holds latents of another model, dtype or data set.
    """
    there = set()
    for path in shard_paths(Path(job.config.out)):
        shard, index = Shard(path, FORMAT), int(path.stem.removeprefix("shard-"))
        source = job.data.shards[index] if index < len(job.data.shards) else None
        found = (shard.attributes["vae_sha256"], shard.column_dtypes["mu"])
        if found != (job.vae_sha256, job.config.dtype):
            raise ValueError(
                f"{path}: not {job.config.dtype} latents of {job.config.vae} {job.config.weights}; choose another --out"
            )
        if source is None or not np.array_equal(shard.seeds, source.seeds[: len(shard.seeds)]):
            raise ValueError(f"{path}: latents of other rollouts than {job.config.data}; choose another --out")
        if shard.attributes["rollouts_digest"] == source.digest():
            there.add(index)
        elif len(shard.seeds) == len(source.seeds):
            raise ValueError(f"{path}: latents of other rollouts than {job.config.data}; choose another --out")
    return there


def encode(job: Job) -> None:
    """Encode the shards that are missing, with a progress bar, and sum the latents up."""
    out = Path(job.config.out)
    out.mkdir(parents=True, exist_ok=True)
    sources = [job.data.shards[index] for index in job.todo]
    with files.only_writer(out), tracking.progress(sum(s.num_rows for s in sources), "frames", "encode") as bar:
        files.remove_partials(out)
        for index, source in zip(job.todo, sources, strict=True):
            for rows in encode_shard(job, source, shard_path(out, index)):
                bar.update(rows)
        latents = Latents(out)
        files.write_json(out / SUMMARY_FILE, summarise(latents, job))
    print(
        f"{out}: {len(latents)} episodes, {latents.num_rows:,} latents of {latents.z_dim} dimensions"
        + ("" if job.todo else ", all there already")
    )


def encode_shard(job: Job, source: Shard, path: Path) -> Iterator[int]:
    """Encode one shard, block by block, yielding the rows of each."""
    attributes = {"vae_sha256": job.vae_sha256, "config": to_yaml(job.config)}
    with write_latents(path, source, job.vae.config.z_dim, job.config.dtype, attributes) as latents:
        for start in range(0, source.num_rows, job.config.batch_size):
            frames = source.read("frames", start, start + job.config.batch_size)
            posterior = job.vae.encode(torch.from_numpy(frames))
            latents.append(_column(posterior.mu, job.config.dtype), _column(posterior.logvar, job.config.dtype))
            yield len(frames)


def _column(values: torch.Tensor, dtype: str) -> Float[np.ndarray, "rows z"]:
    return values.cpu().numpy().astype(dtype)


def summarise(latents: Latents, job: Job) -> dict[str, Any]:
    """What `latents.json` says: counts, and the moments of mu and sigma for each dimension."""
    mu, sigma = Moments(), Moments()
    for shard in latents.shards:
        mu.add(torch.from_numpy(shard.read("mu")))
        sigma.add(torch.from_numpy(shard.read("logvar")).double().div(2).exp())
    return {
        "format": FORMAT.name,
        "format_version": FORMAT.version,
        "episodes": len(latents),
        "rows": latents.num_rows,
        "transitions": latents.num_rows - len(latents),
        "z_dim": latents.z_dim,
        "num_actions": latents.num_actions,
        "preprocess": latents.preprocess,
        "mu_mean": mu.mean.tolist(),
        "mu_variance": mu.variance.tolist(),
        "sigma_mean": sigma.mean.tolist(),
        "vae": str(job.config.vae),
        "vae_sha256": latents.vae_sha256,
        "data": str(job.config.data),
        "rollouts_digest": job.data.digest(),
        "versions": files.versions(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, EncodeConfig, prepare, encode, argv)


if __name__ == "__main__":
    main()
