"""Latents: mu and logvar of every frame, with actions, rewards and end flags, for memory models.

Rows and alignment are those of the rollouts. An episode of T steps has T + 1 rows. Row t < T holds the latent of the
frame x_t and the action a_t chosen after seeing x_t. Row T holds the latent of the final frame; it is no transition. A
memory model learns (z_t, a_t) -> (z_{t+1}, r_t, end_t). z is not stored. Readers sample it anew from mu and logvar:
z = mu + exp(logvar / 2) * eps.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from world_models.data import latent_summary, rollouts, step_tables
from world_models.data.shards import BLOCK_ROWS, SKIPPED_SEEDS, Column, Format, max_bytes_unpacked, reader, writer
from world_models.data.shards.episodes import ShardedEpisodes
from world_models.data.step_tables import DataFrame
from world_models.runtime import files
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json

FORMAT = Format(
    name="world_models.latents",
    version=1,
    columns={
        "mu": Column(("float32", "float16"), (None,)),
        "logvar": Column(("float32", "float16"), (None,)),
        **{name: rollouts.FORMAT.columns[name] for name in ("actions", "rewards", "terminated", "truncated")},
    },
    common=("preprocess", "vae_sha256"),
    attributes=("rollouts_digest", "config", "versions"),
    gzip=None,  # the low bits of a latent are noise: packing saves a tenth and costs most of the reading speed
)
COPIED_COLUMNS = ("actions", "rewards", "terminated", "truncated")


@dataclasses.dataclass(frozen=True)
class LatentEpisode:
    """The latents of one episode of T transitions.

    Attributes:
        actions, rewards, terminated, truncated: columns of the T transitions.
        mu, logvar: moments of the posterior of every frame x_0 .. x_T.
        seed: seed of the environment.
        policy: name of the policy that drove.

    Example:
        >>> episode = world_models.Latents("latents/carracing")[0]
        >>> len(episode), episode.actions.shape, episode.mu.shape
        (40, (40, 3), (41, 32))
    """

    actions: Float32[np.ndarray, "T A"]
    rewards: Float32[np.ndarray, " T"]
    terminated: Bool[np.ndarray, " T"]
    truncated: Bool[np.ndarray, " T"]
    mu: Float[np.ndarray, "T+1 z"]
    logvar: Float[np.ndarray, "T+1 z"]
    seed: int
    policy: str

    def __len__(self) -> int:
        return len(self.actions)

    def __repr__(self) -> str:
        return f"LatentEpisode(steps={len(self)}, z_dim={self.mu.shape[1]}, seed={self.seed}, policy={self.policy!r})"


class LatentWriter:
    """Writes the latents of one shard of rollouts, block by block; made by `write_latents`."""

    def __init__(self, shard: writer.ShardWriter):
        self._shard = shard

    def append(self, mu: Float[np.ndarray, "rows z"], logvar: Float[np.ndarray, "rows z"]) -> None:
        """Append the latents of the source's next rows."""
        self._shard.append(mu=mu, logvar=logvar)


def latents_bytes(source: reader.Shard, z_dim: int, dtype: str) -> int:
    """Upper bound on the bytes on disk of the latents of a rollouts shard."""
    row_bytes = {
        name: math.prod(source.row_shapes[name]) * np.dtype(source.column_dtypes[name]).itemsize
        for name in COPIED_COLUMNS
    }
    row_bytes |= dict.fromkeys(("mu", "logvar"), z_dim * np.dtype(dtype).itemsize)
    return max_bytes_unpacked(FORMAT, row_bytes, source.num_rows)


@contextlib.contextmanager
def write_latents(
    path: Path, source: reader.Shard, z_dim: int, dtype: str, attributes: Mapping[str, str]
) -> Iterator[LatentWriter]:
    """Write the latents of one rollouts shard in a `with` block. If the block raises, no shard is written."""
    shapes = {"mu": (z_dim,), "logvar": (z_dim,), "actions": source.row_shapes["actions"]}
    with writer.write_shard(path, FORMAT, shapes, {"mu": dtype, "logvar": dtype}) as shard:
        shard.attributes.update(attributes)
        shard.attributes.update(
            preprocess=str(source.attributes["preprocess"]),
            action_space=str(source.attributes["action_space"]),
            rollouts_digest=source.digest(),
            versions=json.dumps(files.versions()),
        )
        if SKIPPED_SEEDS in source.attributes:
            shard.attributes[SKIPPED_SEEDS] = str(source.attributes[SKIPPED_SEEDS])
        for start in range(0, source.num_rows, BLOCK_ROWS):
            shard.append(**{name: source.read(name, start, start + BLOCK_ROWS) for name in COPIED_COLUMNS})
        yield LatentWriter(shard)
        shard.set_episodes(source.lengths.tolist(), source.seeds.tolist(), source.policies)


class Latents(ShardedEpisodes[LatentEpisode]):
    """A data set of latents: a sequence of episodes. Each is read from disk when it is indexed.

    Args:
        path: a folder of shards, or one shard.
        verify: whether to compare every column with its digest; this reads all data.

    Attributes:
        z_dim: number of latent dimensions.
        num_actions: number of columns of `actions`.
        action_space: description of the action space, as in the rollouts; empty if an older version made the latents.
        preprocess: how observations became the frames that were encoded.
        vae_sha256: sha256 of the V model's weights.

    Raises:
        FileNotFoundError: there is no shard at the path.
        ValueError: a shard is incomplete, damaged, of another kind, or inconsistent.

    Example:
        >>> latents = world_models.Latents("latents/carracing")
        >>> len(latents), latents.z_dim
        (6, 32)
        >>> latents[0].mu.shape
        (41, 32)
    """

    def __init__(self, path: str | Path, verify: bool = False):
        super().__init__(path, FORMAT, verify)
        first = self.shards[0]
        if first.row_shapes["mu"] != first.row_shapes["logvar"]:
            raise ValueError(f"{first.path}: mu and logvar differ in width; delete the file and make it again")
        self.z_dim: int = first.row_shapes["mu"][0]
        self.num_actions: int = first.row_shapes["actions"][0]
        self.action_space = _action_space(self.shards)
        self.preprocess = first.json_object("preprocess")
        self.vae_sha256 = str(first.attributes["vae_sha256"])

    def __repr__(self) -> str:
        return f"Latents({printable(str(self.path))}: {len(self)} episodes, {self.num_rows} rows, z_dim {self.z_dim})"

    @property
    def z_mean(self) -> Float64[np.ndarray, " z"]:
        """Mean of each dimension of a sampled z over all rows, from `latents.json`.

        Raises:
            ValueError: as `z_moments`.

        Example:
            >>> world_models.Latents("latents/carracing").z_mean.shape
            (32,)
        """
        return self.z_moments()[0]

    @property
    def z_std(self) -> Float64[np.ndarray, " z"]:
        """Standard deviation of each dimension of a sampled z over all rows: the root of `z_variance`.

        Raises:
            ValueError: as `z_moments`.

        Example:
            >>> latents = world_models.Latents("latents/carracing")
            >>> normalised = (latents[0].mu - latents.z_mean) / latents.z_std
        """
        return np.sqrt(self.z_moments()[1])

    def z_moments(self) -> tuple[Float64[np.ndarray, " z"], Float64[np.ndarray, " z"]]:
        """Mean and variance of each dimension of a sampled z, over all rows, as `latents.json` holds them.

        Raises:
            ValueError: the file is missing or damaged, or describes other shards, or a dimension of z is constant.

        Example:
            >>> mean, variance = world_models.Latents("latents/carracing").z_moments()
            >>> mean.shape, variance.shape
            ((32,), (32,))
        """
        folder = self.path if self.path.is_dir() else self.path.parent
        return latent_summary.read_z_moments(folder, self._fingerprint())

    def _fingerprint(self) -> latent_summary.Fingerprint:
        digests = (str(shard.attributes["rollouts_digest"]).encode() for shard in self.shards)
        return latent_summary.Fingerprint(
            len(self), self.num_rows, self.z_dim, self.vae_sha256, rollouts_digest=files.sha256(*digests)
        )

    def read_episode(self, episode: int) -> LatentEpisode:
        """Read the episode of this number from disk; `latents[i]` does the same.

        Example:
            >>> world_models.Latents("latents/carracing").read_episode(0).logvar.shape
            (41, 32)
        """
        shard, start, rows = self.locate(episode)
        latents = {name: shard.read(name, start, start + rows) for name in ("mu", "logvar")}
        steps = {name: shard.read(name, start, start + rows - 1) for name in COPIED_COLUMNS}
        return LatentEpisode(**latents, **steps, seed=int(self.seeds[episode]), policy=self.policies[episode])

    def to_pandas(self) -> DataFrame:
        """All columns, as a pandas table with one line for each row of the data set.

        The final frame of an episode has a line, too: `is_final` is true there, and its actions and reward are zeros.

        Returns:
            Columns `episode`, `step`, `is_final`, `seed`, `policy`, `reward`, `terminated`, `truncated`, `action_0` ..,
            `mu_0` .., `logvar_0` ...

        Raises:
            ImportError: pandas is not installed.

        Example:
            >>> steps = world_models.Latents("latents/carracing").to_pandas()
            >>> steps.shape, steps.filter(like="mu_").shape
            ((246, 75), (246, 32))
        """
        names = {"mu": self.z_dim, "logvar": self.z_dim}
        arrays = {"actions": step_tables.numbered("action", self.num_actions)}
        arrays |= {name: step_tables.numbered(name, count) for name, count in names.items()}
        return step_tables.table(self, arrays)


def _action_space(shards: Sequence[reader.Shard]) -> dict[str, Json]:
    """The description of the action space that the shards share. Shards of older versions have none.

    Raises:
        ValueError: two shards describe different ones.
    """
    described = [shard for shard in shards if "action_space" in shard.attributes]
    spaces = [shard.json_object("action_space") for shard in described]
    for shard, space in zip(described, spaces, strict=True):
        if space != spaces[0]:
            found, wanted = printable(json.dumps(space)), printable(json.dumps(spaces[0]))
            raise ValueError(
                f"{shard.path}: its action_space is {found}, that of {described[0].path.name} is {wanted}; keep data "
                "sets in folders of their own"
            )
    return spaces[0] if spaces else {}
