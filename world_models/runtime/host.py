"""The machine that a process runs on: the cores it may use, and the signals that ask it to end.

Whoever runs the process, a person, a terminal, a scheduler, asks it to end by one of `ENDING`: Ctrl-C, a closed
terminal, SLURM's warning before the time is over, a termination. All of them act alike. One that was ignored when the
process was started, as `nohup` does, stays ignored.
"""

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
FIRST_SPEAKS_WITHIN_S = 30.0
AGAIN_S = 0.05  # a destructor has ended by then


class Interrupted(KeyboardInterrupt):
    """A signal that ends a command.

    Attributes:
        status: of the process that ends by it, 128 and the signal's number, as shells have it.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


# ---- signals ----


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn the first signal to end into a request; a second one acts as it did before the block."""
    stop = threading.Event()

    def request(number: int) -> None:
        stop.set()

    with _handled(request):
        yield stop


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Raise `Interrupted` at the first signal to end, wherever the block is; a second one kills the process."""

    def interrupt(number: int) -> NoReturn:
        for each in _heard():
            signal.signal(each, signal.SIG_DFL)
        raise Interrupted(number)

    with _handled(interrupt), _raised_again():
        try:
            yield
        except Exception as error:  # what is half done can fail to be cleared away; that is no bug to be shown
            behind: BaseException | None = error
            while behind := behind.__context__:
                if isinstance(behind, Interrupted):
                    raise behind from None
            raise


@contextlib.contextmanager
def _raised_again() -> Iterator[None]:
    """In the block, raise an `Interrupted` a little later where it was lost.

    A signal may come while Python runs a destructor or the callback of a weak reference. What is raised there ends
    nothing: Python prints it and goes on.
    """
    shown = sys.unraisablehook

    def again(number: int, frame: Any) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted(number)

    def send(number: int) -> None:
        if signal.getsignal(number) is again:  # and not if the person has sent a second one meanwhile
            os.kill(os.getpid(), number)

    def look(lost: Any) -> None:
        if not isinstance(lost.exc_value, Interrupted):
            shown(lost)
            return
        number = lost.exc_value.status - 128
        signal.signal(number, again)
        timer = threading.Timer(AGAIN_S, send, (number,))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = look
    try:
        yield
    finally:
        sys.unraisablehook = shown
        for number in ENDING:
            if signal.getsignal(number) is again:
                signal.signal(number, signal.SIG_DFL)


def begin_command(name: str) -> None:
    """Make this process a command's: call it before PyTorch is imported, which takes most of the time of a start.

    Args:
        name: as `python -m` takes it.
    """
    _end_quietly(f"python -m {name}")
    limit_threads()
    # OpenMP reads it when PyTorch loads it. Its threads otherwise wait in a busy loop, which takes the cores from those
    # that compute: without, training is a fifth faster, and fourteen times where another process is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _end_quietly(name: str) -> None:
    """From now on, end the process with one line at Ctrl-C; for the time of the imports, when there is no work yet."""

    def end(number: int, frame: Any) -> None:
        os.write(2, f"\n{name}: interrupted\n".encode())
        os._exit(128 + number)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Block the signals to end. Processes started in the block keep them blocked; this one gets them afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []  # the mask is this thread's alone: the system hands the signal to another one
    before = {number: signal.signal(number, lambda number, frame: held.append(number)) for number in _heard()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, before)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in held[:1]:
        signal.raise_signal(number)


def leave_ending_to_parent() -> None:
    """In a worker: do nothing at a signal to end, which a scheduler sends to all processes; the parent decides.

    The signals are let through again, since programs that the worker starts would have them held.
    """
    for number in _heard():
        signal.signal(number, lambda number, frame: None)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _heard() -> list[signal.Signals]:
    """The signals to end that are not ignored, nor handled by a program that is not Python."""
    return [number for number in ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]


@contextlib.contextmanager
def _handled(act: Callable[[int], None]) -> Iterator[None]:
    """In the block, act at the first signal to end; a second one acts as it did before. Other threads get none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        restore()
        if number == signal.SIGHUP:
            print_into_nothing()
        act(number)

    def restore() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)

    before = {number: signal.signal(number, handle) for number in _heard()}
    try:
        yield
    finally:
        restore()


def print_into_nothing() -> None:
    """Discard all output if the terminal or the reader is gone. Otherwise printing would fail, and end the work."""
    for descriptor in filter(_is_gone, (1, 2)):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)


def speaks() -> bool:
    """Whether this process prints for all. Of torchrun's processes, the first of each machine does."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0"


def wait_for_the_first() -> None:
    """Wait before an error is printed, where another process speaks: torchrun ends this one when that one has failed.

    A process that still runs after `FIRST_SPEAKS_WITHIN_S` has an error that the first one has not; so it speaks.
    """
    if not speaks():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(FIRST_SPEAKS_WITHIN_S)


def reader_is_gone() -> bool:
    """Whether nobody reads what this process prints any more, as behind `| head`."""
    return _is_gone(1) or _is_gone(2)


def _is_gone(descriptor: int) -> bool:
    watch = select.poll()
    watch.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in watch.poll(0))


# ---- cores ----


def available_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has.

    A share of a core, as in a quota of 2.5, is rounded up: a thread more than there are cores costs little.
    """
    cores = len(os.sched_getaffinity(0))
    return min(cores, math.ceil(_quota() or cores))


def limit_threads() -> None:
    """Where a quota leaves fewer cores than there are, have libraries that are imported later start no more threads.

    They look at the cores alone. What a person says by OMP_NUM_THREADS stays.
    """
    if available_cores() < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))


def _quota() -> float | None:
    """Cores by the strictest of the time quotas of this process's control groups; None without one."""
    quotas = [quota for folder in _cgroup_folders() if (quota := _quota_of(folder))]
    return min(quotas, default=None)


def _cgroup_folders() -> Iterator[Path]:
    """The folders of this process's control groups and all above them, of version 2 and of version 1.

    In a container a group's path may be that on the host, which is not there; then the root is the container's own.
    """
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = [CGROUPS / controllers, CGROUPS / "cpu"] if controllers else [CGROUPS, CGROUPS / "unified"]
        for root in roots:
            own = root / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder == root or root in folder.parents)


def _quota_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / name).read_text(encoding="utf-8").strip()
                for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            )
        return float(quota) / float(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or of a kernel that has others in them
        return None
