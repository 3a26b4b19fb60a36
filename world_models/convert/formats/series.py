"""Writes latents as hardmaru's `series/series.npz`, which his `carracing/rnn_train.py` reads, and `initial_z.json`.

`series.npz` holds three float16 arrays, which his program loads at once:

| array | shape | meaning |
|---|---|---|
| `action` | (episodes, rows, A) | row t holds a_t, which was chosen after seeing x_t |
| `mu`, `logvar` | (episodes, rows, z) | row t holds the posterior of the frame x_t |

His program trains on z_t and a_t of rows 0 .. rows - 2, with z of rows 1 .. rows - 1 as targets. So all sequences have
one length, and the action of the last row is never read. `rows` is 1,000 there (`max_seq_len` + 1). An episode of T
steps has T + 1 rows here. A longer episode is cut, a shorter one is left out, and nothing is padded. If an episode has
exactly `rows` rows, its last row is the final frame, with an action of zeros. Rewards and ends are not in this format.

float16 has 11 significant bits; a value above 65,504 is refused. His arrays have this type too. They are no object
arrays, so `numpy.load` needs no pickle.

`initial_z.json` is `[mu, logvar]` of the first frames of up to 1,000 episodes. Its numbers are whole: 10,000 times the
value.
"""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int64

from world_models.convert.config import ConvertConfig
from world_models.convert.npz_writer import read_comment, write_npz
from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts
from world_models.runtime import executors, files, untrusted
from world_models.runtime.typed_json import Json

INITIAL_FILE = "initial_z.json"
NUM_INITIAL, INITIAL_SCALE = 1000, 10_000
ARRAYS = {"action": "actions", "mu": "mu", "logvar": "logvar"}
"""The arrays of the file, and the column of latents that each is made of."""
LARGEST = float(np.finfo(np.float16).max)


@dataclasses.dataclass(frozen=True)
class SeriesExport:
    """A checked export of latents into `series.npz`.

    Attributes:
        path: the npz file.
        data: the latents.
        rows: number of rows of a sequence.
        episodes: numbers of the episodes that are long enough.
        has_series: whether the npz file exists and was made from this data.
    """

    path: Path
    data: Latents
    rows: int
    episodes: Int64[np.ndarray, " sequences"]
    has_series: bool

    @property
    def folder(self) -> Path:
        """The folder of the npz file."""
        return self.path.parent

    @property
    def initial_path(self) -> Path:
        """The file of first latents, beside the npz file."""
        return self.folder / INITIAL_FILE

    @property
    def is_finished(self) -> bool:
        """Whether both files exist."""
        return self.has_series and self.initial_path.exists()

    @property
    def num_rows(self) -> int:
        """Number of rows of all sequences; 0 if the npz file exists."""
        return 0 if self.has_series else len(self.episodes) * self.rows

    @property
    def need_bytes(self) -> int:
        """Bytes of the arrays. Packing hardly makes them smaller, since the low bits of a latent are noise."""
        return self.num_rows * 2 * (2 * self.data.z_dim + self.data.num_actions)

    @property
    def summary(self) -> str:
        """A line that says what was written, and how many episodes are too short."""
        left_out = len(self.data) - len(self.episodes)
        return (
            f"{self.path}: {len(self.episodes):,} sequences of {self.rows:,} rows, z_dim {self.data.z_dim}, "
            f"{self.data.num_actions} action columns"
            + (f"; {left_out:,} of {len(self.data):,} episodes are shorter and were left out" if left_out else "")
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """None."""
        return ()

    def write(self, report: executors.Report) -> None:
        """Write the missing files.

        Args:
            report: called with the number of rows so far. A row counts as a third for each array.

        Raises:
            Stopped: the disk took no more, or a shard cannot be read.
        """
        files.remove_partials(self.folder, names=(self.path.name[: files.LONGEST_NAME], INITIAL_FILE))
        if not self.has_series:
            count = 0
            with write_npz(self.path, json.dumps(_record(self.data, self.rows))) as npz:
                for array, column in ARRAYS.items():
                    shape = (len(self.episodes), self.rows, *self.data.shards[0].row_shapes[column])
                    with npz.array(array, "float16", shape) as append:
                        for episode in self.episodes.tolist():
                            append(_read(self.data, episode, column, self.rows)[None])
                            count += self.rows
                            report(count // len(ARRAYS))
        files.write_text(self.initial_path, _initial(self.data, self.episodes[:NUM_INITIAL]))


def plan(data: Rollouts | Latents, out: Path, config: ConvertConfig) -> SeriesExport:
    """Check the data and the output, and choose the episodes.

    Raises:
        ValueError: the data are no latents, `out` is no new npz file, no episode is long enough, or float16 cannot
            hold a value.
    """
    if not isinstance(data, Latents):
        raise ValueError(f"{data.path}: holds rollouts, and series takes latents; run encode first, and name its --out")
    if out.suffix != ".npz" or out.is_dir():
        raise ValueError(f"out is {out}, and series is an npz file; give a name such as --out series/series.npz")
    episodes = np.flatnonzero(data.lengths >= config.rows)
    if not len(episodes):
        longest = int(data.lengths.max())
        raise ValueError(
            f"{data.path}: no episode has {config.rows:,} rows, the longest has {longest:,}; give --rows {longest} or "
            "fewer"
        )
    export = SeriesExport(out, data, config.rows, episodes, _has_series(out, data, config.rows))
    if not export.has_series:
        if untrusted.is_file(export.initial_path):
            raise ValueError(f"{export.initial_path}: exists already; choose another folder for --out")
        for episode in episodes.tolist():
            _check_range(data, episode, config.rows)
    return export


def _has_series(path: Path, data: Latents, rows: int) -> bool:
    """Whether the file exists and was made from this data with so many rows.

    Raises:
        ValueError: there is another file.
    """
    if not untrusted.is_file(path):
        return False
    wanted = _record(data, rows)
    try:
        found = untrusted.from_json(read_comment(path) or "")
    except ValueError:
        found = None
    if found == wanted:
        return True
    if isinstance(found, dict) and {**found, "digest": wanted["digest"]} == wanted:
        raise ValueError(
            f"{path}: a series of other episodes than {data.path} holds now; delete it and {INITIAL_FILE} to write all "
            "of them, or choose another --out"
        )
    raise ValueError(f"{path}: exists already and is no series of {rows:,} rows of {data.path}; choose another --out")


def _record(data: Latents, rows: int) -> dict[str, Json]:
    """The comment of the npz file, as JSON: which data it was made from."""
    return {"format": "series", "digest": data.digest(), "rows": rows}


def _read(data: Latents, episode: int, column: str, rows: int) -> Float16[np.ndarray, "rows width"]:
    """The first rows of an episode's column. Where the column holds actions, a final frame has zeros."""
    shard, start, _ = data.locate(episode)
    return shard.read(column, start, start + rows).astype(np.float16)


def _check_range(data: Latents, episode: int, rows: int) -> None:
    """Check that float16 can hold an episode's values, and that they are numbers.

    Raises:
        ValueError: it cannot.
    """
    shard, start, _ = data.locate(episode)
    for column in ARRAYS.values():
        values = shard.read(column, start, start + rows).astype(np.float32, copy=False)
        wrong = ~(np.abs(values) <= LARGEST)  # also true of NaN
        if wrong.any():
            raise ValueError(
                f"{shard.path}: {column} of the episode of seed {data.seeds[episode]} holds {values[wrong][0]}, and "
                f"series takes numbers up to {LARGEST:,.0f}; train a model with smaller latents, and encode again"
            )


def _initial(data: Latents, episodes: Int64[np.ndarray, " sequences"]) -> str:
    """The text of `initial_z.json`. Each number is rounded to float16 first, as in the npz file, then towards zero."""
    first = functools.partial(_read, data, rows=1)
    moments = [
        [
            (first(episode, column)[0].astype(np.float64) * INITIAL_SCALE).astype(np.int64).tolist()
            for episode in episodes.tolist()
        ]
        for column in ("mu", "logvar")
    ]
    return json.dumps(moments, indent=0, separators=(",", ": "))
