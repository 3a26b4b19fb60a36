"""Exports that are a folder: each shard is written by a task of its own, so any number of workers may help.

`export.json` in the folder says which data it was made from. With it, an interrupted export continues, the shards that
a data set has got since are added, and a folder that holds something else is refused.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts
from world_models.data.shards.reader import Shard
from world_models.runtime import executors, files, locks, terminal, untrusted
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json

RECORD_FILE = "export.json"
MAX_RECORD_BYTES = 100_000_000
ABOUT_DATA = ("data", "digest", "episodes", "shards", "last_episodes", "last_digest", "pages", "versions")
"""What `export.json` says of the data and of its writer. All else are settings, which have to stay."""


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Everything that a worker needs to export one shard.

    Attributes:
        source: the shard.
        target: the file or the folder to write.
        first_episode: number of its first episode in the data set.
        first_row: number of its first row in the data set.
    """

    source: Shard
    target: Path
    first_episode: int
    first_row: int


WriteShard = Callable[[ShardTask, executors.Report], None]
"""Writes one shard, and reports its number of rows so far."""


def shard_tasks(data: Rollouts | Latents, target: Callable[[Shard], Path]) -> tuple[ShardTask, ...]:
    """A task for each shard of a data set.

    Args:
        data: the data set.
        target: gives the file or the folder that a shard becomes.
    """
    episodes = np.cumsum([0, *(len(shard.starts) for shard in data.shards)]).tolist()
    rows = np.cumsum([0, *(shard.num_rows for shard in data.shards)]).tolist()
    return tuple(
        ShardTask(shard, target(shard), first_episode, first_row)
        for shard, first_episode, first_row in zip(data.shards, episodes, rows, strict=False)
    )


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What an earlier export has left in a folder.

    Attributes:
        state: none; that of the same data; or smaller, that of the data's first episodes.
        episodes: number of its episodes, as `export.json` says.
        grown: names of the shards that it holds, and that have got more episodes since.
        pages: names of its texts that nobody has edited, if the data set has grown.
    """

    state: Literal["none", "same", "smaller"] = "none"
    episodes: Json = None
    grown: frozenset[str] = frozenset()
    pages: tuple[str, ...] = ()


def missing(
    tasks: Sequence[ShardTask], earlier: Earlier, is_written: Callable[[ShardTask], bool]
) -> tuple[ShardTask, ...]:
    """The tasks whose shard has grown since an earlier export, or whose files are not all there.

    Args:
        tasks: those of all shards.
        earlier: what an earlier export has left.
        is_written: whether all files of a task are there.
    """
    return tuple(task for task in tasks if task.source.path.name in earlier.grown or not is_written(task))


@dataclasses.dataclass(frozen=True)
class FolderExport:
    """A checked export into a folder.

    Attributes:
        folder: the folder.
        record: what `export.json` will hold.
        earlier: what an earlier export has left in the folder.
        tasks: the shards that are still missing, or have grown.
        write_shard: writes one of them; a function at the top level of its module.
        pages: texts that are written at the end, by their file's name.
        row_bytes: estimated bytes of a row on disk.
        summary: a line that says what was written.
        warnings: lines about what the other program will not read.
        executor, num_workers: where the work runs, as in the config.
    """

    folder: Path
    record: Mapping[str, Json]
    earlier: Earlier
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
        has_pages = all((self.folder / name).exists() for name in self.pages)
        return not self.tasks and self.earlier.state == "same" and has_pages

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
        self._begin()
        files.remove_partials(self.folder, *filter(Path.is_dir, self.folder.rglob("*")))
        lock = locks.lock_of(self.folder)
        try:
            with contextlib.closing(
                executors.run(self.write_shard, self.tasks, self.executor, self.num_workers, report)
            ) as run:
                for _ in run:
                    lock.check()
        finally:
            files.remove_partials(self.folder, *filter(Path.is_dir, self.folder.rglob("*")))
        for name, text in self.pages.items():
            if not (self.folder / name).exists():
                files.write_text(self.folder / name, text)
            elif self.earlier.state == "smaller":
                terminal.warn(f"{self.folder / name}: was edited, so it stays, and describes the smaller data set")

    def _begin(self) -> None:
        """Write `export.json`. What is out of date is deleted before, so that a crash cannot let it pass as current."""
        if self.earlier.state == "same":
            return
        grown = [task.target for task in self.tasks if task.source.path.name in self.earlier.grown]
        outdated = [path for target in grown for path in (target.iterdir() if target.is_dir() else [target])]
        for path in (*outdated, *(self.folder / name for name in self.earlier.pages)):
            path.unlink(missing_ok=True)
        files.write_json(self.folder / RECORD_FILE, self.record)


def record(
    format: str, data: Rollouts | Latents, pages: Mapping[str, str] | None = None, **settings: Json
) -> dict[str, Json]:
    """What `export.json` holds.

    Args:
        format: the format.
        data: the data set.
        pages: the texts of the export, by their file's name.
        settings: settings that change what is written.

    Returns:
        The format and its settings, name and digest of the data, digests of its shards, and the versions that wrote it.
        The last shard may get more episodes, so the seeds and lengths of those that it has now have a digest, too.
    """
    last = data.shards[-1]
    return {
        "format": format,
        **settings,
        "data": data.path.name,
        "digest": data.digest(),
        "episodes": len(data),
        "shards": {shard.path.name: shard.digest() for shard in data.shards},
        "last_episodes": len(last.starts),
        "last_digest": _digest_of_episodes(last, len(last.starts)),
        "pages": {name: files.sha256(text.encode()) for name, text in (pages or {}).items()},
        "versions": files.versions(),
    }


def _digest_of_episodes(shard: Shard, count: int) -> str:
    """Sha256 of the seeds and the lengths of a shard's first episodes."""
    return files.sha256(json.dumps([shard.seeds[:count].tolist(), shard.lengths[:count].tolist()]).encode())


def check_folder(folder: Path, wanted: Mapping[str, Json], data: Rollouts | Latents) -> Earlier:
    """Check that a folder is new, is empty, or holds an export of the same data, or of its first episodes.

    Args:
        folder: the folder.
        wanted: what `export.json` will hold.
        data: the data set.

    Returns:
        What an earlier export has left in it.

    Raises:
        ValueError: it holds something else. The message says what.
    """
    if not folder.is_dir():
        return Earlier()
    text = untrusted.read_text(folder / RECORD_FILE, MAX_RECORD_BYTES)
    if text is None:
        others = sorted(path.name for path in folder.iterdir() if not _is_temporary(path))
        if others:
            raise ValueError(f"{folder}: holds {others[0]}, which no export has written; choose another --out")
        return Earlier()
    try:
        found = untrusted.from_json(text)
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    for name in (name for name in wanted if name not in ABOUT_DATA):
        if found.get(name) != wanted[name]:
            _refuse(folder, name, found, wanted)
    if found.get("digest") == wanted["digest"]:
        return Earlier("same", found.get("episodes"))
    if not _begins_with(data, found):
        _refuse(folder, "digest", found, wanted)
    digests = {shard.path.name: shard.digest() for shard in data.shards}
    grown = frozenset(name for name, digest in _digests(found).items() if digests[name] != digest)
    return Earlier("smaller", found.get("episodes"), grown, tuple(_unedited_pages(folder, found)))


def _refuse(folder: Path, name: str, found: Mapping[str, Json], wanted: Mapping[str, Json]) -> NoReturn:
    raise ValueError(
        f"{folder}: holds an export whose {name} is {printable(str(found.get(name)))}, wanted {wanted[name]}; delete "
        "the folder or choose another --out"
    )


def _digests(found: Mapping[str, Json]) -> Mapping[str, Json]:
    """The digests of the shards that an export holds, by the names of the shards."""
    shards = found.get("shards")
    return shards if isinstance(shards, dict) else {}


def _begins_with(data: Rollouts | Latents, found: Mapping[str, Json]) -> bool:
    """Whether a data set begins with the shards of an earlier export, of which the last one may have grown."""
    digests, count = _digests(found), found.get("last_episodes")
    shards = data.shards[: len(digests)]
    if not digests or [shard.path.name for shard in shards] != list(digests) or type(count) is not int:
        return False
    *whole, last = shards
    are_equal = all(shard.digest() == digests[shard.path.name] for shard in whole)
    return are_equal and 0 <= count <= len(last.starts) and _digest_of_episodes(last, count) == found.get("last_digest")


def _unedited_pages(folder: Path, found: Mapping[str, Json]) -> Iterator[str]:
    """Names of the texts that are as the export has written them."""
    pages = found.get("pages")
    for name, digest in pages.items() if isinstance(pages, dict) else ():
        is_name = Path(name).name == name  # no path elsewhere
        if is_name and untrusted.is_file(folder / name) and files.file_sha256(folder / name) == digest:
            yield name


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(locks.LOCK) or path.name.endswith(files.PARTIAL)
