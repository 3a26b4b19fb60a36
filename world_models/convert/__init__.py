"""Convert data: other people's frames into rollouts, and our rollouts and latents into other people's formats.

command          the command: looks at the data, and chooses one of the three jobs below
config           its settings
importing        other people's data into rollouts
shard_import     writes one shard of them
merging          several data sets of rollouts into one, or only some of their episodes
conditions       conditions on episodes, such as return<0
foreign          an episode of other people's data, and what a module that reads them has to give
found_files      the files of a folder in natural order
hdf5_arrays      arrays of HDF5 files that other people have written
npz_arrays       arrays of npz files that other people have written
parquet_arrays   columns of Parquet files that other people have written
timed_video      pictures of mp4 files by their times
shard_jobs       writes shards by many workers
exporting        rollouts or latents into other people's formats
folders          exports that are a folder of files, one task a shard
npz_writer       writes npz files block by block
dataset_card     the README.md of a Parquet export
minari_arrays    writes the arrays of a Minari data set
minari_metadata  its spaces and metadata
minari_description reads what a Minari data set says about itself
lerobot_metadata reads what a LeRobot data set says about itself
lerobot_places   finds its episodes
lerobot_summary  writes them
lerobot_stats    statistics of its episodes
formats/         one module for each format
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command, like `python -m world_models.convert`.

    Args:
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
        Stopped: the work ended early (`world_models.runtime.errors.Stopped`).

    Example:
        >>> from world_models import convert
        >>> convert.main(["--data", "rollouts/carracing", "--out", "rollouts/driven", "--drop", "policy=brownian"])
        /...rollouts/driven: kept 3 of 6 episodes, 123 frames in 3 shards
    """
    from world_models.convert import command

    command.main(argv)
