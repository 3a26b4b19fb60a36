"""A worker of a cluster reports its progress, returns its errors, and refuses to work with other versions."""

import threading
from typing import Any

import pytest

from world_models.runtime import ray_worker, workers
from world_models.runtime.errors import Stopped
from world_models.runtime.workers import Report

FACTS = {"module json.no": "missing"}


class Calls:
    """Ray's handle of a counter, without Ray: its methods are called with `remote`."""

    def __init__(self):
        self.seen: list[tuple[int, int]] = []
        self.report = self

    def remote(self, index: int, units: int) -> None:
        self.seen.append((index, units))


def count_up(item: int, report: Report) -> int:
    for units in range(1, item + 1):
        report(units)
    return item**2


def refuse(item: Any, report: Report) -> None:
    raise Stopped("it cannot be stored")


def raise_with_a_lock(item: Any, report: Report) -> None:
    error = RuntimeError("the true reason")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def do(task: Any, item: Any, every_s: float = 0.0, facts: Any = FACTS) -> tuple[ray_worker.Done, Calls]:
    calls = Calls()
    return ray_worker.do_item(ray_worker.Order(task, facts, every_s), calls, 7, item), calls


def test_the_result_and_its_units_are_returned():
    done, _ = do(count_up, 3)
    assert (workers.result_of(*done.outcome), done.units) == (9, 3)


def test_progress_is_reported_for_the_item():
    _, calls = do(count_up, 3)
    assert calls.seen == [(7, 1), (7, 2), (7, 3), (7, 3)]


def test_progress_is_reported_no_more_often_than_asked():
    _, calls = do(count_up, 1000, every_s=60.0)
    assert calls.seen == [(7, 1), (7, 1000)]


def test_an_error_is_returned_as_it_is():
    done, _ = do(refuse, None)
    with pytest.raises(Stopped, match="it cannot be stored"):
        workers.result_of(*done.outcome)


def test_an_error_that_cannot_be_sent_is_described():
    done, _ = do(raise_with_a_lock, None)
    with pytest.raises(TypeError, match="RuntimeError: the true reason"):
        workers.result_of(*done.outcome)


def test_a_node_that_differs_does_no_work():
    done, calls = do(count_up, 3, facts={"module json.no": "found"})
    with pytest.raises(Stopped, match=r"has joined and is not like the driver: module json\.no is missing there"):
        workers.result_of(*done.outcome)
    assert calls.seen == []


def test_the_counter_counts_an_item_that_is_done_again_once():
    counter = ray_worker.Counter()
    for index, units in [(0, 5), (1, 7), (0, 2)]:
        counter.report(index, units)
    assert counter.total() == 9
