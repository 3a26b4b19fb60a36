"""Runs a pure function over many inputs on the nodes of a Ray cluster, as `executors.run` does on this machine.

The results come back through Ray's object store, and only a few of them are in this process at a time. An item whose
worker or node dies is done again by another one.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Generic

from world_models.runtime import ray_worker, workers
from world_models.runtime.errors import Stopped
from world_models.runtime.ray_cluster import Cluster
from world_models.runtime.workers import MAX_ATTEMPTS, Item, Report, Result, Task

WATCH_EVERY_S = 0.5
"""The driver reads the progress this often."""
REPORT_EVERY_S = 0.5
REPORTS_PER_S = 500
"""All workers together report at most this often, because one process counts their progress."""
CANCEL_WITHIN_S = 2.0
"""Cancelled items have this time to remove their files. Then Ray kills their workers."""
FETCHED_AT_ONCE = 4
"""Number of results that are in this process at a time."""


@dataclasses.dataclass(frozen=True)
class Work(Generic[Item, Result]):
    """What to run on the nodes.

    Attributes:
        task: a pure function at the top level of a module.
        facts: versions of this process, see `node_facts`. A node that joins later and has others stops the work.
        complete: adds data to an item just before it is sent, so that only the data of items in flight are in memory.
        item_bytes: bytes of these data.
        on_gpu: whether an item needs a GPU, instead of a core.
    """

    task: Task[Item, Result]
    facts: Mapping[str, str]
    complete: Callable[[Item], Item] = lambda item: item
    item_bytes: int = 0
    on_gpu: bool = False


def run(
    cluster: Cluster, work: Work[Item, Result], items: Sequence[Item], watch: Report
) -> Generator[tuple[int, Result], None, None]:
    """Run the task on every item. Yields (index, result) in the order in which the items finish.

    Args:
        cluster: the nodes.
        work: what to run.
        items: its inputs, which can be pickled.
        watch: called at least once a second with the total units of work so far.

    Raises:
        Stopped: the workers of an item died too often, or a node has other versions.
    """
    ray, in_flight = cluster.ray, cluster.in_flight(work.item_bytes, work.on_gpu)
    counter = cluster.beside_the_driver(ray.remote(max_restarts=-1)(ray_worker.Counter)).remote()
    progress = _Progress(ray, counter, watch)
    remote = _remote(ray, work.on_gpu)
    order = ray.put(ray_worker.Order(work.task, dict(work.facts), max(REPORT_EVERY_S, in_flight / REPORTS_PER_S)))
    todo, waiting = iter(enumerate(items)), {}
    try:
        while True:
            for index, item in itertools.islice(todo, in_flight - len(waiting)):
                waiting[remote.remote(order, counter, index, work.complete(item))] = index
            if not waiting:
                break
            finished, _ = ray.wait(list(waiting), timeout=WATCH_EVERY_S, fetch_local=False)
            if finished:  # and all others that have finished by now
                finished, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0, fetch_local=False)
            progress.watch()
            for references in _groups(finished):
                indices = [waiting.pop(reference) for reference in references]
                for index, (outcome, units) in zip(indices, _fetched(ray, references, progress), strict=True):
                    progress.finish(units)
                    yield index, workers.result_of(*outcome)
        progress.watch()
    finally:
        _cancel(ray, waiting)


def _remote(ray: Any, on_gpu: bool) -> Any:
    needs = {"num_cpus": 0, "num_gpus": 1} if on_gpu else {"num_cpus": 1}
    return ray.remote(max_retries=MAX_ATTEMPTS - 1, max_calls=workers.TASKS_OF_A_WORKER, **needs)(ray_worker.do_item)


def _groups(references: list[Any]) -> Iterable[list[Any]]:
    return (references[start : start + FETCHED_AT_ONCE] for start in range(0, len(references), FETCHED_AT_ONCE))


def _fetched(ray: Any, references: list[Any], progress: "_Progress") -> Sequence[ray_worker.Done]:
    """Fetch results. Ray makes those again whose node has died in the meantime.

    Raises:
        Stopped: it cannot.
    """
    try:
        while ray.wait(references, num_returns=len(references), timeout=WATCH_EVERY_S)[1]:
            progress.watch()
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:  # `do_item` raises nothing; so the node cannot import it
        reason = str(error.cause or error).strip().splitlines()[-1]
        raise Stopped(f"a node cannot run the work: {reason}; install the same version of this package there") from None
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        raise Stopped(
            f"workers or nodes died {MAX_ATTEMPTS} times during the same task ({reason}); too little memory? "
            "Give each core more of it"
        ) from None


def _cancel(ray: Any, waiting: Mapping[Any, int]) -> None:
    """Cancel the items that are still with the nodes."""
    if waiting:
        for reference in waiting:
            ray.cancel(reference)
        ray.wait(list(waiting), num_returns=len(waiting), timeout=CANCEL_WITHIN_S, fetch_local=False)


class _Progress:
    """The progress of all items, on the driver."""

    def __init__(self, ray: Any, counter: Any, watch: Report):
        self._ray, self._counter, self._watch = ray, counter, watch
        self._finished_units, self._last = 0, 0
        self._asked = counter.total.remote()

    def watch(self) -> None:
        """Report the total. The counter's answers are never waited for."""
        if self._ray.wait([self._asked], timeout=0)[0]:
            with contextlib.suppress(self._ray.exceptions.RayActorError):  # it has died, and is started again
                self._last = self._ray.get(self._asked)
            self._asked = self._counter.total.remote()
        self._watch(max(self._last, self._finished_units))

    def finish(self, units: int) -> None:
        """Count an item that has finished. Its last report may still be on its way."""
        self._finished_units += units
