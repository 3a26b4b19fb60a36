"""Writes shards of rollouts by many workers: locked, resumable, with a progress bar. Importing and merging use it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from world_models.convert.config import ConvertConfig
from world_models.drawing import grids
from world_models.runtime import executors, files, locks, progress
from world_models.runtime.workers import Item, Result, Task

FIRST_FRAMES = "first_frames.png"
"""Name of a picture in the folder of the data set: frames of the first episode."""


def write_shards(
    config: ConvertConfig,
    write: Task[Item, Result],
    tasks: Sequence[Item],
    num_frames: Sequence[int],
    first_frames: grids.Picture | None = None,
) -> list[Result]:
    """Write the shards of `config.out`.

    Args:
        config: says where, and with how many workers.
        write: writes the shard of one task, whole or not at all.
        tasks: the missing shards.
        num_frames: number of frames of each, for the progress bar. It may be an estimate.
        first_frames: a picture to be saved in the folder; None for none.

    Returns:
        The results, in the order in which the shards were finished.

    Raises:
        Stopped: the disk is full, another process writes into the folder, or `write` stopped.
    """
    out = Path(str(config.out))
    files.make_folder(out)
    results = []

    def watch(frames: int) -> None:
        bar.update(frames - bar.n)

    with locks.only_writer(out) as lock:
        files.remove_partials(out)
        if first_frames is not None and tasks:
            grids.save(out / FIRST_FRAMES, first_frames)
        try:
            with progress.bar(sum(num_frames), "frames", "convert") as bar:
                with contextlib.closing(executors.run(write, tasks, config.executor, config.num_workers, watch)) as run:
                    for _, result in run:
                        lock.check()
                        results.append(result)
                bar.update(bar.total - bar.n)
        finally:
            files.remove_partials(out)
    return results
