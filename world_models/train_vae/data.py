"""What a run trains on and is validated on: rollouts, of which episodes are held out, or MNIST with its test images.

All that differs from one data set to another is in its class here. Another data set is one more class, and a name.
"""

import abc
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from world_models.data import mnist
from world_models.data.frames import FrameSet, FrameSource
from world_models.data.rollouts import FRAME_SHAPE, Rollouts
from world_models.data.split import split_episodes
from world_models.drawing import digit_views, model_views
from world_models.runs.description import TrainedOn
from world_models.runtime.errors import require
from world_models.runtime.paths import resolved
from world_models.train_vae.run_writer import Pictures, Position
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE, VAEConfig
from world_models.vae.noise import binarised

Dataset = Literal["rollouts", "mnist"]
DEFAULT_FOLDER = "rollouts/carracing"


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


def sample(source: FrameSource, count: int, binarise_seed: int | None) -> LabelledFrames:
    """Up to so many frames of a source, evenly spread; their grey made black and white if there is a seed."""
    frames = source.read_spread(count)
    if binarise_seed is not None:
        frames = binarised(torch.from_numpy(frames), binarise_seed, 0).numpy()
    return LabelledFrames(frames, source.labels[source.spread(count)])


class Kind(abc.ABC):
    """A kind of data that a model can be trained on.

    Attributes:
        frame_shape: height, width and channels of its frames.
        advice: what else to do where a network does not take such frames; empty, or a remark in brackets.
    """

    frame_shape: tuple[int, int, int]
    advice = ""

    @abc.abstractmethod
    def check(self, folder: str, vae: VAEConfig, binarise: bool) -> None:
        """Refuse settings that do not suit such data.

        Raises:
            ValueError: there is one; the line says what to give instead.
        """

    @abc.abstractmethod
    def read(self, folder: str, split_seed: int) -> TrainingData:
        """Open the data in a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or something else.
        """

    @abc.abstractmethod
    def draw(self, vae: VAE, held_out: LabelledFrames, position: Position, finished: bool) -> Pictures:
        """Draw what the model makes of held-out frames, and what it dreams."""


class _Rollouts(Kind):
    """Frames of an environment. Some of the episodes are held out."""

    frame_shape = FRAME_SHAPE

    def check(self, folder: str, vae: VAEConfig, binarise: bool) -> None:
        require(not binarise, "binarise is for the grey pixels of mnist; leave it out")

    def read(self, folder: str, split_seed: int) -> TrainingData:
        data = Rollouts(folder)
        split = split_episodes(data.seeds, split_seed)
        seeds = data.seeds[list(split.train)].tolist()
        trained_on = TrainedOn(
            "rollouts", str(data.path), data.digest(), data.env, data.env_args, train_seeds=seeds, split_seed=split_seed
        )
        return TrainingData(FrameSet(data, split.train), FrameSet(data, split.val), data.preprocess, trained_on)

    def draw(self, vae: VAE, held_out: LabelledFrames, position: Position, finished: bool) -> Pictures:
        return Pictures(f"{position.frames_seen:09d}", model_views.in_training(vae, held_out.frames))


class _Mnist(Kind):
    """Images of digits. The test images are held out."""

    frame_shape = mnist.FRAME_SHAPE
    advice = " (or start from --config configs/mnist/vae.yaml)"

    def check(self, folder: str, vae: VAEConfig, binarise: bool) -> None:
        classes = vae.num_classes
        require(classes in (0, mnist.NUM_DIGITS), f"vae.num_classes is {classes}; give 10, MNIST's digits, or 0")
        require(
            folder != os.path.realpath(DEFAULT_FOLDER),
            f"data is {folder}, no folder of MNIST; give --data data, or the folder that holds MNIST/raw",
        )

    def read(self, folder: str, split_seed: int) -> TrainingData:
        if any(Path(folder).glob("shard-*.h5")):
            raise ValueError(f"{folder}: holds rollouts; give --data data, or the folder that holds MNIST/raw")
        data = mnist.load(folder, download=True)
        trained_on = TrainedOn("mnist", str(resolved(folder, "data")), data.digest)
        return TrainingData(data.train.as_frames(), data.test.as_frames(), {"dataset": "mnist"}, trained_on)

    def draw(self, vae: VAE, held_out: LabelledFrames, position: Position, finished: bool) -> Pictures:
        last = digit_views.finished(vae, digit_views.encoded(vae, held_out), held_out) if finished else {}
        return Pictures(f"epoch_{_number(position.epoch)}", digit_views.in_training(vae, held_out), last)


KINDS: Mapping[Dataset, Kind] = {"rollouts": _Rollouts(), "mnist": _Mnist()}
"""The kinds of data by the names that `--dataset` takes."""


def _number(epoch: float) -> str:
    return f"{epoch:03.0f}" if epoch == int(epoch) else f"{epoch:.2f}"
