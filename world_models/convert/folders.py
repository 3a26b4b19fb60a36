"""Exports that are a folder: each shard is written by a task of its own, so any number of workers may help.

`export.json` in the folder says which data it was made from. With it, an interrupted export continues, and a folder
that holds something else is refused.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from world_models.data.shards.reader import Shard
from world_models.runtime import executors, files, locks, untrusted
from world_models.runtime.typed_json import Json

RECORD_FILE = "export.json"
MAX_RECORD_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Everything that a worker needs to export one shard.

    Attributes:
        source: the shard.
        target: the file or the folder to write.
        first_episode: number of its first episode in the data set.
    """

    source: Shard
    target: Path
    first_episode: int


WriteShard = Callable[[ShardTask, executors.Report], None]
"""Writes one shard, and reports its number of rows so far."""


@dataclasses.dataclass(frozen=True)
class FolderExport:
    """A checked export into a folder.

    Attributes:
        folder: the folder.
        record: what `export.json` will hold.
        tasks: the shards that are still missing.
        write_shard: writes one of them; a function at the top level of its module.
        pages: texts that are written at the end, by their file's name.
        row_bytes: estimated bytes of a row on disk.
        summary: a line that says what was written.
        warnings: lines about what the other program will not read.
        executor, num_workers: where the work runs, as in the config.
    """

    folder: Path
    record: Mapping[str, Json]
    tasks: tuple[ShardTask, ...]
    write_shard: WriteShard
    pages: Mapping[str, str]
    row_bytes: int
    summary: str
    warnings: tuple[str, ...]
    executor: executors.Executor
    num_workers: int

    @property
    def is_finished(self) -> bool:
        """Whether all files exist."""
        return not self.tasks and all((self.folder / name).exists() for name in (*self.pages, RECORD_FILE))

    @property
    def num_rows(self) -> int:
        """Number of rows of the missing shards."""
        return sum(task.source.num_rows for task in self.tasks)

    @property
    def need_bytes(self) -> int:
        """Estimated bytes of the missing shards."""
        return self.num_rows * self.row_bytes

    def write(self, report: executors.Report) -> None:
        """Write what is missing.

        Args:
            report: called with the number of rows so far.

        Raises:
            Stopped: the disk took no more, or a shard cannot be read. Finished files stay.
        """
        if not (self.folder / RECORD_FILE).exists():
            files.write_json(self.folder / RECORD_FILE, self.record)
        parents = sorted({task.target.parent for task in self.tasks} | {task.target for task in self.tasks})
        files.remove_partials(self.folder, *filter(Path.is_dir, parents))
        lock = locks.over(self.folder)
        try:
            with contextlib.closing(
                executors.run(self.write_shard, self.tasks, self.executor, self.num_workers, report)
            ) as run:
                for _ in run:
                    lock.check()
        finally:
            files.remove_partials(self.folder, *filter(Path.is_dir, parents))
        for name, text in self.pages.items():
            if not (self.folder / name).exists():  # somebody may have edited it
                files.write_text(self.folder / name, text)


def record(format: str, path: Path, digest: str) -> dict[str, Json]:
    """What `export.json` holds: the format, the name and digest of the data, and the versions that wrote it."""
    return {"format": format, "data": path.name, "digest": digest, "versions": files.versions()}


def check_folder(folder: Path, wanted: Mapping[str, Json]) -> None:
    """Check that a folder is new, is empty, or holds an export of the same data in the same format.

    Raises:
        ValueError: it is not. The message says what it holds.
    """
    if not folder.is_dir():
        return
    text = untrusted.read_text(folder / RECORD_FILE, MAX_RECORD_BYTES)
    if text is None:
        others = sorted(path.name for path in folder.iterdir() if not _is_temporary(path))
        if others:
            raise ValueError(f"{folder}: holds {others[0]}, which no export has written; choose another --out")
        return
    try:
        found = untrusted.from_json(text)
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    for name in ("format", "digest"):
        if found.get(name) != wanted[name]:
            raise ValueError(
                f"{folder}: holds an export whose {name} is {found.get(name)}, wanted {wanted[name]}; delete the "
                "folder or choose another --out"
            )


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(locks.LOCK) or path.name.endswith(files.PARTIAL)
