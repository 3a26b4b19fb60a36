"""The work of reading, loading, training and encoding: the way of the named baseline first, then this package's."""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from world_models import encode
from world_models.batches import Batches
from world_models.bench.measuring import Work, wait
from world_models.frames import FrameSet
from world_models.learner import Learner
from world_models.networks import Decoder
from world_models.rollouts import Rollouts
from world_models.vae import VAE, VAEConfig


def read_works(data: Rollouts) -> dict[str, Work]:
    """Frames from compressed shards: in blocks, against one by one."""
    frames, shard = FrameSet(data, range(len(data))), data.shards[0]

    def blocks() -> int:
        return sum(len(frames.read_block(block)) for block in range(min(64, len(frames.block_lengths))))

    def single_frames() -> int:
        rows = np.random.default_rng(0).integers(0, shard.num_rows, 300)
        return sum(len(shard.read("frames", int(row), int(row) + 1)) for row in rows)

    return {"single_frames": single_frames, "blocks": blocks}


class _FrameByFrame(Dataset[Float[Tensor, "3 64 64"]]):
    """What public code does: a frame at a time, as float, from an uncompressed file."""

    def __init__(self, path: Path):
        self._frames: Any = h5py.File(path)["frames"]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Float[Tensor, "3 64 64"]:
        return torch.from_numpy(self._frames[index]).permute(2, 0, 1).float() / 255


def load_works(data: Rollouts, folder: Path, device: torch.device) -> dict[str, Work]:
    """Shuffled batches on the device: from memory and from compressed shards, against a DataLoader."""
    frames = FrameSet(data, range(len(data)))
    with h5py.File(folder / "uncompressed.h5", "w") as file:
        file["frames"] = frames.read_all()
    plain = DataLoader(_FrameByFrame(folder / "uncompressed.h5"), batch_size=128, shuffle=True)

    def loader(memory_bytes: int) -> Work:
        batches = Batches(frames, 128, 0, len(frames) // 8, memory_bytes)
        stream = batches(device)
        return lambda: sum(len(next(stream)) for _ in range(2 * batches.steps_per_epoch))

    return {
        "frame_by_frame": lambda: sum(len(batch) for batch in itertools.islice(plain, 16)),
        "resident": loader(2 * frames.num_bytes),
        "streamed": loader(frames.num_bytes - 1),
    }


class _PlainDecoder(Decoder):
    """The paper's transposed convolutions as they are written."""

    def _first_deconv(self, hidden: Float[Tensor, "batch 1024"]) -> Float[Tensor, "batch 128 5 5"]:
        return self.deconv1(hidden[:, :, None, None])

    def _last_deconv(self, hidden: Float[Tensor, "batch 32 30 30"]) -> Float[Tensor, "batch 3 64 64"]:
        return self.deconv4(hidden)


def _plain_vae(device: torch.device) -> VAE:
    vae = VAE(VAEConfig())
    vae.decoder = _PlainDecoder(vae.config.z_dim)
    return vae.to(device)


def train_works(data: Rollouts, device: torch.device, seconds: float) -> dict[str, Work]:
    """Training steps on frames in memory."""
    frames = FrameSet(data, range(len(data))).read_spread(2048)

    def timed(step: Callable[[Any], Any], batches: Sequence[Any]) -> Work:
        def work() -> int:
            seen, end = 0, time.perf_counter() + seconds
            for batch in itertools.cycle(batches):
                step(batch)
                seen += len(batch)
                if time.perf_counter() > end:
                    break
            wait(device)
            return seen

        return work

    learner = Learner(VAE(VAEConfig()).to(device), 0, 100.0, bf16=device.type == "cuda")
    return {
        "plain": timed(_plain_step(device), [frames[i : i + 100] for i in range(0, max(1, len(frames) - 99), 100)]),
        "default": timed(lambda batch: learner.learn(batch, 1e-4, 1.0), torch.from_numpy(frames).to(device).split(128)),
    }


def _plain_step(device: torch.device) -> Callable[[UInt8[np.ndarray, "batch 64 64 3"]], None]:
    """A training step as public code takes it: the paper's layers, frames made float on the host."""
    vae = _plain_vae(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-4)

    def step(frames: UInt8[np.ndarray, "batch 64 64 3"]) -> None:
        images = torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 3, 1, 2).to(device)
        loss = vae.objective(images, torch.randn(len(frames), vae.config.z_dim, device=device)).loss_nats.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def encode_works(data: Rollouts, folder: Path, device: torch.device) -> dict[str, Work]:
    """A shard of rollouts to a file of latents."""
    fresh = itertools.count()
    vae, shard = _plain_vae(device).eval(), data.shards[0]
    settings = encode.EncodeConfig()
    vae.preprocess = data.preprocess
    encoding = encode.Job(settings, data, vae, "none", ())

    def whole_rollouts() -> int:
        with torch.inference_mode():
            for start, rows in zip(shard.starts, shard.lengths, strict=True):
                images = shard.read("frames", int(start), int(start + rows)) / 255.0
                mu, logvar = vae.encoder(torch.from_numpy(images).float().permute(0, 3, 1, 2).to(device))
                np.savez(folder / "latents.npz", mu=mu.cpu().numpy(), logvar=logvar.cpu().numpy())
        return shard.num_rows

    def h5_to_h5() -> int:
        return sum(encode.encode_shard(encoding, shard, folder / f"latents_{next(fresh)}.h5"))

    return {"whole_rollouts": whole_rollouts, "h5_to_h5": h5_to_h5}
