"""The evaluation of a model of MNIST: eval.json, figures and report.html, as `evaluate` writes them for CarRacing's."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from world_models.data import mnist
from world_models.drawing import charts, digit_views, grids
from world_models.evaluate.digits import page as digit_report
from world_models.evaluate.digits import scores as digit_scores
from world_models.runs import checkpoints, description, layout, records
from world_models.runs.layout import FIGURES, REPORT_FILE, SCORES_FILE
from world_models.runtime import files, locks, progress, terminal
from world_models.runtime.paths import resolved
from world_models.vae import metrics
from world_models.vae.baselines import Baselines
from world_models.vae.model import VAE

MAX_BESIDE = 3


@dataclasses.dataclass(frozen=True)
class DigitJob:
    """A checked evaluation.

    Attributes:
        run: the model's folder, where the results go.
        record: what the run says of itself, under the name that tells it from others.
        weights: which of its weights.
        vae: the model.
        data: what it was trained on, and the test images.
        path: where that lies.
        baselines: PCA of the training images.
        others: records of other runs, to be shown beside it.
        models: the models of some of them.
        notes: what is left out, and why.
    """

    run: Path
    record: records.RunRecord
    weights: layout.Weights
    vae: VAE
    data: mnist.Mnist
    path: str
    baselines: Baselines
    others: Sequence[records.RunRecord]
    models: Mapping[str, VAE]
    notes: Sequence[str]

    @property
    def digest(self) -> str:
        """Of the images it is scored on."""
        return self.data.digest

    @property
    def num_frames(self) -> int:
        """Images that are scored."""
        return len(self.data.test.frames)

    def summary(self, scores: Mapping[str, Any]) -> str:
        """The line that eval.json is shown as."""
        return digit_report.summary(scores)


def prepare(
    run: Path,
    weights: layout.Weights,
    data: str | None,
    compare_with: Sequence[Path],
    device: torch.device,
) -> DigitJob:
    """Check everything that can be wrong before the first image.

    Args:
        run: the model's folder.
        weights: best or last.
        data: torchvision's root; where it was in training when None.
        compare_with: folders of other runs, or of folders of runs.
        device: where to compute.

    Raises:
        FileNotFoundError, ValueError: something is missing or damaged.
    """
    vae = checkpoints.load_digits_vae(run, weights, device)
    if (lies_at := data or description.load(run).trained_on.data) is None:
        raise description.lacks(run, "data")
    path = str(resolved(lies_at, "data"))
    name, others, notes = records.other_runs(run, "mnist", compare_with)
    record = records.read_run(run, name)
    models = {
        other.name: checkpoints.load_digits_vae(other.path, weights, device)
        for other in others[:MAX_BESIDE]
        if layout.weights_path(other.path, weights).exists()
    }
    baselines = Baselines(**checkpoints.load_baselines(run, vae))
    return DigitJob(run, record, weights, vae, mnist.load(path), path, baselines, others, models, notes)


def evaluate(job: DigitJob, num_iwae_images: int) -> tuple[dict[str, Any], digit_views.Shown]:
    """Score the model, write eval.json, the figures and the report.

    Args:
        job: what to score.
        num_iwae_images: how many images the importance-weighted bounds are of.

    Returns:
        what eval.json holds, and the figures.
    """
    with progress.bar(6, "parts", "evaluate") as bar, locks.only_writer(job.run):
        files.remove_partials(job.run, job.run / FIGURES)
        train_mu, test_mu = (
            digit_views.encoded(job.vae, digits.frames, digits.labels) for digits in (job.data.train, job.data.test)
        )
        bar.update()
        parts: tuple[Callable[[], dict[str, Any]], ...] = (
            lambda: _reconstruction(job),
            lambda: digit_scores.likelihoods(job.vae, job.data.test, num_iwae_images),
            lambda: _latents(job, train_mu, test_mu),
            lambda: _samples(job, train_mu),
        )
        scores: dict[str, Any] = {}
        for part in parts:
            scores |= part()
            bar.update()
        scores |= _provenance(job, num_iwae_images)
        shown = _draw(job, scores, test_mu)
        grids.save_all(job.run / FIGURES, shown)
        files.write_text(job.run / REPORT_FILE, digit_report.page(job.run.name, scores, shown))
        files.write_json(job.run / SCORES_FILE, scores)  # last: it says that the evaluation is whole
        bar.update()
    terminal.say(digit_report.summary(scores))
    return scores, shown


def _reconstruction(job: DigitJob) -> dict[str, Any]:
    test = job.data.test
    measured = dict(metrics.measure(job.vae, test.frames, labels=test.labels))
    elbo = measured.pop("elbo_nats")  # is named by the kind of pixels it is of
    measured["elbo_grey_nats"] = elbo
    if job.vae.config.posterior == "point":  # which has no distribution
        measured |= dict.fromkeys(("kl_nats", "kl_per_dim", "dims_used", "elbo_grey_nats"))
    return measured | job.baselines.measure(test.frames)


def _latents(job: DigitJob, train_mu: torch.Tensor, test_mu: torch.Tensor) -> dict[str, Any]:
    labels = [torch.from_numpy(digits.labels) for digits in (job.data.train, job.data.test)]
    told = (train_mu, labels[0], test_mu, labels[1])
    return {
        "knn_accuracy": digit_scores.knn_accuracy(*told),
        "linear_accuracy": digit_scores.linear_accuracy(*told),
    }


def _samples(job: DigitJob, train_mu: torch.Tensor) -> dict[str, Any]:
    classifier = digit_scores.fit_classifier(job.data.train)
    known = {"classifier_accuracy": digit_scores.accuracy(classifier, job.data.test)}
    return known | digit_scores.sample_scores(job.vae, classifier, train_mu)


def _provenance(job: DigitJob, num_iwae_images: int) -> dict[str, Any]:
    return {
        "pca_components": len(job.baselines.components),
        "images": len(job.data.test.frames),
        "iwae_images": min(num_iwae_images, len(job.data.test.frames)),
        "data": job.path,
        "data_digest": job.data.digest,
        "weights": job.weights,
        "vae_sha256": files.file_sha256(layout.weights_path(job.run, job.weights)),
        "variance": job.vae.variance.item() if job.vae.config.likelihood == "gaussian" else None,
        "versions": files.versions(),
    }


def _draw(job: DigitJob, scores: Mapping[str, Any], test_mu: torch.Tensor) -> digit_views.Shown:
    test = job.data.test
    shown = digit_views.in_training(job.vae, test.frames, test.labels)
    shown |= digit_views.finished(job.vae, test_mu, test.frames, test.labels)
    for name in ("holes", "trade_off"):  # of an earlier evaluation beside other runs
        (job.run / FIGURES / f"{name}.png").unlink(missing_ok=True)
    if job.models:
        shown["holes"] = digit_views.holes({job.record.name: job.vae, **job.models})
    points = digit_report.beta_points(job.record, job.others)
    if len({point.beta for point in points}) > 1:
        shown["trade_off"] = digit_report.trade_off(points)
    if job.vae.config.posterior == "normal":
        order = torch.tensor(scores["kl_per_dim"]).argsort(descending=True).tolist()
        heights = torch.tensor(scores["kl_per_dim"])[order].numpy()
        shown["kl_per_dim"] = charts.bars(heights, order, "latent dimension", "KL (nats)")
    return shown
