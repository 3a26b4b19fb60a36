"""Drive an environment and save frames, actions and rewards: rollouts/<name>/shard-*.h5.

command    the command: checks the input, and gives the shards to workers
config     the settings of a collection, and which of them define the data set
trial      some first steps with every policy, before anything is stored
recording  records one shard: drives its episodes one after the other
remote     records shards on the nodes of a Ray cluster
overview   describes a data set: as text, and as a contact sheet
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.collect`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
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
