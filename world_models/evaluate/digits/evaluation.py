"""The evaluation of a model of MNIST: its measures and figures."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from world_models.data import mnist
from world_models.drawing import charts, digit_views
from world_models.evaluate import evaluation
from world_models.evaluate.config import EvaluateConfig
from world_models.evaluate.digits import page
from world_models.evaluate.digits import scores as digit_scores
from world_models.evaluate.evaluation import Evaluation, PartDone, Results, ScoredInputs
from world_models.runs import checkpoints, description, layout, records
from world_models.runs.layout import FIGURES
from world_models.runs.scores import DigitScores
from world_models.runtime import files
from world_models.runtime.distributed import torch_device
from world_models.runtime.paths import resolved
from world_models.vae import metrics
from world_models.vae.baselines import Baselines
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE

MAX_OTHER_MODELS = 3


@dataclasses.dataclass(frozen=True)
class DigitJob:
    """A checked evaluation.

    Attributes:
        config: its settings.
        run: the model's folder, where the results go.
        inputs: the weights and the data.
        record: the record of the run, with a name that differs from those of other runs.
        vae: the model.
        data: training images and test images.
        baselines: PCA of the training images.
        others: records of other runs to compare with.
        models: the models of some of these runs.
        notes: what is left out, and why.
    """

    config: EvaluateConfig
    run: Path
    inputs: ScoredInputs
    record: records.RunRecord
    vae: VAE
    data: mnist.Mnist
    baselines: Baselines
    others: Sequence[records.RunRecord]
    models: Mapping[str, VAE]
    notes: Sequence[str]


def prepare(config: EvaluateConfig) -> Evaluation:
    """Check everything that can be wrong before the first image.

    Raises:
        FileNotFoundError, ValueError: something is missing or damaged, or a setting is only for rollouts.
    """
    job = load_job(config)
    return Evaluation(job.run, job.inputs, len(job.data.test.frames), job.notes, 5, functools.partial(measure, job))


def load_job(config: EvaluateConfig) -> DigitJob:
    """Load the model, the images, and the other runs.

    Raises:
        FileNotFoundError, ValueError: something is missing or damaged, or a setting is only for rollouts.
    """
    run, weights, device = Path(config.vae), config.weights, torch_device(config.device)
    if config.foresight or config.drive or config.train_data:
        raise ValueError(
            f"{run}: a model of MNIST's digits, which have no episodes; leave out foresight, drive and train_data"
        )
    vae = checkpoints.load_digits_vae(run, weights, device)
    if (folder := config.data or description.load(run).trained_on.data) is None:
        raise description.missing_parts_error(run, "data")
    if not isinstance(folder, str):
        raise ValueError(
            f"{run}: a model of MNIST's digits, and data is {', '.join(folder)}; give MNIST's folder alone"
        )
    path = str(resolved(folder, "data"))
    data = mnist.load(path)
    name, others, notes = records.other_runs(run, "mnist", [Path(folder) for folder in config.compare_with])
    models = {
        other.name: checkpoints.load_digits_vae(other.path, weights, device)
        for other in others[:MAX_OTHER_MODELS]
        if layout.weights_path(other.path, weights).exists()
    }
    return DigitJob(
        config=config,
        run=run,
        inputs=evaluation.scored_inputs(run, weights, path, data.digest),
        record=records.read_run(run, name),
        vae=vae,
        data=data,
        baselines=Baselines(**checkpoints.load_baselines(run, vae)),
        others=others,
        models=models,
        notes=notes,
    )


def measure(job: DigitJob, part_done: PartDone) -> Results:
    """Score the model."""
    train_mu, test_mu = (digit_views.encoded(job.vae, _labelled(digits)) for digits in (job.data.train, job.data.test))
    part_done()
    scores = _scores(job, train_mu, test_mu, part_done)
    draw = functools.partial(_draw, job, scores, test_mu)
    return Results(scores, draw, functools.partial(page.page, job.run.name, scores))


def _labelled(digits: mnist.Digits) -> LabelledFrames:
    return LabelledFrames(digits.frames, digits.labels)


def _scores(job: DigitJob, train_mu: torch.Tensor, test_mu: torch.Tensor, part_done: PartDone) -> DigitScores:
    vae, test, num_iwae_images = job.vae, job.data.test, job.config.num_iwae_frames
    mean_scores = metrics.measure(vae, _labelled(test))
    has_kl = vae.config.posterior == "normal"  # a plain autoencoder has no distribution of z
    baseline_errors = job.baselines.measure(test.frames)
    part_done()
    likelihoods = digit_scores.likelihoods(vae, test, num_iwae_images)
    part_done()
    labels, test_labels = (torch.from_numpy(digits.labels) for digits in (job.data.train, test))
    knn_accuracy = digit_scores.knn_accuracy(train_mu, labels, test_mu, test_labels)
    linear_accuracy = digit_scores.linear_accuracy(train_mu, labels, test_mu, test_labels)
    part_done()
    classifier = digit_scores.fit_classifier(job.data.train)
    samples = digit_scores.sample_scores(vae, classifier, train_mu)
    scores = DigitScores(
        sse=mean_scores.sse,
        psnr_db=mean_scores.psnr_db,
        ssim=mean_scores.ssim,
        kl_nats=mean_scores.kl_nats if has_kl else None,
        kl_per_dim=mean_scores.kl_per_dim if has_kl else None,
        active_units=mean_scores.active_units,
        dims_used=mean_scores.dims_used if has_kl else None,
        elbo_grey_nats=mean_scores.elbo_nats if has_kl else None,
        mean_sse=baseline_errors.mean_sse,
        pca_sse=baseline_errors.pca_sse,
        pca_sse_by_components=baseline_errors.pca_sse_by_components,
        iwae_grey_nats=likelihoods.iwae_grey_nats,
        elbo_binarised_nats=likelihoods.elbo_binarised_nats,
        iwae_binarised_nats=likelihoods.iwae_binarised_nats,
        knn_accuracy=knn_accuracy,
        linear_accuracy=linear_accuracy,
        classifier_accuracy=digit_scores.accuracy(classifier, test),
        prior_samples=samples.of_prior,
        fitted_samples=samples.of_fitted,
        asked_share=samples.asked_share,
        pca_components=len(job.baselines.components),
        images=len(test.frames),
        iwae_images=min(num_iwae_images, len(test.frames)),
        data=job.inputs.data,
        data_digest=job.inputs.data_digest,
        weights=job.inputs.weights,
        vae_sha256=job.inputs.vae_sha256,
        variance=vae.variance.item() if vae.config.likelihood == "gaussian" else None,
        versions=files.versions(),
    )
    part_done()
    return scores


def _draw(job: DigitJob, scores: DigitScores, test_mu: torch.Tensor) -> digit_views.Figures:
    test = _labelled(job.data.test)
    figures = digit_views.validation_pictures(job.vae, test) | digit_views.final_pictures(job.vae, test_mu, test)
    for name in ("holes", "trade_off"):  # remove those of an earlier evaluation with other runs
        (job.run / FIGURES / f"{name}.png").unlink(missing_ok=True)
    if job.models:
        figures["holes"] = digit_views.holes({job.record.name: job.vae, **job.models})
    points = page.beta_points(job.record, job.others)
    if len({point.beta for point in points}) > 1:
        figures["trade_off"] = page.trade_off(points)
    if scores.kl_per_dim is not None:
        order = torch.tensor(scores.kl_per_dim).argsort(descending=True).tolist()
        heights = torch.tensor(scores.kl_per_dim)[order].numpy()
        figures["kl_per_dim"] = charts.bars(heights, order, "latent dimension", "KL (nats)")
    return figures
