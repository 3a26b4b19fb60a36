"""Encode rollouts with a trained V model: latents/<name>/shard-*.h5, the training data of a memory model.

Examples:
  python -m world_models.encode                                             rollouts/carracing by runs/vae
  python -m world_models.encode --data rollouts/paper --vae runs/paper --out latents/paper --dtype float16

Each shard of rollouts becomes a shard of latents: mu and logvar of every row, with actions, rewards and ends. After a
crash, or after collecting more, run the same command again: it encodes only the missing shards. With several GPUs:
  torchrun --nproc_per_node=8 -m world_models.encode ...                    each GPU encodes some of the shards
  python -m world_models.encode --executor ray                              on the nodes of a Ray cluster
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import yaml
from jaxtyping import Float, UInt8

from world_models.data import latent_summary
from world_models.data.latents import FORMAT, Latents, latents_bytes, write_latents
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path, shard_paths
from world_models.data.shards.reader import Shard
from world_models.encode import ring, summary
from world_models.encode.config import EncodeConfig
from world_models.runs import checkpoints, layout, provenance, tracking
from world_models.runs.artifacts import Product
from world_models.runtime import distributed, files, host, locks, progress, terminal, threads, untrusted
from world_models.runtime.cli import run_command, to_yaml
from world_models.runtime.distributed import Device, torch_device
from world_models.runtime.errors import require
from world_models.vae.fast import onnx_encoder
from world_models.vae.model import VAE

CPU_BATCH, GPU_BATCH = 256, 4096

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked encoding.

    Attributes:
        config: what to encode.
        data: the rollouts.
        vae: the model, on its device.
        vae_sha256: sha256 of its weights.
        val_sse: the run's `val/sse` for these weights, on other frames; None if it is not found in the run's folder.
        missing_shards: numbers of the missing shards, for all processes together.
        folder: where shards are written; None for `out` of the config.
    """

    config: EncodeConfig
    data: Rollouts
    vae: VAE
    vae_sha256: str
    val_sse: float | None
    missing_shards: tuple[int, ...]
    folder: Path | None = None

    @property
    def is_finished(self) -> bool:
        """Whether all shards and their summary exist."""
        return not self.missing_shards and (Path(self.config.out) / latent_summary.SUMMARY_FILE).exists()

    @property
    def num_frames(self) -> int:
        """Number of frames that have to be encoded."""
        return sum(self.data.shards[index].num_rows for index in self.missing_shards)


def prepare(config: EncodeConfig) -> Job:
    """Check everything that can be wrong before the first frame, and find the missing shards.

    Raises:
        ValueError, OSError: the input is bad, or `out` holds other latents. Nothing was written.
    """
    require(
        config.executor != "ray" or distributed.world().size == 1,
        "executor is ray, and torchrun has started several processes; start one, or leave --executor out",
    )
    data = Rollouts(config.data)
    if config.backend == "onnx":
        onnx_encoder.check()
    device = distributed.own_device(torch_device(_own_device(config)))
    vae = checkpoints.load_vae(config.vae, config.weights, device)
    provenance.check_preprocess(data.preprocess, data.path, vae, config.vae)
    vae_sha256 = files.file_sha256(layout.weights_path(config.vae, config.weights))
    val_sse = checkpoints.validation_metrics(Path(config.vae), config.weights).get("val/sse")
    job = Job(config, data, vae, vae_sha256, val_sse, missing_shards=())
    finished = _finished_shards(job)
    missing_shards = tuple(index for index in range(len(data.shards)) if index not in finished)
    for index in missing_shards:
        data.shards[index].check_finite()
    untrusted.is_file(Path(config.out) / latent_summary.SUMMARY_FILE)
    need_bytes = sum(latents_bytes(data.shards[index], vae.config.z_dim, config.dtype) for index in missing_shards)
    files.check_room(Path(config.out), need_bytes)
    if missing_shards and config.executor == "ray":
        from world_models.encode import remote  # it imports this module

        remote.check(config)
    return dataclasses.replace(job, missing_shards=missing_shards)


def _own_device(config: EncodeConfig) -> Device:
    """The device of this process. With executor ray, the nodes have other devices, and this one only checks."""
    if config.backend == "onnx":
        return "cpu"
    return "auto" if config.executor == "ray" else config.device


def _finished_shards(job: Job) -> set[int]:
    """Numbers of the shards that `out` holds already. A shard whose rollouts have grown since is not finished.

    Raises:
        ValueError: the folder holds latents of another model, dtype or data set.
    """
    finished = set()
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
        if shard.num_planned < source.num_planned:
            continue
        if shard.attributes["rollouts_digest"] == source.digest() and shard.skipped_seeds == source.skipped_seeds:
            finished.add(index)
        else:
            raise ValueError(f"{path}: latents of other rollouts than {job.config.data}; choose another --out")
    return finished


def encode(job: Job) -> None:
    """Encode the missing shards, with a progress bar, and write the summary."""
    out, world = Path(job.config.out), distributed.world()
    with contextlib.ExitStack() as stack:
        if world.is_first:
            files.make_folder(out)
            stack.enter_context(locks.only_writer(out))
            files.remove_partials(out)
        stack.enter_context(distributed.connected(job.vae.device))
        mine = job.missing_shards[world.rank :: world.size]
        rows = sum(job.data.shards[index].num_rows for index in mine)
        bar = stack.enter_context(progress.bar(rows, "frames", "encode", shown=world.is_first))
        if job.config.executor == "ray":
            from world_models.encode import remote

            remote.encode_shards(job, mine, functools.partial(progress.move, bar))
        else:
            for count in stack.enter_context(contextlib.closing(encode_shards(job, mine))):
                bar.update(count)
        distributed.wait_for_all(job.vae.device)
        if world.is_first:
            _finish(job, Latents(out))


def _finish(job: Job, latents: Latents) -> None:
    """Summarise all latents on disk, check them, write latents.json, and print warnings."""
    config, out = job.config, Path(job.config.out)
    contents, check = summary.summarise(latents), summary.check(latents, job.data, job.vae)
    sources = latent_summary.Sources(
        config.vae, latents.vae_sha256, config.data, job.data.digest(), versions=files.versions()
    )
    latent_summary.save(out, contents, check.as_json() | {"run_val_sse": job.val_sse}, sources)
    terminal.say(
        f"{out}: {len(latents)} episodes, {latents.num_rows:,} latents of {latents.z_dim} dimensions, "
        f"{contents.terminated_episodes} episodes terminated" + ("" if job.missing_shards else ", all finished before")
    )
    for warning in summary.warnings(contents, check):
        terminal.warn(f"{out}: {warning}")
    tracking.record(out, yaml.safe_load(to_yaml(config)), config.wandb, "encode", _outcome(job, latents))


def _outcome(job: Job, latents: Latents) -> tracking.Outcome:
    """The latents, and the data and model that they were made from."""
    sources = Product("dataset", job.config.data, job.data.digest()), Product("model", job.config.vae, job.vae_sha256)
    return tracking.Outcome(sources, Product("latents", job.config.out, latents.digest(), {"rows": latents.num_rows}))


def encode_shards(job: Job, indices: Sequence[int], cores: int = 0) -> Generator[int, None, None]:
    """Encode the shards with these numbers. Yields the number of rows of each batch after it was written.

    Three stages run at the same time: threads that unpack frames, the GPU or a thread per core of the CPU that encode,
    and the calling thread, which writes. Batches are written in order, and only a few are in memory.

    Args:
        job: the checked encoding.
        indices: the shards.
        cores: number of cores to use; 0 for all of them.
    """
    on_cpu, cores = job.vae.device.type == "cpu", cores or host.available_cores()
    batch_size = job.config.batch_size or (CPU_BATCH if on_cpu else GPU_BATCH)
    encode_batch = _encoder_of_frames(job)

    def frames_from(batch: tuple[Shard, int]) -> UInt8[np.ndarray, "batch 64 64 3"]:
        shard, start = batch
        return shard.read("frames", start, start + batch_size)

    def latents_of(frames: UInt8[np.ndarray, "batch 64 64 3"]) -> tuple[np.ndarray, np.ndarray]:
        mu, logvar = encode_batch(torch.from_numpy(frames))
        return _column(mu, job.config.dtype), _column(logvar, job.config.dtype)

    with (
        threads.single_threaded(),
        ThreadPoolExecutor(cores) as readers,
        threads.pool(cores) as encoders,
    ):
        shards = [job.data.shards[index] for index in indices]
        batches = ((shard, start) for shard in shards for start in range(0, shard.num_rows, batch_size))
        if on_cpu:
            latents = _ahead(encoders, latents_of, _ahead(readers, frames_from, batches, 2 * cores), 2 * cores)
        else:
            largest = min(batch_size, max((shard.num_rows for shard in shards), default=1))
            latents = ring.latents_of(job.vae, batches, largest, readers, cores, job.config.dtype)
        for index, shard in zip(indices, shards, strict=True):
            yield from _write(job, index, itertools.islice(latents, -(-shard.num_rows // batch_size)))


def _encoder_of_frames(job: Job) -> Callable[[UInt8[torch.Tensor, "batch 64 64 3"]], tuple[torch.Tensor, torch.Tensor]]:
    """A function that gives mu and logvar of frames. Several threads may call it at once."""
    if job.config.backend == "onnx":
        return onnx_encoder.encoder_of_frames(job.vae.paper[0])

    def encode_frames(frames: UInt8[torch.Tensor, "batch 64 64 3"]) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = job.vae.encode(frames)
        return posterior.mu, posterior.logvar

    return encode_frames


def _write(job: Job, index: int, latents: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[int]:
    path, source = shard_path(job.folder or Path(job.config.out), index), job.data.shards[index]
    attributes = {"vae_sha256": job.vae_sha256, "config": to_yaml(job.config)}
    with write_latents(path, source, job.vae.config.z_dim, job.config.dtype, attributes) as writer:
        for mu, logvar in latents:
            writer.append(mu, logvar)
            yield len(mu)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """Apply a function to items in a pool, up to `depth` items ahead. Yields the results in the items' order."""
    futures: collections.deque[Future[Result]] = collections.deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > depth:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _column(values: torch.Tensor, dtype: str) -> Float[np.ndarray, "rows z"]:
    return values.cpu().numpy().astype(dtype)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, EncodeConfig, prepare, encode, argv)
