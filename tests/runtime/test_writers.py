"""The name of the process that writes a file, and whether this process still runs."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from world_models.runtime import writers

SAY = "from world_models.runtime import writers; print(writers.new(), flush=True); input()"


def test_the_writer_that_a_text_names_is_found():
    writer = writers.new()
    assert writers.find(f"shard-00000.h5.{writer}.partial") == writer


@pytest.mark.parametrize("text", ["", "shard-00000.h5.partial", "ffffffffffff-7-7-ffff", "\0"])
def test_no_writer_is_found_in_a_text_that_names_none(text: str):
    assert writers.find(text) is None


def test_two_writers_of_one_process_have_different_names():
    assert writers.new().token != writers.new().token


def test_this_process_counts_as_running():
    assert writers.new().is_running() is True


def test_a_process_counts_as_running_until_it_is_killed():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SAY], text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        writer = writers.find(process.stdout.readline())
        assert writer is not None and writer.pid == process.pid
        before = writer.is_running()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent does not know yet
        killed = writer.is_running()
    assert (before, killed, writer.is_running()) == (True, False, False)


def test_a_process_that_reuses_an_id_is_another_process():
    writer = writers.new()
    assert dataclasses.replace(writer, started=writer.started + 1).is_running() is False


def test_it_is_unknown_whether_a_process_of_another_machine_runs():
    assert dataclasses.replace(writers.new(), machine="f" * 12).is_running() is None


def test_a_process_of_another_user_counts_as_running(monkeypatch: pytest.MonkeyPatch):
    def not_allowed(pid: int, signal: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(writers.os, "kill", not_allowed)
    assert writers.new().is_running() is True


def test_it_is_unknown_whether_a_process_runs_that_the_system_hides(monkeypatch: pytest.MonkeyPatch):
    def hidden(path: Path, **kwargs: str) -> str:
        raise PermissionError(path)

    writer = writers.new()
    monkeypatch.setattr(Path, "read_text", hidden)
    assert writer.is_running() is None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    writers.machine.cache_clear()
    yield writers.machine.__wrapped__
    writers.machine.cache_clear()


def test_the_name_of_a_machine_has_twelve_digits_and_does_not_change(machine):
    assert writers.machine() == machine()
    assert len(machine()) == 12 and int(machine(), 16) >= 0


def test_a_copy_of_a_machine_under_the_same_host_name_is_another_machine(machine, monkeypatch: pytest.MonkeyPatch):
    before = machine()
    monkeypatch.setattr(Path, "read_text", lambda path, **kwargs: "another start")
    assert machine() != before


def test_a_container_on_the_same_host_is_another_machine(machine, monkeypatch: pytest.MonkeyPatch):
    before = machine()
    monkeypatch.setattr(Path, "readlink", lambda path: Path("pid:[4026532000]"))
    assert machine() != before


def test_if_the_system_does_not_name_the_machine_each_process_gets_another_name(
    machine, monkeypatch: pytest.MonkeyPatch
):
    def nothing(path: Path, **kwargs: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", nothing)
    assert machine() != machine()
    assert writers.new().started == 0
    assert writers.new().is_running() is None
