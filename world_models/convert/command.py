"""Convert data: other people's frames into rollouts, our rollouts and latents into other people's formats.

Examples:
  python -m world_models.convert --data their/npz --out rollouts/theirs       npz of ctallec's or hardmaru's code
  python -m world_models.convert --data clips --out rollouts/clips --every 2  a video per episode, every second frame
  python -m world_models.convert --data pictures --out rollouts/pictures      a folder of pictures per episode
  python -m world_models.convert --data '[rollouts/a,rollouts/b]' --out rollouts/both
  python -m world_models.convert --data rollouts/a --out rollouts/good --drop 'return<0'
  python -m world_models.convert --data latents/a --out series/series.npz --format series    for hardmaru's code
  python -m world_models.convert --data rollouts/a --out theirs/a --format npz               for ctallec's code
  python -m world_models.convert --data latents/a --out hub/a --format parquet               for datasets, pandas, ...
  python -m world_models.convert --data rollouts/a --out datasets/a-v0 --format minari        for Minari
  python -m world_models.convert --data datasets/b-v0 --out rollouts/b                        from Minari
  python -m world_models.convert --data rollouts/a --out datasets/a --format lerobot          for LeRobot
  python -m world_models.convert --data datasets/b --out rollouts/b --camera top              from LeRobot

--data may be a folder or a file. The command says what it takes it for; --format says it yourself. Pictures of any size
are resized to 64x64 by area; --crop TOP:BOTTOM keeps only some rows of them. After a crash, run the same command again:
it continues.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from world_models.convert.config import ConvertConfig
from world_models.data.latents import FORMAT as LATENTS
from world_models.data.rollouts import FORMAT as ROLLOUTS
from world_models.data.shards import opening, shard_paths, strings
from world_models.runtime import untrusted
from world_models.runtime.cli import run_command


@runtime_checkable  # so that tests can check annotations
class Job(Protocol):
    """A checked conversion."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        ...

    @property
    def num_frames(self) -> int:
        """Number of frames to convert."""
        ...

    def run(self) -> None:
        """Do the work, with a progress bar."""
        ...


def prepare(config: ConvertConfig) -> Job:
    """Check everything that can be wrong before anything is written.

    Raises:
        ValueError, OSError: the input is bad, or `out` holds something else. Nothing was written.
    """
    kinds = {_format_of_shards(Path(source)) for source in config.sources}
    if None in kinds:
        from world_models.convert import importing

        return importing.prepare(config)
    if kinds == {ROLLOUTS.name} and config.format in ("auto", "rollouts"):
        from world_models.convert import merging

        return merging.prepare(config)
    from world_models.convert import exporting

    return exporting.prepare(config, has_latents=LATENTS.name in kinds)


def _format_of_shards(path: Path) -> str | None:
    """The format of a folder of shards, or of one shard: that of rollouts or of latents. None if there is no shard.

    A damaged shard counts as rollouts, whose reader then says what is wrong with it.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; name the data to convert")
    shards = shard_paths(path) if path.is_dir() else [path] if path.suffix == ".h5" else []
    if not shards or not untrusted.is_file(shards[0]):
        return None
    try:
        with opening.open_for_reading(shards[0]) as file:
            found = strings.read_attribute(file, "format")
    except Exception:  # h5py raises whatever a damaged file makes it trip over
        found = None
    return LATENTS.name if found == LATENTS.name else ROLLOUTS.name


def convert(job: Job) -> None:
    """Do the work."""
    job.run()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, ConvertConfig, prepare, convert, argv)
