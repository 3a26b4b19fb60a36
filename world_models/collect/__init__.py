"""Drive an environment and save what was seen, done and earned: rollouts/<name>/shard-*.h5.

command    the command: what it checks, and how shards are dealt out to workers
config     what a collection is asked for, and what of it makes the data set what it is
trial      the first steps of an episode, before anything is stored
recording  one shard: its episodes driven one after the other, into one file
overview   what a data set holds: in print, and as a contact sheet
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, as `python -m world_models.collect` does.

    Args:
        argv: the flags; those of the process when None.

    Raises:
        ValueError, OSError: the input is bad; nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import collect
        >>> collect.main(["--out", "rollouts/small", "--num_episodes", "2", "--max_steps", "20"])
        CarRacing is drawn by ...
        >>> len(world_models.Rollouts("rollouts/small"))
        2
    """
    from world_models.collect import command

    command.main(argv)
