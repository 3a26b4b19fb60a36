"""Convert data: other people's frames into rollouts, and our rollouts and latents into other people's formats.

command    the command: checks the input, and runs the conversion
config     its settings
foreign    an episode of other people's data, and what a module of `formats/` has to give
importing  writes foreign episodes as shards of rollouts
formats/   one module for each format that is read or written
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.convert`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).
    """
    from world_models.convert import command

    command.main(argv)
