"""Compare runs: one table here, and one page of their curves, their settings and the same frames side by side.

command  the command
table    the runs' numbers, where their settings differ, and whether they compare
chart    their curves, and KL against squared error
frames   the same held-out frames as each run gives them back
page     the page that holds all of it
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, as `python -m world_models.compare` does.

    Args:
        argv: the flags; those of the process when None.

    Raises:
        ValueError, OSError: the input is bad; nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import compare
        >>> compare.main(["runs", "--out", "comparison"])
        run ...
    """
    from world_models.compare import command

    command.main(argv)
