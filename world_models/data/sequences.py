"""Windows of latent sequences: what a recurrent memory model trains on.

A memory model learns (z_t, a_t) -> (z_{t+1}, r_t, end_t). z is sampled anew in each epoch, as the paper's M does.
"""

from collections.abc import Iterable, Sequence
from multiprocessing.context import get_spawning_popen  # type: ignore[attr-defined]: the stubs lack it
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from world_models.data import latent_rows
from world_models.data.discrete_actions import DiscreteActions
from world_models.data.latents import COPIED_COLUMNS, Latents
from world_models.data.shards.columns import UnreadableError
from world_models.runtime.terminal import printable

Window = dict[str, Tensor]
"""Columns by name, of one window or, with an axis more, of a batch."""


class LatentSequences(Dataset[Window]):
    """Windows of latent sequences for a recurrent memory model, with z sampled anew in each epoch.

    An item is a dict of `z` and `next_z` (length, z_dim), `actions` (length, A), `rewards`, `terminated` and
    `truncated` (length,): the transitions t .. t + length - 1 of one episode. One sample of length + 1 rows supplies
    both z and next_z, so `next_z[k]` is `z[k + 1]`. The noise depends on seed, epoch and index alone.

    A window begins every `stride` transitions. No window crosses the end of an episode: the last window is moved back
    to end with the episode. Every transition of an episode of at least `length` steps is in a window, unless `stride`
    is larger than `length`. Shorter episodes are left out, and the `repr` counts them. `pad` includes them: every
    column, also `z` and `next_z`, is zero after their end, and each item has a `mask` (length,) that is true for
    transitions.

    `data[[4, 0, 9]]` is a batch: the same dict, with an axis of windows in front. A `DataLoader` also gathers a whole
    batch at once. Latents that fit into `memory_gb` are read once and held in memory. Larger ones are read in blocks of
    1,024 rows, and the most recently used blocks are kept. Forked worker processes share this memory. Spawned ones read
    their own copy, each within its share of `memory_gb`. All workers of a `DataLoader` follow `set_epoch`. Other copies
    (`copy.deepcopy`, pickle) keep their epoch until `set_epoch` is called on them.

    Args:
        path: a folder of latents.
        length: transitions of a window.
        stride: transitions from the beginning of one window to that of the next; `length` when None.
        seed: seed of the noise.
        pad: whether to include episodes shorter than `length`; adds `mask`.
        normalise: whether to bring z to mean 0 and variance 1, by `z_mean` and `z_variance` of `latents.json`.
        memory_gb: upper bound on the memory for latents, in 10^9 bytes.
        one_hot: whether to give discrete actions as one column for each action: 1 for the action that was taken, 0 for
            the others, float32 (length, number of actions). Otherwise one column holds the action's index.

    Raises:
        FileNotFoundError: there are no latents.
        ValueError: bad bounds; no episode is as long as a window; `normalise` finds no `latents.json` of these
            latents; or `one_hot`, and the actions are not discrete.

    Example:
        >>> sequences = LatentSequences("latents/carracing", length=20)
        >>> loader = torch.utils.data.DataLoader(sequences, batch_size=16, shuffle=True)
        >>> for epoch in range(2):
        ...     sequences.set_epoch(epoch)
        ...     for batch in loader:
        ...         loss = (batch["next_z"] - batch["z"]).square().mean()

        A `BatchSampler` halves the time, because no batch is put together from single windows:

        >>> from torch.utils.data import BatchSampler, DataLoader, RandomSampler
        >>> loader = DataLoader(sequences, batch_size=None, sampler=BatchSampler(RandomSampler(sequences), 16, False))
    """

    def __init__(  # public: other programs give these names
        self,
        path: str | Path,
        length: int,
        stride: int | None = None,
        seed: int = 0,
        pad: bool = False,
        normalise: bool = False,
        memory_gb: float | int = 4,
        one_hot: bool = False,
    ):
        stride = length if stride is None else stride
        if length < 1 or stride < 1:
            raise ValueError(f"length {length}, stride {stride}: give 1 or more")
        if seed < 0:
            raise ValueError(f"seed is {seed}; give 0 or more")
        if not memory_gb > 0:
            raise ValueError(f"memory_gb is {memory_gb}; give a number above 0")
        self.latents, self.length, self.stride, self.seed, self.pad = Latents(path), length, stride, seed, pad
        self._moments = (self.z_mean.astype(np.float32), self.z_std.astype(np.float32)) if normalise else None
        self._discrete = self._discrete_actions() if one_hot else None
        self._memory_bytes = memory_gb * 1e9
        self._epoch = _shared(0)
        self._starts, self._steps = self._windows()
        if not len(self._starts):
            longest = self.latents.lengths.max() - 1
            raise ValueError(
                f"{path}: no episode has {length} steps, the longest has {longest}; give a smaller length, or pad=True"
            )
        self._rows: latent_rows.RowsInMemory | latent_rows.RowsInBlocks | None = None
        self._rows = self._open_rows()  # now, so that processes that are forked later share it

    @property
    def z_mean(self) -> Float64[np.ndarray, " z"]:
        """Mean of each dimension of z, before `normalise`; as `Latents.z_mean`.

        Example:
            >>> LatentSequences("latents/carracing", length=20).z_mean.shape
            (32,)
        """
        return self.latents.z_mean

    @property
    def z_std(self) -> Float64[np.ndarray, " z"]:
        """Standard deviation of each dimension of z, before `normalise`; as `Latents.z_std`.

        Example:
            >>> sequences = LatentSequences("latents/carracing", length=20, normalise=True)
            >>> z = sequences[0]["z"].numpy() * sequences.z_std + sequences.z_mean  # as the V model decodes it
        """
        return self.latents.z_std

    def _discrete_actions(self) -> DiscreteActions:
        return DiscreteActions.described_by(self.latents.action_space, self.latents.num_actions, self.latents.path)

    def _windows(self) -> tuple[Int64[np.ndarray, " windows"], Int64[np.ndarray, " windows"]]:
        """Each window's first row among all rows, and its number of transitions."""
        steps = self.latents.lengths - 1
        is_short = steps < self.length
        counts = np.where(is_short, int(self.pad), -(-(steps - self.length) // self.stride) + 1)
        episodes = np.repeat(np.arange(len(steps)), counts)
        within = (np.arange(len(episodes)) - np.repeat(np.cumsum(counts) - counts, counts)) * self.stride
        last = np.maximum(0, steps - self.length)[episodes]
        first_rows = np.cumsum(self.latents.lengths) - self.latents.lengths
        return first_rows[episodes] + np.minimum(within, last), np.minimum(steps, self.length)[episodes]

    def _open_rows(self) -> latent_rows.RowsInMemory | latent_rows.RowsInBlocks:
        worker = get_worker_info()
        return latent_rows.open_rows(self.latents.shards, self._memory_bytes / (worker.num_workers if worker else 1))

    def __len__(self) -> int:
        return len(self._starts)

    def __repr__(self) -> str:
        steps = self.latents.lengths - 1
        short = steps < self.length
        end = f"{short.sum()} shorter episodes ({steps[short].sum()} of {steps.sum()} transitions) "
        end += "padded" if self.pad else "left out"
        return (
            f"LatentSequences({self.latents.path}: {len(self)} windows of {self.length}, stride {self.stride}, "
            f"of {len(steps) if self.pad else (~short).sum()} episodes; {end})"
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's noise. Call it before each epoch, as with `DistributedSampler`.

        Raises:
            ValueError: the epoch is negative.

        Example:
            >>> sequences = LatentSequences("latents/carracing", length=20)
            >>> before = sequences[0]["z"]
            >>> sequences.set_epoch(1)
            >>> bool((sequences[0]["z"] == before).all())
            False
        """
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; give 0 or more")
        self._epoch.fill_(epoch)

    def __getitem__(self, index: SupportsIndex | Iterable[SupportsIndex]) -> Window:
        """One window, or a batch of windows."""
        if np.ndim(index) == 0:  # type: ignore[arg-type]: arrays have __index__, too
            return {name: column[0] for name, column in self[[index]].items()}  # type: ignore[list-item]
        batch = self._batch(index)  # type: ignore[arg-type]
        return {name: column.clone(memory_format=torch.contiguous_format) for name, column in batch.items()}

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Window]:
        """Several windows, gathered at once. A `DataLoader` calls this for each batch."""
        batch = self._batch(indices)
        columns = (column.unbind() for column in batch.values())
        return [dict(zip(batch, window, strict=True)) for window in zip(*columns, strict=True)]

    def _batch(self, indices: Iterable[SupportsIndex]) -> Window:
        """A batch whose z and next_z are one sample."""
        everything = range(len(self))
        numbers = [everything[index] for index in indices]
        starts, steps = self._starts[numbers], self._steps[numbers]
        rows = self._rows_here.windows(starts, steps + 1, self.length + 1)
        drawn = self._sample(rows["mu"], rows["logvar"], numbers)
        self._check_finite(drawn, starts)
        z = torch.from_numpy(drawn)
        if self._discrete is not None:
            rows["actions"] = self._discrete.one_hot(rows["actions"])
            self._check_indices(rows["actions"], starts, steps)
        copied = {name: torch.from_numpy(rows[name])[:, :-1] for name in COPIED_COLUMNS}
        batch = {"z": z[:, :-1], "next_z": z[:, 1:], **copied}
        return _padded(batch, torch.from_numpy(steps)) if self.pad else batch

    def _sample(
        self,
        mu: Float[np.ndarray, "windows rows z"],
        logvar: Float[np.ndarray, "windows rows z"],
        numbers: Sequence[int],
    ) -> Float32[np.ndarray, "windows rows z"]:
        """Sample z = mu + exp(logvar / 2) * noise for the windows with these numbers."""
        z = logvar.astype(np.float32, copy=False)
        with np.errstate(all="ignore"):  # damaged latents overflow; `_check_finite` reports them
            z /= 2
            np.exp(z, out=z)
            z *= self._noise(numbers)
            z += mu
            if self._moments is not None:
                mean, std = self._moments
                z -= mean
                z /= std
        return z

    def _check_finite(self, z: Float32[np.ndarray, "windows rows z"], starts: Int64[np.ndarray, " windows"]) -> None:
        """Refuse damaged latents. Opening a shard does not read every number, so they are found here."""
        if np.isfinite(z).all():
            return
        window = np.flatnonzero(~np.isfinite(z).all(axis=(1, 2)))[0]
        reason = "mu and logvar give a z that is not finite: they are damaged, or too large for float16"
        raise self._unreadable(int(starts[window]), f"{reason}; delete the file and run encode again")

    def _check_indices(
        self,
        one_hot: Float32[np.ndarray, "windows rows actions"],
        starts: Int64[np.ndarray, " windows"],
        steps: Int64[np.ndarray, " windows"],
    ) -> None:
        """Refuse damaged latents, whose actions are no indices of actions."""
        is_transition = np.arange(one_hot.shape[1]) < steps[:, None]
        wrong = np.flatnonzero((is_transition & ~one_hot.any(axis=2)).any(axis=1))
        if len(wrong):
            reason = "actions hold a number that is no index of an action of its action_space"
            raise self._unreadable(int(starts[wrong[0]]), f"{reason}; check the rollouts, and encode them again")

    def _unreadable(self, row: int, reason: str) -> UnreadableError:
        """An error that names the shard with this row of the data set."""
        ends = np.cumsum([shard.num_rows for shard in self.latents.shards])
        path = self.latents.shards[np.searchsorted(ends, row, side="right")].path
        return UnreadableError(printable(f"{path}: {reason}"))

    def _noise(self, numbers: Sequence[int]) -> Float32[np.ndarray, "windows rows z"]:
        """Standard normal noise, one generator for each window. PyTorch's generator takes a third of NumPy's time."""
        state = np.random.SeedSequence([self.seed, int(self._epoch)]).generate_state(1, np.uint64)[0]
        first, generator = int(state >> np.uint64(1)), torch.Generator("cpu")
        noise = torch.empty(len(numbers), self.length + 1, self.latents.z_dim, dtype=torch.float32, device="cpu")
        for window, number in zip(noise.unbind(), numbers, strict=True):
            window.normal_(generator=generator.manual_seed(first + number))
        return noise.numpy()

    @property
    def _rows_here(self) -> latent_rows.RowsInMemory | latent_rows.RowsInBlocks:
        """The rows in this process. A copy opens them when its first item is read."""
        if self._rows is None:
            self._rows = self._open_rows()
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        """The state without the rows. A spawned worker gets the shared epoch; other copies get its value."""
        is_starting = get_spawning_popen() is not None
        return self.__dict__ | {"_rows": None, "_epoch": self._epoch if is_starting else int(self._epoch)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        epoch = state["_epoch"]
        self.__dict__ |= state | {"_epoch": _shared(epoch) if isinstance(epoch, int) else epoch}


def _shared(epoch: int) -> Int64[Tensor, ""]:
    """The epoch in shared memory, where worker processes see its changes."""
    return torch.tensor(epoch, dtype=torch.int64, device="cpu").share_memory_()


def _padded(batch: Window, steps: Int64[Tensor, " windows"]) -> Window:
    """Fill every column with zeros after each window's last transition, and add `mask`."""
    mask: Bool[Tensor, "windows length"] = torch.arange(batch["rewards"].shape[1], device="cpu") < steps[:, None]
    zeroed = {name: column.where(mask.view(*mask.shape, *[1] * (column.ndim - 2)), 0) for name, column in batch.items()}
    return zeroed | {"mask": mask}
