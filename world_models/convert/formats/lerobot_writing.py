"""Writes rollouts as a LeRobot data set of version 3.0, with one camera, whose frames are PNG in the Parquet files.

`OUT/data/chunk-000/file-000.parquet`: a file for each shard. An episode of T steps has T + 1 rows:

| column | dtype and shape | row t |
|---|---|---|
| `observation.image` | `image`: a PNG | the frame x_t, bit for bit |
| `observation.state` | float32 (S,) | telemetry at x_t; absent if there is none |
| `action` | float32 (A,) | a_t, which was chosen after seeing x_t; absent if A is 0 |
| `next.reward` | float32 | what a_t earned |
| `next.done` | bool | whether a_t ended the episode |
| `next.terminated`, `next.truncated` | bool | how it ended it |
| `timestamp` | float32 | t / fps, in seconds |
| `frame_index`, `episode_index`, `index` | int64 | t, number of the episode, number of the row in the data set |
| `task_index` | int64 | 0, the only task |

The last row holds the final frame. There is no action after it, so the other values repeat those of the row before, as
in the data that LeRobot's own evaluation writes. `convert` reads this back: frames, telemetry, actions, rewards and
ends are the same. LeRobot has no place for seeds and policies.

`OUT/meta` holds what LeRobot reads first: `info.json`, `stats.json`, `tasks.parquet` and a file of episodes for each
shard, with the statistics of each episode. `README.md` is a dataset card. `export.json` says which data the folder was
made from.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped, UInt8

from world_models.convert import folders, lerobot_metadata, lerobot_stats, lerobot_summary, parquet_arrays
from world_models.convert.config import ConvertConfig
from world_models.convert.folders import FolderExport, ShardTask
from world_models.convert.formats.parquet import png
from world_models.convert.lerobot_metadata import INFO_FILE
from world_models.convert.lerobot_summary import CAMERA, CARD_FILE, DATA_PATH, EPISODES_PATH, place_of
from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts, telemetry_names
from world_models.runtime import executors, files

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

BLOCK_ROWS = 1024
"""Rows of a row group: the least that a reader unpacks. An episode has a row group of its own, or several."""
FRAME_BYTES, NUMBERS_BYTES = 2500, 60
"""Estimated bytes of a row: of its frame, as in the format parquet, and of the numbers that every data set has."""


@dataclasses.dataclass(frozen=True)
class LerobotExport(FolderExport):
    """A checked export, which ends with the files that sum up all episodes.

    Attributes:
        data: what is written.
        fps: frames per second that the data set claims.
        task: the task that it names.
    """

    data: Rollouts
    fps: int
    task: str

    @property
    def is_finished(self) -> bool:
        """Whether all files exist."""
        return super().is_finished and (self.folder / INFO_FILE).exists()

    def write(self, report: executors.Report) -> None:
        """Write what is missing. LeRobot takes a folder without `info.json` for none of its data sets.

        Args:
            report: called with the number of rows so far.

        Raises:
            Stopped: the disk took no more, or a shard cannot be read. Finished files stay.
        """
        if self.earlier.state != "same":
            (self.folder / INFO_FILE).unlink(missing_ok=True)
        super().write(report)
        lerobot_summary.write(self.folder, self.data, self.fps, self.task)


def plan(data: Rollouts | Latents, out: Path, config: ConvertConfig) -> LerobotExport:
    """Check the data and the output, and find the shards that are missing.

    Raises:
        ValueError: pyarrow is not installed, the data are no rollouts, their telemetry is not finite, or `out` holds
            something else.
    """
    parquet_arrays.check_installed("lerobot")
    config.check_unused("rows", reason="whole episodes are written")
    if not isinstance(data, Rollouts):
        raise ValueError(
            f"{data.path}: holds latents, and lerobot takes rollouts; name the folder of rollouts as --data"
        )
    _check_finite(data)
    fps, task = config.lerobot.fps, config.lerobot.task
    pages = {CARD_FILE: lerobot_summary.card(data, fps, task)}
    record = folders.record("lerobot", data, pages, fps=fps, task=task)
    earlier = folders.check_folder(out, record, data)
    _check_own_episodes(out, earlier)
    tasks = folders.shard_tasks(data, lambda shard: out / place_of(shard, EPISODES_PATH))
    return LerobotExport(
        folder=out,
        record=record,
        earlier=earlier,
        tasks=folders.missing(tasks, earlier, functools.partial(_is_written, out)),
        write_shard=functools.partial(write_shard, out, fps, task),
        pages=pages,
        row_bytes=FRAME_BYTES + NUMBERS_BYTES + 4 * (data.num_actions + len(data.telemetry_names)),
        summary=f"{out}: {len(data):,} episodes, {data.num_rows:,} frames; "
        f"LeRobotDataset({out.name!r}, root={str(out)!r}) reads it",
        warnings=(),
        executor=config.executor,
        num_workers=config.num_workers,
        data=data,
        fps=fps,
        task=task,
    )


def _check_finite(data: Rollouts) -> None:
    """Check that statistics of the telemetry can be computed.

    Raises:
        ValueError: they cannot. LeRobot normalises by these statistics, and they have no place for missing values.
    """
    for shard in data.shards:
        bad = ~np.isfinite(shard.read("telemetry")).all(0)
        if bad.any():
            name = data.telemetry_names[int(bad.argmax())]
            raise ValueError(
                f"{shard.path}: the telemetry column {name} holds numbers that are not finite, and LeRobot cannot "
                "normalise by them; choose another --format"
            )


def _is_written(out: Path, task: ShardTask) -> bool:
    """Whether the files of a shard are there. A shard without episodes becomes none."""
    return not task.source.num_rows or (task.target.exists() and (out / place_of(task.source, DATA_PATH)).exists())


def _check_own_episodes(out: Path, earlier: folders.Earlier) -> None:
    """Check that LeRobot has added no episodes to an earlier export, because new files would mix with them.

    Raises:
        ValueError: it has.
    """
    if earlier.state != "none" and (out / INFO_FILE).exists():
        found = lerobot_metadata.read_info(out).num_episodes
        if found != earlier.episodes:
            has = f"holds {found:,} episodes, and convert has written {earlier.episodes} of them"
            raise ValueError(f"{out}: {has}; choose another --out")


def write_shard(out: Path, fps: int, text: str, task: ShardTask, report: executors.Report) -> None:
    """Write the rows of a shard, then the file of its episodes.

    Args:
        out: the folder of the data set.
        fps: frames per second.
        text: the task, in words.
        task: the shard, and the file of its episodes.
        report: called with the number of rows so far.
    """
    from pyarrow import parquet

    path, shard = out / place_of(task.source, DATA_PATH), task.source
    for folder in (path.parent, task.target.parent):
        files.make_folder(folder)
    kind = lerobot_summary.schema(shard.row_shapes["actions"][0], telemetry_names(shard))
    with (
        files.atomic_path(path) as temporary,
        temporary.open("xb") as file,
        parquet.ParquetWriter(file, kind, compression="snappy") as writer,
    ):
        stats = [_write_episode(writer, task, number, fps, report) for number in range(len(shard.starts))]
    with files.atomic_path(task.target) as temporary, temporary.open("xb") as file:
        parquet.write_table(lerobot_summary.episode_table(task, text, stats), file)


def _write_episode(
    writer: "parquet.ParquetWriter", task: ShardTask, number: int, fps: int, report: executors.Report
) -> Mapping[str, lerobot_stats.Stats]:
    """Write the rows of an episode, some at a time. Returns the statistics of each feature."""
    shard = task.source
    start, rows = int(shard.starts[number]), int(shard.lengths[number])
    numbers, pixels = _numbers(task, number, fps), lerobot_stats.Pixels()
    for first in range(0, rows, BLOCK_ROWS):
        stop = min(first + BLOCK_ROWS, rows)
        frames = shard.read("frames", start + first, start + stop)
        pixels.add(frames)
        writer.write_batch(_batch(writer.schema, frames, {name: each[first:stop] for name, each in numbers.items()}))
        report(start + stop)
    return {CAMERA: pixels.stats(), **{name: lerobot_stats.of_numbers(values) for name, values in numbers.items()}}


def _numbers(task: ShardTask, number: int, fps: int) -> dict[str, Shaped[np.ndarray, "rows width"]]:
    """All features of an episode but the frames. The last row repeats what the last action was and caused."""
    shard = task.source
    start, rows = int(shard.starts[number]), int(shard.lengths[number])
    step = np.arange(rows)
    acting = np.minimum(step, rows - 2)
    read = {name: shard.read(name, start, start + rows)[acting] for name in ("rewards", "terminated", "truncated")}
    columns = {
        "observation.state": shard.read("telemetry", start, start + rows),
        "action": shard.read("actions", start, start + rows)[acting],
        "next.reward": read["rewards"],
        "next.done": read["terminated"] | read["truncated"],
        "next.terminated": read["terminated"],
        "next.truncated": read["truncated"],
        "timestamp": (step / fps).astype(np.float32),
        "frame_index": step,
        "episode_index": np.full(rows, task.first_episode + number),
        "index": task.first_row + start + step,
        "task_index": np.zeros(rows, np.int64),
    }
    return {name: values.reshape(rows, -1) for name, values in columns.items() if values.size}


def _batch(
    kind: "pa.Schema",
    frames: UInt8[np.ndarray, "rows 64 64 3"],
    numbers: Mapping[str, Shaped[np.ndarray, "rows width"]],
) -> "pa.RecordBatch":
    """Rows as Arrow. LeRobot stores a single number as itself, and several as a list."""
    import pyarrow as pa

    pictures = pa.array([png(frame) for frame in frames], pa.binary())
    columns = {CAMERA: pa.StructArray.from_arrays([pictures, pa.nulls(len(frames), pa.string())], ["bytes", "path"])}
    for name, values in numbers.items():
        flat, width = pa.array(values.reshape(-1)), values.shape[1]
        columns[name] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.RecordBatch.from_arrays([columns[name] for name in kind.names], schema=kind)
