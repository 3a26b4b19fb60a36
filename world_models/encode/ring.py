"""Encoding on a GPU. While it encodes a batch, the next batch is copied to it, and threads unpack more of them.

A batch passes through the memory of a slot: frames on the host, frames on the device, latents on the device, latents on
the host. When its latents were used, the slot takes another batch.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from world_models.data.shards.reader import Shard
from world_models.runtime.gpu import Captured, GraphMemory, Mark, Queue, host_memory
from world_models.vae.model import VAE

IN_FLIGHT = 2
"""Number of batches that are queued on the device: while one is encoded, the next is copied."""
MAX_BYTES = 2_000_000_000
"""Upper bound on the memory of all slots, as long as there are enough of them for the device."""


def latents_of(
    vae: VAE,
    batches: Iterable[tuple[Shard, int]],
    batch_size: int,
    readers: ThreadPoolExecutor,
    num_readers: int,
    dtype: str,
) -> Iterator[tuple[Float[np.ndarray, "rows z"], Float[np.ndarray, "rows z"]]]:
    """Yield mu and logvar of each batch, in order.

    Args:
        vae: the model, on its device.
        batches: the shard and the first row of each batch. A batch ends after `batch_size` rows, or with its shard.
        batch_size: largest number of rows of a batch.
        readers: threads that read frames.
        num_readers: number of these threads.
        dtype: dtype of the latents.
    """
    ring = Ring(vae, batch_size, num_readers)
    for latents in ring.encode((_unread(shard, start, batch_size) for shard, start in batches), readers):
        mu, logvar = latents.swapaxes(0, 1).astype(dtype, order="C")  # a copy
        yield mu, logvar


def _unread(shard: Shard, start: int, batch_size: int) -> "UnreadBatch":
    def read_into(frames: UInt8[np.ndarray, "rows 64 64 3"]) -> None:
        for row, piece in shard.pieces("frames", start, start + len(frames)):
            frames[row - start : row - start + len(piece)] = piece

    return UnreadBatch(min(batch_size, shard.num_rows - start), read_into)


class UnreadBatch(NamedTuple):
    """A batch that has not been read yet.

    Attributes:
        num_rows: number of its frames.
        read_into: reads the frames into an array. A thread calls it.
    """

    num_rows: int
    read_into: Callable[[UInt8[np.ndarray, "rows 64 64 3"]], object]


class Ring:
    """Encodes batches in order.

    Args:
        vae: the model, on its device.
        batch_size: largest number of frames of a batch.
        num_readers: number of threads that read batches.

    Attributes:
        num_slots: largest number of batches that are in memory at a time.
    """

    def __init__(self, vae: VAE, batch_size: int, num_readers: int):
        bytes_per_slot = batch_size * vae.num_values
        self.num_slots = IN_FLIGHT + max(1, min(num_readers, MAX_BYTES // bytes_per_slot - IN_FLIGHT))
        memory = GraphMemory(vae.device)  # the graphs run one after the other
        self._slots = [_Slot(vae, batch_size, memory) for _ in range(self.num_slots)]
        self._copies, self._computations = Queue(vae.device), Queue(vae.device)

    def encode(
        self, batches: Iterable[UnreadBatch], readers: ThreadPoolExecutor
    ) -> Iterator[Float32[np.ndarray, "rows 2 z"]]:
        """Yield mu and logvar of each batch, in order. An array is valid until the next one is requested.

        Args:
            batches: the batches.
            readers: threads that read them.
        """
        todo = iter(batches)
        free = collections.deque(self._slots)
        being_read: collections.deque[tuple[_Slot, int, Future[object]]] = collections.deque()
        queued: collections.deque[tuple[_Slot, int]] = collections.deque()
        while True:
            while free and (batch := next(todo, None)):
                slot = free.popleft()
                frames = slot.frames[: batch.num_rows].numpy()
                being_read.append((slot, batch.num_rows, readers.submit(batch.read_into, frames)))
            if being_read and len(queued) < IN_FLIGHT:
                slot, num_rows, read = being_read.popleft()
                read.result()
                self._queue(slot, num_rows)
                queued.append((slot, num_rows))
            elif queued:
                slot, num_rows = queued.popleft()
                slot.done.wait()
                yield slot.latents[:num_rows].numpy()
                free.append(slot)
            else:
                return

    def _queue(self, slot: "_Slot", num_rows: int) -> None:
        """Queue three pieces of work: copy the frames, encode them, copy the latents back. The CPU does not wait."""
        with self._copies:
            slot.device_frames[:num_rows].copy_(slot.frames[:num_rows], non_blocking=True)
        self._computations.wait_for(self._copies.mark())
        with self._computations:
            slot.encoder(num_rows)()
            slot.latents[:num_rows].copy_(slot.device_latents[:num_rows], non_blocking=True)
        slot.done = self._computations.mark()


class _Slot:
    """Memory for a batch.

    Attributes:
        frames: its frames, on the host.
        device_frames: the same on the device.
        device_latents: mu and logvar, on the device.
        latents: the same on the host.
        done: the place in the queue after which `latents` are complete.
    """

    def __init__(self, vae: VAE, batch_size: int, memory: GraphMemory):
        self._vae, self._memory = vae, memory
        frames, latents = (batch_size, *vae.frame_shape), (batch_size, 2, vae.config.z_dim)
        self.frames = host_memory(frames, torch.uint8, vae.device)
        self.device_frames = torch.empty(*frames, dtype=torch.uint8, device=vae.device)
        self.device_latents = torch.empty(*latents, device=vae.device)
        self.latents = host_memory(latents, torch.float32, vae.device)
        self.done = Mark()
        self._encoders: dict[int, Captured] = {}

    def encoder(self, num_rows: int) -> Captured:
        """Encodes the first `num_rows` frames on the device. Each number of rows has a graph of its own."""
        if num_rows not in self._encoders:
            self._encoders[num_rows] = Captured(functools.partial(self._encode, num_rows), self._memory)
        return self._encoders[num_rows]

    def _encode(self, num_rows: int) -> None:
        posterior = self._vae.encode(self.device_frames[:num_rows])
        torch.stack([posterior.mu, posterior.logvar], 1, out=self.device_latents[:num_rows])
