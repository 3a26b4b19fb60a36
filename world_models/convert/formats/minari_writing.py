"""Writes rollouts or latents as a Minari data set, which `minari.load_dataset(ID)` reads.

`--out ROOT/ID`: the folder of all data sets, which Minari finds by `MINARI_DATASETS_PATH`, and the id of this one, such
as `carracing-v0`. An episode of T steps becomes:

| Minari | dtype and shape | meaning |
|---|---|---|
| `observations` | uint8 (T + 1, 64, 64, 3) | rollouts: the frames, bit for bit, since they are no JPEG here |
| `observations` | (T + 1, z) | latents: mu; with `observations=mu_logvar` a dict of mu and logvar |
| `actions` | float32 (T, ...), or int64 (T,) of Discrete | `actions[t]` was chosen after seeing observation t |
| `rewards` | float32 (T,) | what action t earned |
| `terminations`, `truncations` | bool (T,) | how it ended the episode |
| `infos["telemetry"][NAME]` | float32 (T + 1,) | rollouts: simulator state at observation t |
| `infos["logvar"]` | (T + 1, z) | latents, unless logvar is an observation |

This is the alignment of our rows, so nothing is lost and nothing is made up. The metadata of an episode holds its seed
and its policy. The metadata of the data set hold, as `world_models`, which data it was made from.
"""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path

import gymnasium
import numpy as np

from world_models.convert import minari_arrays, minari_metadata
from world_models.convert.config import ConvertConfig, MinariSettings
from world_models.convert.formats.minari import DATA_FOLDER, MAIN_FILE
from world_models.convert.minari_description import MAX_METADATA_BYTES, METADATA_FILE
from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts
from world_models.runtime import disks, executors, files, locks, untrusted
from world_models.runtime.terminal import printable

OLDEST = (0, 5, 4)
"""Earlier versions of Minari store every image as JPEG."""
NAMESPACE_FILE = "namespace_metadata.json"
FRAME_BYTES = 2000
"""Bytes of a packed frame of CarRacing, rounded upwards."""
BLOCK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class MinariExport:
    """A checked export of a data set.

    Attributes:
        path: the folder of the data set, `ROOT/ID`.
        dataset_id: the id.
        data: what is written.
        settings: the settings of this format.
        is_finished: whether the data set exists and was made from this data with these settings.
    """

    path: Path
    dataset_id: str
    data: Rollouts | Latents
    settings: MinariSettings
    is_finished: bool

    @property
    def folder(self) -> Path:
        """The folder that the data set's folder is in."""
        return self.path.parent

    @property
    def root(self) -> Path:
        """The folder of all data sets."""
        return self.path.parents[self.dataset_id.count("/")]

    @property
    def num_rows(self) -> int:
        """Number of rows; 0 if the data set exists."""
        return 0 if self.is_finished else self.data.num_rows

    @property
    def need_bytes(self) -> int:
        """Estimated bytes of the data set."""
        shapes = self.data.shards[0].row_shapes
        numbers = sum(int(np.prod(shape)) for name, shape in shapes.items() if name != "frames")
        return self.num_rows * (4 * numbers + (FRAME_BYTES if isinstance(self.data, Rollouts) else 0))

    @property
    def summary(self) -> str:
        """A line that says what was written, and how to read it."""
        steps = self.data.num_rows - len(self.data)
        return (
            f"{self.path}: {len(self.data):,} episodes, {steps:,} steps; minari.load_dataset({self.dataset_id!r}) "
            f"reads it with MINARI_DATASETS_PATH={self.root}"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """None."""
        return ()

    def write(self, report: executors.Report) -> None:
        """Write the data set into a hidden folder, and give it its name when it is complete.

        Args:
            report: called with the number of rows so far.

        Raises:
            Stopped: the disk took no more, or a shard cannot be read. Nothing is kept.
        """
        lock = locks.lock_of(self.folder)
        with (
            files.disk_errors_as_stopped(self.path),
            files.temporary_folder(self.folder, f".{self.path.name}.") as temporary,
        ):
            self._write_into(temporary / DATA_FOLDER, report)
            disks.flush(temporary)
            for namespace in self._namespaces():
                if not (namespace / NAMESPACE_FILE).exists():
                    files.write_json(namespace / NAMESPACE_FILE, {})
            lock.check()
            temporary.replace(self.path)
            disks.flush(self.folder)

    def _write_into(self, folder: Path, report: executors.Report) -> None:
        storage = minari_metadata.new_storage(folder, self.data, self.settings)
        main_file = folder / MAIN_FILE
        main_file.unlink()  # the empty file that Minari has made
        observations = self.settings.observations
        minari_arrays.write(main_file, self.data, storage.action_space, observations, report)
        told = minari_metadata.metadata(self.dataset_id, self.data, self.settings)
        storage.update_metadata({**told, "dataset_size": float(storage.get_size())})
        for path in (folder / METADATA_FILE, folder):
            disks.flush(path)

    def _namespaces(self) -> list[Path]:
        """The folders of the namespaces of the id, which Minari marks by a file of their own."""
        return [self.root / part for part in Path(self.dataset_id).parents[:-1]]


# ---- before anything is written ----


def plan(data: Rollouts | Latents, out: Path, config: ConvertConfig) -> MinariExport:
    """Check the data and the output.

    Raises:
        ValueError: Minari is not installed, `out` is no id or holds something else, or Minari cannot hold the data.
    """
    check()
    config.check_unused("rows", reason="whole episodes are written")
    if isinstance(data, Rollouts) and config.minari.observations != "mu":
        raise ValueError(f"{data.path}: holds rollouts, and minari.observations is for latents; leave it out")
    dataset_id = _dataset_id(out)
    _check_telemetry(data)
    _check_discrete(data, minari_metadata.action_space(data))
    finished = _is_finished(out, minari_metadata.record(data, config.minari))
    return MinariExport(out, dataset_id, data, config.minari, finished)


def check() -> None:
    """Check that Minari is installed, in a version that keeps images without loss.

    Raises:
        ValueError: it is not.
    """
    try:
        found = importlib.metadata.version("minari")
    except importlib.metadata.PackageNotFoundError:
        found = None
    numbers = tuple(int(part) for part in (found or "0").split(".")[:3] if part.isdecimal())
    if numbers < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        has = "is not installed" if found is None else f"{found} stores images with loss"
        raise ValueError(
            f"format minari needs Minari {wanted}, which takes Python 3.11 or later, and Minari {has}; "
            "pip install 'world_models[minari]'"
        )


def _dataset_id(out: Path) -> str:
    """The id of the data set in this folder: the last part, after the namespaces.

    The folder of Minari's data sets is known if it is Minari's own. Elsewhere, it is the first folder above `out` that
    is no namespace.

    Raises:
        ValueError: Minari takes no such id.
    """
    from minari.dataset.minari_dataset import parse_dataset_id

    own = Path(os.environ.get("MINARI_DATASETS_PATH") or Path("~/.minari/datasets")).expanduser().absolute()
    root = own if own in out.parents else next(path for path in out.parents if not (path / NAMESPACE_FILE).exists())
    dataset_id = out.relative_to(root).as_posix()
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):  # the second one without a version
        raise ValueError(
            f"out is {out}, and Minari takes no id {dataset_id!r}; give a name of letters, digits, - "
            "and _ with a version, as in --out ROOT/carracing-v0"
        ) from None
    return dataset_id


def _is_finished(out: Path, wanted: Mapping[str, str]) -> bool:
    """Whether this data was already written.

    Raises:
        ValueError: `out` holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    text = untrusted.read_text(out / DATA_FOLDER / METADATA_FILE, MAX_METADATA_BYTES) if out.is_dir() else None
    try:
        found = json.loads(text or "")[minari_metadata.RECORD]
        differing = next((name for name in wanted if found[name] != wanted[name]), None)
    except (ValueError, RecursionError, TypeError, KeyError):
        raise ValueError(f"{out}: exists, and convert has not written it; choose another --out") from None
    if differing:
        raise ValueError(
            f"{out}: a data set whose {differing} is {printable(str(found[differing]))}, wanted {wanted[differing]}; "
            "delete the folder or choose another --out"
        )
    return True


def _check_telemetry(data: Rollouts | Latents) -> None:
    """Check that each name of telemetry can be the name of an array.

    Raises:
        ValueError: one cannot.
    """
    names = data.telemetry_names if isinstance(data, Rollouts) else ()
    for name in names:
        if "/" in name or name in ("", ".") or names.count(name) > 1:
            raise ValueError(
                f"{data.path}: telemetry {name!r} cannot name an array in HDF5; rename it, and collect again"
            )


def _check_discrete(data: Rollouts | Latents, space: gymnasium.Space) -> None:
    """Check that actions of a discrete space are whole numbers in it.

    Raises:
        ValueError: one is not.
    """
    if not isinstance(space, gymnasium.spaces.Discrete):
        return
    for shard in data.shards:
        for start in range(0, shard.num_rows, BLOCK_ROWS):
            values = shard.read("actions", start, start + BLOCK_ROWS)
            values = values[~np.isin(np.arange(start, start + len(values)), shard.starts + shard.lengths - 1)]
            wrong = (values != np.floor(values)) | (values < space.start) | (values >= space.start + space.n)
            if wrong.any():
                raise ValueError(f"{shard.path}: the action {values[wrong][0]} is not in {space}; check the data set")
