"""What a run trains on and is validated on: rollouts, of which episodes are held out, or MNIST with its test images."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from world_models.data import mnist
from world_models.data.frames import FrameSet, FrameSource
from world_models.data.rollouts import Rollouts
from world_models.data.split import split_episodes
from world_models.runs.description import TrainedOn
from world_models.runtime.paths import resolved
from world_models.vae.noise import binarised

Dataset = Literal["rollouts", "mnist"]


class Sample(NamedTuple):
    """Some of the frames, and their classes, 0 of all where there are no classes."""

    frames: UInt8[np.ndarray, "frames height width channels"]
    labels: Int64[np.ndarray, " frames"]


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Frames to train on, frames to score, and what model.json says of them.

    Attributes:
        train: what is trained on.
        held_out: what is never trained on.
        preprocess: how observations were turned into frames.
        trained_on: data set, folder and digest, and what identifies the held-out part.
    """

    train: FrameSource
    held_out: FrameSource
    preprocess: dict[str, Any]
    trained_on: TrainedOn


def sample(source: FrameSource, count: int, binarise_seed: int | None) -> Sample:
    """Up to so many frames of a source, evenly spread; their grey made black and white if there is a seed."""
    frames = source.read_spread(count)
    if binarise_seed is not None:
        frames = binarised(torch.from_numpy(frames), binarise_seed, 0).numpy()
    return Sample(frames, source.labels[source.spread(count)])


def read(dataset: Dataset, path: str, split_seed: int) -> TrainingData:
    """Open the data in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or something else.
    """
    return _mnist(path) if dataset == "mnist" else _rollouts(path, split_seed)


def _rollouts(path: str, split_seed: int) -> TrainingData:
    data = Rollouts(path)
    split = split_episodes(data.seeds, split_seed)
    seeds = data.seeds[list(split.train)].tolist()
    trained_on = TrainedOn(
        "rollouts", str(data.path), data.digest(), data.env, data.env_args, train_seeds=seeds, split_seed=split_seed
    )
    return TrainingData(FrameSet(data, split.train), FrameSet(data, split.val), data.preprocess, trained_on)


def _mnist(path: str) -> TrainingData:
    if any(Path(path).glob("shard-*.h5")):
        raise ValueError(f"{path}: holds rollouts; give --data data, or the folder that holds MNIST/raw")
    data = mnist.load(path, download=True)
    trained_on = TrainedOn("mnist", str(resolved(path, "data")), data.digest)
    return TrainingData(data.train.as_frames(), data.test.as_frames(), {"dataset": "mnist"}, trained_on)
