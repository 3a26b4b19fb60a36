"""Batches pass through the slots in order, and each slot holds one batch at a time."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts
from world_models.encode import command as encode
from world_models.encode import ring
from world_models.encode.ring import Ring, UnreadBatch
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

pytestmark = pytest.mark.usefixtures("one_thread")

GPU = torch.device("cuda")
NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
DEVICES = pytest.mark.parametrize(
    "device", [torch.device("cpu"), pytest.param(GPU, marks=NEEDS_GPU)], ids=["cpu", "gpu"]
)


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(3))


@pytest.fixture
def readers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def _frames(number: int, num_rows: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (num_rows, 64, 64, 3), np.uint8)


def _batch(number: int, num_rows: int, delay_s: float = 0.0) -> UnreadBatch:
    def read_into(frames: np.ndarray) -> None:
        time.sleep(delay_s)
        frames[:] = _frames(number, num_rows)

    return UnreadBatch(num_rows, read_into)


@DEVICES
def test_latents_are_those_of_the_model_in_the_order_of_the_batches(
    vae: VAE, readers: ThreadPoolExecutor, device: torch.device
):
    sizes = [4, 4, 1, 4, 3, *[4] * 20, 2]  # on a GPU, batches of four become graphs
    batches = (_batch(number, size, 0.002 * (number % 3)) for number, size in enumerate(sizes))
    found = Ring(vae.to(device), 4, 3).encode(batches, readers)
    for number, (size, latents) in enumerate(zip(sizes, found, strict=True)):
        posterior = vae.encode(_frames(number, size))
        expected = torch.stack([posterior.mu, posterior.logvar], 1).cpu().numpy()
        np.testing.assert_allclose(latents, expected, atol=1e-5 if device.type == "cpu" else 1e-2)


def test_batches_are_read_ahead_but_never_more_than_there_are_slots(vae: VAE, readers: ThreadPoolExecutor):
    read, lock = itertools.count(1), threading.Lock()
    counts: list[int] = []

    def read_into(frames: np.ndarray) -> None:
        with lock:
            counts.append(next(read))

    latents = Ring(vae, 1, 3).encode((UnreadBatch(1, read_into) for _ in range(50)), readers)
    for used in range(50):
        next(latents)
        assert max(counts) <= used + 3 + ring.IN_FLIGHT
    assert len(counts) == 50


def test_no_batches_give_no_latents(vae: VAE, readers: ThreadPoolExecutor):
    assert list(Ring(vae, 4, 2).encode([], readers)) == []


def test_an_error_of_a_reader_is_raised(vae: VAE, readers: ThreadPoolExecutor):
    def fail(frames: np.ndarray) -> None:
        raise ValueError("damaged")

    latents = Ring(vae, 2, 2).encode([_batch(0, 2), UnreadBatch(2, fail), _batch(1, 2)], readers)
    with pytest.raises(ValueError, match="damaged"):
        list(latents)


@pytest.mark.parametrize(("most_bytes", "num_slots"), [(1 << 40, 8), (5 * 4 * 12_288, 5), (1, 3)])
def test_large_batches_have_fewer_slots(vae: VAE, monkeypatch: pytest.MonkeyPatch, most_bytes: int, num_slots: int):
    monkeypatch.setattr(ring, "MAX_BYTES", most_bytes)
    assert Ring(vae, 4, 6).num_slots == num_slots


@pytest.mark.parametrize(("batch_size", "dtype"), [(4, "float32"), (100, "float16")])
def test_shards_have_the_latents_of_the_cpus_way(
    make_rollouts: Callable[..., Path], vae: VAE, readers: ThreadPoolExecutor, batch_size: int, dtype: str
):
    shards = Rollouts(make_rollouts([9, 5], [6])).shards
    places = [(shard, start) for shard in shards for start in range(0, shard.num_rows, batch_size)]
    found = list(ring.latents_of(vae, places, batch_size, readers, 2, dtype))
    mu, logvar = (np.concatenate(column) for column in zip(*found, strict=True))
    posterior = vae.encode(np.concatenate([shard.read("frames") for shard in shards]))
    assert mu.dtype == logvar.dtype == np.dtype(dtype)
    for ours, expected in ((mu, posterior.mu), (logvar, posterior.logvar)):
        np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5 if dtype == "float32" else 1e-3)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=NEEDS_GPU)])
def test_a_gpu_encodes_what_the_cpu_encodes(device: str, rollouts_dir: Path, run_dir: Path, tmp_path: Path):
    for name in ("cpu", device):
        argv = f"--data {rollouts_dir} --vae {run_dir} --out {tmp_path / name} --device {name} --batch_size 16"
        encode.main(argv.split())
    ours, theirs = (Latents(tmp_path / name, verify=True) for name in (device, "cpu"))
    assert ours.vae_sha256 == theirs.vae_sha256
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.mu, other.mu, atol=1e-2)
        np.testing.assert_allclose(one.logvar, other.logvar, atol=1e-2)
