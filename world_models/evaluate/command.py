"""Score a V model on data it has never seen: eval.json, figures, and report.html in the run's folder.

Examples:
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae --weights last
  python -m world_models.evaluate --data '[rollouts/a,rollouts/b]' --vae runs/vae        all together, and each set
  python -m world_models.evaluate --data rollouts/heldout --vae runs/vae --drive true   trains a controller that drives
  python -m world_models.evaluate --vae runs/mnist/vae --compare_with '[runs/mnist/ae]'  digits: MNIST's test images

Collect held-out tracks with another seed:
  python -m world_models.collect --out rollouts/heldout --seed 1000000 --num_episodes 8

SSE is summed over a frame's 12,288 values in [0, 1]. Each figure of the report has a caption that explains it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from world_models.evaluate import evaluation, rollouts
from world_models.evaluate.config import EvaluateConfig
from world_models.evaluate.digits import evaluation as digits
from world_models.evaluate.evaluation import Evaluation
from world_models.runs import description, records
from world_models.runtime import files
from world_models.runtime.cli import run_command


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked evaluation, of a model of rollouts or of digits."""

    config: EvaluateConfig
    checked: Evaluation

    @property
    def is_finished(self) -> bool:
        """Whether eval.json has the scores of these weights on this data."""
        return evaluation.is_finished(self.checked)

    @property
    def num_frames(self) -> int:
        """Number of frames, or images of digits, that are scored."""
        return self.checked.num_frames


def prepare(config: EvaluateConfig) -> Job:
    """Check everything that can be wrong before the first frame.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
    """
    run = Path(config.vae)
    records.check_files(run)
    is_of_digits = description.load(run).trained_on.dataset == "mnist"
    checked = digits.prepare(config) if is_of_digits else rollouts.prepare(config)
    files.check_room(run, 50_000_000, "copy the run to a disk with room and give that as --vae")
    return Job(config, checked)


def evaluate(job: Job) -> None:
    """Score the model, write eval.json, the figures and the report, and log to W&B if `config.wandb` says so."""
    evaluation.evaluate(job.checked, job.config)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, EvaluateConfig, prepare, evaluate, argv)
