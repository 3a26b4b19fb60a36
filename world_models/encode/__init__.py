"""Encode rollouts with a trained V model: latents/<name>/shard-*.h5, what a memory model trains on.

command  the command: what it checks, and how shards are encoded
summary  counts and moments of a data set of latents, and whether it decodes
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, as `python -m world_models.encode` does.

    Args:
        argv: the flags; those of the process when None.

    Raises:
        ValueError, OSError: the input is bad; nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import encode
        >>> encode.main(["--data", "rollouts/carracing", "--vae", "runs/vae", "--out", "latents/small"])
        /...latents/small: 6 episodes, 246 latents of 32 dimensions, 0 episodes terminated
    """
    from world_models.encode import command

    command.main(argv)
