"""Records shards on the nodes of a Ray cluster. The nodes send them back; this process alone writes into the data set.

So the nodes need no disk in common with this machine. A node records into its temporary folder.
"""

import contextlib
import dataclasses
import platform
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from world_models.collect.config import CollectConfig
from world_models.collect.recording import ShardResult, ShardTask, record_shard
from world_models.runtime import executors, files, node_facts, ray_connection, ray_work
from world_models.runtime.errors import Stopped

PACKAGES = ("numpy", "gymnasium", "box2d", "vizdoom", "opencv-python", "h5py")
"""Packages on which frames, actions, and the files that hold them depend."""
FOLDER = "world_models-collect-"
"""Beginning of the name of a node's temporary folder."""

Sent = tuple[ShardResult, UInt8[np.ndarray, " bytes"]]


def check(config: CollectConfig) -> None:
    """Check that the nodes can be reached, and that they would record the same as this machine.

    Raises:
        ValueError: they cannot, or a node has other versions or lacks a module.
    """
    ray_connection.check(config.ray_address, _facts(config))


def _facts(config: CollectConfig) -> node_facts.Facts:
    """The facts of this machine that the nodes have to share."""
    named = {module for name in (config.env, *config.weights) if (module := name.rpartition(":")[0])}
    return node_facts.collect(tuple(node_facts.names(PACKAGES, sorted(named))))


def record(
    config: CollectConfig, tasks: Sequence[ShardTask], watch: executors.Report
) -> Generator[tuple[int, ShardResult], None, None]:
    """Record shards on the nodes, and write them here. Yields (index, result) in the order in which they arrive.

    Args:
        config: the collection.
        tasks: its missing shards.
        watch: called at least once a second with the number of steps so far.

    Raises:
        Stopped: the cluster cannot be reached any more, a policy or the environment gives a value that cannot be
            stored, nodes died too often, or the disk is full.
    """
    if not tasks:
        return
    with ray_connection.connected(config.ray_address, config.num_workers) as cluster:
        work = ray_work.Work(record_and_send, _facts(config))
        with contextlib.closing(ray_work.run(cluster, work, tasks, watch)) as run:
            for index, (recorded, shard) in run:
                files.write_bytes(tasks[index].path, shard.data)
                yield index, recorded


def record_and_send(task: ShardTask, report: executors.Report) -> Sent:
    """Record a shard into a temporary folder. Returns the result and the file's bytes.

    Raises:
        Stopped: as `record_shard`, or this node cannot make the policy.
    """
    with files.temporary_folder(Path(tempfile.gettempdir()), FOLDER) as folder:
        path = folder / task.path.name
        try:
            recorded = record_shard(dataclasses.replace(task, path=path), report)
        except ValueError as error:  # the driver has made it, but something that it imports may be missing here
            raise Stopped(f"node {platform.node()}: {error}") from error
        return recorded, np.fromfile(path, np.uint8)
