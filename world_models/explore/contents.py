"""What the page shows, as one JSON object, and the arrays that it names."""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from world_models.explore import latents, weights
from world_models.explore.blobs import Blob, packed
from world_models.explore.shown import FRAMES_PER_S, Clip, Shown, column
from world_models.runs import layout
from world_models.runs.scores import read_scores
from world_models.runtime import files
from world_models.runtime.typed_json import Json
from world_models.vae.model import VAE
from world_models.vae.posterior import Posterior

VERSION = 1
SAMPLE_FRAMES = 3000
"""Number of frames, spread over all data, for the statistics of z."""

SCORES = ("sse", "psnr_db", "ssim", "kl_nats", "active_units", "dims_used", "pca_sse", "mean_sse")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model on the page.

    Attributes:
        name: short name, which differs from those of the other models.
        run: its folder.
        weights: best or last.
        vae: the model.
    """

    name: str
    run: Path
    weights: layout.Weights
    vae: VAE


class Page:
    """Collects the contents of a page and its arrays.

    Attributes:
        blobs: the arrays, by name.
    """

    def __init__(self):
        self.blobs: dict[str, Blob] = {}

    def add(self, name: str, array: np.ndarray | None) -> str | None:
        """Pack an array, and return its name; None stays None."""
        if array is None:
            return None
        self.blobs[name] = packed(array)
        return name


def contents(models: Sequence[Model], shown: Shown) -> tuple[dict[str, Json], dict[str, Blob]]:
    """Encode the frames with every model, and describe all that the page shows.

    Returns:
        The JSON object, and the arrays that it names.

    Raises:
        Stopped: a model gives numbers that are not finite.
    """
    page = Page()
    clips, sample = shown.clips(), shown.sample(SAMPLE_FRAMES)
    posteriors = [latents.encode(model.vae, sample.frames, model.run) for model in models]
    mus = [[latents.encode(model.vae, clip.labelled, model.run).mu.numpy() for model in models] for clip in clips]
    versions, vae = files.versions(), models[0].vae
    height, width, channels = vae.frame_shape
    found: dict[str, Json] = {
        "version": VERSION,
        "title": models[0].name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": versions["git_commit"],
        "package_version": versions["world_models"],
        "data": shown.product.path,
        "env": shown.env,
        "image": {"height": height, "width": width, "channels": channels},
        "digits": _digits(vae) if shown.is_of_digits else None,
        "models": [
            _model(page, index, model, posterior)
            for index, (model, posterior) in enumerate(zip(models, posteriors, strict=True))
        ],
        "episodes": [
            _episode(page, index, clip, mu, shown) for index, (clip, mu) in enumerate(zip(clips, mus, strict=True))
        ],
        "map": dataclasses.asdict(latents.plane(np.concatenate([of_clip[0] for of_clip in mus]))),
        "directions": [
            dataclasses.asdict(each)
            for each in latents.directions(posteriors[0].mu.numpy(), sample, shown.telemetry_names)
        ],
    }
    return found, page.blobs


def _digits(vae: VAE) -> Json:
    return {"num_classes": vae.config.num_classes, "labels": [str(digit) for digit in range(10)]}


def _model(page: Page, index: int, model: Model, posterior: Posterior) -> Json:
    vae = model.vae
    described, numbers = weights.packed(weights.layers(vae))
    dims = latents.dimensions(vae, posterior)
    return {
        "name": model.name,
        "weights": model.weights,
        "z_dim": vae.config.z_dim,
        "num_classes": vae.config.num_classes,
        "posterior": vae.config.posterior,
        "kl_per_dim": [*dims.kl_nats],
        "order": [*dims.order],
        "used": [*dims.used],
        "z_mean": [*dims.mean],
        "z_std": [*dims.std],
        "scores": _scores(model),
        "layers": described,
        "blob": page.add(f"model-{index}", numbers),
    }


def _scores(model: Model) -> Json:
    """The main scores of an evaluation of these weights; None if there was none."""
    scores = read_scores(model.run)[0]
    if scores is None or scores.vae_sha256 != files.file_sha256(layout.weights_path(model.run, model.weights)):
        return None
    return {name: getattr(scores, name) for name in SCORES}


def _episode(page: Page, index: int, clip: Clip, mus: Sequence[np.ndarray], shown: Shown) -> Json:
    return {
        "name": clip.name,
        "seed": clip.seed,
        "policy": clip.policy,
        "num_frames": len(clip.frames),
        "fps": 0 if shown.is_of_digits else FRAMES_PER_S,
        "frames": page.add(f"frames-{index}", clip.frames),
        "mu": [page.add(f"mu-{index}-{number}", mu) for number, mu in enumerate(mus)],
        "labels": page.add(f"labels-{index}", clip.labels.astype(np.uint8) if shown.is_of_digits else None),
        "rewards": page.add(f"rewards-{index}", clip.rewards),
        "actions": page.add(f"actions-{index}", clip.actions),
        "action_names": [*shown.action_names],
        "telemetry": page.add(f"telemetry-{index}", clip.telemetry),
        "telemetry_names": [str(column(name)) for name in shown.telemetry_names],
    }
