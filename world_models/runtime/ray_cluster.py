"""The nodes of a Ray cluster, as its driver sees them. `ray_connection` connects, and `ray_work` runs work on them."""

import dataclasses
import importlib
import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from world_models.runtime import node_facts
from world_models.runtime.errors import require

Value = TypeVar("Value")

ANSWER_WITHIN_S = 120.0
"""A node has this time to start a Python process and to say which versions it has."""
ITEMS_PER_CORE = 2
"""A core works on one item while another one waits, so that no core is idle."""
STORE_SHARE = 0.25
"""Data of items in flight take at most this share of the object store on the driver's node."""


@dataclasses.dataclass(frozen=True)
class Shared(Generic[Value]):
    """A value that was sent to the cluster once, for many items.

    Attributes:
        reference: Ray's reference to it.
    """

    reference: Any

    def get(self) -> Value:
        """The value. Each node fetches it once."""
        return importlib.import_module("ray").get(self.reference)


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
