"""A team of worker processes. Each has its own pipe to the parent process, which gives it tasks.

No lock, queue or pipe is shared. So if a worker is killed, only its current task is lost, and it is done again. Workers
are replaced from time to time, because simulators leak memory.
"""

import contextlib
import multiprocessing
import os
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import connection, reduction, resource_tracker
from typing import Any, TypeVar

from world_models.runtime.errors import Stopped
from world_models.runtime.host import held_signals, leave_ending_to_parent

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[int], None]
Task = Callable[[Item, Report], Result]

WATCH_EVERY_S = 0.2
MAX_ATTEMPTS = 3
PATIENCE_S = 5.0
"""Time that a worker gets to end by itself. Then it is killed, because a thread of a task may still run."""
TASKS_OF_A_WORKER = 50
"""A worker is replaced after this number of tasks. Starting one costs as much as a tenth of a shard."""


class _InWorkerError(Exception):
    """The traceback of an error in a worker."""


class _Worker:
    """A process that does one task after the other, and the pipe to it."""

    def __init__(self, context: Any, task: Task, progress: Any):
        self.pipe, child_end = context.Pipe()
        self.process = context.Process(target=_work, args=(task, child_end, progress))
        self.process.start()
        child_end.close()  # then only the worker has this end, and the pipe ends with the worker
        self.index = -1
        self.num_tasks = 0

    def give(self, index: int, item: Any) -> None:
        self.index = index
        self.num_tasks += 1
        with contextlib.suppress(ConnectionError):  # the worker is dead; the next read of its pipe shows it
            self.pipe.send((index, item))

    def dismiss(self) -> None:
        self.pipe.close()  # an idle worker ends then
        self.process.join(PATIENCE_S)
        self.process.kill()
        self.process.join()

    def kill(self) -> None:
        self.process.kill()
        self.dismiss()


def run_processes(
    task: Task[Item, Result], items: Sequence[Item], num_workers: int, watch: Report
) -> Generator[tuple[int, Result], None, None]:
    """Run the task on every item. A free worker takes the next item. Yields (index, result) as items finish.

    Raises:
        Stopped: the worker of an item died `MAX_ATTEMPTS` times.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share HDF5's and OpenMP's locks
    with held_signals():  # if it were started with the first worker, it would unblock signals for all of them
        resource_tracker.ensure_running()
    progress = context.RawArray("q", max(1, len(items)))  # a slot per item needs no lock, which could stay locked
    waiting = _WaitingItems(len(items))
    team: dict[connection.Connection, _Worker] = {}
    with _killed_at_the_end(team):
        while waiting or team:
            with held_signals():
                while waiting and len(team) < num_workers:
                    worker = _Worker(context, task, progress)
                    team[worker.pipe] = worker
                    index = waiting.take()
                    worker.give(index, items[index])
            for pipe in connection.wait(list(team), WATCH_EVERY_S):
                worker = team[pipe]  # type: ignore[index]
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, OSError):
                    team.pop(worker.pipe).dismiss()
                    waiting.put_back(worker.index)
                    continue
                index = worker.index
                if waiting and worker.num_tasks < TASKS_OF_A_WORKER:
                    following = waiting.take()
                    worker.give(following, items[following])
                else:
                    team.pop(worker.pipe).dismiss()
                watch(sum(progress))
                yield index, result_of(*outcome)
            watch(sum(progress))


def result_of(result: Any, error: Exception | None, where: str) -> Any:
    """The result of a task, or its error raised. `where` is the traceback in the worker."""
    if error is not None:
        raise error from _InWorkerError(where)
    return result


class _WaitingItems:
    """The numbers of the items that no worker has yet, the next one first."""

    def __init__(self, num_items: int):
        self._indices, self._deaths = deque(range(num_items)), Counter[int]()

    def __bool__(self) -> bool:
        return bool(self._indices)

    def take(self) -> int:
        return self._indices.popleft()

    def put_back(self, index: int) -> None:
        """Put an item to the front again, because its worker died.

        Raises:
            Stopped: `MAX_ATTEMPTS` workers died during its task.
        """
        self._indices.appendleft(index)
        self._deaths[index] += 1
        if self._deaths[index] == MAX_ATTEMPTS:
            raise Stopped(
                f"workers died {MAX_ATTEMPTS} times during the same task; too little memory? Give fewer --num_workers"
            )


@contextlib.contextmanager
def _killed_at_the_end(team: dict[connection.Connection, _Worker]) -> Iterator[None]:
    """Kill the workers at the end of the block, also after an error."""
    try:
        yield
    finally:
        for worker in team.values():
            worker.kill()


# ---- in the worker ----


def _work(task: Task, pipe: connection.Connection, progress: Any) -> None:
    """Do the tasks from the pipe until it ends. The worker ends with its parent."""
    leave_ending_to_parent()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    with contextlib.suppress(EOFError):
        while True:
            index, item = pipe.recv()
            outcome = attempt(task, item, lambda units, slot=index: progress.__setitem__(slot, units))
            pipe.send(sendable(*outcome))


def attempt(task: Task, item: Any, report: Report) -> tuple[Any, Exception | None, str]:
    """Do one task. Returns its result, or its error with its traceback as text."""
    try:
        return task(item, report), None, ""
    except Exception as error:
        return None, error, traceback.format_exc()


def sendable(result: Any, error: Exception | None, where: str) -> tuple[Any, Exception | None, str]:
    """The outcome; or an error that describes it, if it cannot be sent through the pipe."""
    pipe_format: Any = reduction.ForkingPickler
    try:
        pipe_format.loads(pipe_format.dumps((result, error)))
    except Exception as problem:
        what = f"a result of type {type(result).__name__}" if error is None else f"{type(error).__name__}: {error}"
        return None, TypeError(f"{what} (which cannot be sent between processes: {problem})"), where
    return result, error, where
