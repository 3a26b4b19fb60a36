"""A collection that is killed or interrupted, or that loses a worker, continues to the same bytes."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from world_models import collect
from world_models.data.rollouts import FORMAT, Rollouts
from world_models.data.shards import shard_paths
from world_models.data.shards.reader import Shard

pytestmark = pytest.mark.slow

NUM_EPISODES = 8
FLAGS = f"--num_episodes {NUM_EPISODES} --max_steps 60 --episodes_per_shard 1".split()
PATIENCE_S = 60.0


@dataclasses.dataclass
class Collection:
    """A collecting process with two workers, in a session of its own."""

    out: Path
    process: subprocess.Popen[str]

    def shards(self) -> list[Path]:
        return shard_paths(self.out)

    def partials(self) -> list[Path]:
        return list(self.out.glob("*.partial"))

    def in_the_middle(self) -> bool:
        """Whether there are finished shards and unfinished files."""
        assert self.process.poll() is None, "it ended before it could be interrupted"
        return bool(self.shards() and self.partials())

    def session(self) -> list[psutil.Process]:
        """The living processes of its session, without itself."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                same = os.getsid(process.pid) == self.process.pid != process.pid
                if same and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        return [process for process in self.session() if "spawn_main" in command(process)]


def wait_until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


def command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def start(out: Path) -> Collection:
    argv = [sys.executable, "-m", "world_models.collect", "--out", str(out), *FLAGS, "--num_workers", "2"]
    pipe = subprocess.PIPE
    return Collection(out, subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, start_new_session=True))


def end(collection: Collection) -> None:
    for process in collection.session():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    collection.process.kill()
    collection.process.communicate()


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    """A collection in the middle of its work."""
    started = start(tmp_path / "out")
    try:
        wait_until(started.in_the_middle)
        yield started
    finally:
        end(started)


def digests(path: Path) -> list[dict[str, str]]:
    return [shard.digests for shard in Rollouts(path, verify=True).shards]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The digests of a collection without interruption."""
    out = tmp_path_factory.mktemp("unbroken")
    collect.main(["--out", str(out), *FLAGS, "--executor", "serial"])
    return digests(out)


# --- the whole process is killed


def test_a_killed_collection_resumes_to_the_same_columns(collection: Collection, unbroken: list[dict[str, str]]):
    collection.process.kill()
    collection.process.wait()
    assert 0 < len(collection.shards()) < NUM_EPISODES
    again = start(collection.out)
    try:
        assert again.process.wait(PATIENCE_S) == 0
    finally:
        end(again)
    assert digests(collection.out) == unbroken and collection.partials() == []


def test_workers_do_not_outlive_a_killed_collection(collection: Collection):
    assert len(collection.workers()) == 2
    collection.process.kill()
    wait_until(lambda: not collection.workers(), patience_s=5)


def test_a_killed_collection_leaves_no_damaged_shard(collection: Collection):
    collection.process.kill()
    collection.process.wait()
    wait_until(lambda: not collection.session())
    assert [len(Shard(path, FORMAT, verify=True).starts) for path in collection.shards()] == [1] * len(
        collection.shards()
    )


# --- Ctrl-C


@dataclasses.dataclass
class Ended:
    """The end of a collection after Ctrl-C."""

    collection: Collection
    status: int
    errors: str
    took_s: float


@pytest.fixture(scope="module", params=["terminal", "kill"])
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """Ctrl-C in a terminal reaches every process, `kill -INT` the first one only."""
    collection = start(tmp_path_factory.mktemp("stopped") / "out")
    try:
        wait_until(collection.in_the_middle)
        since = time.monotonic()
        (os.killpg if request.param == "terminal" else os.kill)(collection.process.pid, signal.SIGINT)
        _, errors = collection.process.communicate(timeout=PATIENCE_S)
        took_s = time.monotonic() - since
        yield Ended(collection, collection.process.returncode, errors, took_s)
    finally:
        end(collection)


def test_ctrl_c_ends_with_status_130(stopped: Ended):
    assert stopped.status == 130


def test_ctrl_c_ends_within_three_seconds(stopped: Ended):
    assert stopped.took_s < 3


def test_ctrl_c_shows_no_traceback(stopped: Ended):
    assert "Traceback" not in stopped.errors


def test_ctrl_c_leaves_no_process_behind(stopped: Ended):
    wait_until(lambda: not stopped.collection.session(), patience_s=1)


def test_ctrl_c_leaves_no_unfinished_files(stopped: Ended):
    assert stopped.collection.partials() == []


def test_ctrl_c_keeps_finished_shards(stopped: Ended):
    kept = stopped.collection.shards()
    assert 0 < len(kept) < NUM_EPISODES and all(Shard(path, FORMAT, verify=True) for path in kept)


def test_a_line_after_ctrl_c_says_that_finished_work_is_kept(stopped: Ended):
    assert "interrupted; what is finished stays" in stopped.errors


# --- one worker is killed


def test_a_killed_worker_costs_only_a_retry(collection: Collection, unbroken: list[dict[str, str]]):
    victim = collection.workers()[0]
    victim.kill()
    assert collection.process.wait(PATIENCE_S) == 0
    assert digests(collection.out) == unbroken and collection.partials() == []
