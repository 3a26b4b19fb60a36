"""A cluster that cannot be reached, or an address that is none, is refused in one line."""

import signal
import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from world_models.runtime import host, ray_cluster, ray_connection
from world_models.runtime.errors import Stopped


@pytest.mark.parametrize("address", [None, "local", "auto", "127.0.0.1:6379", "node-1.example.org:1", "[::1]:65535"])
def test_addresses_of_clusters_are_accepted(address: str | None):
    ray_connection.check_setting(address, "ray")


@pytest.mark.parametrize(
    "address", ["", "node", "node:", ":6379", "node:0", "node:65536", "node:6x", "ray://node:10001"]
)
def test_other_addresses_are_refused(address: str):
    with pytest.raises(ValueError, match=r"ray_address is .*; give HOST:PORT, local .* or null"):
        ray_connection.check_setting(address, "ray")


def test_an_address_without_executor_ray_is_refused():
    with pytest.raises(ValueError, match="ray_address is local, and executor serial; add --executor ray"):
        ray_connection.check_setting("local", "serial")


def test_without_ray_the_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'world_models\[ray\]'"):
        ray_connection.check(None, {})


def test_a_cluster_without_cores_is_refused():
    without = SimpleNamespace(cluster_resources=lambda: {"memory": 1e9})
    with pytest.raises(ValueError, match="the Ray cluster has no core for work; add a node with one or more"):
        ray_cluster.Cluster(without)


def test_ray_on_this_machine_needs_no_check():
    pytest.importorskip("ray")
    ray_connection.check("local", {"module json.no": "found"})


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_an_address_where_nothing_answers_is_refused(closed_port: int):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=rf"ray_address is 127\.0\.0\.1:{closed_port}, and nothing answers there"):
        ray_connection.check(f"127.0.0.1:{closed_port}", {})


def test_a_cluster_that_has_gone_since_the_check_ends_the_work_in_one_line(closed_port: int):
    with pytest.raises(Stopped, match="nothing answers"), ray_connection.connected(f"127.0.0.1:{closed_port}"):
        pass


def test_the_environments_address_is_named_by_its_variable(closed_port: int, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    with pytest.raises(ValueError, match=r"RAY_ADDRESS is .*, and nothing answers there"):
        ray_connection.check(None, {})


def test_ray_can_be_imported_in_a_thread():
    pytest.importorskip("ray")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ray_connection.installed()))
    thread.start()
    thread.join()
    assert found == [sys.modules["ray"]]


def test_importing_ray_keeps_the_handlers_of_signals():
    pytest.importorskip("ray")
    before = [signal.getsignal(number) for number in host.ENDING]
    ray_connection.installed()
    assert [signal.getsignal(number) for number in host.ENDING] == before
