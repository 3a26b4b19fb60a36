"""One function over many inputs gives the same results with every executor, also if workers die."""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from world_models.runtime import executors
from world_models.runtime.errors import Stopped
from world_models.runtime.executors import Executor, Report
from world_models.runtime.workers import MAX_ATTEMPTS

# --- tasks: workers import them by name


def square(item: int, report: Report) -> int:
    report(1)
    report(item)
    return item**2


def process_id(item: Any, report: Report) -> int:
    return os.getpid()


def refuse_three(item: int, report: Report) -> int:
    if item == 3:
        raise ValueError("three is refused")
    return item


def sleep_s(item: float, report: Report) -> float:
    time.sleep(item)
    return item


def die_once(marker: Path | None, report: Report) -> str:
    """Kills its worker at the first attempt. The marker shows that there was a first attempt."""
    if marker is not None and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die(item: Any, report: Report) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt_itself(item: Any, report: Report) -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return "went on"


def ignore(units: int) -> None:
    pass


def workers() -> list[Any]:
    return multiprocessing.active_children()


LOCAL: list[Executor] = ["serial", "processes"]


# --- results


@pytest.mark.parametrize("executor", LOCAL)
def test_every_item_gives_its_result_once(executor: Executor):
    found = list(executors.run(square, range(10), executor, 2, ignore))
    assert sorted(found) == [(i, i**2) for i in range(10)]


@pytest.mark.parametrize("executor", LOCAL)
def test_no_items_give_no_results(executor: Executor):
    assert list(executors.run(square, [], executor, 2, ignore)) == []


@pytest.mark.parametrize("executor", LOCAL)
def test_an_error_of_a_task_is_raised_to_the_caller(executor: Executor):
    with pytest.raises(ValueError, match="three is refused"):
        list(executors.run(refuse_three, range(5), executor, 2, ignore))


def test_serial_runs_in_this_process():
    assert dict(executors.run(process_id, [0], "serial", 2, ignore)) == {0: os.getpid()}


def test_tasks_run_in_at_most_the_requested_number_of_processes():
    found = {pid for _, pid in executors.run(process_id, range(8), "processes", 2, ignore)}
    assert os.getpid() not in found and 1 <= len(found) <= 2


def test_without_a_number_there_is_one_worker_per_core(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executors, "available_cores", lambda: 1)
    assert len({pid for _, pid in executors.run(process_id, range(4), "processes", 0, ignore)}) == 1


def test_processes_can_be_started_from_a_thread():
    found: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: found.extend(executors.run(square, [5], "processes", 1, ignore)))
    thread.start()
    thread.join()
    assert found == [(0, 25)]


# --- progress


def test_progress_in_one_process_counts_all_items():
    seen: list[int] = []
    list(executors.run(square, [4, 2, 3], "serial", 1, seen.append))
    assert seen == [1, 4, 5, 6, 7, 9]


def test_progress_of_processes_ends_at_the_sum():
    seen: list[int] = []
    list(executors.run(square, [4, 2, 3], "processes", 2, seen.append))
    assert seen[-1] == 9


def test_progress_of_processes_is_reported_while_they_work():
    seen: list[int] = []
    list(executors.run(sleep_s, [1.0], "processes", 1, seen.append))
    assert len(seen) > 3


# --- workers that die


def test_a_killed_worker_costs_only_a_retry(tmp_path: Path):
    found = list(executors.run(die_once, [None, tmp_path / "a", None], "processes", 2, ignore))
    assert Counter(found) == Counter({(i, "done"): 1 for i in range(3)})


def test_killed_workers_are_counted_for_each_item_separately(tmp_path: Path):
    markers = [tmp_path / str(i) for i in range(MAX_ATTEMPTS)]
    assert len(list(executors.run(die_once, markers, "processes", 1, ignore))) == MAX_ATTEMPTS


def test_an_item_whose_worker_always_dies_stops_the_work():
    with pytest.raises(Stopped, match=r"workers died 3 times .*Give fewer --num_workers"):
        list(executors.run(die, [0], "processes", 1, ignore))


def test_an_error_ends_the_other_workers_at_once():
    with pytest.raises(TypeError):
        list(executors.run(sleep_s, ["no number", 60.0], "processes", 2, ignore))  # type: ignore[list-item]
    assert workers() == []


def test_leaving_early_ends_the_workers_at_once():
    results = executors.run(sleep_s, [0.0, 60.0], "processes", 2, ignore)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert workers() == []


def test_ctrl_c_ends_the_workers_at_once():
    def interrupt(units: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(executors.run(sleep_s, [60.0, 60.0], "processes", 2, interrupt))
    assert workers() == []


def test_other_child_processes_are_not_ended():
    bystander = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    bystander.start()
    try:
        results = executors.run(sleep_s, [0.0, 60.0], "processes", 2, ignore)
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert workers() == [bystander]
    finally:
        bystander.kill()
        bystander.join()


# --- Ctrl-C


def test_a_worker_ignores_ctrl_c():
    assert list(executors.run(interrupt_itself, [0], "processes", 1, ignore)) == [(0, "went on")]
