"""Rollouts: frames, actions, rewards, ends and telemetry, as HDF5 shards of flat columns.

An episode of T steps has T + 1 rows. Row t < T holds the frame x_t, the action a_t chosen after seeing it, and the
reward and end flags that a_t caused. Row T holds the final frame; its action and reward are zero, its flags false,
and `Episode` does not hand them out. See `rollouts/README.md` for every column.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from world_models.data import step_tables
from world_models.data.episode import FRAME_SHAPE, Episode, Frame
from world_models.data.shards import Column, Format, reader, writer
from world_models.data.shards.episodes import ShardedEpisodes
from world_models.data.step_tables import DataFrame
from world_models.runtime import files
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json

FRAME_BYTES = 64 * 64 * 3
BLOCK_ROWS = 64

WHY_THIS_SIZE = (
    "frames are 64x64x3, as in the paper; save pictures of another size as npz files or images, which convert resizes"
)

FORMAT = Format(
    name="world_models.rollouts",
    version=1,
    columns={
        "frames": Column(("uint8",), FRAME_SHAPE, chunk_rows=16, why_this_shape=WHY_THIS_SIZE),
        "actions": Column(("float32",), (None,), finite=True),
        "rewards": Column(("float32",), finite=True),
        "terminated": Column(("bool",)),
        "truncated": Column(("bool",)),
        "telemetry": Column(("float32",), (None,)),
    },
    common=("env", "preprocess", "action_space", "warmup_steps"),
    attributes=("config", "versions"),
    gzip=4,
    whole_numbers=("warmup_steps",),
)


def env_name(env_id: str) -> str:
    """The environment's name without module and package: our CarRacing-v3 has the same frames as Gymnasium's."""
    return env_id.rpartition(":")[2].removeprefix("world_models/")


class RolloutWriter:
    """Streams episodes, row by row, into a shard; made by `write_rollouts`."""

    def __init__(self, shard: writer.ShardWriter, num_actions: int, num_telemetry: int):
        self._shard, self._num_actions, self._num_telemetry = shard, num_actions, num_telemetry
        self._new_block()

    def _new_block(self) -> None:
        """Begin a block of rows. Writing single rows would take longer than a step of the simulator."""
        self._count = 0
        self._frames = np.empty((BLOCK_ROWS, *FRAME_SHAPE), np.uint8)
        self._telemetry = np.empty((BLOCK_ROWS, self._num_telemetry), np.float32)
        self._actions = np.empty((BLOCK_ROWS, self._num_actions), np.float32)
        self._rewards = np.empty(BLOCK_ROWS, np.float32)
        self._ends = np.empty((BLOCK_ROWS, 2), bool)

    def step(  # one argument a column
        self,
        frame: Frame,
        telemetry: Float32[np.ndarray, " S"],
        action: Float32[np.ndarray, " A"],
        reward: float,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Append row t: a frame, the action chosen after seeing it, and what that action caused."""
        row = self._count
        self._frames[row], self._telemetry[row], self._actions[row] = frame, telemetry, action
        self._rewards[row], self._ends[row] = reward, (terminated, truncated)
        self._count += 1
        if self._count == BLOCK_ROWS:
            self._write_block()

    def _write_block(self) -> None:
        rows = slice(self._count)
        self._shard.append(
            frames=self._frames[rows],
            telemetry=self._telemetry[rows],
            actions=self._actions[rows],
            rewards=self._rewards[rows],
            terminated=self._ends[rows, 0],
            truncated=self._ends[rows, 1],
        )
        self._new_block()

    def end_episode(self, frame: Frame, telemetry: Float32[np.ndarray, " S"], seed: int, policy: str) -> None:
        """Append row T, the final frame, and close the episode."""
        self.step(frame, telemetry, np.zeros(self._num_actions, np.float32), 0.0, False, False)
        self._write_block()
        self._shard.end_episode(seed, policy)

    def finish(self) -> None:
        """Check that the last episode was ended."""
        assert self._count == 0, "every row belongs to an episode"

    def set_attribute(self, name: str, value: str | int) -> None:
        """Set an attribute whose value is known only at the end."""
        self._shard.attributes[name] = value


@contextlib.contextmanager
def write_rollouts(
    path: Path, num_actions: int, telemetry_names: Sequence[str], attributes: Mapping[str, str | int]
) -> Iterator[RolloutWriter]:
    """Write one shard of rollouts in a `with` block. If the block raises, no shard is written."""
    shapes = {"frames": FRAME_SHAPE, "actions": (num_actions,), "telemetry": (len(telemetry_names),)}
    with writer.write_shard(path, FORMAT, shapes) as shard:
        shard.attributes.update(attributes, versions=json.dumps(files.versions()))
        shard.column_attributes["telemetry"] = {"names": list(telemetry_names)}
        rollouts = RolloutWriter(shard, num_actions, len(telemetry_names))
        yield rollouts
        rollouts.finish()


class Rollouts(ShardedEpisodes[Episode]):
    """A data set of rollouts: a sequence of episodes. Each is read from disk when it is indexed.

    Args:
        path: a folder of shards, or one shard.
        verify: whether to compare every column with its digest; this reads all data.

    Attributes:
        env: name of the environment, such as CarRacing-v3.
        env_args: the arguments of the environment.
        preprocess: how observations became frames; `world_models.preprocess` takes it.
        action_space: description of the action space.
        num_actions: number of columns of `actions`.
        telemetry_names: name of each telemetry column, with its unit.

    Raises:
        FileNotFoundError: there is no shard at the path.
        ValueError: a shard is incomplete, damaged, of another kind, or inconsistent.

    Example:
        >>> rollouts = world_models.Rollouts("rollouts/carracing")
        >>> len(rollouts), rollouts.env, rollouts.telemetry_names[0]
        (6, 'CarRacing-v3', 'position_x_m')
        >>> rollouts[0]
        Episode(steps=40, return=8.5, seed=0, policy='brownian')
    """

    def __init__(self, path: str | Path, verify: bool = False):
        super().__init__(path, FORMAT, verify)
        first = self.shards[0]
        self.env = env_name(str(first.attributes["env"]))
        self.env_args = _env_args(first)
        self.preprocess = first.json_object("preprocess")
        self.action_space = first.json_object("action_space")
        self.num_actions: int = first.row_shapes["actions"][0]
        self.telemetry_names = telemetry_names(first)
        for shard in self.shards[1:]:
            if (found := json.dumps(_env_args(shard))) != (wanted := json.dumps(self.env_args)):
                raise ValueError(
                    f"{shard.path}: its env_args is {found}, that of {first.path.name} is {wanted}; "
                    "keep data sets in folders of their own"
                )
            if telemetry_names(shard) != self.telemetry_names:
                raise ValueError(
                    f"{shard.path}: its telemetry is {', '.join(telemetry_names(shard))}, that of {first.path.name} "
                    f"is {', '.join(self.telemetry_names)}; keep data sets in folders of their own"
                )

    @property
    def sets(self) -> "tuple[Rollouts, ...]":
        """The data sets that these rollouts are made of: only itself, unless several were opened together.

        Example:
            >>> rollouts = world_models.Rollouts("rollouts/carracing")
            >>> rollouts.sets == (rollouts,)
            True
        """
        return (self,)

    @property
    def name(self) -> str:
        """The path, or the paths of all sets, as text.

        Example:
            >>> world_models.Rollouts("rollouts/carracing").name
            '/...rollouts/carracing'
        """
        return ", ".join(str(each.path) for each in self.sets)

    def __repr__(self) -> str:
        return f"Rollouts({printable(f'{self.path}: {self.env}')}, {len(self)} episodes, {self.num_rows} frames)"

    def read_episode(self, episode: int) -> Episode:
        """Read the episode of this number from disk; `rollouts[i]` does the same.

        Example:
            >>> world_models.Rollouts("rollouts/carracing").read_episode(1).policy
            'driver'
        """
        shard, start, rows = self.locate(episode)
        final = start + rows - 1  # the final frame's row, which is no transition
        return Episode(
            frames=shard.read("frames", start, final + 1),
            actions=shard.read("actions", start, final),
            rewards=shard.read("rewards", start, final),
            terminated=shard.read("terminated", start, final),
            truncated=shard.read("truncated", start, final),
            telemetry=shard.read("telemetry", start, final + 1),
            seed=int(self.seeds[episode]),
            policy=self.policies[episode],
        )

    def returns(self) -> Float64[np.ndarray, " episodes"]:
        """Sum of each episode's rewards.

        Example:
            >>> world_models.Rollouts("rollouts/carracing").returns().shape
            (6,)
        """
        rewards = ((shard.read("rewards").astype(np.float64), shard.starts) for shard in self.shards if shard.num_rows)
        return np.concatenate([np.add.reduceat(earned, starts) for earned, starts in rewards])

    def to_pandas(self) -> DataFrame:
        """All columns but the frames, as a pandas table with one line for each row of the data set.

        The final frame of an episode has a line, too: `is_final` is true there, and its actions and reward are zeros.

        Returns:
            Columns `episode`, `step`, `is_final`, `seed`, `policy`, `reward`, `terminated`, `truncated`, `action_0` ..,
            and `telemetry_` with the name of each telemetry column.

        Raises:
            ImportError: pandas is not installed.

        Example:
            >>> steps = world_models.Rollouts("rollouts/carracing").to_pandas()
            >>> len(steps), steps["telemetry_velocity_along_m_per_s"].dtype
            (246, dtype('float32'))
            >>> steps[~steps.is_final].groupby("episode").reward.sum().shape  # the returns
            (6,)
        """
        telemetry = [f"telemetry_{name}" for name in self.telemetry_names]
        actions = step_tables.numbered("action", self.num_actions)
        return step_tables.table(self, {"actions": actions, "telemetry": telemetry})


def telemetry_names(shard: reader.Shard) -> tuple[str, ...]:
    """Name of each telemetry column of a shard, with its unit."""
    found = shard.column_attributes["telemetry"].get("names", ())
    names = found if isinstance(found, tuple) else ()
    if np.shape(names) != shard.row_shapes["telemetry"] or not all(map(str.isprintable, names)):
        raise ValueError(
            f"{shard.path}: telemetry does not name each of its columns; delete the file and make it again"
        )
    return names


def _env_args(shard: reader.Shard) -> dict[str, Json]:
    """The attribute `env_args`, sorted by name. Shards of early versions lack it and have no arguments."""
    return dict(sorted(shard.json_object("env_args").items())) if "env_args" in shard.attributes else {}
