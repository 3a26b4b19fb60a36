"""Writes rollouts or latents as Parquet, for Hugging Face `datasets`, pandas, polars and DuckDB.

`OUT/data/shard-00000.parquet`: a file for each shard, with one line for each row of the shard.

| column | type | meaning |
|---|---|---|
| `episode`, `step` | int32 | number of the episode in the data set, and of the frame in the episode, from 0 |
| `is_final` | bool | whether this is the episode's final frame |
| `seed`, `policy` | int64, string | of the episode |
| `action` | float32 list of fixed size A | the action chosen after seeing this frame; absent if A is 0 |
| `reward`, `terminated`, `truncated` | float32, bool, bool | what that action earned, and how it ended the episode |
| `frame` | PNG, as `Image` of `datasets`: a struct of `bytes` and `path` | rollouts: the frame |
| `telemetry_...` | float32 | rollouts: simulator state at this frame, a column for each name |
| `mu`, `logvar` | float32 list of fixed size z | latents: moments of the posterior of this frame |

Alignment is that of our shards: a line holds a frame and the action that was chosen after it. The line of a final frame
has no action: `action` and `reward` are zeros, `terminated` and `truncated` false.

Nothing is lost: PNG keeps every pixel, and float16 latents become float32, because many readers have no float16. The
schema's metadata `world_models` holds the attributes of the shard and its digests, `huggingface` the features.

`OUT/README.md` is a dataset card. `export.json` says which data the folder was made from.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import UInt8

from world_models.convert import dataset_card, folders, parquet_arrays
from world_models.convert.config import ConvertConfig
from world_models.convert.folders import FolderExport, ShardTask
from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts, telemetry_names
from world_models.data.shards.reader import Shard
from world_models.data.step_tables import FLAGS, episodes_of, index_columns
from world_models.runtime import executors, files
from world_models.runtime.typed_json import Json

if TYPE_CHECKING:
    import pyarrow as pa

FRAMES_OF_GROUP, LATENTS_OF_GROUP = 1024, 16_384
"""Lines of a row group: the least that a reader unpacks. They take about 2 and 5 MB."""
FRAME_BYTES = 2500
"""Of a frame of CarRacing. It takes 2,260 bytes as OpenCV packs it by default; level 6 takes 1,770, and 2.6 times as
long."""
INDEX_BYTES = 40
DATA_FOLDER, CARD_FILE = "data", "README.md"
FEATURE_TYPES = {"int32": "int32", "int64": "int64", "bool": "bool", "string": "string", "float": "float32"}
"""Names of Arrow's types in Hugging Face's features."""


def plan(data: Rollouts | Latents, out: Path, config: ConvertConfig) -> FolderExport:
    """Check the data and the output, and find the shards that are missing.

    Raises:
        ValueError: pyarrow is not installed, or `out` holds something else.
    """
    parquet_arrays.check_installed("parquet")
    config.check_unused("rows", reason="whole episodes are written")
    pages = {CARD_FILE: dataset_card.text(data, schema(data.shards[0]))}
    record = folders.record("parquet", data, pages)
    earlier = folders.check_folder(out, record, data)
    tasks = folders.shard_tasks(data, lambda shard: out / DATA_FOLDER / f"{shard.path.stem}.parquet")
    is_rollouts = isinstance(data, Rollouts)
    latents_bytes = 0 if is_rollouts else 8 * data.z_dim
    return FolderExport(
        folder=out,
        record=record,
        earlier=earlier,
        tasks=folders.missing(tasks, earlier, lambda task: task.target.exists()),
        write_shard=write_shard,
        pages=pages,
        row_bytes=INDEX_BYTES + 4 * data.num_actions + (FRAME_BYTES if is_rollouts else latents_bytes),
        summary=f"{out}: {len(data):,} episodes, {data.num_rows:,} lines in {len(data.shards):,} Parquet files",
        warnings=(),
        executor=config.executor,
        num_workers=config.num_workers,
    )


def write_shard(task: ShardTask, report: executors.Report) -> None:
    """Write one shard as a Parquet file, a row group at a time.

    Args:
        task: what to write.
        report: called with the number of rows so far.
    """
    from pyarrow import parquet

    files.make_folder(task.target.parent)
    dictionary: dict[str, Any] = {"use_dictionary": ["policy"]}  # numbers hardly repeat
    size = FRAMES_OF_GROUP if _holds_frames(task.source) else LATENTS_OF_GROUP
    with (
        files.atomic_path(task.target) as temporary,
        temporary.open("xb") as file,
        parquet.ParquetWriter(file, schema(task.source), compression="zstd", **dictionary) as writer,
    ):
        for start in range(0, task.source.num_rows, size):
            stop = min(start + size, task.source.num_rows)
            writer.write_batch(_lines(task, start, stop))
            report(stop)


def schema(shard: Shard) -> "pa.Schema":
    """Names and types of a shard's columns as Parquet, and the metadata.

    Args:
        shard: of rollouts or of latents.
    """
    import pyarrow as pa

    kinds = {
        **{"episode": pa.int32(), "step": pa.int32(), "is_final": pa.bool_(), "seed": pa.int64()},
        "policy": pa.string(),
        **{"reward": pa.float32(), "terminated": pa.bool_(), "truncated": pa.bool_()},
        **{name: pa.list_(pa.float32(), shard.row_shapes[column][0]) for column, name in _lists(shard).items()},
        **dict.fromkeys(_telemetry_columns(shard), pa.float32()),
    }
    if _holds_frames(shard):
        kinds["frame"] = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {name: feature(kind) for name, kind in kinds.items()}
    ours = {
        "format": shard.format.name,
        "attributes": {name: value for name, value in shard.attributes.items() if isinstance(value, str | int)},
        "dtypes": shard.column_dtypes,
        "telemetry_names": telemetry_names(shard) if _holds_frames(shard) else (),
        "digests": shard.digests,
    }
    theirs = {"info": {"features": features}}
    return pa.schema(kinds).with_metadata({"huggingface": json.dumps(theirs), "world_models": json.dumps(ours)})


def feature(kind: "pa.DataType") -> dict[str, Json]:
    """The feature of Hugging Face's `datasets` that decodes an Arrow type of ours."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return {"_type": "Image"}
    if isinstance(kind, pa.FixedSizeListType):
        return {"feature": feature(kind.value_type), "length": kind.list_size, "_type": "Sequence"}
    return {"dtype": FEATURE_TYPES[str(kind)], "_type": "Value"}


def _holds_frames(shard: Shard) -> bool:
    return "frames" in shard.row_shapes


def _lists(shard: Shard) -> dict[str, str]:
    """The columns of several values a row that become a list, and its name. Parquet has no lists of 0 values."""
    names = {"actions": "action", "mu": "mu", "logvar": "logvar"}
    return {column: name for column, name in names.items() if shard.row_shapes.get(column, (0,))[0]}


def _telemetry_columns(shard: Shard) -> list[str]:
    return [f"telemetry_{name}" for name in telemetry_names(shard)] if _holds_frames(shard) else []


def _lines(task: ShardTask, start: int, stop: int) -> "pa.RecordBatch":
    """The lines of rows start..stop."""
    import pyarrow as pa

    shard = task.source
    policies = np.array(shard.policies, object)[episodes_of(shard, start, stop)]
    columns = {
        **{name: pa.array(rows) for name, rows in index_columns(shard, start, stop, task.first_episode).items()},
        "policy": pa.array(policies, pa.string()),
        **{name: pa.array(shard.read(column, start, stop)) for column, name in FLAGS.items()},
    }
    for column, name in _lists(shard).items():
        rows = shard.read(column, start, stop).astype(np.float32, copy=False)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    if _holds_frames(shard):
        telemetry = shard.read("telemetry", start, stop)
        named = enumerate(_telemetry_columns(shard))
        columns |= {name: pa.array(np.ascontiguousarray(telemetry[:, number])) for number, name in named}
        pictures = [png(frame) for frame in shard.read("frames", start, stop)]
        paths = pa.nulls(len(pictures), pa.string())
        columns["frame"] = pa.StructArray.from_arrays([pa.array(pictures, pa.binary()), paths], ["bytes", "path"])
    kind = schema(shard)
    return pa.RecordBatch.from_arrays([columns[name] for name in kind.names], schema=kind)


def png(frame: UInt8[np.ndarray, "64 64 3"]) -> bytes:
    """A frame as the bytes of a PNG file."""
    packed, picture = cv2.imencode(".png", frame[..., ::-1])
    assert packed, "a frame is a picture"
    return picture.tobytes()
