"""eval.json: the results of an evaluation. This module imports no torch.

A class has a field for each key of the file, in the file's order. So a new measure is a new field, and every
evaluation has to set it. The file may come from anybody, and older files have fewer keys. A value that is missing or
has another type is None.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from world_models.runs.layout import SCORES_FILE, WEIGHT_FILES
from world_models.runs.score_parts import (
    R2,
    AggregatePosterior,
    Bins,
    DataScores,
    DriveScores,
    ForesightErrors,
    KindError,
    SampleQuality,
)
from world_models.runtime import files, typed_json, untrusted
from world_models.runtime.typed_json import Json

MAX_BYTES = 100_000_000


class Scores(abc.ABC):
    """The scores that every evaluation has. SSE is summed over a frame's values in [0, 1]; frames include digits.

    Attributes:
        sse: squared error of decode(mu).
        psnr_db: peak signal-to-noise ratio of decode(mu).
        ssim: structural similarity of decode(mu).
        kl_nats: plain KL per frame; None for a plain autoencoder.
        kl_per_dim: KL of each dimension, in nats; None for a plain autoencoder.
        active_units: number of dimensions whose mu has variance above 0.01.
        dims_used: number of dimensions with KL above 0.05 nats; None for a plain autoencoder.
        mean_sse: SSE of the mean frame.
        pca_sse: SSE of PCA.
        pca_sse_by_components: SSE of PCA with the first 1, 2, 4, ... components, by their number.
        pca_components: number of components of PCA: the model's number of dimensions.
        data: folder of the scored data.
        data_digest: digest of its contents.
        weights: best or last.
        vae_sha256: sha256 of the weights' file.
        variance: variance of the Gaussian likelihood.
        versions: versions of the programs that made the file.
        frames: number of scored frames of rollouts; None for digits.
        trained_on_episodes: number of scored episodes that the model was trained on; None for digits.
        foresight: errors by form of the memory model and by steps ahead; None if not measured.
        drive: returns of a controller that reads mu; None if not measured.
    """

    sse: float | None
    psnr_db: float | None
    ssim: float | None
    kl_nats: float | None
    kl_per_dim: Sequence[float] | None
    active_units: int | None
    dims_used: int | None
    mean_sse: float | None
    pca_sse: float | None
    pca_sse_by_components: Mapping[str, float] | None
    pca_components: int | None
    data: str | None
    data_digest: str | None
    weights: str | None
    vae_sha256: str | None
    variance: float | None
    versions: Mapping[str, str] | None
    frames: int | None
    trained_on_episodes: int | None
    foresight: Mapping[str, Mapping[str, ForesightErrors]] | None
    drive: DriveScores | None

    @abc.abstractmethod
    def summary(self) -> str | None:
        """The main scores in one line; None if one of them is missing."""

    def plain(self) -> dict[str, Json]:
        """The scores as a JSON object."""
        return typed_json.plain(self)

    def save(self, run: Path) -> None:
        """Write eval.json."""
        files.write_json(run / SCORES_FILE, self.plain())


@dataclasses.dataclass(frozen=True)
class RolloutScores(Scores):
    """The scores of a model of rollouts.

    Attributes:
        elbo_nats: log-likelihood with all constants, minus the plain KL.
        iwae_nats: importance-weighted bounds, by number of samples.
        iwae_frames: number of frames for these bounds.
        previous_sse: SSE of the previous frame as prediction.
        probe_r2: R2 of the linear probe of mu; None if no probe could be fitted.
        probes: R2 of each probe, by its input and kind; None if no probe could be fitted.
        probes_on_road: `probes` for frames along the road; None if no probe could be fitted.
        sse_by_kind: SSE by kind of frame, such as `on the grass`.
        sse_by_telemetry: SSE by column of telemetry.
        aggregate_posterior: mean and standard deviation of z.
        unsteadiness: change of each dimension of mu from frame to frame: 0 is constant, 1 is unrelated.
        plausible_share: share of decoded prior samples that look like frames.
        episodes: number of scored episodes.
        by_data: the main scores of each data set, by its name; None, and not in the file, for a single data set.
    """

    sse: float | None
    psnr_db: float | None
    ssim: float | None
    kl_nats: float | None
    kl_per_dim: Sequence[float] | None
    active_units: int | None
    dims_used: int | None
    elbo_nats: float | None
    iwae_nats: Mapping[str, float] | None
    iwae_frames: int | None
    mean_sse: float | None
    pca_sse: float | None
    pca_sse_by_components: Mapping[str, float] | None
    previous_sse: float | None
    probe_r2: R2 | None
    probes: Mapping[str, R2] | None
    probes_on_road: Mapping[str, R2] | None
    sse_by_kind: Mapping[str, KindError] | None
    sse_by_telemetry: Mapping[str, Bins] | None
    aggregate_posterior: AggregatePosterior | None
    unsteadiness: Sequence[float] | None
    plausible_share: float | None
    pca_components: int | None
    frames: int | None
    episodes: int | None
    trained_on_episodes: int | None
    data: str | None
    data_digest: str | None
    weights: str | None
    vae_sha256: str | None
    variance: float | None
    versions: Mapping[str, str] | None
    foresight: Mapping[str, Mapping[str, ForesightErrors]] | None
    drive: DriveScores | None
    by_data: Mapping[str, DataScores] | None

    def plain(self) -> dict[str, Json]:
        """The scores as a JSON object."""
        return {name: value for name, value in super().plain().items() if name != "by_data" or value is not None}

    def summary(self) -> str | None:
        """The main scores in one line; None if one of them is missing."""
        errors, used = (self.sse, self.pca_components, self.pca_sse, self.mean_sse), (self.kl_nats, self.active_units)
        if None in (*errors, *used) or self.kl_per_dim is None:
            return None
        return (
            f"SSE {self.sse:.2f} per frame (PCA-{self.pca_components} {self.pca_sse:.2f}, "
            f"mean frame {self.mean_sse:.2f}), KL {self.kl_nats:.1f} nats, "
            f"{self.active_units} active units of {len(self.kl_per_dim)}"
            + (f", drives to {self.drive.mean:.0f}" if self.drive and self.drive.mean is not None else "")
        )


@dataclasses.dataclass(frozen=True)
class DigitScores(Scores):
    """The scores of a model of MNIST. Likelihoods are of grey pixels, or of binarised pixels (black or white).

    Attributes:
        elbo_grey_nats: ELBO of grey images; None for a plain autoencoder.
        iwae_grey_nats: importance-weighted bounds of grey images, by number of samples; None for a plain autoencoder.
        elbo_binarised_nats: ELBO of binarised images; None unless the likelihood is Bernoulli.
        iwae_binarised_nats: bounds of binarised images, by number of samples; None unless it is Bernoulli.
        knn_accuracy: accuracy of classification by the nearest neighbours of mu.
        linear_accuracy: accuracy of classification by logistic regression on mu.
        classifier_accuracy: accuracy, on test images, of the classifier that judges samples.
        prior_samples: quality of decoded samples of the prior.
        fitted_samples: quality of decoded samples of a normal distribution fitted to mu.
        asked_share: share of samples that show the requested digit; None unless the model is conditional.
        images: number of scored images.
        iwae_images: number of images for the bounds.
    """

    sse: float | None
    psnr_db: float | None
    ssim: float | None
    kl_nats: float | None
    kl_per_dim: Sequence[float] | None
    active_units: int | None
    dims_used: int | None
    elbo_grey_nats: float | None
    mean_sse: float | None
    pca_sse: float | None
    pca_sse_by_components: Mapping[str, float] | None
    iwae_grey_nats: Mapping[str, float] | None
    elbo_binarised_nats: float | None
    iwae_binarised_nats: Mapping[str, float] | None
    knn_accuracy: float | None
    linear_accuracy: float | None
    classifier_accuracy: float | None
    prior_samples: SampleQuality | None
    fitted_samples: SampleQuality | None
    asked_share: float | None
    pca_components: int | None
    images: int | None
    iwae_images: int | None
    data: str | None
    data_digest: str | None
    weights: str | None
    vae_sha256: str | None
    variance: float | None
    versions: Mapping[str, str] | None
    frames = trained_on_episodes = foresight = drive = None

    def summary(self) -> str | None:
        """The main scores in one line; None if one of them is missing."""
        elbo, samples = self.elbo_grey_nats, self.prior_samples
        needed = (self.sse, self.pca_components, self.pca_sse, 0.0 if elbo is None else self.kl_nats)
        if None in needed or samples is None:
            return None
        likelihood = "" if elbo is None else f"-ELBO {-elbo:,.2f} nats on grey images, KL {self.kl_nats:.1f}, "
        return (
            f"{likelihood}SSE {self.sse:.2f} per image (PCA-{self.pca_components} {self.pca_sse:.2f}), "
            f"{samples.confident_share:.0%} of prior samples confidently a digit"
        )


def from_json(value: object) -> Scores:
    """Read the scores from a JSON object. They are of digits if it has the key `images`.

    Raises:
        TypeError: the value is not an object.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__}, wanted an object")
    kind = DigitScores if "images" in value else RolloutScores
    scores = typed_json.read(kind, value)
    assert scores is not None, "every field may be None"
    return scores


def read_scores(run: Path) -> tuple[Scores | None, str]:
    """Read the scores of the weights in a run's folder.

    Returns:
        The scores, or None; and why eval.json is ignored in one line, or an empty string.
    """
    path = run / SCORES_FILE
    try:
        text = untrusted.read_text(path, MAX_BYTES)
    except ValueError as error:
        return None, str(error)
    if text is None:
        return None, ""
    try:
        scores = from_json(untrusted.from_json(text))
    except (ValueError, TypeError):
        return None, f"{path}: not a JSON object; evaluate the run again"
    weights = [run / name for name in WEIGHT_FILES.values() if (run / name).is_file()]
    if scores.vae_sha256 and weights and not any(files.file_sha256(each) == scores.vae_sha256 for each in weights):
        return None, f"{path}: the run has other weights now; evaluate the run again"
    return scores, ""
