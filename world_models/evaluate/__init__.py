"""Score a V model on data it has never seen: eval.json, figures, and report.html in the run's folder.

command     the command
config      its settings
evaluation  the way of every evaluation: measure, draw, write, tell
rollouts    the evaluation on rollouts: what is measured and drawn
job         what that needs, found and checked before its work begins
breakdown   where the error lies
probes      how much of the simulator's state can be read from mu
foresight/  what a memory model can make of z
driving/    what a controller can do with mu
page        report.html
digits/     the evaluation of a model of MNIST
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, as `python -m world_models.evaluate` does.

    Args:
        argv: the flags; those of the process when None.

    Raises:
        ValueError, OSError: the input is bad; nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import evaluate
        >>> evaluate.main(["--data", "rollouts/heldout", "--vae", "runs/vae"])
        SSE ... per frame (PCA-32 ..., mean frame ...), KL ... nats, ... active units of 32
        /...runs/vae/report.html shows it, /...runs/vae/eval.json has the numbers
    """
    from world_models.evaluate import command

    command.main(argv)
