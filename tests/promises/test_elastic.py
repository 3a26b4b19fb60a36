"""Training on several machines: if one of them dies, the others continue from the last checkpoint.

The machines are two agents of torchrun on this one, which meet at 127.0.0.1 as agents on two hosts do.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from world_models import train_vae
from world_models.runs import checkpoints, resume
from world_models.runtime import distributed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NUM_FRAMES, BATCH, VAL_EVERY = 640, 16, 128
SETTINGS = (
    f"--num_frames {NUM_FRAMES} --batch_size {BATCH} --lr 1e-4 --lr_warmup_frames 0 --val_every_frames {VAL_EVERY} "
    "--num_val_frames 20 --log_every_steps 1 --vae.z_dim 4 --device cpu --wandb.mode disabled --resume true"
)
PATIENCE_S = 120.0


def wait_until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def disks(rollouts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same rollouts on the disks of two machines."""
    folder = tmp_path_factory.mktemp("disks")
    return [shutil.copytree(rollouts_dir, folder / name / "rollouts") for name in ("first", "second")]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(disk: Path, out: Path, port: int, is_first: bool) -> subprocess.Popen[str]:
    """The agent of one machine, with one process. The agents meet at the first one."""
    meeting = f"--rdzv_backend=c10d --rdzv_id=test --rdzv_endpoint=127.0.0.1:{port} --local_addr=127.0.0.1"
    waiting = f"--rdzv_conf=is_host={is_first},last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"
    argv = f"-m torch.distributed.run --nnodes=1:2 --nproc_per_node=1 --max_restarts=5 {meeting} {waiting}"
    command = [sys.executable, *f"{argv} -m world_models.train_vae --data {disk} --out {out} {SETTINGS}".split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


@contextlib.contextmanager
def two_machines(disks: list[Path], out: Path) -> Iterator[list[subprocess.Popen[str]]]:
    port = free_port()
    agents = [start(disk, out, port, is_first=disk is disks[0]) for disk in disks]
    try:
        yield agents
    finally:
        for agent in agents:
            die(agent)
            agent.communicate()


def die(agent: subprocess.Popen[str]) -> None:
    """End a machine: all its processes at once, without notice."""
    with contextlib.suppress(psutil.NoSuchProcess):
        machine = psutil.Process(agent.pid)
        for process in (machine, *machine.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def lines(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def saved_step(run: Path) -> int:
    return resume.load_state(run)["step"] if (run / "state.pt").exists() else 0


@pytest.fixture(scope="module")
def alone(disks: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train_vae.main(f"--data {disks[0]} --out {out} {SETTINGS}".split())
    return out


def test_a_machine_that_dies_costs_the_steps_since_the_last_checkpoint(disks: list[Path], alone: Path, tmp_path: Path):
    out = tmp_path / "run"
    with two_machines(disks, out) as (first, second):
        wait_until(lambda: saved_step(out) > 0)
        die(second)
        died_at = saved_step(out)
        printed, errors = first.communicate(timeout=PATIENCE_S)
        assert first.returncode == 0, errors
    assert died_at < NUM_FRAMES // BATCH
    resumed = [line for line in printed.splitlines() if "continuing from step" in line]
    assert len(resumed) == 1 and f"step {died_at}" in resumed[0]
    ours, expected = (lines(run) for run in (out, alone))
    assert [line["step"] for line in ours] == [line["step"] for line in expected]
    weights, wanted = (checkpoints.load_vae(run, "last").state_dict() for run in (out, alone))
    assert all(float((weights[name] - each).abs().max()) < 1e-3 for name, each in wanted.items())


def test_a_request_to_stop_saves_the_run(disks: list[Path], tmp_path: Path):
    with two_machines(disks, tmp_path / "run") as agents:
        wait_until(lambda: len(lines(tmp_path / "run")) > 10)
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        errors = "".join(agent.communicate(timeout=PATIENCE_S)[1] for agent in agents)
    assert "frames; the same command continues from there" in errors
    assert saved_step(tmp_path / "run") % distributed.ASK_EVERY_STEPS == 0
