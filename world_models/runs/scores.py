"""eval.json: what an evaluation has found. No torch in here.

A class has a field for each key of the file, in the file's order. So a new measure is a new field, and every
evaluation has to give it. The file may come from anybody, and older ones say less: a value that is missing or wrong
is None.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from world_models.runs.layout import SCORES_FILE, WEIGHT_FILES
from world_models.runs.score_parts import R2, AggregatePosterior, Bins, Drive, Foreseen, KindError, SampleQuality
from world_models.runtime import files, typed_json, untrusted
from world_models.runtime.typed_json import Json

MAX_BYTES = 100_000_000


class Scores(abc.ABC):
    """What every evaluation has. SSE is summed over a frame's values in [0, 1]; frames are images of digits too.

    Attributes:
        sse: squared error of decode(mu).
        psnr_db: the same as a peak signal-to-noise ratio.
        ssim: structural similarity of decode(mu).
        kl_nats: plain KL per frame; None of a plain autoencoder, as the next and `dims_used`.
        kl_per_dim: for each dimension.
        active_units: dimensions whose mu has variance above 0.01.
        dims_used: dimensions with KL above 0.05 nats.
        mean_sse: SSE of the mean frame.
        pca_sse: SSE of PCA.
        pca_sse_by_components: SSE of the first 1, 2, 4 .. of its components, by their number.
        pca_components: how many it has, as many as the model has dimensions.
        data: folder of what was scored.
        data_digest: of what was in it.
        weights: best or last.
        vae_sha256: of the weights' file.
        variance: of the Gaussian likelihood.
        versions: of what made the file.
        frames: how many rollouts' frames were scored; None of digits, as the three that follow.
        trained_on_episodes: how many of the scored episodes the model was trained on.
        foresight: by form of the memory model and by steps ahead; None unless asked for.
        drive: what a controller does with mu; None unless asked for.
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
    foresight: Mapping[str, Mapping[str, Foreseen]] | None
    drive: Drive | None

    @abc.abstractmethod
    def summary(self) -> str | None:
        """The result in a line; None where a number of it is missing."""

    def plain(self) -> dict[str, Json]:
        """The JSON object."""
        return typed_json.plain(self)

    def save(self, run: Path) -> None:
        """Write eval.json."""
        files.write_json(run / SCORES_FILE, self.plain())


@dataclasses.dataclass(frozen=True)
class RolloutScores(Scores):
    """What is found of a model of rollouts.

    Attributes:
        elbo_nats: log-likelihood with all its constants, less the plain KL.
        iwae_nats: importance-weighted bounds by number of samples.
        iwae_frames: frames that these are of.
        previous_sse: SSE of the frame before.
        probe_r2: of the linear probe of mu; None where no probe could be fitted, as the two that follow.
        probes: of each probe, by what it reads and how.
        probes_on_road: the same, of frames along the road.
        sse_by_kind: by kind of frame, such as `on the grass`.
        sse_by_telemetry: by column of telemetry.
        aggregate_posterior: how z lies.
        unsteadiness: how far each dimension of mu moves to the next frame: 0 is still, 1 unrelated.
        plausible_share: of dreams that look like frames.
        episodes: how many were scored.
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
    foresight: Mapping[str, Mapping[str, Foreseen]] | None
    drive: Drive | None

    def summary(self) -> str | None:
        """The result in a line; None where a number of it is missing."""
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
    """What is found of a model of MNIST. Each likelihood says of which pixels it is, grey or black and white.

    Attributes:
        elbo_grey_nats: None of a plain autoencoder, as the bounds.
        iwae_grey_nats: importance-weighted bounds by number of samples.
        elbo_binarised_nats: of a Bernoulli likelihood alone, as the next.
        iwae_binarised_nats: importance-weighted bounds by number of samples.
        knn_accuracy: share of digits told by the nearest neighbours of mu.
        linear_accuracy: share of digits told by logistic regression on mu.
        classifier_accuracy: share of test images that the samples' classifier tells right.
        prior_samples: of the prior.
        fitted_samples: of a normal fitted to mu.
        asked_share: share of samples that show the digit asked for; None unless the model is conditional.
        images: how many were scored.
        iwae_images: images that the bounds are of.
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
        """The result in a line; None where a number of it is missing."""
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
    """The scores of a JSON object: of digits if it says how many images it is of.

    Raises:
        TypeError: it is no object.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__}, wanted an object")
    kind = DigitScores if "images" in value else RolloutScores
    scores = typed_json.read(kind, value)
    assert scores is not None, "every field may be None"
    return scores


def read_scores(run: Path) -> tuple[Scores | None, str]:
    """What an evaluation of the weights that lie there has found, None without one; and why eval.json is not taken."""
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
        return None, f"{path}: no JSON object; evaluate the run again"
    weights = [run / name for name in WEIGHT_FILES.values() if (run / name).is_file()]
    if scores.vae_sha256 and weights and not any(files.file_sha256(each) == scores.vae_sha256 for each in weights):
        return None, f"{path}: of other weights than lie there now; evaluate the run again"
    return scores, ""
