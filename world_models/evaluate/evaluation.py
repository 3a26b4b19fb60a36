"""The steps of every evaluation: measure, draw, write figures, report.html and eval.json, print a line, log to W&B.

The measures and figures depend on the data set: `rollouts.py` and `digits/evaluation.py` each make an `Evaluation`.
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

Figures = Mapping[str, grids.Picture | bytes]
"""Figures by name: pictures as arrays, and clips as the bytes of a GIF."""

PartDone = Callable[[], object]
"""Called each time that a part is measured."""


@dataclasses.dataclass(frozen=True)
class ScoredInputs:
    """The weights that are scored, and the data, by their names in eval.json.

    Attributes:
        data: folder of the data.
        data_digest: digest of its contents.
        weights: best or last.
        vae_sha256: sha256 of the weights' file.
        parts: the data sets, if there are several; no name in eval.json.
    """

    data: str
    data_digest: str
    weights: layout.Weights
    vae_sha256: str
    parts: Sequence[Product] = ()


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of an evaluation.

    Attributes:
        scores: the numbers.
        draw: draws the figures.
        page: makes the report's HTML from the figures.
    """

    scores: Scores
    draw: Callable[[], Figures]
    page: Callable[[Figures], str]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A checked evaluation, with everything that depends on the data set.

    Attributes:
        run: the model's folder, where the results go.
        inputs: the weights and the data.
        num_frames: number of scored frames.
        notes: warnings: what is left out, which scores are too good, and why.
        num_parts: number of times that `measure` calls its argument.
        measure: scores the model.
    """

    run: Path
    inputs: ScoredInputs
    num_frames: int
    notes: Sequence[str]
    num_parts: int
    measure: Callable[[PartDone], Results]


def scored_inputs(
    run: Path, weights: layout.Weights, data: str, data_digest: str, parts: Sequence[Product] = ()
) -> ScoredInputs:
    """Make the `ScoredInputs` of a run's weights, `best` or `last`, and data."""
    return ScoredInputs(data, data_digest, weights, files.file_sha256(layout.weights_path(run, weights)), parts)


def is_finished(evaluation: Evaluation) -> bool:
    """Whether eval.json has the scores of these weights on this data."""
    scores, inputs = read_scores(evaluation.run)[0], evaluation.inputs
    if scores is None or (scores.vae_sha256, scores.data_digest) != (inputs.vae_sha256, inputs.data_digest):
        return False
    return scores.summary() is not None  # None if the file was damaged or edited; then it is made again


def evaluate(evaluation: Evaluation, config: EvaluateConfig) -> None:
    """Score the model, write the results, and log to W&B if `config.wandb` says so."""
    run = evaluation.run
    terminal.warn(*evaluation.notes)
    with progress.bar(evaluation.num_parts + 1, "parts", "evaluate") as bar, locks.only_writer(run):
        files.remove_partials(run, run / FIGURES)
        results = evaluation.measure(bar.update)
        figures = results.draw()
        grids.save_all(run / FIGURES, figures)
        files.write_text(run / REPORT_FILE, results.page(figures))
        results.scores.save(run)  # last, because eval.json marks the evaluation as complete
        bar.update()
    terminal.say(results.scores.summary() or "", f"{run / REPORT_FILE} shows it, {run / SCORES_FILE} has the numbers")
    _log_to_wandb(evaluation, config, results.scores, figures)


def _log_to_wandb(evaluation: Evaluation, config: EvaluateConfig, scores: Scores, figures: Figures) -> None:
    products = (
        Product("dataset", evaluation.inputs.data, evaluation.inputs.data_digest, parts=evaluation.inputs.parts),
        Product("model", config.vae, evaluation.inputs.vae_sha256),
    )
    data = [part.path for part in evaluation.inputs.parts] or evaluation.inputs.data
    settings = yaml.safe_load(to_yaml(config)) | {"data": data}
    drawn = {name: picture for name, picture in figures.items() if isinstance(picture, np.ndarray)}
    outcome = tracking.Outcome(products, scores=scores.plain(), pictures=drawn)
    tracking.record(evaluation.run, settings, config.wandb, "evaluate", outcome)
