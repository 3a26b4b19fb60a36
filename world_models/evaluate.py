"""Score a V model on data it has never seen: eval.json, figures, and report.html in the run's folder.

Examples:
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae --weights last
  python -m world_models.evaluate --vae runs/mnist/vae --compare_with '[runs/mnist/ae]'  digits: MNIST's test images

Collect held-out tracks with another seed:
  python -m world_models.collect --out rollouts/heldout --seed 1000000 --num_episodes 8

SSE is summed over a frame's 12,288 values in [0, 1]; every figure of the report says what it shows.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from world_models import (
    baselines,
    breakdown,
    checkpoints,
    comparison,
    digit_evaluation,
    figures,
    files,
    foresight,
    metrics,
    pictures,
    probes,
    report,
    run_records,
)
from world_models.config import require, run_command
from world_models.digit_evaluation import DigitJob
from world_models.frames import Device, FrameSet, split_episodes, torch_device
from world_models.rollouts import Episode, Rollouts
from world_models.tracking import progress
from world_models.vae import VAE

HELD_OUT = "rollouts/heldout"
MAX_FRAMES = 20_000
PROBE_FRAMES = 20_000
EPISODES_WALKED = 20  # through which the model is followed from frame to frame
SEEN_FRAMES, HELD_OUT_FRAMES = 4000, 1000  # that dreams are compared with


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to score, and on what.

    Attributes:
        data: folder of rollouts the model was not trained on, rollouts/heldout when null; of a model of digits the
            folder of MNIST, where it was in training when null.
        vae: folder of a train_vae run; the results go there.
        weights: best (lowest validation loss) or last.
        train_data: rollouts that linear probes are fitted on; those the run was trained on when null.
        compare_with: folders of other runs, drawn beside this one in the rate-distortion plane; of digits, by beta and
            with samples of the same z.
        foresight: train a small memory model on the latents too, and score in frames what it foresees; minutes.
        max_frames: frames scored at most, spread evenly; of digits all.
        num_iwae_frames: frames of which the importance-weighted bounds are taken.
        device: auto takes a GPU if there is one.
    """

    data: str | None = None
    vae: str = "runs/vae"
    weights: checkpoints.Weights = "best"
    train_data: str | None = None
    compare_with: tuple[str, ...] = ()
    foresight: bool = False
    max_frames: int = MAX_FRAMES
    num_iwae_frames: int = 1000
    device: Device = "auto"

    def __post_init__(self):
        require(self.max_frames >= 2, f"max_frames is {self.max_frames}; give 2 or more")
        require(self.num_iwae_frames >= 1, f"num_iwae_frames is {self.num_iwae_frames}; give 1 or more")


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked evaluation."""

    config: EvaluateConfig
    data: Rollouts
    vae: VAE
    baselines: baselines.Baselines
    probe_data: FrameSet | None
    trained_on: int
    name: str
    others: tuple[figures.RatePoint, ...]


def prepare(config: EvaluateConfig) -> Job | DigitJob:
    """Check everything that can be wrong before the first frame."""
    device = torch_device(config.device)
    run, description = Path(config.vae), checkpoints.load_description(config.vae)
    if description.get("dataset") == "mnist":
        if config.foresight or config.train_data:
            raise ValueError(
                f"{run}: a model of MNIST's digits, which have no episodes; leave out foresight and train_data"
            )
        beside = [Path(folder) for folder in config.compare_with]
        return digit_evaluation.prepare(run, config.weights, config.data, beside, config.num_iwae_frames, device)
    data = Rollouts(config.data or HELD_OUT)
    vae = checkpoints.load_vae(config.vae, config.weights, device)
    checkpoints.check_preprocess(data.preprocess, data.path, vae, config.vae)
    description = checkpoints.load_description(config.vae, "data", "data_digest", "split_seed", "env", "train_seeds")
    fitted = baselines.Baselines(**checkpoints.load_baselines(config.vae))
    files.check_room(Path(config.vae), 50_000_000)
    name, others = run_records.beside(Path(config.vae), [Path(folder) for folder in config.compare_with])
    points = tuple(comparison.rate_points(others))
    probe_data = _probe_data(config, description, data, vae)
    if config.foresight and probe_data is None:
        raise ValueError("foresight needs the training data; name it with --train_data, or leave --foresight out")
    return Job(config, data, vae, fitted, probe_data, _trained_on(description, data), name, points)


def _probe_data(config: EvaluateConfig, description: dict[str, Any], data: Rollouts, vae: VAE) -> FrameSet | None:
    """The run's training frames, None where they are gone or other data lies there now.

    Raises:
        ValueError: the data cannot be compared: other frames, or other telemetry.
    """
    recorded = Path(config.train_data or description["data"])
    if config.train_data is None and not recorded.exists():
        print(f"{recorded} is gone, so no probes are fitted; name it with --train_data", file=sys.stderr)
        return None
    train = Rollouts(recorded)
    if config.train_data is None and train.digest() != description["data_digest"]:
        print(
            f"{recorded} has changed since the training, so no probes are fitted; name the data with --train_data",
            file=sys.stderr,
        )
        return None
    checkpoints.check_preprocess(train.preprocess, train.path, vae, config.vae)
    if data.telemetry_names != train.telemetry_names:
        raise ValueError(
            f"{data.path} and {train.path} hold other telemetry, so probes cannot be scored; name other --train_data"
        )
    chosen = split_episodes(train.seeds, description["split_seed"]).train
    return FrameSet(train, chosen)


def _trained_on(description: dict[str, Any], data: Rollouts) -> int:
    """How many of the episodes the model was trained on, wherever its data is now; says so if there are any."""
    same = set(description["train_seeds"]) & set(data.seeds.tolist()) if description["env"] == data.env else set()
    if same:
        print(
            f"{len(same)} episodes of {data.path} were trained on, so the scores flatter; collect with another --seed",
            file=sys.stderr,
        )
    return len(same)


def evaluate(job: Job | DigitJob) -> dict[str, Any]:
    """Score the model, write eval.json, the figures and the report; returns what eval.json holds."""
    if isinstance(job, DigitJob):
        return digit_evaluation.evaluate(job)
    run, held_out = Path(job.config.vae), FrameSet(job.data, range(len(job.data)))
    frames, telemetry = (held_out.read_spread(job.config.max_frames, of) for of in ("frames", "telemetry"))
    columns = dict(zip(job.data.telemetry_names, telemetry.T, strict=True))
    with progress(8, "parts", "evaluate") as bar, files.only_writer(run):
        scored = breakdown.score_frames(job.vae, frames)
        bar.update()
        parts: tuple[Callable[[], dict[str, Any]], ...] = (
            lambda: dict(metrics.measure(job.vae, frames)),
            lambda: {"iwae_nats": metrics.iwae_nats(job.vae, held_out.read_spread(job.config.num_iwae_frames))},
            lambda: (
                job.baselines.measure(frames)
                | {"previous_sse": baselines.previous_sse(each.frames for each in _walked(job))}
            ),
            lambda: _probes(job, held_out),
            lambda: {"foresight": _foresight(job)},
            lambda: _breakdown(job, frames, scored, columns) | _provenance(job, len(frames)),
        )
        scores: dict[str, Any] = {}
        for part in parts:
            scores |= part()
            bar.update()
        report.write(run, scores, _draw(job, frames, scored, columns, scores))
        files.write_json(run / "eval.json", scores)  # last: it says that the evaluation is whole
        bar.update()
    print(report.summary(scores))
    print(f"{run / 'report.html'} shows it, {run / 'eval.json'} has the numbers")
    return scores


def _draw(
    job: Job, frames: metrics.Frames, scored: breakdown.Scored, columns: breakdown.Columns, scores: dict[str, Any]
) -> report.Shown:
    own = figures.RatePoint(job.name, scores["kl_nats"], scores["sse"])
    levels = {int(count): sse for count, sse in scores["pca_sse_by_components"].items() if int(count) >= 4}
    return {
        **report.draw(job.vae, job.data, frames, job.baselines, scores),
        **report.draw_breakdown(job.vae, frames, scored, columns, scores),
        "rate_distortion": figures.rate_distortion([own, *job.others], levels),
    }


def _breakdown(
    job: Job, frames: metrics.Frames, scored: breakdown.Scored, columns: breakdown.Columns
) -> dict[str, Any]:
    """Where the error lies, and how the latents do."""
    walked = [job.vae.encode(episode.frames).mu.cpu().numpy() for episode in _walked(job)]
    return {
        "sse_by_kind": breakdown.by_kind(scored.sse, columns),
        "sse_by_telemetry": breakdown.by_telemetry(scored.sse, columns),
        "aggregate_posterior": breakdown.aggregate_posterior(scored),
        "unsteadiness": breakdown.unsteadiness(walked),
        "plausible_share": _plausible_share(job, frames),
    }


def _provenance(job: Job, num_frames: int) -> dict[str, Any]:
    return {
        "pca_components": len(job.baselines.components),
        "frames": num_frames,
        "episodes": len(job.data),
        "trained_on_episodes": job.trained_on,
        "data": str(job.data.path),
        "data_digest": job.data.digest(),
        "weights": job.config.weights,
        "vae_sha256": files.file_sha256(checkpoints.weights_path(job.config.vae, job.config.weights)),
        "variance": job.vae.variance.item(),
        "versions": files.versions(),
    }


def _walked(job: Job) -> Iterator[Episode]:
    """Whole episodes, spread over the data."""
    for index in np.unique(np.linspace(0, len(job.data) - 1, EPISODES_WALKED).astype(int)).tolist():
        yield job.data[index]


def _plausible_share(job: Job, frames: metrics.Frames) -> float | None:
    """Of what the model dreams; None where its training frames are not there to compare with."""
    if job.probe_data is None:
        return None
    dreams = pictures.dreams(job.vae, breakdown.NUM_DREAMS)
    held_out = frames[np.linspace(0, len(frames) - 1, min(len(frames), HELD_OUT_FRAMES)).astype(int)]
    return breakdown.plausible_share(dreams, job.probe_data.read_spread(SEEN_FRAMES), held_out)


def _foresight(job: Job) -> dict[str, dict[str, float]] | None:
    """SSE of what a small memory model foresees on held-out episodes; None unless asked for."""
    if not job.config.foresight or job.probe_data is None:
        return None
    memory = foresight.fit([foresight.remember(job.vae, episode) for episode in job.probe_data.episodes()])
    return foresight.score(job.vae, memory, _walked(job))


def _probes(job: Job, held_out: FrameSet) -> dict[str, Any]:
    """R2 on held-out episodes of probes to each telemetry column, fitted on training episodes.

    `probe_r2` is the linear one from mu; `probes` has all, by what they read; `probes_on_road` those fitted and scored
    on frames that show the car driving along the road.
    """
    names = job.data.telemetry_names
    if job.probe_data is None or not names:
        return {"probe_r2": None, "probes": None, "probes_on_road": None}
    both = [_seen(job, frames) for frames in (job.probe_data, held_out)]
    found = probes.read(names, *both)
    on_road = [_along_the_road(names, seen) for seen in both]
    enough = all(seen is not None and len(seen) >= 2 for seen in on_road)
    return {
        "probe_r2": found["mu_linear"],
        "probes": found,
        "probes_on_road": probes.read(names, *filter(None, on_road)) if enough else None,
    }


def _along_the_road(names: Sequence[str], seen: probes.Seen) -> probes.Seen | None:
    chosen = breakdown.along_the_road(dict(zip(names, seen.telemetry.T, strict=True)))
    return None if chosen is None else seen.where(chosen)


def _seen(job: Job, frames: FrameSet) -> probes.Seen:
    chosen, telemetry = frames.read_spread(PROBE_FRAMES), frames.read_spread(PROBE_FRAMES, "telemetry")
    read = [(job.vae.encode(batch).mu.cpu(), job.baselines.coefficients(batch)) for batch in metrics.batches(chosen)]
    mu, pca = (torch.cat(features).numpy() for features in zip(*read, strict=True))
    return probes.Seen(mu, pca, chosen.reshape(len(chosen), -1), telemetry)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, EvaluateConfig, prepare, evaluate, argv)


if __name__ == "__main__":
    main()
