"""A Ray cluster of several nodes makes the same shards as one process, also if a node or the driver dies.

The cluster is real: Ray's servers and workers, a head and two more nodes, on this machine. All tests share it. Nodes
that only one test needs are added and removed.
"""

import contextlib
import dataclasses
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from world_models import collect, encode
from world_models.collect.command import prepare
from world_models.collect.config import CollectConfig
from world_models.data.latents import Latents
from world_models.data.rollouts import FORMAT, Rollouts
from world_models.data.shards import shard_paths
from world_models.data.shards.reader import Shard
from world_models.runtime import ray_connection, ray_work
from world_models.runtime.errors import Stopped

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install world_models[ray]")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
NUM_SHARDS = 12
FLAGS = f"--num_episodes {NUM_SHARDS} --max_steps 150 --episodes_per_shard 1".split()
LOOPBACK = "127.0.0.1"

TASKS = '''
import os, time
from pathlib import Path

def count(item, report):
    """Counts to the item's number, ten a second."""
    for units in range(1, item + 1):
        time.sleep(0.1)
        report(units)
    return os.getpid()

def die_once(marker, report):
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return "done"

def die(item, report):
    os._exit(1)
'''


def wait_until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)


# --- the cluster


@dataclasses.dataclass
class Nodes:
    """The cluster, and the folder of a module that its nodes can import."""

    servers: Any
    folder: Path

    @property
    def address(self) -> str:
        return self.servers.address

    def add(self, first_on_path: Path | None = None) -> Any:
        """Add a node with one core. Its Python finds what is in a folder before everything else."""
        path = [str(folder) for folder in (first_on_path, ROOT, self.folder) if folder]
        variables = {"PYTHONPATH": os.pathsep.join(path)}
        store_bytes = 100_000_000
        return self.servers.add_node(
            num_cpus=1, node_ip_address=LOOPBACK, object_store_memory=store_bytes, env_vars=variables
        )

    @contextlib.contextmanager
    def one_more(self, first_on_path: Path | None = None) -> Iterator[Any]:
        node = self.add(first_on_path)
        try:
            yield node
        finally:
            self.servers.remove_node(node)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("modules")
    (folder / "tasks_of_test_ray.py").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.syspath_prepend(folder)
        started = Nodes(Cluster(), folder)
        try:
            for _ in range(3):
                started.add()
            yield started
        finally:
            ray.shutdown()
            started.servers.shutdown()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find modules in the driver's folder. It is not the checkout, so nodes find this package by their path."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The digests of a collection by one process."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    collect.main(["--out", str(out), *FLAGS, "--executor", "serial"])
    return digests(out)


def digests(path: Path) -> list[dict[str, str]]:
    return [shard.digests for shard in Rollouts(path, verify=True).shards]


def on_cluster(nodes: Nodes, out: Path, *more: str) -> list[str]:
    return ["--out", str(out), *FLAGS, "--executor", "ray", "--ray_address", nodes.address, *more]


@dataclasses.dataclass
class Driver:
    """A collecting process, in a session of its own."""

    out: Path
    process: subprocess.Popen[str]

    def shards(self) -> list[Path]:
        return shard_paths(self.out)

    def in_the_middle(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        return 0 < len(self.shards()) < NUM_SHARDS // 2


def start(argv: list[str], out: Path, variables: Mapping[str, str] = {}) -> Driver:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "world_models.collect", *argv]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return Driver(out, subprocess.Popen(command, env=environment, start_new_session=True, **pipes))


@pytest.fixture
def driver(nodes: Nodes, tmp_path: Path) -> Iterator[Driver]:
    """A collection in the middle of its work."""
    started = start(on_cluster(nodes, tmp_path / "out"), tmp_path / "out")
    try:
        wait_until(started.in_the_middle)
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def working() -> list[psutil.Process]:
    """Processes of Ray that work on an item."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if "ray::do_item" in " ".join(process.cmdline()) else []
    return found


def left_behind() -> list[Path]:
    """What nodes have left in the folder for temporary files."""
    return list(Path(tempfile.gettempdir()).glob("world_models-*"))


# --- the same data


def test_three_nodes_collect_what_one_process_collects(nodes: Nodes, tmp_path: Path, unbroken: list[dict[str, str]]):
    before = left_behind()
    collect.main(on_cluster(nodes, tmp_path / "out"))
    assert digests(tmp_path / "out") == unbroken
    assert left_behind() == before
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert not ray.is_initialized()


def test_a_finished_data_set_needs_no_cluster(nodes: Nodes, rollouts_dir: Path, capsys: Any):
    flags = f"--out {rollouts_dir} --num_episodes 6 --max_steps 40 --episodes_per_shard 2 --executor ray"
    collect.main([*flags.split(), "--ray_address", "127.0.0.1:1"])
    assert "all finished before" in capsys.readouterr().out


def test_three_nodes_encode_what_one_process_encodes(nodes: Nodes, rollouts_dir: Path, run_dir: Path, tmp_path: Path):
    flags = f"--data {rollouts_dir} --vae {run_dir} --device cpu --out"
    encode.main([*flags.split(), str(tmp_path / "one")])
    encode.main([*flags.split(), str(tmp_path / "three"), "--executor", "ray", "--ray_address", nodes.address])
    one, three = (Latents(tmp_path / name, verify=True) for name in ("one", "three"))
    assert [shard.digests for shard in three.shards] == [shard.digests for shard in one.shards]
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "three")]
    assert names[0] == names[1]


def test_device_cuda_is_refused_if_no_node_has_a_gpu(nodes: Nodes, rollouts_dir: Path, run_dir: Path, tmp_path: Path):
    flags = f"--data {rollouts_dir} --vae {run_dir} --out {tmp_path / 'out'} --device cuda --executor ray"
    with pytest.raises(ValueError, match="device is cuda, and no node has a GPU; give --device auto or cpu"):
        encode.main([*flags.split(), "--ray_address", nodes.address])
    assert not (tmp_path / "out").exists()


def test_a_node_without_the_c_library_draws_the_same_with_pygame(
    nodes: Nodes, tmp_path: Path, unbroken: list[dict[str, str]]
):
    package = shutil.copytree(ROOT / "world_models", tmp_path / "slow/world_models")
    for library in package.rglob("*.so"):
        library.unlink()
    with nodes.one_more(tmp_path / "slow"):
        collect.main(on_cluster(nodes, tmp_path / "out"))
    assert digests(tmp_path / "out") == unbroken
    renderers = {str(shard.attributes["renderer"]) for shard in Rollouts(tmp_path / "out").shards}
    assert renderers == {"c", "pygame"}


# --- what dies


def test_a_node_that_is_removed_costs_only_a_retry(nodes: Nodes, tmp_path: Path, unbroken: list[dict[str, str]]):
    started = start(on_cluster(nodes, tmp_path / "out"), tmp_path / "out")
    try:
        with nodes.one_more():
            wait_until(started.in_the_middle)
        printed = started.process.communicate(timeout=PATIENCE_S)
    finally:
        started.process.kill()
    assert started.process.returncode == 0, printed
    assert [line for line in printed[1].splitlines() if not line.startswith("collect: ")] == []
    assert digests(tmp_path / "out") == unbroken


def test_a_driver_that_dies_leaves_whole_shards_and_the_same_command_goes_on(
    nodes: Nodes, driver: Driver, unbroken: list[dict[str, str]]
):
    driver.process.kill()
    driver.process.wait()
    wait_until(lambda: not working())
    assert 0 < len(driver.shards()) < NUM_SHARDS
    assert all(Shard(path, FORMAT, verify=True) for path in driver.shards())
    collect.main(on_cluster(nodes, driver.out))
    assert digests(driver.out) == unbroken
    assert list(driver.out.glob("*.partial")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_work_and_ends_in_seconds(driver: Driver, number: signal.Signals):
    since = time.monotonic()
    driver.process.send_signal(number)
    _, errors = driver.process.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - since < 8
    assert driver.process.returncode == 128 + number
    lines = [line for line in errors.splitlines() if line and not line.startswith("collect: ")]
    assert lines == ["python -m world_models.collect: interrupted; what is finished stays"]
    wait_until(lambda: not working(), patience_s=5)
    assert list(driver.out.glob("*.partial")) == []


def test_a_worker_that_dies_costs_a_retry(nodes: Nodes, tmp_path: Path):
    assert run(nodes, "die_once", [str(tmp_path / "a"), str(tmp_path / "b")]) == {0: "done", 1: "done"}


def test_an_item_whose_workers_always_die_stops_the_work(nodes: Nodes):
    with pytest.raises(Stopped, match="workers or nodes died 3 times during the same task"):
        run(nodes, "die", [0])


def run(nodes: Nodes, task: str, items: list[Any], watch: Callable[[int], None] = lambda units: None) -> dict[int, Any]:
    import tasks_of_test_ray  # pyright: ignore[reportMissingImports]: the fixture writes it

    with ray_connection.connected(nodes.address) as cluster:
        return dict(ray_work.run(cluster, ray_work.Work(getattr(tasks_of_test_ray, task), {}), items, watch))


def test_work_that_the_nodes_cannot_import_stops(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/task_only_here.py").write_text("def task(item, report):\n    return item\n")
    monkeypatch.syspath_prepend(tmp_path / "here")
    import task_only_here  # pyright: ignore[reportMissingImports]: it was just written

    with ray_connection.connected(nodes.address) as cluster:
        work: Any = ray_work.Work(task_only_here.task, {})
        with pytest.raises(Stopped, match=r"a node cannot run the work: .*No module named 'task_only_here'"):
            list(ray_work.run(cluster, work, [1], lambda units: None))


def test_a_connection_of_the_caller_is_used_and_stays(nodes: Nodes):
    with ray_connection.connected(nodes.address) as cluster:
        with ray_connection.connected("127.0.0.1:1") as same:
            assert same.ray is cluster.ray
            assert same.share([1, 2]).get() == [1, 2]
        assert ray.is_initialized()
    assert not ray.is_initialized()


# --- progress


def test_progress_of_all_nodes_is_reported_at_least_once_a_second(nodes: Nodes):
    seen: list[tuple[float, int]] = []
    found = run(nodes, "count", [30] * 3, lambda units: seen.append((time.monotonic(), units)))
    times, units = zip(*seen, strict=True)
    assert max(later - sooner for sooner, later in itertools.pairwise(times[1:])) < 1.5
    assert len(set(units)) >= 4 and units[-1] == 90
    assert len(set(found.values())) == 3


# --- what is refused before work


def refused(nodes: Nodes, out: Path, **settings: Any) -> str:
    """The line of the error of a collection that cannot begin."""
    with pytest.raises(ValueError) as refusal:
        prepare(CollectConfig(str(out), 2, 8, executor="ray", ray_address=nodes.address, **settings))
    assert not out.exists() and not ray.is_initialized()
    return str(refusal.value)


def test_a_node_with_another_version_is_refused_by_name(nodes: Nodes, tmp_path: Path):
    facts = tmp_path / "other/gymnasium-0.1.dist-info/METADATA"
    facts.parent.mkdir(parents=True)
    facts.write_text("Metadata-Version: 2.1\nName: gymnasium\nVersion: 0.1\n")
    with nodes.one_more(tmp_path / "other"):
        line = refused(nodes, tmp_path / "out")
    assert line.startswith("node 127.0.0.1 (")
    assert "is not like this machine: gymnasium is 0.1 there and " in line


def test_a_node_without_this_package_is_refused(nodes: Nodes, tmp_path: Path):
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking/world_models.py").write_text("raise ImportError('there is none')\n")
    with nodes.one_more(tmp_path / "lacking"):
        line = refused(nodes, tmp_path / "out")
    assert line.startswith("node 127.0.0.1 (")
    assert "cannot run this package (ImportError: there is none); install world_models 0" in line


def test_nodes_without_the_module_of_a_policy_are_refused(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/policy_of_test_ray.py").write_text(
        "import numpy\ndef still(env, seed):\n    return lambda frame: numpy.zeros(3, numpy.float32)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "here")
    line = refused(nodes, tmp_path / "out", policy="policy_of_test_ray:still")
    assert "is not like this machine: module policy_of_test_ray is missing there and " in line


# --- without a cluster


@dataclasses.dataclass
class Alone:
    """A process that has started Ray by itself, and what it listened at."""

    driver: Driver
    addresses: set[str]


def listening(session: int) -> set[str]:
    """Addresses at which the processes of a session listen."""
    found: set[str] = set()
    for process in session_of(session):
        with contextlib.suppress(psutil.Error):
            open_now = process.net_connections("inet")
            found |= {each.laddr.ip.removeprefix("::ffff:") for each in open_now if each.status == psutil.CONN_LISTEN}
    return found


def session_of(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if session in (os.getsid(process.pid), process.pid) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_without_a_cluster_ray_works_on_this_machine_alone_and_ends_with_the_command(
    tmp_path: Path, unbroken: list[dict[str, str]]
):
    argv = ["--out", str(tmp_path / "out"), *FLAGS, "--executor", "ray", "--ray_address", "local", "--num_workers", "2"]
    started = start(argv, tmp_path / "out")
    addresses: set[str] = set()
    try:
        while started.process.poll() is None:
            addresses |= listening(started.process.pid)
            time.sleep(0.2)
        printed = started.process.communicate()
        assert started.process.returncode == 0, printed
        assert digests(tmp_path / "out") == unbroken
        wait_until(lambda: session_of(started.process.pid) == [], patience_s=5)
    finally:
        started.process.kill()
    assert addresses == {LOOPBACK}
