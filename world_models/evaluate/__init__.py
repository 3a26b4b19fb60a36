"""Score a V model on data it has never seen: eval.json, figures, and report.html in the run's folder.

command      the command
config       its settings
evaluation   the steps of every evaluation: measure, draw, write, log
rollouts     the evaluation on rollouts: its measures and figures
rollout_job  the input of an evaluation on rollouts, opened and checked before the work begins
breakdown    the error by kind of frame, by state of the simulator and by part of the image
probes       how well the simulator's state can be predicted from mu
foresight/   how well a memory model predicts z
driving/     how well a controller drives with mu
page         report.html
digits/      the evaluation of a model of MNIST
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.evaluate`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import evaluate
        >>> evaluate.main(["--data", "rollouts/heldout", "--vae", "runs/vae"])
        SSE ... per frame (PCA-32 ..., mean frame ...), KL ... nats, ... active units of 32
        /...runs/vae/report.html shows it, /...runs/vae/eval.json has the numbers
    """
    from world_models.evaluate import command

    command.main(argv)
