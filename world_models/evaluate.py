"""Score a V model on rollouts it has never seen: eval.json, figures, and report.html in the run's folder.

Examples:
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae --weights last

Collect held-out tracks with another seed:
  python -m world_models.collect --out rollouts/heldout --seed 1000000 --num_episodes 8

SSE is summed over a frame's 12,288 values in [0, 1]; every figure of the report says what it shows.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from world_models import checkpoints, files, metrics, report
from world_models.config import require, run_command
from world_models.frames import Device, FrameSet, split_episodes, torch_device
from world_models.rollouts import Rollouts
from world_models.tracking import progress
from world_models.vae import VAE

MAX_FRAMES = 20_000
IWAE_FRAMES = 1000
PROBE_FRAMES = 10_000


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to score, and on what.

    Attributes:
        data: folder of rollouts the model was not trained on.
        vae: folder of a train_vae run; the results go there.
        weights: best (lowest validation loss) or last.
        train_data: rollouts that linear probes are fitted on; those the run was trained on when null.
        max_frames: frames scored at most, spread evenly.
        device: auto takes a GPU if there is one.
    """

    data: str = "rollouts/heldout"
    vae: str = "runs/vae"
    weights: checkpoints.Weights = "best"
    train_data: str | None = None
    max_frames: int = MAX_FRAMES
    device: Device = "auto"

    def __post_init__(self):
        require(self.max_frames >= 2, f"max_frames is {self.max_frames}; give 2 or more")


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked evaluation."""

    config: EvaluateConfig
    data: Rollouts
    vae: VAE
    baselines: metrics.Baselines
    probe_data: FrameSet | None
    trained_on: int


def prepare(config: EvaluateConfig) -> Job:
    """Check everything that can be wrong before the first frame."""
    data = Rollouts(config.data)
    vae = checkpoints.load_vae(config.vae, config.weights, torch_device(config.device))
    checkpoints.check_preprocess(data.preprocess, data.path, vae, config.vae)
    description = checkpoints.load_description(config.vae, "data", "data_digest", "split_seed", "env", "train_seeds")
    baselines = metrics.Baselines(**checkpoints.load_baselines(config.vae))
    files.check_room(Path(config.vae), 50_000_000)
    return Job(
        config, data, vae, baselines, _probe_data(config, description, data, vae), _trained_on(description, data)
    )


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


def evaluate(job: Job) -> dict[str, Any]:
    """Score the model, write eval.json, the figures and the report; returns what eval.json holds."""
    run, held_out = Path(job.config.vae), FrameSet(job.data, range(len(job.data)))
    with progress(6, "parts", "evaluate") as bar, files.only_writer(run):
        frames = held_out.read_spread(job.config.max_frames)
        scores: dict[str, Any] = metrics.measure(job.vae, frames)
        bar.update()
        scores["iwae_nats"] = metrics.iwae_nats(job.vae, held_out.read_spread(IWAE_FRAMES))
        bar.update()
        scores |= job.baselines.measure(frames) | {"previous_sse": _previous_sse(job.data)}
        bar.update()
        scores["probe_r2"] = _probes(job, held_out)
        bar.update()
        scores |= {
            "pca_components": len(job.baselines.components),
            "frames": len(frames),
            "episodes": len(job.data),
            "trained_on_episodes": job.trained_on,
            "data": str(job.config.data),
            "data_digest": job.data.digest(),
            "weights": job.config.weights,
            "vae_sha256": files.file_sha256(checkpoints.weights_path(run, job.config.weights)),
            "versions": files.versions(),
        }
        pictures = report.draw(job.vae, job.data, frames, job.baselines, scores)
        bar.update()
        report.write(run, scores, pictures)
        files.write_json(run / "eval.json", scores)  # last: it says that the evaluation is whole
        bar.update()
    print(report.summary(scores))
    print(f"{run / 'report.html'} shows it, {run / 'eval.json'} has the numbers")
    return scores


def _previous_sse(data: Rollouts, num_episodes: int = 20) -> float:
    """SSE of predicting each frame by the one before it, over whole episodes spread over the data."""
    chosen = np.unique(np.linspace(0, len(data) - 1, num_episodes).astype(int)).tolist()
    errors = [metrics.previous_frame_sse(data[episode].frames) for episode in chosen]
    return float(np.average(errors, weights=data.lengths[chosen] - 1))


def _probes(job: Job, held_out: FrameSet) -> dict[str, float | None] | None:
    """R2 on held-out episodes of linear probes from mu to each telemetry column, fitted on training episodes."""
    if job.probe_data is None or not job.data.telemetry_names:
        return None
    fitted, scored = (_mu_and_telemetry(job.vae, frames) for frames in (job.probe_data, held_out))
    return dict(zip(job.data.telemetry_names, metrics.probe_r2(*fitted, *scored), strict=True))


def _mu_and_telemetry(
    vae: VAE, frames: FrameSet
) -> tuple[Float[np.ndarray, "frames z"], Float[np.ndarray, "frames S"]]:
    chosen, telemetry = frames.read_spread(PROBE_FRAMES), frames.read_spread(PROBE_FRAMES, "telemetry")
    mu = torch.cat([vae.encode(batch).mu.cpu() for batch in metrics.batches(chosen)])
    return mu.numpy(), telemetry


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, EvaluateConfig, prepare, evaluate, argv)


if __name__ == "__main__":
    main()
