"""Compare runs: a table in the terminal, and a page with their curves, their settings and their reconstructions.

command  the command
table    the runs' numbers, the settings that differ, and reasons why numbers cannot be compared
chart    their curves, and KL against squared error
frames   the same held-out frames, reconstructed by each run
page     the page that shows all of this
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.compare`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import compare
        >>> compare.main(["runs", "--out", "comparison"])
        run ...
    """
    from world_models.compare import command

    command.main(argv)
