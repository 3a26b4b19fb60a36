"""Score a V model on data it has never seen: eval.json, figures, and report.html in the run's folder.

Examples:
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae --weights last
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae --drive true   a controller learns and drives
  python -m world_models.evaluate --vae runs/mnist/vae --compare_with '[runs/mnist/ae]'  digits: MNIST's test images

Collect held-out tracks with another seed:
  python -m world_models.collect --out rollouts/heldout --seed 1000000 --num_episodes 8

SSE is summed over a frame's 12,288 values in [0, 1]; every figure of the report says what it shows.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from world_models.evaluate import evaluation as rollout_evaluation
from world_models.evaluate import job as rollout_job
from world_models.evaluate.digits import evaluation as digit_evaluation
from world_models.evaluate.digits.evaluation import DigitJob
from world_models.evaluate.job import RolloutJob
from world_models.runs import description, layout, records, tracking
from world_models.runs.artifacts import Product
from world_models.runs.layout import REPORT_FILE, SCORES_FILE
from world_models.runtime import files, terminal
from world_models.runtime.cli import run_command, to_yaml
from world_models.runtime.distributed import Device, torch_device
from world_models.runtime.errors import require_bounds
from world_models.runtime.paths import LINK, PATH, resolve_fields

HELD_OUT = "rollouts/heldout"


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to score, and on what.

    Attributes:
        data: folder of rollouts the model was not trained on, rollouts/heldout when null; of a model of digits the
            folder of MNIST, where it was in training when null.
        vae: folder of a train_vae run; the results go there.
        weights: best (lowest validation loss) or last.
        train_data: rollouts that probes and the memory model are fitted on and dreams judged by; those the run was
            trained on when null.
        compare_with: folders of other runs, drawn beside this one in the rate-distortion plane; of digits, by beta and
            with samples of the same z.
        foresight: train the paper's memory model on the latents too, in two forms, and score in frames what it
            foresees; takes about six minutes on two cores.
        drive: have a linear controller learn on mu too, and drive 100 tracks of CarRacing; takes about
            three minutes on two cores.
        drive_seed: of the tracks that it practises on.
        max_frames: frames scored at most, spread evenly; of digits all.
        num_iwae_frames: frames of which the importance-weighted bounds are taken.
        device: auto takes a GPU if there is one.
        wandb: Weights & Biases, off unless asked for: the scores and figures, as a run of their own.
    """

    data: str | None = dataclasses.field(default=None, metadata=PATH)
    vae: str = dataclasses.field(default="runs/vae", metadata=PATH)
    weights: layout.Weights = "best"
    train_data: str | None = dataclasses.field(default=None, metadata=PATH)
    compare_with: tuple[str, ...] = dataclasses.field(default=(), metadata=LINK)
    foresight: bool = False
    drive: bool = False
    drive_seed: int = 0
    max_frames: int = 20_000
    num_iwae_frames: int = 1000
    device: Device = "auto"
    wandb: tracking.WandbConfig = dataclasses.field(default_factory=lambda: tracking.WandbConfig("disabled"))

    def __post_init__(self):
        resolve_fields(self)
        require_bounds(
            self, drive_seed=(0, 1_000_000), max_frames=(2, 1_000_000_000), num_iwae_frames=(1, 1_000_000_000)
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked evaluation, of a model of CarRacing or of digits."""

    config: EvaluateConfig
    of: RolloutJob | DigitJob

    @property
    def is_finished(self) -> bool:
        """Whether eval.json is of these weights and this data, and has the numbers that are shown."""
        scores, _ = records.read_scores(self.of.run)
        if scores is None:
            return False
        asked = (files.file_sha256(layout.weights_path(self.of.run, self.of.weights)), self.of.digest)
        if (scores.get("vae_sha256"), scores.get("data_digest")) != asked:
            return False
        try:
            self.of.summary(scores)
        except (KeyError, TypeError, ValueError):  # it was cut or edited, and is made again
            return False
        return True

    @property
    def num_frames(self) -> int:
        """Frames, or images of digits, that are scored."""
        return min(self.config.max_frames, self.of.num_frames)


def prepare(config: EvaluateConfig) -> Job:
    """Check everything that can be wrong before the first frame."""
    run, device = Path(config.vae), torch_device(config.device)
    compare_with = [Path(folder) for folder in config.compare_with]
    records.check_files(run)
    of: RolloutJob | DigitJob
    if description.load(run).trained_on.dataset == "mnist":
        if config.foresight or config.drive or config.train_data:
            raise ValueError(
                f"{run}: a model of MNIST's digits, which have no episodes; leave out foresight, drive and train_data"
            )
        of = digit_evaluation.prepare(run, config.weights, config.data, compare_with, device)
    else:
        data = config.data or HELD_OUT
        of = rollout_job.prepare(run, config.weights, data, config.train_data, compare_with, device)
        if config.foresight:
            rollout_job.check_foresight(of)
        if config.drive:
            rollout_job.check_drive(of)
    files.check_room(run, 50_000_000, "copy the run to where there is room and name that --vae")
    return Job(config, of)


def evaluate(job: Job) -> None:
    """Score the model, write eval.json, the figures and the report, and tell W&B if that is asked for."""
    config, run = job.config, job.of.run
    terminal.warn(*job.of.notes)
    if isinstance(job.of, DigitJob):
        scores, shown = digit_evaluation.evaluate(job.of, config.num_iwae_frames)
    else:
        drive_seed = config.drive_seed if config.drive else None
        scores, shown = rollout_evaluation.evaluate(
            job.of, config.max_frames, config.num_iwae_frames, config.foresight, drive_seed
        )
    terminal.say(f"{run / REPORT_FILE} shows it, {run / SCORES_FILE} has the numbers")
    settings = yaml.safe_load(to_yaml(config)) | {"data": scores["data"]}
    sources = (
        Product("dataset", scores["data"], scores["data_digest"]),
        Product("model", config.vae, scores["vae_sha256"]),
    )
    drawn = {name: picture for name, picture in shown.items() if isinstance(picture, np.ndarray)}
    tracking.record(run, settings, config.wandb, "evaluate", sources, scores=scores, pictures=drawn)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, EvaluateConfig, prepare, evaluate, argv)
