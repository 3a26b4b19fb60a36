"""Writes small LeRobot data sets in the layouts of versions 2.1 and 3.0, whose contents are known."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

FPS = 10
CAMERA = "observation.images.top"
PLACES = {
    "v2.1": {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    },
    "v3.0": {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    },
}
DTYPES = {"next.done": "bool", "next.truncated": "bool", "next.terminated": "bool"}
WHOLE = ("frame_index", "episode_index", "index", "task_index")


def pictures(episode: int, rows: int) -> np.ndarray:
    """Picture t of an episode has one value everywhere, which lossy packing nearly keeps."""
    return np.stack([np.full((48, 64, 3), 20 * t + 7 * episode + 10, np.uint8) for t in range(rows)])


def columns(episode: int, rows: int, first: int) -> dict[str, np.ndarray]:
    """Action t is (t, 2 t + 100 episode), its reward t / 2, the state (t, -t). The last row is an end."""
    t = np.arange(rows)
    return {
        "action": np.stack([t, 2 * t + 100 * episode], 1).astype(np.float32),
        "observation.state": np.stack([t, -t], 1).astype(np.float32),
        "next.reward": (t / 2).astype(np.float32),
        "next.done": t == rows - 1,
        "timestamp": (t / FPS).astype(np.float32),
        "frame_index": t,
        "episode_index": np.full(rows, episode),
        "index": first + t,
        "task_index": np.zeros(rows, np.int64),
    }


def write(
    root: Path,
    version: str = "v3.0",
    lengths: Sequence[int] = (4, 6, 3),
    is_video: bool = False,
    files: Sequence[Sequence[int]] = ((0, 1), (2,)),
    **changed: Any,
) -> Path:
    """Write a data set.

    Args:
        root: its folder.
        version: v2.1, with files for each episode, or v3.0.
        lengths: number of rows of each episode.
        is_video: whether frames are in videos.
        files: in v3.0, the episodes of each file.
        changed: functions that give other values for a column, from the number of the episode and its rows; a
            column without values is left out. The dots in their names are `__`.
    """
    files = [[episode] for episode in range(len(lengths))] if version == "v2.1" else files
    firsts = np.cumsum([0, *lengths]).tolist()
    episodes, found = [], {}
    for number, file in enumerate(files):
        values: dict[str, Any] = {"chunk_index": 0, "file_index": number, "video_key": CAMERA}
        values |= {"episode_chunk": 0, "episode_index": number}
        parts = []
        for episode in file:
            found = columns(episode, lengths[episode], firsts[episode])
            for name, change in changed.items():
                found[name.replace("__", ".")] = change(episode, lengths[episode])
            found = {name: each for name, each in found.items() if each is not None}
            parts.append(table(found, None if is_video else pictures(episode, lengths[episode])))
            start_s = sum(lengths[before] for before in file[: file.index(episode)]) / FPS
            episodes.append(entry(episode, lengths[episode], firsts[episode], number, is_video, start_s))
        write_table(root / PLACES[version]["data_path"].format(**values), parts)
        if is_video:
            shown = np.concatenate([pictures(episode, lengths[episode]) for episode in file])
            write_video(root / PLACES[version]["video_path"].format(**values), shown)
    write_metadata(root, version, episodes, found, is_video, firsts[-1])
    return root


def table(found: dict[str, np.ndarray], frames: np.ndarray | None) -> Any:
    import pyarrow as pa

    arrays = {name: pa.array(list(each) if each.ndim > 1 else each) for name, each in found.items()}
    if frames is not None:
        arrays[CAMERA] = pa.array(
            [{"bytes": png(frame), "path": f"frame-{t:06d}.png"} for t, frame in enumerate(frames)]
        )
    return pa.table(arrays)


def png(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def write_table(path: Path, parts: Sequence[Any]) -> None:
    """Write one row group for each part, as LeRobot does for each episode."""
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    with parquet.ParquetWriter(path, parts[0].schema) as writer:
        for part in parts:
            writer.write_table(part)


def write_video(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (frames.shape[2], frames.shape[1]))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def entry(episode: int, rows: int, first: int, file: int, is_video: bool, start_s: float) -> dict[str, Any]:
    """An episode in the list of version 3.0. That of version 2.1 has fewer entries."""
    found = {"episode_index": episode, "tasks": ["drive"], "length": rows}
    found |= {"data/chunk_index": 0, "data/file_index": file}
    found |= {"dataset_from_index": first, "dataset_to_index": first + rows}
    if is_video:
        of_video = {
            "chunk_index": 0,
            "file_index": file,
            "from_timestamp": start_s,
            "to_timestamp": start_s + rows / FPS,
        }
        found |= {f"videos/{CAMERA}/{name}": value for name, value in of_video.items()}
    return found


def write_metadata(
    root: Path,
    version: str,
    episodes: Sequence[dict[str, Any]],
    found: dict[str, np.ndarray],
    is_video: bool,
    rows: int,
) -> None:
    import pyarrow as pa

    kind = {"dtype": "video" if is_video else "image", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
    features: dict[str, Any] = {CAMERA: kind}
    for name, each in found.items():
        dtype = "int64" if name in WHOLE else DTYPES.get(name, "float32")
        features[name] = {"dtype": dtype, "shape": [np.asarray(each[0]).size], "names": None}
    if "observation.state" in features:
        features["observation.state"]["names"] = {"motors": ["left", "right"]}
    info = {
        "codebase_version": version,
        "robot_type": "CarRacing-v3",
        "total_episodes": len(episodes),
        "total_frames": rows,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(episodes)}"},
        **PLACES[version],
        "features": features,
    }
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    if version == "v2.1":
        lines = [{name: each[name] for name in ("episode_index", "tasks", "length")} for each in episodes]
        (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        write_table(root / "meta/episodes/chunk-000/file-000.parquet", [pa.Table.from_pylist(list(episodes))])


def change_info(root: Path, **changed: Any) -> None:
    """Change `info.json`."""
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
