"""Map a pure function over many inputs: in this process, in several processes, or on a Ray cluster.

The results do not depend on the executor. The function is `task(item, report) -> result` and can be imported by name.
It calls `report(n)` with the number of units of work so far.
"""

import importlib
from collections.abc import Generator, Iterator, Sequence
from typing import Literal

from world_models.runtime.host import available_cores
from world_models.runtime.workers import MAX_ATTEMPTS, Item, Report, Result, Task, run_processes

Executor = Literal["processes", "serial", "ray"]


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
    elif executor == "ray":
        yield from _run_ray(task, items, num_workers, watch)
    else:
        yield from run_processes(task, items, num_workers or available_cores(), watch)


def check(executor: Executor) -> None:
    """Check that the executor's package is installed.

    Raises:
        ValueError: the executor is ray, but Ray is not installed.
    """
    if executor == "ray":
        try:
            importlib.import_module("ray")
        except ImportError:
            raise ValueError("executor ray needs ray; pip install 'world_models[ray]', or use processes") from None


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


def _run_ray(
    task: Task[Item, Result], items: Sequence[Item], num_workers: int, watch: Report
) -> Iterator[tuple[int, Result]]:
    """Run tasks on a Ray cluster, each on one core. Progress counts finished tasks, because no memory is shared."""
    import ray  # type: ignore[import-not-found]  # an optional extra

    if not ray.is_initialized():
        ray.init(num_cpus=num_workers or None, log_to_driver=False, include_dashboard=False)
    done = [0] * len(items)

    def remote_task(item: Item) -> tuple[Result, int]:
        units = [0]
        return task(item, lambda count: units.__setitem__(0, count)), units[0]

    remote = ray.remote(max_retries=MAX_ATTEMPTS)(remote_task)
    waiting = {remote.remote(item): index for index, item in enumerate(items)}
    while waiting:
        (reference,), _ = ray.wait(list(waiting), num_returns=1)
        result, units = ray.get(reference)
        index = waiting.pop(reference)
        done[index] = units
        watch(sum(done))
        yield index, result
