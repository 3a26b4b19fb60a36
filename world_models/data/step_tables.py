"""Tables of steps: one line for each row of a data set, with its episode and its number in it.

`Rollouts.to_pandas` and `Latents.to_pandas` make them of all columns but the frames.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from world_models.data.shards.episodes import ShardedEpisodes
from world_models.data.shards.reader import Shard

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = object  # pandas is an optional package

FLAGS = {"rewards": "reward", "terminated": "terminated", "truncated": "truncated"}
"""Columns of one value a row, and their names in a table."""

Rows = Shaped[np.ndarray, " rows"]


def index_columns(shard: Shard, start: int, stop: int, first_episode: int) -> dict[str, Rows]:
    """Where rows start..stop of a shard belong.

    Args:
        shard: the shard.
        start: the first of the rows.
        stop: the row behind the last one.
        first_episode: number of the shard's first episode in the data set.

    Returns:
        `episode` (int32), the number in the data set; `step` (int32), 0 for the first frame; `is_final` (bool), whether
        it is the final frame, which has no action; `seed` (int64), the episode's seed.
    """
    rows = np.arange(start, stop)
    episode = episodes_of(shard, start, stop)
    step = rows - shard.starts[episode]
    return {
        "episode": (first_episode + episode).astype(np.int32),
        "step": step.astype(np.int32),
        "is_final": step == shard.lengths[episode] - 1,
        "seed": shard.seeds[episode],
    }


def episodes_of(shard: Shard, start: int, stop: int) -> Rows:
    """The number of the episode in the shard that each of the rows start..stop belongs to."""
    return np.searchsorted(shard.starts, np.arange(start, stop), side="right") - 1


def numbered(name: str, count: int) -> list[str]:
    """Names of the columns of an array, such as mu_0, mu_1."""
    return [f"{name}_{number}" for number in range(count)]


def table(data: ShardedEpisodes[Any], arrays: Mapping[str, Sequence[str]]) -> DataFrame:
    """A table with a line for each row of a data set.

    Args:
        data: the data set.
        arrays: its columns of several values a row, and a name for each of these values.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("to_pandas needs pandas; install it: pip install pandas") from None
    firsts = np.cumsum([0, *(len(shard.starts) for shard in data.shards)]).tolist()
    parts = [index_columns(shard, 0, shard.num_rows, first) for shard, first in zip(data.shards, firsts, strict=False)]
    lines = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    names, codes = np.unique(data.policies, return_inverse=True)
    lines["policy"] = pd.Categorical.from_codes(codes[lines["episode"]], names.tolist())
    for column, name in FLAGS.items():
        lines[name] = _whole(data, column)
    blocks = [pd.DataFrame(_whole(data, column), columns=list(names)) for column, names in arrays.items()]
    return pd.concat([lines, *blocks], axis=1)


def _whole(data: ShardedEpisodes[Any], column: str) -> Shaped[np.ndarray, "rows ..."]:
    return np.concatenate([shard.read(column) for shard in data.shards])
