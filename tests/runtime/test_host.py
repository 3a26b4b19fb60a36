"""Signals to end have the same effect, and a container's quota limits the number of cores."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from world_models.runtime import host

ENDING = pytest.mark.parametrize("number", host.ENDING)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Restore the signals after each test: code that ends by an interrupt does not, because its process ends."""
    before = {number: signal.getsignal(number) for number in host.ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


COMMAND = """
import dataclasses, sys, time
from world_models.runtime.cli import run_command
from world_models.runtime.host import stop_requests
from world_models.runtime.workers import run_processes

@dataclasses.dataclass(frozen=True)
class Config:
    '''What to do.'''
    how: str = "wait"

def task(seconds, report):
    time.sleep(seconds)

def work(how):
    if how != "save":
        print("begun", flush=True)
    if how == "print":
        while True:
            print("x" * 1000)
    if how == "team":
        for _ in run_processes(task, [60.0, 60.0], 2, lambda units: None):
            pass
    if how == "save":
        with stop_requests() as stop:
            print("begun", flush=True)
            while not stop.wait(0.05):
                pass
            print("saved", flush=True)
            time.sleep(60)
    time.sleep(60)

def prepare(config):
    if config.how == "prepare":
        print("begun", flush=True)
        time.sleep(60)
    return config.how

if __name__ == "__main__":
    run_command("Waits.", Config, prepare, work)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in its own session, and waits until it works."""
    (tmp_path / "waiting.py").write_text(COMMAND)
    started: list[subprocess.Popen[str]] = []
    path = os.pathsep.join([str(tmp_path), str(Path(host.__file__).parents[2])])

    def run(how: str, ignored: signal.Signals | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "waiting", "--how", how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,
            preexec_fn=(lambda: signal.signal(ignored, signal.SIG_IGN)) if ignored else None,  # type: ignore[arg-type]
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


# commands


@pytest.mark.slow
@pytest.mark.parametrize(("how", "number"), [*zip(["wait"] * 4, host.ENDING, strict=True), ("prepare", signal.SIGINT)])
def test_each_signal_ends_a_command_with_its_status_and_one_line(start: Callable, how: str, number: signal.Signals):
    process = start(how)
    process.send_signal(number)
    assert ended(process) == (128 + number, "\npython -m waiting: interrupted; what is finished stays\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_to_all_processes_leaves_ending_the_workers_to_their_parent(start: Callable, number: signal.Signals):
    process = start("team")
    time.sleep(1)
    os.killpg(process.pid, number)
    assert ended(process) == (128 + number, "\npython -m waiting: interrupted; what is finished stays\n")


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(start: Callable):
    process = start("wait", ignored=signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None


def test_the_second_signal_interrupts_the_saving_that_the_first_one_started(start: Callable):
    process = start("save")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saved\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 128 + signal.SIGTERM


def test_a_command_ends_without_a_message_if_its_output_is_no_longer_read(start: Callable):
    process = start("print")
    process.stdout.close()
    process.stdout = None
    assert ended(process) == (128 + signal.SIGPIPE, "")


def test_ctrl_c_while_a_command_is_imported_prints_one_line(tmp_path: Path):
    (tmp_path / "h5py.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), str(Path(host.__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-m", "world_models.collect"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "\npython -m world_models.collect: interrupted\n")


def test_an_error_that_an_interrupt_caused_is_hidden_by_the_interrupt():
    with pytest.raises(host.Interrupted), host.interrupts():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            raise AssertionError("half made")


def test_an_error_without_an_interrupt_is_raised():
    with pytest.raises(ZeroDivisionError), host.interrupts():
        try:
            raise KeyError("first")
        finally:
            _ = 1 / 0


# signals in a destructor, where Python loses what is raised


class Ended:
    """Sends a signal to this process when it is deleted."""

    def __init__(self, number: int = signal.SIGTERM):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0.001)  # the signal arrives here


@ENDING
def test_a_signal_in_a_destructor_ends_the_command_and_prints_nothing(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(host.Interrupted) as caught, host.interrupts():
        ended = Ended(number)
        del ended
        time.sleep(10)
    assert caught.value.status == 128 + number
    assert capsys.readouterr().err == ""


def test_a_second_signal_ends_the_command_once_if_the_first_was_lost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "RESEND_DELAY_S", 0.2)
    with pytest.raises(host.Interrupted), host.interrupts():
        ended = Ended()
        del ended
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    time.sleep(0.3)  # the lost signal must not be repeated: it would kill this process


def test_a_lost_signal_is_not_repeated_after_the_work_has_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "RESEND_DELAY_S", 0.1)
    with host.interrupts():
        ended = Ended()
        del ended
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    time.sleep(0.2)


def test_other_errors_in_destructors_are_still_shown(monkeypatch: pytest.MonkeyPatch):
    class Wrong:
        def __del__(self):
            raise KeyError("own")

    shown: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: shown.append(lost.exc_value))
    with host.interrupts():
        wrong = Wrong()
        del wrong
    assert [type(error) for error in shown] == [KeyError]


# stop requests


@ENDING
def test_the_first_signal_is_a_request_to_stop(number: signal.Signals):
    with host.stop_requests() as stop:
        os.kill(os.getpid(), number)
        assert stop.wait(1)


def test_without_a_signal_no_stop_is_requested():
    with host.stop_requests() as stop:
        assert not stop.is_set()


@ENDING
def test_the_second_signal_has_its_usual_effect(number: signal.Signals):
    with pytest.raises(KeyboardInterrupt), host.stop_requests() as stop:
        os.kill(os.getpid(), number)
        stop.wait(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_signals_have_their_usual_effect_after_the_work():
    before = [signal.getsignal(number) for number in host.ENDING]
    with host.stop_requests():
        pass
    assert [signal.getsignal(number) for number in host.ENDING] == before


@pytest.fixture
def ignored() -> Iterator[signal.Signals]:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_an_ignored_signal_does_not_request_a_stop(ignored: signal.Signals):
    with host.stop_requests() as stop:
        os.kill(os.getpid(), ignored)
        assert not stop.wait(0.2)


def test_a_thread_can_use_stop_requests_but_gets_none():
    requested: list[bool] = []

    def work() -> None:
        with host.stop_requests() as stop:
            requested.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]


def test_signals_while_workers_start_are_handled_afterwards():
    reached = False
    with pytest.raises(KeyboardInterrupt), host.held_signals():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)  # the system may give the signal to any thread
        reached = True
    assert reached


def test_output_has_no_reader_once_its_terminal_is_closed():
    ours, theirs = pty.openpty()
    stdout = os.dup(1)
    os.dup2(theirs, 1)
    try:
        before = host.reader_is_gone()
        os.close(ours)
        after = host.reader_is_gone()
    finally:
        os.dup2(stdout, 1)
    os.close(theirs)
    os.close(stdout)
    assert (before, after) == (False, True)


@pytest.mark.parametrize(
    ("variables", "speaks"),
    [({}, True), ({"LOCAL_RANK": "1"}, True), ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_RANK": "0"}, True),
     ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_RANK": "1"}, False)],
)  # fmt: skip
def test_only_the_first_process_of_torchrun_on_a_machine_prints(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], speaks: bool
):
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert host.prints_messages() is speaks


@pytest.mark.parametrize(("rank", "waits"), [("0", []), ("1", [host.FIRST_PRINTS_WITHIN_S])])
def test_the_other_processes_of_torchrun_wait_until_they_are_ended(
    monkeypatch: pytest.MonkeyPatch, rank: str, waits: list[float]
):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("LOCAL_RANK", rank)
    slept: list[float] = []
    monkeypatch.setattr(host.time, "sleep", slept.append)
    with host.interrupts():
        before = signal.getsignal(signal.SIGTERM)
        host.wait_for_the_first()
        assert (signal.getsignal(signal.SIGTERM) == signal.SIG_DFL) == bool(waits)
        signal.signal(signal.SIGTERM, before)
    assert slept == waits


# cores


def test_available_cores_are_those_of_this_process():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert host.available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


V2, V1 = "0::/pod/container\n", "4:memory:/pod\n2:cpu,cpuacct:/pod/container\n1:name=systemd:/x\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "quotas", "cores"),
    [
        (V2, {}, 64),
        (V2, {"pod/container/cpu.max": "max 100000"}, 64),
        (V2, {"pod/container/cpu.max": "400000 100000"}, 4),
        (V2, {"pod/container/cpu.max": "250000 100000"}, 3),
        (V2, {"pod/container/cpu.max": "1000 100000"}, 1),
        (V2, {"pod/container/cpu.max": "max 100000", "pod/cpu.max": "200000 100000"}, 2),
        (V2, {"pod/container/cpu.max": "300000 100000", "pod/cpu.max": "800000 100000"}, 3),
        (V2, {"cpu.max": "500000 100000"}, 5),
        (V2, {"pod/container/cpu.max": "9900000 100000"}, 64),
        (V2, {"pod/container/cpu.max": "what is this"}, 64),
        (V1, {"cpu,cpuacct/pod/cpu.cfs_quota_us": "-1", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000"}, 64),
        (V1, {"cpu,cpuacct/pod/container/cpu.cfs_quota_us": "200000",
              "cpu,cpuacct/pod/container/cpu.cfs_period_us": "100000"}, 2),
        (V1, {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        (V1, {"memory/pod/cpu.cfs_quota_us": "100000", "memory/pod/cpu.cfs_period_us": "100000"}, 64),
        (None, {"cpu.max": "100000 100000"}, 64),
    ],
)  # fmt: skip
def test_the_quota_of_a_container_limits_the_available_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str | None, quotas: Mapping[str, str], cores: int
):
    for name, quota in quotas.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{quota}\n")
    if groups is not None:
        (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(host, "CGROUPS", tmp_path)
    monkeypatch.setattr(host, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert host.available_cores() == cores


@pytest.mark.parametrize(
    ("quota", "own", "threads"),
    [("max", None, None), ("200000", None, "2"), ("200000", "7", "7"), ("10000000", None, None)],
)
def test_threads_do_not_exceed_the_quota_unless_the_user_sets_their_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, own: str | None, threads: str | None
):
    (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(host, "CGROUPS", tmp_path)
    monkeypatch.setattr(host, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setenv("OMP_NUM_THREADS", own or "")
    if not own:
        monkeypatch.delenv("OMP_NUM_THREADS")
    host.limit_threads()
    assert os.environ.get("OMP_NUM_THREADS") == threads
