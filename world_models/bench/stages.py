"""The work of reading, loading, training and encoding: by the named baseline, and by this package."""

import functools
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from world_models.bench.measuring import Work, seconds_of, steps_for
from world_models.data.batch import AnyBatch, Batch
from world_models.data.batches import Batches
from world_models.data.frames import FrameSet
from world_models.data.rollouts import Rollouts
from world_models.data.shards import opening
from world_models.encode import command as encode
from world_models.encode.ring import Ring, UnreadBatch
from world_models.runtime.gpu import Captured, GraphMemory
from world_models.runtime.host import available_cores
from world_models.train_vae.command import TrainConfig
from world_models.train_vae.learner import Learner
from world_models.vae.config import VAEConfig
from world_models.vae.fast import forms
from world_models.vae.model import VAE
from world_models.vae.noise import Generator
from world_models.vae.posterior import Posterior

RESIDENT_FRAMES = 8192  # frames of a sample that encodes from memory


def read_works(data: Rollouts) -> dict[str, Work]:
    """Read frames from compressed shards, in blocks. The baseline reads them one by one."""
    frames, shard = FrameSet(data, range(len(data))), data.shards[0]

    def blocks() -> int:
        return sum(len(frames.read_block(block)) for block in range(min(64, len(frames.block_lengths))))

    def single_frames() -> int:
        rows = np.random.default_rng(0).integers(0, shard.num_rows, 300)
        return sum(len(shard.read("frames", int(row), int(row) + 1)) for row in rows)

    return {"single_frames": single_frames, "blocks": blocks}


class _FrameByFrame(Dataset[Float[Tensor, "3 64 64"]]):
    """Reads one frame at a time, as float, from an uncompressed file, as public code does."""

    def __init__(self, path: Path):
        self._frames: Any = h5py.File(path)["frames"]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Float[Tensor, "3 64 64"]:
        return torch.from_numpy(self._frames[index]).permute(2, 0, 1).float() / 255


def load_works(data: Rollouts, folder: Path, device: torch.device) -> dict[str, Work]:
    """Load shuffled batches to the device, from memory and from compressed shards. The baseline is a DataLoader."""
    frames = FrameSet(data, range(len(data)))
    with h5py.File(folder / "uncompressed.h5", "w") as file:
        file["frames"] = frames.read_all()
    plain = DataLoader(_FrameByFrame(folder / "uncompressed.h5"), batch_size=128, shuffle=True)

    def loader(memory_bytes: int) -> Work:
        batches = Batches(frames, 128, 0, len(frames) // 8, memory_bytes)
        stream = batches(device)

        def work() -> int:
            count = sum(len(next(stream).frames) for _ in range(2 * batches.steps_per_epoch))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return count

        return work

    return {
        "frame_by_frame": lambda: sum(len(batch) for batch in itertools.islice(plain, 16)),
        "resident": loader(2 * frames.num_bytes),
        "streamed": loader(frames.num_bytes - 1),
    }


class PlainVAE(VAE):
    """The paper's layers as they are written, without the faster forms."""

    def posterior(self, images: Float[Tensor, "batch 3 64 64"], labels: Tensor | None = None) -> Posterior:
        """The posterior of images."""
        return Posterior(*self.encoder(images))

    def logits(self, z: Float[Tensor, "batch z"], labels: Tensor | None = None) -> Float[Tensor, "batch 3 64 64"]:
        """The decoded images before the sigmoid."""
        return self.decoder(z)


def train_works(data: Rollouts, device: torch.device, seconds: float) -> dict[str, Work]:
    """Training steps on frames in memory, and from compressed shards. On a GPU also without graphs, and compiled."""
    frames = FrameSet(data, range(len(data)))
    some = frames.read_spread(2048)
    on_gpu, default = device.type == "cuda", TrainConfig.batch_size

    def timed(step: Callable[[Any], Any], batches: Iterator[Any]) -> Work:
        size: Callable[[Any], int] = lambda batch: len(batch) if isinstance(batch, np.ndarray) else batch.size  # noqa: E731
        return steps_for(step, batches, size, seconds, device)

    def plain_batches() -> Iterator[UInt8[np.ndarray, "batch 64 64 3"]]:
        return itertools.cycle([some[i : i + 100] for i in range(0, max(1, len(some) - 99), 100)])

    def resident(size: int) -> Iterator[AnyBatch]:
        if on_gpu:  # as in training, but without an epoch's small last batch, which is rare in a large data set
            batches = Batches(frames, size, 0, len(frames), frames.num_bytes)(device)
            return (batch for batch in batches if batch.size == size)
        return itertools.cycle([Batch.whole(part) for part in torch.from_numpy(some).split(size)])

    def ours(batches: Iterator[AnyBatch], **settings: Any) -> Work:
        generator: Generator = "philox" if on_gpu else "mersenne"
        learner = Learner(VAE(VAEConfig()).to(device), 0, 100.0, on_gpu, generator=generator, **settings)
        return timed(lambda batch: learner.learn(batch, 1e-4, 1.0), batches)

    def graph(size: int) -> dict[str, int]:
        return {"fixed_size": size} if on_gpu else {}

    streamed = Batches(frames, default, 0, max(1, len(frames) // 8), frames.num_bytes - 1)
    sizes = dict.fromkeys([default, 100, 256, 1024] if on_gpu else [default, 100, 256])
    others = sizes if on_gpu else {}
    return {
        "plain": timed(plain_step(device), plain_batches()),
        **{f"batch_{size}": ours(resident(size), **graph(size)) for size in sizes},
        **{f"batch_{size}_without_graph": ours(resident(size)) for size in others},
        **{f"batch_{size}_compiled": ours(resident(size), compiled_size=size) for size in others},
        f"batch_{default}_from_shards": ours(streamed(device), **graph(default)),
    }


def plain_step(device: torch.device) -> Callable[[UInt8[np.ndarray, "batch 64 64 3"]], None]:
    """A training step as in public code: the paper's layers, with frames converted to float on the host."""
    vae = PlainVAE(VAEConfig()).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-4)

    def step(frames: UInt8[np.ndarray, "batch 64 64 3"]) -> None:
        images = torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 3, 1, 2).to(device)
        loss = vae.objective(images, torch.randn(len(frames), vae.config.z_dim, device=device)).loss_nats.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def encode_works(data: Rollouts, folder: Path, device: torch.device) -> dict[str, Work]:
    """Encode rollouts to files of latents. The baseline encodes one shard."""
    fresh = itertools.count()
    vae, shard = PlainVAE(VAEConfig(), data.preprocess).to(device).eval(), data.shards[0]

    def whole_rollouts() -> int:
        with torch.inference_mode(), opening.open_for_reading(shard.path) as file:
            frames: Any = file["frames"]
            for start, rows in zip(shard.starts, shard.lengths, strict=True):
                images = frames[start : start + rows] / 255.0
                mu, logvar = vae.encoder(torch.from_numpy(images).float().permute(0, 3, 1, 2).to(device))
                np.savez(folder / "latents.npz", mu=mu.cpu().numpy(), logvar=logvar.cpu().numpy())
        return shard.num_rows

    def h5_to_h5() -> int:
        out = folder / f"latents_{next(fresh)}"
        out.mkdir()
        encoding = encode.Job(encode.EncodeConfig(out=str(out)), data, vae, "none", None, ())
        return sum(encode.encode_shards(encoding, range(len(data.shards))))

    resident = torch.from_numpy(FrameSet(data, range(len(data))).read_spread(RESIDENT_FRAMES)).to(device)
    batches = resident.split(encode.CPU_BATCH * torch.get_num_threads() if device.type == "cpu" else encode.GPU_BATCH)
    encoders = [
        Captured(functools.partial(forms.encode_frames, vae.paper[0], batch), memory)
        for memory in [GraphMemory(device)]
        for batch in batches
    ]

    def encode_batches() -> None:
        for encode_batch in encoders:
            encode_batch()

    def from_memory() -> tuple[int, float]:
        return len(resident), seconds_of(encode_batches, device)

    works: dict[str, Work] = {"whole_rollouts": whole_rollouts, "h5_to_h5": h5_to_h5, "resident": from_memory}
    return works if device.type == "cpu" else works | {"from_host_memory": through_ring(vae, resident.cpu().numpy())}


def through_ring(vae: VAE, frames: UInt8[np.ndarray, "frames 64 64 3"]) -> Work:
    """Encode frames in the host's memory on a GPU; the latents come back to the host."""
    ring, readers = Ring(vae, encode.GPU_BATCH, available_cores()), ThreadPoolExecutor(available_cores())
    parts = [frames[start : start + encode.GPU_BATCH] for start in range(0, len(frames), encode.GPU_BATCH)]
    batches = [UnreadBatch(len(part), functools.partial(_copy_to, part)) for part in parts]

    def work() -> int:
        return sum(len(latents) for latents in ring.encode(itertools.chain(*[batches] * 8), readers))

    return work


def _copy_to(source: np.ndarray, target: np.ndarray) -> None:
    target[:] = source
