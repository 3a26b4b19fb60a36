"""The work of importing pictures and videos, and of exporting rollouts, in one process each."""

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from world_models.bench.measuring import Work
from world_models.convert import exporting, importing, shard_import
from world_models.convert.config import ConvertConfig, FormatName
from world_models.data.rollouts import Rollouts
from world_models.runtime import files

WIDTH, HEIGHT = 160, 120
"""Size of the imported pictures."""
NUM_FRAMES, NUM_EPISODES = 600, 4


def comparisons(data: Rollouts, folder: Path) -> Iterator[dict[str, Work]]:
    """The comparisons, each with the baseline first: import of pictures, of videos, and exports.

    Args:
        data: rollouts, whose frames are written as pictures and videos. The first shard is exported.
        folder: for all files.
    """
    frames = _frames(data)
    yield {"cv2_images": _read_images(_write_images(frames, folder / "images")), "images": _import(folder, "images")}
    yield {"cv2_video": _read_videos(_write_videos(frames, folder / "video")), "video": _import(folder, "video")}
    shard = Rollouts(data.shards[0].path)
    written: tuple[FormatName, ...] = ("npz", "parquet", "lerobot")
    has_pyarrow = importlib.util.find_spec("pyarrow") is not None
    yield {
        "savez_compressed": _save(shard, folder),
        **{name: _export(shard, folder, name) for name in written if has_pyarrow or name == "npz"},
    }


def _frames(data: Rollouts) -> UInt8[np.ndarray, "frames height width 3"]:
    """The first frames, enlarged."""
    frames = itertools.islice((frame for episode in data for frame in episode.frames), NUM_FRAMES)
    return np.stack([cv2.resize(frame, (WIDTH, HEIGHT)) for frame in frames])


def _write_images(frames: UInt8[np.ndarray, "frames height width 3"], folder: Path) -> list[Path]:
    paths = []
    for episode, pictures in enumerate(np.array_split(frames, NUM_EPISODES)):
        (folder / f"{episode}").mkdir(parents=True)
        for number, picture in enumerate(pictures):
            paths.append(folder / f"{episode}" / f"{number:04d}.png")
            cv2.imwrite(str(paths[-1]), picture[..., ::-1])
    return paths


def _write_videos(frames: UInt8[np.ndarray, "frames height width 3"], folder: Path) -> list[Path]:
    paths = []
    for episode, pictures in enumerate(np.array_split(frames, NUM_EPISODES)):
        paths.append(folder / f"{episode}.mp4")
        folder.mkdir(exist_ok=True)
        writer = cv2.VideoWriter(str(paths[-1]), cv2.VideoWriter.fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
        for picture in pictures:
            writer.write(picture[..., ::-1])
        writer.release()
    return paths


def _read_images(paths: list[Path]) -> Work:
    def work() -> int:
        for path in paths:
            picture = cv2.imread(str(path))
            assert picture is not None
            cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
        return len(paths)

    return work


def _read_videos(paths: list[Path]) -> Work:
    def work() -> int:
        count = 0
        for path in paths:
            video = cv2.VideoCapture(str(path))
            while (read := video.read())[0]:
                cv2.resize(read[1], (64, 64), interpolation=cv2.INTER_AREA)
                count += 1
        return count

    return work


def _import(folder: Path, name: FormatName) -> Work:
    """Import a folder into a new data set."""
    fresh = itertools.count()

    def work() -> int:
        out = folder / f"{name}_rollouts_{next(fresh)}"
        config = ConvertConfig(str(folder / name), str(out), name, executor="serial")
        job = importing.prepare(config)
        files.make_folder(out)
        for task in job.tasks:
            shard_import.import_shard(task, lambda rows: None)
        return job.num_frames

    return work


def _save(data: Rollouts, folder: Path) -> Work:
    def work() -> int:
        for episode in data:
            np.savez_compressed(
                folder / "episode.npz",
                observations=episode.frames,
                actions=episode.actions,
                rewards=episode.rewards,
                terminals=episode.terminated,
            )
        return data.num_rows

    return work


def _export(data: Rollouts, folder: Path, name: FormatName) -> Work:
    """Export rollouts into a new folder."""
    fresh = itertools.count()

    def work() -> int:
        out = folder / f"{name}_{next(fresh)}"
        config = ConvertConfig(str(data.path), str(out), name, executor="serial")
        job = exporting.prepare(config, has_latents=False)
        files.make_folder(out)
        job.export.write(lambda rows: None)
        return data.num_rows

    return work
