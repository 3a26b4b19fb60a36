"""Measures what one driver of a Ray cluster can feed, in its own processor time.

    python examples/ray_driver.py --items 4000 --in_flight 64

It starts Ray on this machine (`pip install 'world_models[ray]'`). First it runs items that do nothing. Then it fetches
shards of random bytes and writes them. docs/clusters.md computes from this what a large cluster would take.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from world_models.runtime import files, ray_cluster, ray_connection, ray_work, workers


def nothing(item: int, report: workers.Report) -> None:
    """An item without work."""


def shard(megabytes: int, report: workers.Report) -> np.ndarray:
    """The bytes of a shard, which cannot be compressed."""
    return np.random.default_rng(0).integers(0, 256, megabytes * 1_000_000, np.uint8)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print two lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--in_flight", type=int, default=64)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=8)
    flags = parser.parse_args(argv)
    workers.TASKS_OF_A_WORKER = 0  # workers are not replaced; real items take seconds, so that replacing costs little
    with ray_connection.connected("local") as cluster:
        _count(_run(cluster.ray, nothing, range(flags.in_flight)))  # Ray starts its workers
        since_s = time.process_time()
        _count(_run(cluster.ray, nothing, range(flags.items), flags.in_flight))
        print(f"{1e3 * (time.process_time() - since_s) / flags.items:.2f} ms for each item without work")
        since_s = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            for _, sent in _run(cluster.ray, shard, [flags.megabytes] * flags.shards):
                files.write_bytes(Path(folder) / "shard", sent.data)
        print(f"{1e3 * (time.process_time() - since_s) / flags.shards:.2f} ms for each shard of {flags.megabytes} MB")


def _count(results: Iterable[Any]) -> int:
    return sum(1 for _ in results)


def _run(ray: Any, task: Any, items: Sequence[int], in_flight: int = 0) -> Any:
    cluster = ray_cluster.Cluster(ray, in_flight)
    return ray_work.run(cluster, ray_work.Work(task, {}), items, lambda units: None)


if __name__ == "__main__":
    main()
