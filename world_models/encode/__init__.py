"""Encode rollouts with a trained V model: latents/<name>/shard-*.h5, the training data of a memory model.

command  the command: checks the input, and encodes shards
config   the settings of an encoding
remote   encodes shards on the nodes of a Ray cluster
ring     encodes batches on a GPU, and copies others to it in the meantime
summary  counts and moments of a data set of latents, and a check that its latents decode
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.encode`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import encode
        >>> encode.main(["--data", "rollouts/carracing", "--vae", "runs/vae", "--out", "latents/small"])
        /...latents/small: 6 episodes, 246 latents of 32 dimensions, 0 episodes terminated
    """
    from world_models.encode import command

    command.main(argv)
