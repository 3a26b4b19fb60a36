"""A connection to a Ray cluster. This process is its driver; `ray_work` runs work on its nodes.

Ray's usage statistics and its dashboard are off. A cluster that this process starts listens on 127.0.0.1 only.
"""

import contextlib
import importlib
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from world_models.runtime.errors import Stopped, require
from world_models.runtime.host import ENDING, available_cores
from world_models.runtime.ray_cluster import Cluster

CONNECT_WITHIN_S = 5.0
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
