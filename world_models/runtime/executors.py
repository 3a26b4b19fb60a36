"""Map a pure function over many inputs: in this process, or in several processes. `ray_work` does so on a cluster.

The results do not depend on the executor. The function is `task(item, report) -> result` and can be imported by name.
It calls `report(n)` with the number of units of work so far.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import Literal

from world_models.runtime.host import available_cores
from world_models.runtime.workers import Item, Report, Result, Task, run_processes

Executor = Literal["processes", "serial"]


def run(
    task: Task[Item, Result], items: Sequence[Item], executor: Executor, num_workers: int, watch: Report
) -> Generator[tuple[int, Result], None, None]:
    """Run the task on every item. Yields (index, result) in the order in which the items finish.

    Args:
        task: a pure function at the top level of a module.
        items: its inputs, which can be pickled.
        executor: where it runs.
        num_workers: number of processes; 0 for one per core.
        watch: called a few times a second with the total units of work so far.

    Raises:
        Stopped: the worker of an item died `MAX_ATTEMPTS` times.
    """
    if executor == "serial":
        yield from _run_serial(task, items, watch)
    else:
        yield from run_processes(task, items, num_workers or available_cores(), watch)


def _run_serial(task: Task[Item, Result], items: Sequence[Item], watch: Report) -> Iterator[tuple[int, Result]]:
    done = 0

    def report(units: int) -> None:
        nonlocal latest
        latest = units
        watch(done + units)

    for index, item in enumerate(items):
        latest = 0
        yield index, task(item, report)
        done += latest
