"""Latents: mu and logvar of every frame, with actions, rewards and ends, as a memory model reads them.

Rows and alignment are those of the rollouts: an episode of T steps has T + 1 rows, row t < T holds the latent of x_t
and the action a_t chosen after seeing it, row T the final frame's latent, whose action is no transition. A memory
model learns (z_t, a_t) -> (z_{t+1}, r_t, end_t). z is not stored: readers sample z = mu + exp(logvar / 2) * eps anew.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.utils.data import Dataset

from world_models import files
from world_models.rollouts import FORMAT as ROLLOUTS_FORMAT
from world_models.shards import BLOCK_ROWS, Column, Format, reader, unpacked_bytes, writer
from world_models.shards.episodes import ShardedEpisodes

FORMAT = Format(
    name="world_models.latents",
    version=1,
    columns={
        "mu": Column(("float32", "float16"), (None,)),
        "logvar": Column(("float32", "float16"), (None,)),
        **{name: ROLLOUTS_FORMAT.columns[name] for name in ("actions", "rewards", "terminated", "truncated")},
    },
    common=("preprocess", "vae_sha256"),
    attributes=("rollouts_digest", "config", "versions"),
    gzip=None,  # the low bits of a latent are noise: packing saves a tenth and costs most of the reading speed
)
COPIED_COLUMNS = ("actions", "rewards", "terminated", "truncated")
SUMMARY_FILE = "latents.json"


@dataclasses.dataclass(frozen=True)
class LatentEpisode:
    """The latents of one episode of T transitions.

    Attributes:
        actions, rewards, terminated, truncated: of the T transitions.
        mu, logvar: of every frame, x_0 .. x_T.
        seed, policy: the episode's env seed and driver.
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
    """Bytes that the latents of a shard of rollouts take on disk; errs upwards."""
    row_bytes = {
        name: math.prod(source.row_shapes[name]) * np.dtype(source.column_dtypes[name]).itemsize
        for name in COPIED_COLUMNS
    }
    row_bytes |= dict.fromkeys(("mu", "logvar"), z_dim * np.dtype(dtype).itemsize)
    return unpacked_bytes(FORMAT, row_bytes, source.num_rows)


@contextlib.contextmanager
def write_latents(
    path: Path, source: reader.Shard, z_dim: int, dtype: str, attributes: Mapping[str, str]
) -> Iterator[LatentWriter]:
    """Write the mirror of a rollouts shard in a block: whole if the block succeeds, nothing if it raises."""
    shapes = {"mu": (z_dim,), "logvar": (z_dim,), "actions": source.row_shapes["actions"]}
    with writer.write_shard(path, FORMAT, shapes, {"mu": dtype, "logvar": dtype}) as shard:
        shard.attributes.update(attributes)
        shard.attributes.update(
            preprocess=source.attributes["preprocess"],
            rollouts_digest=source.digest(),
            versions=json.dumps(files.versions()),
        )
        for start in range(0, source.num_rows, BLOCK_ROWS):
            shard.append(**{name: source.read(name, start, start + BLOCK_ROWS) for name in COPIED_COLUMNS})
        yield LatentWriter(shard)
        shard.tile_episodes(source.lengths.tolist(), source.seeds.tolist(), source.policies)


class Latents(ShardedEpisodes[LatentEpisode]):
    """A data set of latents: a sequence of episodes, read from disk when asked for.

    Args:
        path: a folder of shards, or one shard.
        verify: compare every column with its digest, which reads everything.

    Attributes:
        z_dim: latent dimensions.
        num_actions: columns of `actions`.
        preprocess: how observations became the frames that were encoded.
        vae_sha256: of the weights that encoded them.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a shard is incomplete, damaged, of another kind, or inconsistent.
    """

    def __init__(self, path: str | Path, verify: bool = False):
        super().__init__(path, FORMAT, verify)
        first = self.shards[0]
        if first.row_shapes["mu"] != first.row_shapes["logvar"]:
            raise ValueError(f"{first.path}: mu and logvar differ in width; delete the file and make it again")
        self.z_dim: int = first.row_shapes["mu"][0]
        self.num_actions: int = first.row_shapes["actions"][0]
        self.preprocess: dict[str, Any] = first.json_attribute("preprocess")
        self.vae_sha256 = str(first.attributes["vae_sha256"])

    def __repr__(self) -> str:
        return f"Latents({self.path}: {len(self)} episodes, {self.num_rows} rows, z_dim {self.z_dim})"

    def read_episode(self, episode: int) -> LatentEpisode:
        """Read the episode of this number."""
        shard, start, rows = self.locate(episode)
        latents = {name: shard.read(name, start, start + rows) for name in ("mu", "logvar")}
        steps = {name: shard.read(name, start, start + rows - 1) for name in COPIED_COLUMNS}
        return LatentEpisode(**latents, **steps, seed=int(self.seeds[episode]), policy=self.policies[episode])


class LatentSequences(Dataset[dict[str, Tensor]]):
    """Windows of latent sequences for a recurrent memory model, with z sampled anew at each epoch.

    An item is a dict of `z` and `next_z` (length, z_dim), `actions` (length, A), `rewards`, `terminated` and
    `truncated` (length,): the transitions t .. t + length - 1 of one episode. One sample of length + 1 rows supplies
    both z and next_z, so `next_z[k]` is `z[k + 1]`. A window that would pass its episode's end is left out.

    Args:
        path: a folder of latents.
        length: transitions of a window.
        stride: transitions from the beginning of one window to that of the next; `length` when None.
        seed: of the noise, with the epoch and the item's index.

    Raises:
        ValueError: bad bounds, or no episode is as long as a window.
    """

    def __init__(self, path: str | Path, length: int, stride: int | None = None, seed: int = 0):
        if length < 1 or (stride is not None and stride < 1):
            raise ValueError(f"length {length}, stride {stride}: give 1 or more")
        self.latents, self.length, self.seed = Latents(path), length, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see set_epoch
        steps = self.latents.lengths - 1
        counts = np.maximum(0, (steps - length) // (stride or length) + 1)
        self._episodes = np.repeat(np.arange(len(steps)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        self._starts = within * (stride or length)
        if not len(self._starts):
            raise ValueError(
                f"{path}: no episode has {length} steps, the longest has {steps.max()}; give a smaller length"
            )

    def __len__(self) -> int:
        return len(self._starts)

    def set_epoch(self, epoch: int) -> None:
        """Move the noise on; call it before each epoch, as for a `DistributedSampler`."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One window."""
        index = range(len(self))[index]
        shard, first, _ = self.latents.locate(int(self._episodes[index]))
        start = first + int(self._starts[index])
        stop = start + self.length
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        mu, logvar = (shard.read(name, start, stop + 1).astype(np.float32) for name in ("mu", "logvar"))
        z = torch.from_numpy(mu + np.exp(logvar / 2) * rng.standard_normal(mu.shape, np.float32))
        steps = {name: torch.from_numpy(shard.read(name, start, stop)) for name in COPIED_COLUMNS}
        return {"z": z[:-1], "next_z": z[1:], **steps}
