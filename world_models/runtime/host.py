"""The machine of a process: the cores that it may use, and the signals that ask it to end.

A person, a terminal or a scheduler asks a process to end by one of the signals in `ENDING`: Ctrl-C, a closed terminal,
SLURM's warning before the time limit, a termination. All of them have the same effect. A signal that was ignored at the
start of the process, as under `nohup`, stays ignored.
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
FIRST_PRINTS_WITHIN_S = 30.0
RESEND_DELAY_S = 0.05  # a lost signal is sent again after this time, which is longer than a destructor takes


class Interrupted(KeyboardInterrupt):
    """A signal that ends a command.

    Attributes:
        status: exit status of the process: 128 plus the signal's number, as in shells.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


# ---- signals ----


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Set the event at the first signal to end. A second signal has the same effect as before the block."""
    stop = threading.Event()

    def request(number: int) -> None:
        stop.set()

    with _handled(request):
        yield stop


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Raise `Interrupted` in the block at the first signal to end. A second signal kills the process."""

    def interrupt(number: int) -> NoReturn:
        for each in _handled_signals():
            signal.signal(each, signal.SIG_DFL)
        raise Interrupted(number)

    with _handled(interrupt), _raised_again():
        try:
            yield
        except Exception as error:  # cleaning up after an interrupt may fail; then report the interrupt
            earlier: BaseException | None = error
            while earlier := earlier.__context__:
                if isinstance(earlier, Interrupted):
                    raise earlier from None
            raise


@contextlib.contextmanager
def _raised_again() -> Iterator[None]:
    """Raise an `Interrupted` of this block again, a little later, if it was lost.

    A signal may arrive while Python runs a destructor or the callback of a weak reference. Python only prints an
    exception that is raised there, and continues.
    """
    original_hook = sys.unraisablehook

    def again(number: int, frame: Any) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted(number)

    def send(number: int) -> None:
        if signal.getsignal(number) is again:  # no second signal has arrived in the meantime
            os.kill(os.getpid(), number)

    def hook(lost: Any) -> None:
        if not isinstance(lost.exc_value, Interrupted):
            original_hook(lost)
            return
        number = lost.exc_value.status - 128
        signal.signal(number, again)
        timer = threading.Timer(RESEND_DELAY_S, send, (number,))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = original_hook
        for number in ENDING:
            if signal.getsignal(number) is again:
                signal.signal(number, signal.SIG_DFL)


def begin_command(name: str) -> None:
    """Prepare this process for a command. Call it before PyTorch is imported, which takes most of the start's time.

    Args:
        name: name of the command for `python -m`.
    """
    _end_quietly(f"python -m {name}")
    limit_threads()
    # OpenMP reads this variable when PyTorch loads it. By default its threads wait in a busy loop, which takes cores
    # from computing threads. With PASSIVE, training is a fifth faster, and 14 times faster beside a busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _end_quietly(name: str) -> None:
    """From now on, Ctrl-C ends the process with one line. This is for the imports, before the work begins."""

    def end(number: int, frame: Any) -> None:
        os.write(2, f"\n{name}: interrupted\n".encode())
        os._exit(128 + number)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Block the signals to end. Processes that are started in the block keep them blocked; this one gets them later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []  # only this thread is masked, so the system may deliver a signal to another thread
    before = {number: signal.signal(number, lambda number, frame: held.append(number)) for number in _handled_signals()}
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
    """In a worker, ignore the signals to end, because a scheduler sends them to all processes and the parent decides.

    The signals are unblocked, so that programs that the worker starts do not have them blocked.
    """
    for number in _handled_signals():
        signal.signal(number, lambda number, frame: None)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _handled_signals() -> list[signal.Signals]:
    """The signals to end, except those that are ignored and those whose handler is not Python's."""
    return [number for number in ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]


@contextlib.contextmanager
def _handled(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` at the first signal to end in this block. A second signal has the same effect as before the block.

    Only Python's main thread handles signals. In other threads this does nothing.
    """
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

    before = {number: signal.signal(number, handle) for number in _handled_signals()}
    try:
        yield
    finally:
        restore()


def print_into_nothing() -> None:
    """Discard all output if its terminal or reader has ended. Otherwise printing would fail and end the work."""
    for descriptor in filter(_is_gone, (1, 2)):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)


def prints_messages() -> bool:
    """Whether this process prints. If torchrun has started several processes, the first of each machine prints."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("LOCAL_RANK", "0") == "0"


def wait_for_the_first() -> None:
    """Wait before printing an error, if this is not the first process. torchrun ends it when the first one has failed.

    If this process still runs after `FIRST_PRINTS_WITHIN_S`, the first one has no error. Then this one prints its own.
    """
    if not prints_messages():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(FIRST_PRINTS_WITHIN_S)


def reader_is_gone() -> bool:
    """Whether nobody reads the output any more, as after `| head` has ended."""
    return _is_gone(1) or _is_gone(2)


def _is_gone(descriptor: int) -> bool:
    watch = select.poll()
    watch.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in watch.poll(0))


# ---- cores ----


def available_cores() -> int:
    """Number of cores that this process may use. In a container it is less than the machine has.

    A quota of 2.5 cores is rounded up, because one thread too many costs little.
    """
    cores = len(os.sched_getaffinity(0))
    return min(cores, math.ceil(_quota() or cores))


def limit_threads() -> None:
    """Limit the threads of libraries that are imported later, if a quota allows fewer cores than there are.

    The libraries know the number of cores but not the quota. A value of OMP_NUM_THREADS from the user stays.
    """
    if available_cores() < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))


def _quota() -> float | None:
    """Number of cores by the smallest quota of this process's control groups; None without a quota."""
    quotas = [quota for folder in _cgroup_folders() if (quota := _quota_of(folder))]
    return min(quotas, default=None)


def _cgroup_folders() -> Iterator[Path]:
    """The folders of this process's control groups and of all their parents, in version 2 and version 1.

    In a container a group's path may be the host's, which does not exist here. Then the root is the container's group.
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
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or files in another format
        return None
