"""Writes the folder of a training run: config, baselines, weights, state, metrics, pictures."""

import contextlib
import dataclasses
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from world_models.drawing import grids
from world_models.runs import checkpoints, layout, resume, tracking
from world_models.runs.artifacts import Product
from world_models.runs.description import TrainedOn
from world_models.runs.layout import CONFIG_FILE, FIGURES
from world_models.runtime import files, locks, terminal
from world_models.train_vae.learner import Learner
from world_models.vae import baselines, metrics
from world_models.vae.model import VAE


class Position(NamedTuple):
    """The position of a training. Every line of metrics begins with these three numbers."""

    step: int
    frames_seen: int
    epoch: float


class Pictures(NamedTuple):
    """The pictures of a validation, by name.

    Attributes:
        stamp: end of the file names of the pictures in `each_time`.
        each_time: pictures that each validation draws.
        at_end: pictures that only the last validation draws.
    """

    stamp: str
    each_time: Mapping[str, grids.Picture]
    at_end: Mapping[str, grids.Picture] = types.MappingProxyType({})


class RunWriter:
    """A run's folder. It is locked against other writers until `close`. Only the first process has one.

    Args:
        out: the folder.
        config: the resolved config, as YAML.
        trained_on: data and split, for model.json.
        wandb: how to use Weights & Biases.
        tensorboard: whether to write TensorBoard's files too.
    """

    def __init__(self, out: Path, config: str, trained_on: TrainedOn, wandb: tracking.WandbConfig, tensorboard: bool):
        self._out, self._config, self._trained_on = out, config, trained_on
        self._wandb, self._tensorboard = wandb, tensorboard
        self._open = contextlib.ExitStack()
        files.make_folder(out)
        self._open.enter_context(locks.only_writer(out))
        files.remove_partials(out, out / FIGURES)

    def begin(self, learner: Learner, read_spread: Callable[[int], metrics.Frames]) -> None:
        """Write a new run's first files: its config and its baselines.

        Args:
            learner: the learner, for the model's z_dim.
            read_spread: returns a number of evenly spread training frames, on which the baselines are fitted.
        """
        files.write_text(self._out / CONFIG_FILE, self._config)
        fitted = baselines.fit_baselines(read_spread(baselines.PCA_MAX_FRAMES), learner.vae.config.z_dim)
        checkpoints.save_weights(self._out / layout.BASELINES_FILE, dataclasses.asdict(fitted))

    def track(self, learner: Learner) -> None:
        """Begin to log. Lines after the last checkpoint are removed, because a resumed run logs them again."""
        tracking.truncate_metrics(self._out, learner.step)
        settings = yaml.safe_load(self._config)
        self._tracker = tracking.Tracker(self._out, settings, self._wandb, "train", self._tensorboard, learner.wandb_id)
        self._open.callback(self._tracker.finish)
        learner.wandb_id = self._tracker.run_id or learner.wandb_id
        self._tracker.log_input(_product(self._trained_on))

    def log(self, position: Position, part: Literal["train", "val"], values: Mapping[str, float]) -> None:
        """Log one line of metrics, from training or from a validation."""
        self._tracker.log(position._asdict() | {f"{part}/{name}": value for name, value in values.items()})

    def draw(self, pictures: Pictures, frames_seen: int) -> None:
        """Save the pictures of a validation, and log them."""
        for name, picture in pictures.each_time.items():
            grids.save(self._out / FIGURES / f"{name}_{pictures.stamp}.png", picture)
        grids.save_all(self._out / FIGURES, pictures.at_end)
        self._tracker.images({**pictures.each_time, **pictures.at_end}, frames_seen)

    def save_best(self, learner: Learner, vae: VAE) -> None:
        """Save `vae`, the learner's current model, as the best weights so far."""
        checkpoints.save_vae(layout.weights_path(self._out, "best"), vae, learner.step)

    def save(self, learner: Learner, vae: VAE) -> None:
        """Save `vae` as the last weights, its description, and the learner's state for resuming."""
        checkpoints.save_vae(layout.weights_path(self._out, "last"), vae, learner.step)
        checkpoints.save_description(self._out, vae, self._trained_on, learner.step)
        resume.save_state(self._out, learner.state())

    def log_final_model(self) -> None:
        """Log the finished model to W&B: the digest of its best weights (or else its last) and their validation."""
        weights = "best" if layout.weights_path(self._out, "best").exists() else "last"
        digest = files.file_sha256(layout.weights_path(self._out, weights))
        line = checkpoints.validation_metrics(self._out, weights)
        scores = {name.removeprefix("val/"): value for name, value in line.items() if name.startswith("val/")}
        self._tracker.log_output(Product("model", str(self._out), digest, {"weights": weights, **scores}))

    def say(self, line: str) -> None:
        """Print a line about the run."""
        terminal.say(f"{self._out}: {line}")

    def warn(self, line: str) -> None:
        """Print a warning."""
        terminal.warn(line)

    def close(self) -> None:
        """Finish logging, and unlock the folder."""
        self._open.close()


def _product(trained_on: TrainedOn) -> Product:
    """The training data as a product that the run reads; several data sets are its parts."""
    parts = [
        Product("dataset", str(each.data), str(each.data_digest), {"env": each.env, "env_args": each.env_args})
        for each in trained_on.sets
    ]
    if len(parts) == 1:
        return parts[0]
    return Product("dataset", ", ".join(each.path for each in parts), str(trained_on.data_digest), parts=parts)
