"""Measure frames/s of every stage against a named baseline, interleaved in one run.

command    the command: checks the input, and measures the stages
result     one result, as text and as JSON
limits     what limits the speed of a stage, measured in the same run
measuring  times pieces of work in interleaved rounds
stages     the work of reading, loading, training and encoding, and their baselines
sequences  the work of reading sequences of latents
driving    the work of collecting
acting     the work of a controller that reads z of a V model
converting the work of importing pictures and videos, and of exporting
digits     the work of training on MNIST
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.bench`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.

    Example:
        >>> from world_models import bench
        >>> bench.main(["--stages", "read", "--data", "rollouts/carracing", "--repeats", "1"])
        read ...
    """
    from world_models.bench import command

    command.main(argv)
