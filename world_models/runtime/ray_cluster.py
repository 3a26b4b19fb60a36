"""A connection to a Ray cluster. This process is its driver; `ray_work` runs work on its nodes.

Ray's usage statistics and its dashboard are off. A cluster that this process starts listens on 127.0.0.1 only.
"""

import contextlib
import dataclasses
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from world_models.runtime import node_facts
from world_models.runtime.errors import Stopped, require
from world_models.runtime.host import ENDING, available_cores

Value = TypeVar("Value")

CONNECT_WITHIN_S = 5.0
ANSWER_WITHIN_S = 120.0
"""A node has this time to start a Python process and to say which versions it has."""
ITEMS_PER_CORE = 2
"""A core works on one item while another one waits, so that no core is idle."""
STORE_SHARE = 0.25
"""Data of items in flight take at most this share of the object store on the driver's node."""
NO_GPU = "device is cuda, and no node has a GPU; give --device auto or cpu"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def check_setting(address: str | None, executor: str) -> None:
    """Check the settings `ray_address` and `executor` of a command.

    Raises:
        ValueError: the address is wrong, or is given without executor ray.
    """
    check_address(address)
    needless = address is not None and executor != "ray"
    require(not needless, f"ray_address is {address}, and executor {executor}; add --executor ray, or leave it out")


def check_address(address: str | None) -> None:
    """Check the setting `ray_address`: null, local, auto, or HOST:PORT.

    Raises:
        ValueError: it has another form.
    """
    if address in (None, "local", "auto"):
        return
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536
    wanted = "give HOST:PORT, local (starts Ray on this machine), or null (RAY_ADDRESS, else Ray's own choice)"
    require(is_port and bool(host) and "/" not in host, f"ray_address is {address}; {wanted}")


def installed() -> Any:
    """The module `ray`.

    Raises:
        ValueError: it is not installed.
    """
    with _own_signal_handlers():
        try:
            return importlib.import_module("ray")
        except ImportError:
            raise ValueError(
                "executor ray needs ray; pip install 'world_models[ray]', or leave --executor out"
            ) from None


@dataclasses.dataclass(frozen=True)
class Shared(Generic[Value]):
    """A value that was sent to the cluster once, for many items.

    Attributes:
        reference: Ray's reference to it.
    """

    reference: Any

    def get(self) -> Value:
        """The value. Each node fetches it once."""
        return installed().get(self.reference)


class Cluster:
    """The nodes that a connected driver sees.

    Args:
        ray: the module, connected.
        num_workers: number of items that are worked on at a time; 0 for one per core of the cluster.

    Attributes:
        ray: the module.

    Raises:
        ValueError: no node takes work.
    """

    def __init__(self, ray: Any, num_workers: int = 0):
        self.ray, self._num_workers = ray, num_workers
        require(self._total("CPU") >= 1, "the Ray cluster has no core for work; add a node with one or more (num_cpus)")

    def _total(self, resource: str) -> int:
        return int(self.ray.cluster_resources().get(resource, 0))

    @property
    def has_gpus(self) -> bool:
        """Whether a node has a GPU."""
        return self._total("GPU") >= 1

    def in_flight(self, item_bytes: int = 0, on_gpu: bool = False) -> int:
        """Number of items that are with the nodes at a time.

        Args:
            item_bytes: bytes of the data of an item. They are in the object store of the driver's node.
            on_gpu: whether an item needs a GPU, instead of a core.
        """
        count = self._num_workers or ITEMS_PER_CORE * max(1, self._total("GPU" if on_gpu else "CPU"))
        if not item_bytes:
            return count
        (here,) = [node for node in self._nodes() if node["NodeID"] == self._own_node_id()]
        room_bytes = here["Resources"].get("object_store_memory", 0) * STORE_SHARE
        return max(1, min(count, int(room_bytes / item_bytes)))

    def share(self, value: Value) -> Shared[Value]:
        """Send a value to the cluster, for many items."""
        return Shared(self.ray.put(value))

    def check_nodes(self, facts: Mapping[str, str]) -> None:
        """Check that every node that takes work has the versions, the code and the modules of this process.

        Args:
            facts: those of this process, from `node_facts.collect`.

        Raises:
            ValueError: a node differs. The message names the node and what differs.
        """
        nodes = [node for node in self._nodes() if node["Resources"].get("CPU", 0) >= 1]
        collect = self.ray.remote(max_retries=0)(node_facts.collect_facts)
        asked = {self._on(node["NodeID"], collect).remote(tuple(facts)): node for node in nodes}
        give_up_s = time.monotonic() + ANSWER_WITHIN_S
        while asked:
            answered, _ = self.ray.wait(list(asked), timeout=max(0.0, give_up_s - time.monotonic()))
            slow = next(iter(asked.values()))
            require(bool(answered), f"{_name(slow)} did not answer within {ANSWER_WITHIN_S:.0f} s; remove it")
            for reference in answered:
                self._check(asked.pop(reference), reference, facts)

    def _check(self, node: Mapping[str, Any], reference: Any, facts: Mapping[str, str]) -> None:
        try:
            found = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:  # the node has died, or cannot import this package
            reason = str(error).strip().splitlines()[-1]
            is_alive = node["NodeID"] in [each["NodeID"] for each in self._nodes()]
            wanted = f"install world_models {facts.get(node_facts.PACKAGE, '')} there, or remove the node"
            require(not is_alive, f"{_name(node)} cannot run this package ({reason}); {wanted}")
            return
        listed = "; ".join(node_facts.differences(found, facts))
        require(not listed, f"{_name(node)} is not like this machine: {listed}; install the same on both")

    def beside_the_driver(self, remote: Any) -> Any:
        """A remote class whose processes run on the driver's node. They live as long as the driver."""
        return self._on(self._own_node_id(), remote)

    def _on(self, node_id: str, remote: Any) -> Any:
        """A remote function or class for one node, also if all cores of the node are busy."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        here = strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        return remote.options(num_cpus=0, scheduling_strategy=here)

    def _own_node_id(self) -> str:
        return self.ray.get_runtime_context().get_node_id()

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]


def _name(node: Mapping[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']}, {node['NodeID'][:8]})"


# ---- connecting ----


@contextlib.contextmanager
def connected(address: str | None, num_workers: int = 0) -> Iterator[Cluster]:
    """Connect to a cluster in this block, or start one on this machine. If Ray is connected already, use that.

    Args:
        address: HOST:PORT of a cluster; local starts one on this machine; None takes RAY_ADDRESS, else a cluster that
            runs on this machine, else starts one.
        num_workers: number of items that are worked on at a time; 0 for one per core of the cluster.

    Raises:
        Stopped: Ray is not installed or does not start, nothing answers at the address, or no node takes work.
    """
    with contextlib.ExitStack() as stack:
        try:
            ray = stack.enter_context(_connection(address))
            if not ray.is_initialized():
                _start(ray, num_workers or available_cores())
            cluster = Cluster(ray, num_workers)
        except (ConnectionError, RuntimeError, ValueError) as error:  # it was there when the input was checked
            raise Stopped(" ".join(str(error).split())) from error
        yield cluster


def check(address: str | None, facts: Mapping[str, str], on_gpu: bool = False) -> None:
    """Check that Ray is installed, that a cluster can be reached, and that its nodes are like this machine.

    If there is no cluster, Ray will be started on this machine, and nothing can differ.

    Args:
        address: as in `connected`.
        facts: those of this process, from `node_facts.collect`.
        on_gpu: whether a node has to have a GPU.

    Raises:
        ValueError: something is wrong. The message says what to do.
    """
    with _connection(address) as ray:
        if ray.is_initialized():
            cluster = Cluster(ray)
            require(cluster.has_gpus or not on_gpu, NO_GPU)
            cluster.check_nodes(facts)


@contextlib.contextmanager
def _connection(address: str | None) -> Iterator[Any]:
    """Connect to the cluster at the address, if there is one, and disconnect after the block. Gives the module."""
    ray = installed()
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _connect(ray, address)
        yield ray
    finally:
        with _own_signal_handlers():
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    given = address or os.environ.get("RAY_ADDRESS") or "auto"
    if given == "local":
        return
    name, loopback = "ray_address" if address else "RAY_ADDRESS", False
    if given != "auto":
        check_address(given)
        loopback = _answers_on_loopback_only(ray, name, given)
    try:
        _init(ray, given, loopback)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if given == "auto" and isinstance(error, ConnectionError) and address is None:
            return  # no cluster runs here
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{name} is {given}, and Ray cannot connect ({reason}); start a cluster: ray start") from None


def _answers_on_loopback_only(ray: Any, name: str, address: str) -> bool:
    """Check that a server answers at HOST:PORT. Ray itself would try for minutes.

    Returns:
        Whether the server answers at this machine's loopback address, but not at its address in the network.

    Raises:
        ValueError: none answers.
    """
    host, _, port = address.rpartition(":")
    if problem := _problem_of(host.strip("[]"), int(port)):
        raise ValueError(
            f"{name} is {address}, and nothing answers there ({problem}); give the address that ray start --head "
            "printed"
        )
    return host in LOOPBACK and _problem_of(ray.util.get_node_ip_address(), int(port)) is not None


def _problem_of(host: str, port: int) -> OSError | None:
    try:
        socket.create_connection((host, port), CONNECT_WITHIN_S).close()
    except OSError as error:
        return error
    return None


def _start(ray: Any, num_cores: int) -> None:
    """Start a cluster on this machine. It ends with the connection, or with this process."""
    _init(ray, "local", loopback=True, num_cpus=num_cores, include_dashboard=False)


def _init(ray: Any, address: str, loopback: bool, **options: Any) -> None:
    """Connect. With `loopback`, all addresses of the cluster are 127.0.0.1.

    Ray replaces 127.0.0.1 by the machine's address in the network, except on systems where firewalls would ask.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = before and not loopback
    try:
        with _own_signal_handlers():
            ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's handlers of the signals to end, because Ray sets its own. Threads cannot set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # it is not Python's
                signal.signal(number, handler)
