"""Map one pure function over many inputs: in this process, in many, or on a Ray cluster; the results are the same.

A task is `task(item, report) -> result`, importable by name; it calls `report(n)` with the units of work done so far.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

from world_models.config import Stopped

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[int], None]
Task = Callable[[Item, Report], Result]
Executor = Literal["processes", "serial", "ray"]

WATCH_EVERY_S = 0.2
MAX_ATTEMPTS = 3

_progress: Any = None


def run(
    task: Task[Item, Result], items: Sequence[Item], executor: Executor, num_workers: int, watch: Report
) -> Generator[tuple[int, Result], None, None]:
    """Run the task on every item and yield (index, result) as they finish, in any order.

    Args:
        task: a pure function at the top level of a module.
        items: its inputs; what can be pickled.
        executor: where it runs.
        num_workers: processes at once; 0 for one a core.
        watch: called a few times a second with the units of work done by all.

    Raises:
        Stopped: an item's worker died `MAX_ATTEMPTS` times.
    """
    if executor == "serial":
        yield from _run_serial(task, items, watch)
    elif executor == "ray":
        yield from _run_ray(task, items, num_workers, watch)
    else:
        yield from _run_processes(task, items, num_workers or available_cores(), watch)


def check(executor: Executor) -> None:
    """Refuse an executor whose package is not installed.

    Raises:
        ValueError: it is Ray, and Ray is not there.
    """
    if executor == "ray":
        try:
            import ray as ray  # type: ignore[import-not-found]
        except ImportError:
            raise ValueError("executor ray needs ray; pip install 'world_models[ray]', or use processes") from None


def available_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0))


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


def _run_processes(
    task: Task[Item, Result], items: Sequence[Item], num_workers: int, watch: Report
) -> Iterator[tuple[int, Result]]:
    """A fresh pool takes up what is left when a worker is killed, since one dead worker breaks its whole pool."""
    if not items:
        return
    context = multiprocessing.get_context("spawn")  # a fork would share HDF5's and OpenMP's locks
    progress = context.RawArray("q", len(items))  # a slot each: no lock that a killed worker could hold
    left, attempts = set(range(len(items))), 0
    while left:
        before = len(left)
        pool = ProcessPoolExecutor(min(num_workers, len(left)), context, _start_worker, (progress,))
        with _killed_on_exit(pool), contextlib.suppress(BrokenProcessPool):
            with _interrupts_held():
                futures = {pool.submit(_call, task, index, items[index]): index for index in sorted(left)}
            for future in _as_done(futures, lambda: watch(sum(progress))):
                with contextlib.suppress(BrokenProcessPool):  # what the others finished is kept
                    result = future.result()
                    left.remove(futures[future])
                    yield futures[future], result
        attempts = attempts + 1 if len(left) == before else 0
        if attempts == MAX_ATTEMPTS:
            raise Stopped(
                f"workers died {attempts} times over {len(left)} tasks; too little memory? Give fewer --num_workers"
            )


def _as_done(futures: dict[Future, int], tick: Callable[[], None]) -> Iterator[Future]:
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, WATCH_EVERY_S, FIRST_COMPLETED)
        tick()
        yield from done


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while workers start: they inherit the held state, so only the parent sees it, afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []  # the mask is this thread's alone: the system hands the signal to another one
    handler = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if heard:
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _killed_on_exit(pool: ProcessPoolExecutor) -> Iterator[None]:
    """End the pool's workers at once if the block ends early, whatever they are doing."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(progress: Any) -> None:
    """Prepare a worker process: it reports into its slots, and it does not outlive its parent."""
    global _progress
    _progress = progress
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _call(task: Task[Item, Result], index: int, item: Item) -> Result:
    def report(units: int) -> None:
        _progress[index] = units

    return task(item, report)


def _run_ray(
    task: Task[Item, Result], items: Sequence[Item], num_workers: int, watch: Report
) -> Iterator[tuple[int, Result]]:
    """Tasks on a Ray cluster, a core each; progress counts finished tasks, since their memory is elsewhere."""
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


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, or a scheduler's SIGTERM, into a request; a second one ends the process as always."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        stop.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        restore()
