"""The way of every evaluation: measure, draw, write eval.json, the figures and report.html, show a line, tell W&B.

What is measured and drawn is the data set's: `rollouts.py` and `digits/evaluation.py` each give an `Evaluation`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from world_models.drawing import grids
from world_models.evaluate.config import EvaluateConfig
from world_models.runs import layout, tracking
from world_models.runs.artifacts import Product
from world_models.runs.layout import FIGURES, REPORT_FILE, SCORES_FILE
from world_models.runs.scores import Scores, read_scores
from world_models.runtime import files, locks, progress, terminal
from world_models.runtime.cli import to_yaml

Shown = Mapping[str, grids.Picture | bytes]
"""Figures by name: pictures as arrays, and clips as the bytes of a GIF."""

Done = Callable[[], object]
"""Says that one more part is measured."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What is scored, and on what, under the names of eval.json.

    Attributes:
        data: folder of the data.
        data_digest: of what is in it.
        weights: which of the run's weights.
        vae_sha256: of their file.
    """

    data: str
    data_digest: str
    weights: layout.Weights
    vae_sha256: str


@dataclasses.dataclass(frozen=True)
class Found:
    """What is found of a model.

    Attributes:
        scores: the numbers.
        draw: draws the figures.
        page: the report, given the figures.
    """

    scores: Scores
    draw: Callable[[], Shown]
    page: Callable[[Shown], str]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A checked evaluation: all that differs from a data set to another.

    Attributes:
        run: the model's folder, where the results go.
        source: what is scored, and on what.
        num_frames: frames that are scored.
        notes: what is left out or flatters, and why.
        num_parts: how often `measure` says that a part is done.
        measure: scores the model.
    """

    run: Path
    source: Source
    num_frames: int
    notes: Sequence[str]
    num_parts: int
    measure: Callable[[Done], Found]


def source(run: Path, weights: layout.Weights, data: str, data_digest: str) -> Source:
    """What is scored: these weights of a run, on this data."""
    return Source(data, data_digest, weights, files.file_sha256(layout.weights_path(run, weights)))


def is_finished(of: Evaluation) -> bool:
    """Whether eval.json is of these weights and this data, and has the numbers that are shown."""
    scores, asked = read_scores(of.run)[0], of.source
    if scores is None or (scores.vae_sha256, scores.data_digest) != (asked.vae_sha256, asked.data_digest):
        return False
    return scores.summary() is not None  # or it was cut or edited, and is made again


def evaluate(of: Evaluation, config: EvaluateConfig) -> None:
    """Score the model, write the results, and tell W&B if that is asked for."""
    run = of.run
    terminal.warn(*of.notes)
    with progress.bar(of.num_parts + 1, "parts", "evaluate") as bar, locks.only_writer(run):
        files.remove_partials(run, run / FIGURES)
        found = of.measure(bar.update)
        shown = found.draw()
        grids.save_all(run / FIGURES, shown)
        files.write_text(run / REPORT_FILE, found.page(shown))
        found.scores.save(run)  # last: it says that the evaluation is whole
        bar.update()
    terminal.say(found.scores.summary() or "", f"{run / REPORT_FILE} shows it, {run / SCORES_FILE} has the numbers")
    _tell_wandb(of, config, found.scores, shown)


def _tell_wandb(of: Evaluation, config: EvaluateConfig, scores: Scores, shown: Shown) -> None:
    read = (
        Product("dataset", of.source.data, of.source.data_digest),
        Product("model", config.vae, of.source.vae_sha256),
    )
    settings = yaml.safe_load(to_yaml(config)) | {"data": of.source.data}
    drawn = {name: picture for name, picture in shown.items() if isinstance(picture, np.ndarray)}
    outcome = tracking.Outcome(read, scores=scores.plain(), pictures=drawn)
    tracking.record(of.run, settings, config.wandb, "evaluate", outcome)
