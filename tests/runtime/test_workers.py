"""Worker processes: a killed one loses only its task, each one ends, and none waits for another."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from world_models.runtime import workers
from world_models.runtime.errors import Stopped
from world_models.runtime.workers import Report, run_processes

# --- tasks: workers import them by name


def count_run(item: tuple[Path, float], report: Report) -> int:
    """Makes a file each time it is started, named by its worker, and then takes some time."""
    folder, seconds = item
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    report(1)
    time.sleep(seconds)
    return os.getpid()


def process_id(item: Any, report: Report) -> int:
    return os.getpid()


def sleep_s(item: float, report: Report) -> int:
    time.sleep(item)
    return os.getpid()


def size(item: bytes, report: Report) -> int:
    return len(item)


class TakesTwoError(Exception):
    """Can be pickled but not read back, because an exception is made again from a single argument."""

    def __init__(self, first: str, second: str):
        super().__init__(f"{first} {second}")


class OpensAFile:
    """A result that cannot be read back: reading it gives an OSError, as a broken pipe does."""

    def __reduce__(self) -> Any:
        return open, ("/no/such/file",)


def give_a_lock(item: Any, report: Report) -> Any:
    return threading.Lock()


def give_what_opens_a_file(item: Any, report: Report) -> Any:
    return OpensAFile()


def raise_with_a_lock(item: Any, report: Report) -> None:
    error = RuntimeError("the true reason")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def raise_what_takes_two(item: Any, report: Report) -> None:
    raise TakesTwoError("the true", "reason")


def raise_deep_inside(item: Any, report: Report) -> None:
    raise_here()


def raise_here() -> None:
    raise ValueError("deep inside")


def begin_a_thread(item: float, report: Report) -> str:
    threading.Thread(target=time.sleep, args=(item,)).start()
    return "done"


def ignore(units: int) -> None:
    pass


def team() -> list[Any]:
    return multiprocessing.active_children()


# --- workers that are killed


class Killer:
    """Watches a run, and kills the worker of an item once it works; as often as `times` says."""

    def __init__(self, folder: Path, times: int = 1):
        self.folder, self.times = folder, times
        self.killed: set[str] = set()

    def __call__(self, units: int) -> None:
        begun = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        for name in begun - self.killed:
            if len(self.killed) < self.times:
                self.killed.add(name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(name), signal.SIGKILL)


def times_begun(folder: Path) -> int:
    return len(list(folder.iterdir()))


@pytest.fixture(scope="module")
def bereaved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, int]]:
    """The files and results of a run of six items by two workers. One of them was killed during item 0."""
    folder = tmp_path_factory.mktemp("bereaved")
    items = [(folder / str(index), 0.8 if index < 2 else 0.05) for index in range(6)]
    return folder, dict(run_processes(count_run, items, 2, Killer(folder / "0")))


def test_a_killed_worker_costs_only_its_own_item_a_retry(bereaved: tuple[Path, dict[int, int]]):
    folder, found = bereaved
    assert sorted(found) == list(range(6))
    assert [times_begun(folder / str(index)) for index in range(6)] == [2, 1, 1, 1, 1, 1]


def test_the_task_of_another_worker_is_not_interrupted(bereaved: tuple[Path, dict[int, int]]):
    folder, found = bereaved
    assert [path.name for path in (folder / "1").iterdir()] == [str(found[1])]


def test_the_other_worker_continues_with_the_next_items(bereaved: tuple[Path, dict[int, int]]):
    _, found = bereaved
    assert Counter(found.values())[found[1]] > 1


def test_the_item_of_a_killed_worker_is_done_next(tmp_path: Path):
    items = [(tmp_path / str(index), 0.3) for index in range(2)]
    assert [index for index, _ in run_processes(count_run, items, 1, Killer(tmp_path / "0"))] == [0, 1]


def test_an_item_is_finished_after_two_killed_workers(tmp_path: Path):
    killer = Killer(tmp_path / "0", times=2)
    found = dict(run_processes(count_run, [(tmp_path / "0", 0.8)], 1, killer))
    assert times_begun(tmp_path / "0") == 3 and str(found[0]) not in killer.killed


@pytest.fixture
def stopped(tmp_path: Path) -> pytest.ExceptionInfo[Stopped]:
    """The error of a run in which three workers were killed during item 0, while another one works."""
    items = [(tmp_path / "0", 20.0), (tmp_path / "1", 20.0)]
    with pytest.raises(Stopped) as end:
        list(run_processes(count_run, items, 2, Killer(tmp_path / "0", times=3)))
    return end


def test_the_third_killed_worker_of_one_item_stops_the_work(stopped: pytest.ExceptionInfo[Stopped], tmp_path: Path):
    assert "workers died 3 times during the same task" in str(stopped.value)
    assert times_begun(tmp_path / "0") == 3 and team() == []


@pytest.mark.parametrize(("item", "after_s"), [(b"small", 0.0), (bytes(10_000_000), 0.0), (bytes(10_000_000), 0.05)])
def test_a_worker_killed_before_it_took_its_item_costs_a_retry(
    monkeypatch: pytest.MonkeyPatch, item: bytes, after_s: float
):
    killed: list[int] = []
    send = Connection.send

    def killing(pipe: Connection, message: Any) -> None:
        if not killed:
            (worker,) = team()
            killed.append(worker.pid)
            threading.Timer(after_s, os.kill, (worker.pid, signal.SIGKILL)).start()
            time.sleep(0.02 * (len(item) < 100))  # so that a small item, too, is sent to a dead worker
        send(pipe, message)

    monkeypatch.setattr(Connection, "send", killing)
    assert list(run_processes(size, [item], 1, ignore)) == [(0, len(item))]
    assert len(killed) == 1


# --- who does what


def test_a_long_item_does_not_delay_the_others():
    found = list(run_processes(sleep_s, [1.5, *[0.01] * 6], 2, ignore))
    assert found[-1][0] == 0  # the long one is the last to be done
    pids = dict(found)
    assert pids[0] not in {pids[index] for index in range(1, 7)}


def test_items_are_started_in_their_order():
    assert [index for index, _ in run_processes(process_id, "abcdef", 1, ignore)] == list(range(6))


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "pids"), [(1, [1] * 4), (3, [3, 1]), (4, [4])])
def test_a_worker_is_replaced_after_a_number_of_tasks(monkeypatch: pytest.MonkeyPatch, tasks: int, pids: list[int]):
    monkeypatch.setattr(workers, "TASKS_OF_A_WORKER", tasks)
    found = Counter(pid for _, pid in run_processes(process_id, range(4), 1, ignore))
    assert list(found.values()) == pids


def test_replacing_workers_loses_no_item(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "TASKS_OF_A_WORKER", 2)
    assert sorted(index for index, _ in run_processes(process_id, range(5), 2, ignore)) == list(range(5))


def test_no_more_workers_are_started_than_there_are_items():
    seen: list[int] = []
    list(run_processes(sleep_s, [0.3, 0.3], 5, lambda units: seen.append(len(team()))))
    assert max(seen) == 2


def test_a_worker_without_further_items_ends_before_the_others():
    seen: list[int] = []
    list(run_processes(sleep_s, [0.01, 1.0], 2, lambda units: seen.append(len(team()))))
    assert 1 in seen[seen.index(2) :]


def test_no_worker_and_no_pipe_remain_at_the_end():
    list(run_processes(process_id, [0], 1, ignore))  # multiprocessing opens files that stay open
    before = open_files()
    list(run_processes(process_id, range(4), 2, ignore))
    assert (open_files(), team()) == (before, [])


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_workers_of_a_new_process_ignore_ctrl_c(tmp_path: Path):
    (tmp_path / "interrupting.py").write_text(
        "import os, signal\ndef task(item, report):\n    os.kill(os.getpid(), signal.SIGINT)\n    return item\n"
    )
    source = """if True:
        import interrupting
        from world_models.runtime.workers import run_processes
        print(sorted(run_processes(interrupting.task, "ab", 2, lambda units: None)))"""
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout, done.stderr) == ("[(0, 'a'), (1, 'b')]\n", "")


# --- what goes wrong in a task


def test_an_errors_traceback_in_the_worker_is_shown_as_its_cause():
    with pytest.raises(ValueError, match="deep inside") as caught:
        list(run_processes(raise_deep_inside, [0], 1, ignore))
    assert "in raise_here" in str(caught.value.__cause__)


@pytest.mark.parametrize("task", [raise_with_a_lock, raise_what_takes_two])
def test_an_error_that_cannot_be_sent_is_reported_with_its_reason_and_place(task: Any):
    with pytest.raises(TypeError, match="the true") as caught:
        list(run_processes(task, [0], 1, ignore))
    assert f"in {task.__name__}" in str(caught.value.__cause__)


@pytest.mark.parametrize(("task", "kind"), [(give_a_lock, "lock"), (give_what_opens_a_file, "OpensAFile")])
def test_a_result_that_cannot_be_sent_is_an_error_that_names_it(task: Any, kind: str):
    with pytest.raises(TypeError, match=kind):
        list(run_processes(task, [0], 1, ignore))


def test_an_item_that_cannot_be_sent_is_an_error_and_ends_the_workers():
    with pytest.raises(TypeError, match="pickle"):
        list(run_processes(process_id, [0, threading.Lock()], 1, ignore))
    assert team() == []


def test_a_task_that_cannot_be_imported_is_an_error_and_ends_the_workers():
    with pytest.raises((AttributeError, TypeError)):
        list(run_processes(lambda item, report: item, [0], 1, ignore))
    assert team() == []


def test_results_before_an_error_are_not_lost():
    results = run_processes(raise_at_two, range(4), 1, ignore)
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="two"):
        next(results)


def raise_at_two(item: int, report: Report) -> int:
    if item == 2:
        raise ValueError("two")
    return item


def test_a_thread_that_a_task_leaves_behind_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "PATIENCE_S", 0.5)
    since = time.monotonic()
    assert list(run_processes(begin_a_thread, [15.0], 1, ignore)) == [(0, "done")]
    assert time.monotonic() - since < 10
