"""What runs in the processes of a Ray cluster's nodes: the worker of an item, and the counter of progress."""

import dataclasses
import platform
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from world_models.runtime import node_facts, workers
from world_models.runtime.errors import Stopped
from world_models.runtime.workers import Task


@dataclasses.dataclass(frozen=True)
class Order:
    """What all workers get.

    Attributes:
        task: the function.
        facts: versions of the driver, see `node_facts`.
        report_every_s: a worker reports its progress this often.
    """

    task: Task
    facts: Mapping[str, str]
    report_every_s: float


class Done(NamedTuple):
    """An item that was done.

    Attributes:
        outcome: the result, or the error with its traceback, as `workers.attempt` returns them.
        units: number of units of work.
    """

    outcome: tuple[Any, Exception | None, str]
    units: int


class Counter:
    """Counts the units of work of all items. One process of the driver's node holds it."""

    def __init__(self):
        self._units: dict[int, int] = {}

    def report(self, index: int, units: int) -> None:
        """Take the number of units of an item so far. They begin at 0 again if the item is done again."""
        self._units[index] = units

    def total(self) -> int:
        """The number of units of all items."""
        return sum(self._units.values())


def do_item(order: Order, counter: Any, index: int, item: Any) -> Done:
    """Do one item. Its errors are part of the result, so that Ray does not change them.

    Args:
        order: what to do.
        counter: Ray's handle of the `Counter`. Reports to it are not waited for.
        index: number of the item.
        item: the argument of the task.
    """
    differing = node_facts.differences(node_facts.collect(tuple(order.facts)), order.facts)
    if differing:
        joined = f"node {platform.node()} has joined and is not like the driver: {'; '.join(differing)}"
        return Done((None, Stopped(f"{joined}; install the same on both, or remove it"), ""), 0)
    units, reported_s = 0, 0.0

    def report(count: int) -> None:
        nonlocal units, reported_s
        units, now_s = count, time.monotonic()
        if now_s - reported_s >= order.report_every_s:
            reported_s = now_s
            counter.report.remote(index, units)

    outcome = workers.attempt(order.task, item, report)
    counter.report.remote(index, units)
    return Done(outcome if outcome[1] is None else workers.sendable(*outcome), units)
