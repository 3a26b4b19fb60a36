"""Measure frames/s of every stage against a named baseline, interleaved in one run.

command    the command: what it checks and measures
result     one result, as it is printed and written
measuring  how two pieces of work are timed side by side
stages     the work of reading, loading, training and encoding, and their baselines
sequences  the work of reading sequences of latents
driving    the work of collecting
acting     the work of a controller that sees through a V model
digits     the work of training on MNIST
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, as `python -m world_models.bench` does.

    Args:
        argv: the flags; those of the process when None.

    Raises:
        ValueError, OSError: the input is bad; nothing was written.

    Example:
        >>> from world_models import bench
        >>> bench.main(["--stages", "read", "--data", "rollouts/carracing", "--repeats", "1"])
        read ...
    """
    from world_models.bench import command

    command.main(argv)
