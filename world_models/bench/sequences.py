"""The work of reading windows of latents: one by one from the files (the baseline), and by `LatentSequences`."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from world_models.bench.measuring import Work, steps_for
from world_models.data.latent_rows import RowLayout
from world_models.data.latents import COPIED_COLUMNS, Latents, write_latents
from world_models.data.rollouts import Rollouts
from world_models.data.sequences import LatentSequences, Window

LENGTH, BATCH, Z_DIM = 32, 32, 32


class WindowByWindow(Dataset[Window]):
    """Reads one window at a time: each column from its file, and the noise from a new generator."""

    def __init__(self, path: Path):
        self._latents = Latents(path)
        steps = self._latents.lengths - 1
        counts = steps // LENGTH
        self._episodes = np.repeat(np.arange(len(steps)), counts)
        self._starts = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * LENGTH

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Window:
        shard, first, _ = self._latents.locate(int(self._episodes[index]))
        start = first + int(self._starts[index])
        rng = np.random.default_rng([0, 0, index])
        mu, logvar = (shard.read(name, start, start + LENGTH + 1).astype(np.float32) for name in ("mu", "logvar"))
        z = torch.from_numpy(mu + np.exp(logvar / 2) * rng.standard_normal(mu.shape, np.float32))
        steps = {name: torch.from_numpy(shard.read(name, start, start + LENGTH)) for name in COPIED_COLUMNS}
        return {"z": z[:-1], "next_z": z[1:], **steps}


def write(data: Rollouts, folder: Path) -> Path:
    """Write random latents for the rows of the data set, because reading them needs no model."""
    out, rng = folder / "latents", np.random.default_rng(0)
    out.mkdir()
    attributes = {"vae_sha256": "0" * 64, "config": ""}
    for shard in data.shards:
        with write_latents(out / shard.path.name, shard, Z_DIM, "float32", attributes) as latents:
            shape = (shard.num_rows, Z_DIM)
            latents.append(rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32) - 3)
    return out


def works(data: Rollouts, folder: Path, seconds: float) -> dict[str, Work]:
    """Windows of 32 in shuffled batches of 32. A window counts as 32 frames.

    The variants are: latents in memory, with a plain loader; with a `BatchSampler`; one window at a time; and only half
    of the latents in memory.
    """
    path = write(data, folder)
    before, held = WindowByWindow(path), LatentSequences(path, LENGTH)
    num_bytes = held.latents.num_rows * RowLayout.of(held.latents.shards).row_bytes
    half = LatentSequences(path, LENGTH, memory_gb=num_bytes / 2e9)

    def epochs(batches: Iterable[Window]) -> Work:
        forever = itertools.chain.from_iterable(itertools.repeat(batches))
        return steps_for(lambda batch: None, forever, _num_frames, seconds, torch.device("cpu"))

    return {
        "window_by_window": epochs(DataLoader(before, BATCH, shuffle=True)),
        "loader": epochs(DataLoader(held, BATCH, shuffle=True)),
        "ready_batches": epochs(DataLoader(held, None, sampler=BatchSampler(RandomSampler(held), BATCH, False))),
        "one_at_a_time": epochs(held),  # type: ignore[arg-type]: it ends by an IndexError
        "half_in_memory": epochs(DataLoader(half, BATCH, shuffle=True)),
    }


def _num_frames(batch: Window) -> int:
    return batch["rewards"].numel()
