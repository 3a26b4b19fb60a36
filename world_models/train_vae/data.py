"""The data of a run: rollouts, with some episodes held out, or MNIST, with its test images held out.

Each kind of data has a class here, which holds everything that is special about it. A new kind is a new class and a
name in `KINDS`.
"""

import abc
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from world_models.data import mnist, several
from world_models.data.frames import FrameSet, FrameSource
from world_models.data.rollouts import FRAME_SHAPE
from world_models.data.weighted import WeightedFrameSet
from world_models.drawing import digit_views, model_views
from world_models.runs.description import DataSet, TrainedOn
from world_models.runtime.errors import require
from world_models.runtime.paths import resolved
from world_models.runtime.typed_json import Json
from world_models.train_vae.run_writer import Pictures, Position
from world_models.vae.config import VAEConfig
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE
from world_models.vae.noise import binarised

Dataset = Literal["rollouts", "mnist"]
DEFAULT_FOLDER = "rollouts/carracing"


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Frames for training and validation, and their description for model.json.

    Attributes:
        train: training frames.
        held_out: frames that are never trained on.
        preprocess: how observations were turned into frames.
        trained_on: data sets, folders, digests, and the split.
    """

    train: FrameSource
    held_out: FrameSource
    preprocess: dict[str, Json]
    trained_on: TrainedOn


def sample(source: FrameSource, count: int, binarise_seed: int | None) -> LabelledFrames:
    """Up to `count` frames of a source, evenly spread. A seed makes their grey pixels black or white."""
    frames = source.read_spread(count)
    if binarise_seed is not None:
        frames = binarised(torch.from_numpy(frames), binarise_seed, 0).numpy()
    return LabelledFrames(frames, source.labels[source.spread_positions(count)])


class DataKind(abc.ABC):
    """A kind of data that a model can be trained on.

    Attributes:
        frame_shape: height, width and channels of its frames.
        advice: advice in brackets for the message that a network does not take such frames; may be empty.
    """

    frame_shape: tuple[int, int, int]
    advice = ""

    @abc.abstractmethod
    def check(self, folders: Sequence[str], vae: VAEConfig, binarise: bool) -> None:
        """Check that the settings suit this kind of data.

        Raises:
            ValueError: a setting does not; the message says what to give instead.
        """

    @abc.abstractmethod
    def read(self, folders: Sequence[str], split_seed: int, weights: Sequence[float]) -> TrainingData:
        """Open the data in the folders.

        Args:
            folders: the folder of each data set.
            split_seed: seed of the split into training and validation episodes.
            weights: the weight of each set; empty if they are mixed by their numbers of frames.

        Raises:
            FileNotFoundError: a folder holds no data.
            ValueError: the data are damaged or of another kind, or the sets cannot be mixed.
        """

    @abc.abstractmethod
    def draw(self, vae: VAE, held_out: LabelledFrames, position: Position, finished: bool) -> Pictures:
        """Draw the pictures of a validation, such as reconstructions and samples."""


class _Rollouts(DataKind):
    """Frames of environments, from one data set or several. Some of the episodes of each set are held out."""

    frame_shape = FRAME_SHAPE

    def check(self, folders: Sequence[str], vae: VAEConfig, binarise: bool) -> None:
        require(not binarise, "binarise is for the grey pixels of mnist; leave it out")

    def read(self, folders: Sequence[str], split_seed: int, weights: Sequence[float]) -> TrainingData:
        data = several.open_rollouts(folders)
        split = several.split_sets(data, split_seed)
        train = WeightedFrameSet(data, split.train, weights) if weights else FrameSet(data, split.train)
        chosen = np.array(split.train)
        seeds = [data.seeds[chosen[several.set_of_episodes(data)[chosen] == n]].tolist() for n in range(len(data.sets))]
        sets = [
            DataSet(str(each.path), each.digest(), each.env, each.env_args, train_seeds)
            for each, train_seeds in zip(data.sets, seeds, strict=True)
        ]
        if len(sets) == 1:
            trained_on = TrainedOn("rollouts", **vars(sets[0]), split_seed=split_seed)
        else:
            trained_on = TrainedOn(
                data_digest=data.digest(), split_seed=split_seed, data_sets=sets, data_weights=weights or None
            )
        return TrainingData(train, FrameSet(data, split.val), data.preprocess, trained_on)

    def draw(self, vae: VAE, held_out: LabelledFrames, position: Position, finished: bool) -> Pictures:
        return Pictures(f"{position.frames_seen:09d}", model_views.validation_pictures(vae, held_out.frames))


class _Mnist(DataKind):
    """Images of digits. The test images are held out."""

    frame_shape = mnist.FRAME_SHAPE
    advice = " (or start from --config configs/mnist/vae.yaml)"

    def check(self, folders: Sequence[str], vae: VAEConfig, binarise: bool) -> None:
        classes = vae.num_classes
        require(len(folders) == 1, f"data is {', '.join(folders)}; for mnist give one folder, that holds MNIST/raw")
        folder = folders[0]
        require(classes in (0, mnist.NUM_DIGITS), f"vae.num_classes is {classes}; give 10, MNIST's digits, or 0")
        require(
            folder != os.path.realpath(DEFAULT_FOLDER),
            f"data is {folder}, which is not a folder of MNIST; give --data data, or the folder that holds MNIST/raw",
        )

    def read(self, folders: Sequence[str], split_seed: int, weights: Sequence[float]) -> TrainingData:
        (folder,) = folders
        if any(Path(folder).glob("shard-*.h5")):
            raise ValueError(f"{folder}: holds rollouts; give --data data, or the folder that holds MNIST/raw")
        data = mnist.load(folder, download=True)
        trained_on = TrainedOn("mnist", str(resolved(folder, "data")), data.digest)
        return TrainingData(data.train.as_frames(), data.test.as_frames(), {"dataset": "mnist"}, trained_on)

    def draw(self, vae: VAE, held_out: LabelledFrames, position: Position, finished: bool) -> Pictures:
        last = digit_views.final_pictures(vae, digit_views.encoded(vae, held_out), held_out) if finished else {}
        return Pictures(f"epoch_{_number(position.epoch)}", digit_views.validation_pictures(vae, held_out), last)


KINDS: Mapping[Dataset, DataKind] = {"rollouts": _Rollouts(), "mnist": _Mnist()}
"""The kinds of data, by their names in `--dataset`."""


def _number(epoch: float) -> str:
    return f"{epoch:03.0f}" if epoch == int(epoch) else f"{epoch:.2f}"
