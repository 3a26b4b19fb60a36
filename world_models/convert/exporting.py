"""Write our rollouts and latents in other people's formats. `formats.WRITTEN` names the module that writes each.

Such a module has a function `plan(data, out, config) -> Export`. It checks everything that can be wrong
without writing anything. The `Export` that it returns writes the files.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from world_models.convert import formats
from world_models.convert.config import ConvertConfig
from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts
from world_models.runtime import executors, files, locks, progress, terminal


@runtime_checkable  # so that tests can check annotations
class Export(Protocol):
    """A checked export of a data set into one format."""

    @property
    def folder(self) -> Path:
        """The folder that is written into. It need not exist."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether all files exist and were made from this data."""
        ...

    @property
    def num_rows(self) -> int:
        """Number of rows that are still to be written."""
        ...

    @property
    def need_bytes(self) -> int:
        """Estimated bytes of what is still to be written."""
        ...

    @property
    def summary(self) -> str:
        """A line that says what was written."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines about what the other program will not read."""
        ...

    def write(self, report: executors.Report) -> None:
        """Write what is missing, and report the number of rows so far."""
        ...


Plan = Callable[[Rollouts | Latents, Path, ConvertConfig], Export]
"""Checks the data, the output and the settings of a format."""


@dataclasses.dataclass(frozen=True)
class ExportJob:
    """The checked export of a data set.

    Attributes:
        config: the command's settings.
        export: what is written.
    """

    config: ConvertConfig
    export: Export

    @property
    def is_finished(self) -> bool:
        """Whether all files exist."""
        return self.export.is_finished

    @property
    def num_frames(self) -> int:
        """Number of rows that are still to be written."""
        return self.export.num_rows

    def run(self) -> None:
        """Write the files, with a progress bar, and say what was written."""
        export, finished = self.export, self.export.is_finished
        if not finished:
            files.make_folder(export.folder)
            with locks.only_writer(export.folder), progress.bar(export.num_rows, "rows", "convert") as bar:
                export.write(lambda rows: _advance(bar, rows))
                _advance(bar, export.num_rows)
        terminal.say(export.summary + (", finished before" if finished else ""))
        terminal.warn(*export.warnings)


def _advance(bar: progress.tqdm, rows: int) -> None:
    bar.update(rows - bar.n)


def prepare(config: ConvertConfig, has_latents: bool) -> ExportJob:
    """Check everything that can be wrong before the first byte is written.

    Args:
        config: the settings.
        has_latents: whether `config.data` holds latents; otherwise it holds rollouts.

    Raises:
        ValueError, OSError: the data, the format, `out` or another setting is bad. Nothing was written.
    """
    if len(config.sources) != 1:
        raise ValueError(
            f"data names {len(config.sources)} sources, and format {config.format} takes one data set of ours; merge "
            "rollouts first with --format rollouts"
        )
    (source,) = config.sources
    if config.format not in formats.WRITTEN:
        names = ", ".join(formats.WRITTEN)
        raise ValueError(f"format is {config.format}, and {source} holds our own data; give one of {names}")
    as_they_are = "the data are ours, and are written as they are"
    config.check_unused("env", "crop", "every", "keys", "camera", reason=as_they_are)
    config.check_unused("skip_broken", reason="a damaged shard is made again by the command that made it")
    config.check_unused("keep", "drop", reason="an export takes all episodes; choose them first with --format rollouts")
    config.check_unused("episodes_per_shard", reason="the files of an export have the episodes of the shards")
    data = Latents(source) if has_latents else Rollouts(source)
    plan: Plan = formats.module(formats.WRITTEN[config.format]).plan
    export = plan(data, Path(str(config.out)), config)
    if not export.is_finished:
        for shard in data.shards:
            shard.check_finite()
        files.check_room(export.folder, export.need_bytes)
    return ExportJob(config, export)
