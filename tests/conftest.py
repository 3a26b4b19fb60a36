"""Data that tests share. They are made once per session, by the commands themselves if that is cheap."""

import contextlib
import dataclasses
import html.parser
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the commands

# Before our modules: what they import first, jaxtyping's hook compiles again in every process.
import torch

from world_models import collect, encode, train_vae
from world_models.data.latents import write_latents
from world_models.data.rollouts import FORMAT as ROLLOUTS
from world_models.data.rollouts import write_rollouts
from world_models.data.shards import shard_path
from world_models.data.shards.episodes import open_shards
from world_models.runtime import writers

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores this signal in what it starts with &
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)  # nohup ignores these

PREPROCESS = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}
TELEMETRY = ("speed_m_per_s", "heading_rad")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond the size in the block, as on a full disk; Python ignores the signal that comes with it.

    Not a fixture: pytest writes its own report, often to a file, before it leaves a fixture.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def registered_envs(*kinds: Any) -> Iterator[None]:
    """In the block, Gymnasium makes environments of these classes by their names, as in `Pictures-v0`."""
    for kind in kinds:
        gymnasium.register(f"{kind.__name__}-v0", kind)
    try:
        yield
    finally:
        for kind in kinds:
            del gymnasium.registry[f"{kind.__name__}-v0"]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch with one thread. If other processes keep the cores busy, its threads wait long for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch with two threads, which `torch.set_num_threads` may change in the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class _Tags(html.parser.HTMLParser):
    """Follows the tags of a page, and notes what is wrong with them."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img" and not dict(attrs).get("alt"):
            self.faults.append("an image without words for it")
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> in line {self.getpos()[0]} closes what is not open")


def html_faults(page: str) -> list[str]:
    """What is wrong with a page: tags that are not closed in order, images without alternative text."""
    tags = _Tags()
    tags.feed(page)
    return tags.faults + [f"<{tag}> is not closed" for tag in tags.open]


@pytest.fixture(scope="session")
def sanitized() -> dict[str, str]:
    """The environment of a Python into which AddressSanitizer is loaded before all else."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here: cc is not on the path")
    asan, ubsan = (
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    )
    if not (Path(asan).is_absolute() and Path(ubsan).is_absolute()):
        pytest.skip("the C compiler has no sanitizers here: libasan.so or libubsan.so is missing")
    environment = {**os.environ, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"}
    if subprocess.run([sys.executable, "-c", "import numpy"], env=environment, capture_output=True).returncode:
        pytest.skip("Python does not start with AddressSanitizer here")
    return environment


@pytest.fixture(scope="session")
def rollouts_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real CarRacing: 6 episodes of 40 steps in 3 shards, seeds 0 to 5, brownian and driver in turn."""
    out = tmp_path_factory.mktemp("rollouts") / "carracing"
    collect.main([*f"--out {out} --num_episodes 6 --max_steps 40 --episodes_per_shard 2 --executor serial".split()])
    return out


@pytest.fixture(scope="session")
def run_dir(rollouts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A V model trained for a few steps on `rollouts_dir`."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    train_vae.main(
        f"--data {rollouts_dir} --out {out} --num_frames 400 --batch_size 50 --lr_warmup_frames 50 "
        "--val_every_frames 200 --log_every_steps 2".split()
    )
    return out


@pytest.fixture(scope="session")
def latents_dir(rollouts_dir: Path, run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The latents of `rollouts_dir` by `run_dir`."""
    out = tmp_path_factory.mktemp("latents") / "carracing"
    encode.main(f"--data {rollouts_dir} --vae {run_dir} --out {out}".split())
    return out


@pytest.fixture
def make_rollouts(tmp_path: Path) -> Callable[..., Path]:
    """Writes a synthetic data set in milliseconds: one list of episode lengths (in steps) for each shard."""

    def make(
        *shards: Sequence[int],
        name: str = "rollouts",
        seed: int = 0,
        preprocess: dict = PREPROCESS,
        env: str = "Synthetic-v0",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(seed)
        attributes = {
            "env": env,
            "preprocess": json.dumps(preprocess),
            "action_space": json.dumps({"type": "Box", "shape": [3]}),
            "warmup_steps": 0,
            "config": "seed: 0\n",
        }
        episode = 0
        for index, lengths in enumerate(shards):
            with write_rollouts(shard_path(folder, index), 3, TELEMETRY, attributes) as rollouts:
                for steps in lengths:
                    for step in range(steps):
                        last = step == steps - 1
                        rollouts.step(
                            _frame(rng),
                            _numbers(rng, 2),
                            _numbers(rng, 3),
                            float(rng.normal()),
                            last and episode % 2 == 0,
                            last and episode % 2 == 1,
                        )
                    rollouts.end_episode(
                        _frame(rng), _numbers(rng, 2), seed + episode, ("brownian", "driver")[episode % 2]
                    )
                    episode += 1
        return folder

    return make


@pytest.fixture
def make_latents(make_rollouts: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes latents of synthetic rollouts: one list of episode lengths (in steps) for each shard."""

    def make(*shards: list[int], dtype: str = "float32", z_dim: int = 4, scale: float = 1.0) -> Path:
        folder = tmp_path / "latents"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for source in open_shards(make_rollouts(*shards), ROLLOUTS):
            with np.errstate(over="ignore"):  # of float16
                mu, logvar = (scale * rng.standard_normal((2, source.num_rows, z_dim))).astype(dtype)
            attributes = {"vae_sha256": "ab" * 32, "config": "dtype: float32\n"}
            with write_latents(folder / source.path.name, source, z_dim, dtype, attributes) as latents:
                latents.append(mu, logvar)
        return folder

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes the records of a run without a model: its settings, and its metrics, scores and description if given."""

    def make(
        name: str,
        config: Mapping[str, Any] | None = None,
        lines: Sequence[Mapping[str, Any]] = (),
        scores: Mapping[str, Any] | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(json.dumps({"num_frames": 1000} if config is None else config))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for file, value in {"eval.json": scores, "model.json": description}.items():
            if value is not None:
                (folder / file).write_text(json.dumps(value))
        return folder

    return make


def _frame(rng: np.random.Generator) -> np.ndarray:
    """A smooth random picture: a coarse one, enlarged."""
    return rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def _numbers(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal(count).astype(np.float32)


@pytest.fixture
def leave_partial() -> Callable[[Path], Path]:
    """Makes an unfinished file, as a killed process leaves it."""

    def leave(file: Path) -> Path:
        running = writers.new()
        killed = dataclasses.replace(running, started=running.started + 1)
        partial = file.with_name(f"{file.name}.{killed}.partial")
        partial.write_bytes(b"half")
        return partial

    return leave


@pytest.fixture(scope="session")
def write_idx() -> Callable[[Path, np.ndarray], None]:
    """Writes an array of bytes in the format of MNIST's files."""
    return _write_idx


@pytest.fixture(scope="session")
def make_mnist(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes small files as MNIST's, in milliseconds: each digit is a bar of its own, of any thickness, with noise."""

    def make(num_train: int = 200, num_test: int = 60, seed: int = 0) -> Path:
        root = tmp_path_factory.mktemp("mnist")
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for name, count in {"train": num_train, "t10k": num_test}.items():
            labels = np.arange(count, dtype=np.uint8) % 10
            images = np.stack([_bar(rng, int(digit)) for digit in labels])
            _write_idx(raw / f"{name}-images-idx3-ubyte", images)
            _write_idx(raw / f"{name}-labels-idx1-ubyte", labels)
        return root

    return make


@pytest.fixture(scope="session")
def mnist_dir(make_mnist: Callable[..., Path]) -> Path:
    """Two hundred images to train on and sixty to test, as MNIST's files."""
    return make_mnist()


def _bar(rng: np.random.Generator, digit: int) -> np.ndarray:
    """A vertical bar at a place of the digit's own, 1 to 3 pixels thick."""
    image = rng.integers(0, 30, (28, 28)).astype(np.uint8)
    start = 2 + 2 * digit
    image[4:24, start : start + 1 + int(rng.integers(3))] = rng.integers(180, 256)
    return image


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = np.array([0x0800 + values.ndim, *values.shape], ">i4")
    path.write_bytes(header.tobytes() + values.tobytes())
