"""Writes rollouts as ctallec's `RolloutSequenceDataset` reads them: a folder of folders of npz files, one an episode.

`OUT/shard-00000/episode-000000.npz`: a folder for each shard. An episode of T steps has T + 1 rows:

| array | dtype and shape | meaning |
|---|---|---|
| `observations` | uint8 (T + 1, 64, 64, 3) | row t holds the frame x_t |
| `actions` | float32 (T + 1, A) | row t + 1 holds a_t, which led from x_t to x_{t+1}; row 0 is zeros |
| `rewards` | float32 (T + 1,) | row t + 1 holds the reward of a_t; row 0 is 0 |
| `terminals` | bool (T + 1,) | row t + 1 says whether a_t terminated the episode; row 0 is false |

In ctallec's files, row t holds the action that led to the observation of row t, and his loader reads actions, rewards
and terminals one row later than observations. So row 0 is never read, and is made up here. Truncation is not in
`terminals`: a memory model would learn that episodes end by time. `convert` reads these files back to the same frames,
actions, rewards and ends; telemetry, seeds and policies are not in this format.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from world_models.convert import folders
from world_models.convert.config import ConvertConfig
from world_models.convert.folders import FolderExport, ShardTask
from world_models.convert.npz_writer import NpzWriter, write_npz
from world_models.data.latents import Latents
from world_models.data.rollouts import FRAME_SHAPE, Rollouts
from world_models.data.shards.reader import Shard
from world_models.runtime import executors, files

BLOCK_ROWS = 256
ROW_BYTES = 2000  # a packed frame of CarRacing takes 1,810
HELD_OUT_FILES, SEQUENCE_STEPS = 600, 32
"""ctallec's loader keeps the last files for its test set. His memory model trains on sequences of so many steps."""


def plan(data: Rollouts | Latents, out: Path, config: ConvertConfig) -> FolderExport:
    """Check the data and the output, and find the shards that are missing.

    Raises:
        ValueError: the data are no rollouts, or `out` holds something else.
    """
    if not isinstance(data, Rollouts):
        raise ValueError(f"{data.path}: holds latents, and npz takes rollouts; name the folder of rollouts as --data")
    config.check_unused("rows", reason="whole episodes are written")
    record = folders.record("npz", data)
    earlier = folders.check_folder(out, record, data)
    tasks = folders.shard_tasks(data, lambda shard: out / shard.path.stem)
    return FolderExport(
        folder=out,
        record=record,
        earlier=earlier,
        tasks=folders.missing(tasks, earlier, _is_written),
        write_shard=write_shard,
        pages={},
        row_bytes=ROW_BYTES,
        summary=f"{out}: {len(data):,} npz files, {data.num_rows:,} frames",
        warnings=_warnings(data.lengths),
        executor=config.executor,
        num_workers=config.num_workers,
    )


def _warnings(lengths: Int64[np.ndarray, " episodes"]) -> tuple[str, ...]:
    """What ctallec's loader will not read of episodes with these numbers of rows."""
    count, short = len(lengths), int((lengths <= SEQUENCE_STEPS).sum())
    lines = []
    if count <= HELD_OUT_FILES:
        lines.append(
            f"ctallec's loader holds out the last {HELD_OUT_FILES} files, so {count:,} files give no training data;"
            " collect more episodes, or change that number in his data/loaders.py"
        )
    if short:
        lines.append(
            f"{short:,} of {count:,} episodes have {SEQUENCE_STEPS} rows or fewer; ctallec's loader counts them "
            f"wrongly when it reads sequences of {SEQUENCE_STEPS} steps, so set seq_len to a smaller number"
        )
    return tuple(lines)


def _episodes(task: ShardTask) -> Iterator[tuple[Path, int, int]]:
    """The file of each episode of a shard, the episode's first row, and its number of rows."""
    source = task.source
    for number, (start, rows) in enumerate(zip(source.starts.tolist(), source.lengths.tolist(), strict=True)):
        yield task.target / f"episode-{task.first_episode + number:06d}.npz", start, rows


def _is_written(task: ShardTask) -> bool:
    return all(path.exists() for path, _, _ in _episodes(task))


def write_shard(task: ShardTask, report: executors.Report) -> None:
    """Write the missing episodes of a shard.

    Args:
        task: what to write.
        report: called with the number of rows so far.
    """
    files.make_folder(task.target)
    for path, start, rows in _episodes(task):
        if not path.exists():
            with write_npz(path) as npz:
                _write_episode(npz, task.source, start, rows, report)
        report(start + rows)


def _write_episode(npz: NpzWriter, shard: Shard, start: int, rows: int, report: executors.Report) -> None:
    with npz.array("observations", "uint8", (rows, *FRAME_SHAPE)) as append:
        for row in range(start, start + rows, BLOCK_ROWS):
            stop = min(row + BLOCK_ROWS, start + rows)
            append(shard.read("frames", row, stop))
            report(stop)
    num_actions = shard.row_shapes["actions"][0]
    for name, column, dtype, shape in (
        ("rewards", "rewards", "float32", ()),
        ("actions", "actions", "float32", (num_actions,)),
        ("terminals", "terminated", "bool", ()),
    ):
        with npz.array(name, dtype, (rows, *shape)) as append:
            append(np.zeros((1, *shape), dtype))
            append(shard.read(column, start, start + rows - 1))
