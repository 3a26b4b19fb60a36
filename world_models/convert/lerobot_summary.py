"""What a LeRobot data set of version 3.0 says of itself: features, episodes, statistics, tasks, and a dataset card."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from world_models.convert import lerobot_stats
from world_models.convert.folders import ShardTask
from world_models.convert.formats.parquet import feature
from world_models.convert.lerobot_metadata import INFO_FILE
from world_models.data.rollouts import FRAME_SHAPE, Rollouts
from world_models.data.shards.reader import Shard
from world_models.data.step_tables import numbered
from world_models.runtime import files
from world_models.runtime.errors import Stopped
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json
from world_models.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "v3.0"
CAMERA = "observation.image"
FILE_OF_SHARD = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH, EPISODES_PATH = f"data/{FILE_OF_SHARD}", f"meta/episodes/{FILE_OF_SHARD}"
STATS_FILE, TASKS_FILE, CARD_FILE = "meta/stats.json", "meta/tasks.parquet", "README.md"
FILES_OF_CHUNK = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
"""Sizes at which LeRobot begins new files. They are its defaults, and bind only what it appends itself."""
STATS = "stats/"


def place_of(shard: Shard, template: str) -> str:
    """The path of the file that a shard becomes."""
    chunk, file = _chunk_and_file(shard)
    return template.format(chunk_index=chunk, file_index=file)


def _chunk_and_file(shard: Shard) -> tuple[int, int]:
    return divmod(int(shard.path.stem.removeprefix("shard-")), FILES_OF_CHUNK)


def features(num_actions: int, telemetry: Sequence[str]) -> dict[str, dict[str, Json]]:
    """The features of a data set, as in `info.json`. The order is that of the columns.

    Args:
        num_actions: number of columns of the actions.
        telemetry: names of the telemetry.
    """
    vectors = {"observation.state": list(telemetry), "action": numbered("action", num_actions)}
    single = {"next.reward": "float32", **dict.fromkeys(("next.done", "next.terminated", "next.truncated"), "bool")}
    single |= {"timestamp": "float32"}
    single |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    return {
        CAMERA: {"dtype": "image", "shape": list(FRAME_SHAPE), "names": ["height", "width", "channels"]},
        **{
            name: {"dtype": "float32", "shape": [len(names)], "names": names}
            for name, names in vectors.items()
            if names
        },
        **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in single.items()},
    }


def schema(num_actions: int, telemetry: Sequence[str]) -> "pa.Schema":
    """Names and types of the columns of the rows as Parquet, with the features of Hugging Face's `datasets`."""
    import pyarrow as pa

    numbers = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}
    picture = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    kinds = {}
    for name, each in features(num_actions, telemetry).items():
        dtype, shape = numbers.get(str(each["dtype"])), each["shape"]
        assert isinstance(shape, list)
        kinds[name] = picture if dtype is None else dtype if shape == [1] else pa.list_(dtype, shape[0])
    theirs = {"info": {"features": {name: feature(kind) for name, kind in kinds.items()}}}
    return pa.schema(kinds).with_metadata({"huggingface": json.dumps(theirs)})


def episode_table(task: ShardTask, text: str, stats: Sequence[Mapping[str, lerobot_stats.Stats]]) -> "pa.Table":
    """The table of a shard's episodes: where each one is, and its statistics.

    Args:
        task: the shard.
        text: the task, in words.
        stats: of each episode, the statistics of each feature.
    """
    import pyarrow as pa

    shard, count = task.source, len(task.source.starts)
    chunk, file = _chunk_and_file(shard)
    firsts = task.first_row + shard.starts
    columns: dict[str, Any] = {
        "episode_index": np.arange(count) + task.first_episode,
        "tasks": [[text]] * count,
        "length": shard.lengths.astype(np.int64),
        "data/chunk_index": np.full(count, chunk),
        "data/file_index": np.full(count, file),
        "dataset_from_index": firsts,
        "dataset_to_index": firsts + shard.lengths,
    }
    for name, found in stats[0].items():
        for key in found:
            columns[f"{STATS}{name}/{key}"] = [episode[name][key].tolist() for episode in stats]
    columns |= {"meta/episodes/chunk_index": np.full(count, chunk), "meta/episodes/file_index": np.full(count, file)}
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def write(folder: Path, data: Rollouts, fps: int, text: str) -> None:
    """Write what sums up all episodes. `info.json` is the last file, because LeRobot begins with it.

    Args:
        folder: of the data set, with the files of all shards.
        data: what was written.
        fps: frames per second.
        text: the task, in words.
    """
    from pyarrow import parquet

    with files.atomic_path(folder / TASKS_FILE) as temporary, temporary.open("xb") as file:
        parquet.write_table(_task_table(text), file)
    stats = lerobot_stats.total(_stats_of_episodes(folder, data))
    files.write_json(folder / STATS_FILE, {name: _listed(found) for name, found in stats.items()})
    files.write_json(folder / INFO_FILE, info(data, fps))


def _listed(stats: lerobot_stats.Stats) -> dict[str, Json]:
    return {name: values.tolist() for name, values in stats.items()}


def _stats_of_episodes(folder: Path, data: Rollouts) -> Iterator[dict[str, dict[str, np.ndarray]]]:
    """The statistics of each episode, read from the files of episodes one after the other."""
    for shard in data.shards:
        if shard.num_rows:
            for row in _episodes(folder / place_of(shard, EPISODES_PATH)):
                episode: dict[str, dict[str, np.ndarray]] = {}
                for column, values in row.items():
                    if column.startswith(STATS):
                        name, _, key = column.removeprefix(STATS).rpartition("/")
                        episode.setdefault(name, {})[key] = np.array(values)
                yield episode


def _episodes(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of episodes, which an earlier export may have written.

    Raises:
        Stopped: it is damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Stopped(f"{path}: cannot be read as Parquet; delete it and run the same command again") from error


def _task_table(text: str) -> "pa.Table":
    """The only task, as pandas stores a table whose index holds texts. LeRobot reads it by pandas."""
    import pyarrow as pa

    index = "__index_level_0__"
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    texts = {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"}
    told = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [{**column, "metadata": None}, {**texts, "metadata": None}],
    }
    table = pa.table({"task_index": pa.array([0], pa.int64()), index: pa.array([text])})
    return table.replace_schema_metadata({"pandas": json.dumps(told)})


def info(data: Rollouts, fps: int) -> dict[str, Json]:
    """The contents of `info.json`."""
    return {
        "codebase_version": VERSION,
        "robot_type": data.env,
        "total_episodes": len(data),
        "total_frames": data.num_rows,
        "total_tasks": 1,
        "chunks_size": FILES_OF_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": fps,
        "splits": {"train": f"0:{len(data)}"},
        "data_path": DATA_PATH,
        "video_path": None,
        "features": features(data.num_actions, data.telemetry_names),
    }


def card(data: Rollouts, fps: int, text: str) -> str:
    """The dataset card, with the header by which the Hub knows LeRobot's data sets.

    Args:
        data: what is written.
        fps: frames per second.
        text: the task, in words.
    """
    header = {
        "pretty_name": printable(data.path.name),
        "tags": ["LeRobot", "world-models", "reinforcement-learning"],
        "task_categories": ["robotics"],
        "configs": [{"config_name": "default", "data_files": "data/*/*.parquet"}],
    }
    facts = {
        "environment": printable(data.env),
        "task": text,
        "episodes": f"{len(data):,}",
        "rows": f"{data.num_rows:,}",
        "frames per second": str(fps),
        "action space": f"`{json.dumps(data.action_space)}`",
        "preprocess": f"`{json.dumps(data.preprocess)}`",
        "sha256 of the columns": f"`{data.digest()}`",
    }
    lines = [f"| {name} | {printable(value).replace('|', chr(92) + '|')} |" for name, value in facts.items()]
    return f"""---
{yaml.safe_dump(header, sort_keys=False)}---

# {printable(data.path.name)}

A LeRobot data set of version 3.0. Written by world_models {__version__}.

| | |
|---|---|
{chr(10).join(lines)}

An episode of T steps has T + 1 rows. Row t < T holds the frame x_t, the action a_t that was chosen after seeing x_t,
and the reward and the ends that a_t caused. Row T holds the final frame. No action follows it, so its other values
repeat those of row T - 1.
"""
