"""Encodes shards on the nodes of a Ray cluster. This process alone reads rollouts and writes latents.

A shard of rollouts goes to a node through Ray's object store, and its latents come back in the same way. The model is
sent once. So the nodes need no disk in common with this machine.
"""

import contextlib
import dataclasses
import functools
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.encode import command
from world_models.encode.command import EncodeConfig, Job
from world_models.runs import checkpoints, layout
from world_models.runtime import executors, files, node_facts, ray_cluster, ray_connection, ray_work
from world_models.runtime.distributed import Device, torch_device
from world_models.runtime.errors import Stopped
from world_models.vae.model import VAE

FOLDER = "world_models-encode-"
"""Beginning of the name of a node's temporary folder."""

Bytes = UInt8[np.ndarray, " bytes"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model on its way to the nodes.

    Attributes:
        files: the files of its run that `load_vae` reads, by their names.
        sha256: sha256 of its weights.
    """

    files: dict[str, bytes]
    sha256: str


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Everything that a node needs to encode one shard.

    Attributes:
        config: the settings. `device` is that of the nodes, cpu or cuda.
        model: the model, as the cluster holds it.
        source: the shard of rollouts, on the driver's disk.
        rollouts: the bytes of its file; None until it is sent.
    """

    config: EncodeConfig
    model: ray_cluster.Shared[Model]
    source: Path
    rollouts: Bytes | None = None


def check(config: EncodeConfig) -> None:
    """Check that the nodes can be reached, and that they would encode as this machine does.

    Raises:
        ValueError: they cannot, or a node has other versions.
    """
    ray_connection.check(config.ray_address, _facts(config), on_gpu=config.device == "cuda")


def _facts(config: EncodeConfig) -> node_facts.Facts:
    """The facts of this machine that the nodes have to share."""
    packages = ["numpy", "h5py", "torch", *(["onnxruntime"] if config.backend == "onnx" else [])]
    return node_facts.collect(tuple(node_facts.names(packages)))


def encode_shards(job: Job, indices: Sequence[int], watch: executors.Report) -> None:
    """Encode the shards with these numbers on the nodes, and write them here.

    Args:
        job: the checked encoding.
        indices: the shards.
        watch: called at least once a second with the number of rows so far.

    Raises:
        Stopped: the cluster cannot be reached any more, nodes died too often, or the disk is full.
    """
    sources = {index: job.data.shards[index] for index in indices}
    empty = [index for index, source in sources.items() if not source.num_rows]
    for _ in command.encode_shards(job, empty):
        pass
    filled = [index for index in indices if index not in empty]
    if not filled:
        return
    with ray_connection.connected(job.config.ray_address) as cluster:
        on_gpu = job.config.backend == "torch" and job.config.device != "cpu" and cluster.has_gpus
        if job.config.device == "cuda" and not on_gpu:
            raise Stopped(ray_connection.NO_GPU)
        config = dataclasses.replace(job.config, device="cuda" if on_gpu else "cpu")
        model = cluster.share(_model(job))
        tasks = [ShardTask(config, model, sources[index].path) for index in filled]
        item_bytes = max(task.source.stat().st_size for task in tasks)
        work = ray_work.Work(encode_and_send, _facts(config), _with_rollouts, item_bytes, on_gpu)
        with contextlib.closing(ray_work.run(cluster, work, tasks, watch)) as run:
            for position, latents in run:
                files.write_bytes(shard_path(Path(config.out), filled[position]), latents.data)


def _model(job: Job) -> Model:
    run = Path(job.config.vae)
    paths = (run / layout.DESCRIPTION_FILE, layout.weights_path(run, job.config.weights))
    return Model({path.name: path.read_bytes() for path in paths}, job.vae_sha256)


def _with_rollouts(task: ShardTask) -> ShardTask:
    return dataclasses.replace(task, rollouts=np.fromfile(task.source, np.uint8))


# ---- on the nodes ----


def encode_and_send(task: ShardTask, report: executors.Report) -> Bytes:
    """Encode a shard in a temporary folder. Returns the bytes of the file of latents.

    Raises:
        Stopped: this node cannot load the model, for example because PyTorch finds no GPU.
    """
    assert task.rollouts is not None
    try:
        vae, sha256 = _loaded(task.model, task.config.weights, task.config.device)
    except ValueError as error:
        raise Stopped(f"node {platform.node()}: {error}") from error
    with files.temporary_folder(Path(tempfile.gettempdir()), FOLDER) as folder:
        source = folder / f"rollouts-{task.source.name}"
        task.rollouts.tofile(source)
        job = Job(task.config, Rollouts(source), vae, sha256, val_sse=None, missing_shards=(0,), folder=folder)
        rows = 0
        for count in command.encode_shards(job, job.missing_shards, cores=1):
            rows += count
            report(rows)
        return np.fromfile(shard_path(folder, 0), np.uint8)


@functools.lru_cache(maxsize=1)
def _loaded(model: ray_cluster.Shared[Model], weights: layout.Weights, device: Device) -> tuple[VAE, str]:
    """The model on this node's device, and the sha256 of its weights. A worker loads it once."""
    sent = model.get()
    with files.temporary_folder(Path(tempfile.gettempdir()), FOLDER) as folder:
        for name, contents in sent.files.items():
            (folder / name).write_bytes(contents)
        return checkpoints.load_vae(folder, weights, torch_device(device)), sent.sha256
