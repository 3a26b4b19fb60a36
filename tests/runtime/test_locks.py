"""One writing process per folder, independent of the disk's own locks; a lock soon ends with its holder."""

import dataclasses
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from world_models.runtime import disks, files, locks, writers
from world_models.runtime.errors import Stopped

HOLD = """
import sys
from pathlib import Path
from world_models.runtime import files, locks
locks.SILENCE_S = float(sys.argv[2])
with locks.only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    input()
    files.write_text(Path(sys.argv[1]) / "a", "x")
"""
PATIENCE_S = 30.0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / locks.LOCK


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that holds the folder until it is given a line, and then writes a file."""
    started: list[subprocess.Popen[str]] = []

    def start(silence_s: float = locks.SILENCE_S) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", HOLD, str(tmp_path), str(silence_s)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lock_of(writer: writers.Writer, host: str = "node9") -> bytes:
    return f"written by process {writer.pid} on {host}: {writer}\n".encode()


ELSEWHERE = lock_of(writers.Writer("f" * 12, 7, 7, "f" * 16))
OTHER = lock_of(writers.Writer("e" * 12, 8, 8, "e" * 16))


def killed_here() -> bytes:
    """The lock of a process of this machine that has ended."""
    running = writers.new()
    return lock_of(dataclasses.replace(running, started=running.started + 1), "here")


def age(path: Path, seconds: float) -> None:
    now = disks.now(path.parent)
    os.utime(path, (now, now - seconds))


def refusal(folder: Path) -> str:
    with pytest.raises(Stopped) as caught, locks.only_writer(folder):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


# one writer


def test_a_second_writer_is_refused_by_folder_and_process_in_one_line(tmp_path: Path):
    with locks.only_writer(tmp_path):
        message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} is being written by another process (process {os.getpid()} on ")
    assert message.endswith("; wait for it or choose another folder")


def test_a_refused_writer_does_not_change_the_first_ones_lock(tmp_path: Path):
    with locks.only_writer(tmp_path):
        assert refusal(tmp_path) == refusal(tmp_path)


def test_a_folder_is_free_again_after_its_writer_ends(tmp_path: Path):
    with pytest.raises(RuntimeError), locks.only_writer(tmp_path):
        raise RuntimeError
    with locks.only_writer(tmp_path):
        pass


def test_locking_leaves_no_file_descriptor_or_thread_behind(tmp_path: Path):
    before = len(names(Path("/proc/self/fd"))), threading.active_count()
    with locks.only_writer(tmp_path):
        refusal(tmp_path)
    assert names(tmp_path) == []
    assert (len(names(Path("/proc/self/fd"))), threading.active_count()) == before


def test_a_folder_is_locked_under_all_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    monkeypatch.chdir(tmp_path)
    with locks.only_writer(tmp_path / "folder"):
        for name in ("link", "folder", "folder/../link"):
            refusal(Path(name))


def test_two_folders_can_have_one_writer_each(tmp_path: Path):
    (tmp_path / "a").mkdir()
    with locks.only_writer(tmp_path), locks.only_writer(tmp_path / "a"):
        assert names(tmp_path / "a") == [locks.LOCK]


def test_another_process_holds_its_lock_until_it_is_killed(tmp_path: Path, hold: Callable[..., Any]):
    holder = hold()
    assert f"process {holder.pid} on " in refusal(tmp_path)
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent does not know yet
    with locks.only_writer(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_suspended_process_of_this_machine_keeps_its_lock(tmp_path: Path, file: Path, hold: Callable[..., Any]):
    holder = hold()
    holder.send_signal(signal.SIGSTOP)
    age(file, 10 * locks.SILENCE_S)
    assert f"process {holder.pid} on " in refusal(tmp_path)


def test_a_fork_of_the_holder_does_not_release_the_lock(tmp_path: Path):
    holding = locks.only_writer(tmp_path)
    holding.__enter__()
    child = os.fork()
    if not child:
        try:
            holding.__exit__(None, None, None)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert names(tmp_path) == [locks.LOCK]
    holding.__exit__(None, None, None)
    assert names(tmp_path) == []


def test_a_read_only_folder_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read_only(*args: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / locks.LOCK))

    monkeypatch.setattr(locks.os, "open", read_only)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} cannot be locked ([Errno 30] Read-only file system")
    assert message.endswith("; make room there or make it writable, or choose another folder")


def test_a_full_disk_leaves_no_empty_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Full:
        def __init__(self, descriptor: int, *args: Any, **kwargs: Any):
            os.close(descriptor)

        def __enter__(self) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        def __exit__(self, *args: object) -> None:
            pass

    monkeypatch.setattr(locks.os, "fdopen", Full)
    assert "No space left on device" in refusal(tmp_path)
    assert names(tmp_path) == []


# other machines


def test_a_writer_on_another_machine_is_refused_by_its_host_and_the_file_to_remove(tmp_path: Path, file: Path):
    file.write_bytes(ELSEWHERE)
    age(file, 100)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path} is being written by another process (process 7 on node9); ")
    assert f"If that process was killed, remove {file}, or try again when the file is 300 s old; it is 10" in message
    assert file.read_bytes() == ELSEWHERE


def test_a_lock_of_another_machine_is_stale_after_five_minutes_without_a_heartbeat(tmp_path: Path, file: Path):
    file.write_bytes(ELSEWHERE)
    age(file, 299)
    refusal(tmp_path)
    age(file, 301)
    with locks.only_writer(tmp_path):
        assert file.read_bytes() != ELSEWHERE
        assert names(tmp_path) == [locks.LOCK]
    assert names(tmp_path) == []


@pytest.mark.parametrize(("server_ahead_s", "free"), [(1e6, True), (-1e6, False)])
def test_the_age_of_a_heartbeat_is_measured_by_the_clock_of_the_disk(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, server_ahead_s: float, free: bool
):
    file.write_bytes(ELSEWHERE)
    now = disks.now(tmp_path) + server_ahead_s
    monkeypatch.setattr(disks, "now", lambda folder: now)
    if free:
        with locks.only_writer(tmp_path):
            pass
    else:
        assert "it is 0 s old now" in refusal(tmp_path)


def test_the_heartbeat_of_a_holder_has_the_time_of_the_disk(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(locks, "SILENCE_S", 0.1)
    with locks.only_writer(tmp_path):
        contents = file.read_bytes()
        os.utime(file, (0, 0))
        give_up = time.monotonic() + PATIENCE_S
        while not file.stat().st_mtime and time.monotonic() < give_up:
            time.sleep(0.01)
        assert abs(file.stat().st_mtime - disks.now(tmp_path)) < PATIENCE_S
        assert file.read_bytes() == contents


def test_a_heartbeat_that_the_disk_refuses_is_repeated(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    opened, beats = os.open, []

    def out_of_order(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == file and flags & os.O_RDWR:
            beats.append(path)
            if len(beats) < 3:
                raise OSError(errno.EIO, "server away")
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(locks.os, "open", out_of_order)
    monkeypatch.setattr(locks, "SILENCE_S", 0.05)
    with locks.only_writer(tmp_path):
        os.utime(file, (0, 0))
        give_up = time.monotonic() + PATIENCE_S
        while not file.stat().st_mtime and time.monotonic() < give_up:
            time.sleep(0.01)
        assert file.stat().st_mtime


@pytest.mark.parametrize("contents", [b"", b"\0\xff" * 5000, b"written by process 7 on \x1b[31mnode9: ffff\n"])
def test_a_lock_without_a_name_is_valid_for_five_minutes(tmp_path: Path, file: Path, contents: bytes):
    file.write_bytes(contents)
    message = refusal(tmp_path)
    assert "(which the lock does not name)" in message and message.isprintable()
    age(file, 301)
    with locks.only_writer(tmp_path):
        pass


def test_a_lock_that_cannot_be_read_is_valid_for_five_minutes(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    file.write_bytes(killed_here())
    opened = os.open

    def hidden(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == file and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(locks.os, "open", hidden)
    assert "(which the lock does not name)" in refusal(tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_something_else_with_the_name_of_a_lock_is_kept_and_named(
    tmp_path: Path, file: Path, make: Callable[[Path], None]
):
    make(file)
    os.utime(file, (0, 0), follow_symlinks=False)
    assert f"'{file}'" in refusal(tmp_path)
    assert names(tmp_path) == [locks.LOCK]


# taking over


def claim_of(file: Path, contents: bytes) -> Path:
    return file.with_name(f"{file.name}.{hashlib.sha256(contents).hexdigest()[:16]}")


@pytest.fixture
def before_the_claim(file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Holds up the next process that claims a stale lock: what is given happens just before it makes its claim."""
    opened, waiting = os.open, []

    def held_up(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if waiting and flags & os.O_CREAT and Path(path).name.startswith(f"{file.name}."):
            waiting.pop()()
        return opened(path, flags, *args, **kwargs)

    monkeypatch.setattr(locks.os, "open", held_up)
    return waiting.append


def test_only_one_of_many_processes_takes_over_a_stale_lock(tmp_path: Path, file: Path):
    for _ in range(40):
        file.write_bytes(killed_here())
        together, looked = threading.Barrier(6), threading.Barrier(6)
        got: list[bool] = []

        def take(
            together: threading.Barrier = together, looked: threading.Barrier = looked, got: list[bool] = got
        ) -> None:
            together.wait()
            try:
                with locks.only_writer(tmp_path):
                    got.append(True)
                    looked.wait()
            except Stopped:
                looked.wait()

        threads = [threading.Thread(target=take) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(got), names(tmp_path)) == (1, [])


def test_a_process_that_claims_too_late_leaves_the_lock_of_the_faster_one(
    tmp_path: Path, file: Path, before_the_claim: Callable[..., None]
):
    file.write_bytes(killed_here())
    before_the_claim(lambda: taken_by_another(file))
    assert "process 8 on node9" in refusal(tmp_path)
    assert (file.read_bytes(), names(tmp_path)) == (OTHER, [locks.LOCK])


def test_a_folder_that_became_free_before_the_claim_is_locked_and_freed_again(
    tmp_path: Path, file: Path, before_the_claim: Callable[..., None]
):
    file.write_bytes(killed_here())
    before_the_claim(file.unlink)
    with locks.only_writer(tmp_path):
        assert names(tmp_path) == [locks.LOCK]
    assert names(tmp_path) == []


def test_a_holder_whose_heartbeat_comes_before_the_claim_keeps_its_lock(
    tmp_path: Path, file: Path, before_the_claim: Callable[..., None]
):
    file.write_bytes(ELSEWHERE)
    age(file, 301)
    before_the_claim(lambda: age(file, 1))
    assert "process 7 on node9" in refusal(tmp_path)
    assert (file.read_bytes(), names(tmp_path)) == (ELSEWHERE, [locks.LOCK])


def test_a_folder_that_another_process_takes_over_is_refused_with_its_name(tmp_path: Path, file: Path):
    file.write_bytes(killed_here())
    claim = claim_of(file, file.read_bytes())
    claim.write_bytes(OTHER)
    message = refusal(tmp_path)
    assert "process 8 on node9" in message and str(claim) in message


def test_the_claim_of_a_killed_process_does_not_block_others(tmp_path: Path, file: Path):
    file.write_bytes(killed_here())
    claim_of(file, file.read_bytes()).write_bytes(killed_here())
    with locks.only_writer(tmp_path):
        assert names(tmp_path) == [locks.LOCK]
    assert names(tmp_path) == []


def exists_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The first try to make the file finds that it exists, and then it is gone. Returns the tries."""
    opened, tries = os.open, []

    def refuse_first(found: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if found == path and flags & os.O_CREAT:
            tries.append(found)
            if len(tries) == 1:
                raise FileExistsError(errno.EEXIST, "File exists")
        return opened(found, flags, *args, **kwargs)

    monkeypatch.setattr(locks.os, "open", refuse_first)
    return tries


def test_a_process_claims_again_after_the_claim_of_another_disappears(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    file.write_bytes(killed_here())
    tries = exists_once(claim_of(file, file.read_bytes()), monkeypatch)
    with locks.only_writer(tmp_path):
        assert names(tmp_path) == [locks.LOCK]
    assert len(tries) == 2


def test_a_process_whose_claim_was_removed_does_not_hold_the_folder(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    file.write_bytes(killed_here())
    claim, is_running = claim_of(file, file.read_bytes()), writers.Writer.is_running

    def faster(writer: writers.Writer) -> bool | None:
        if claim.exists():
            claim.unlink()
            taken_by_another(file)
            return False
        return is_running(writer)

    monkeypatch.setattr(writers.Writer, "is_running", faster)
    assert "process 8 on node9" in refusal(tmp_path)
    assert (file.read_bytes(), names(tmp_path)) == (OTHER, [locks.LOCK])


def test_a_lock_that_is_released_before_it_is_read_is_taken(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    tries = exists_once(file, monkeypatch)
    with locks.only_writer(tmp_path):
        assert names(tmp_path) == [locks.LOCK]
    assert len(tries) == 2


# the one that lost its lock


def taken_by_another(file: Path) -> None:
    file.with_name("other").write_bytes(OTHER)
    file.with_name("other").replace(file)


def test_a_holder_that_lost_its_lock_finishes_no_file(tmp_path: Path, file: Path):
    files.write_text(tmp_path / "a", "old")
    with locks.only_writer(tmp_path), pytest.raises(Stopped) as caught, files.atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
        taken_by_another(file)
    assert f"the lock {file} was taken over by process 8 on node9 while this process was suspended" in str(caught.value)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == [locks.LOCK, "a"]
    assert file.read_bytes() == OTHER  # the lock of another process is kept


@pytest.mark.parametrize("inside", [".", "figures"])
def test_a_holder_that_lost_its_lock_starts_no_file(tmp_path: Path, file: Path, inside: str):
    (tmp_path / inside).mkdir(exist_ok=True)
    with locks.only_writer(tmp_path):
        taken_by_another(file)
        with pytest.raises(Stopped, match="was taken over"):
            files.write_text(tmp_path / inside / "a", "x")
    assert not (tmp_path / inside / "a").exists()


def test_a_holder_whose_lock_was_removed_finishes_no_file(tmp_path: Path, file: Path):
    with locks.only_writer(tmp_path):
        file.unlink()
        with pytest.raises(Stopped, match=r"was removed while this process was suspended, so it ends"):
            files.write_text(tmp_path / "a", "x")
    assert names(tmp_path) == []


def test_a_holder_that_lost_its_lock_stops_its_heartbeat(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "SILENCE_S", 0.05)
    for lose in (taken_by_another, Path.unlink):
        with locks.only_writer(tmp_path):
            (beating,) = [thread for thread in threading.enumerate() if thread.name.endswith("(_beat)")]
            lose(file)
            beating.join(PATIENCE_S)
            assert not beating.is_alive()
        file.unlink(missing_ok=True)


def test_a_suspended_process_that_lost_its_lock_ends_and_writes_nothing(
    tmp_path: Path, file: Path, hold: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    holder = hold(silence_s=0.2)
    holder.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(locks, "SILENCE_S", 0.2)
    monkeypatch.setattr(writers.Writer, "is_running", lambda writer: None)  # as on another machine
    age(file, 1)
    with locks.only_writer(tmp_path):
        ours = file.read_bytes()
        holder.send_signal(signal.SIGCONT)
        _, errors = holder.communicate("\n", timeout=PATIENCE_S)
        assert file.read_bytes() == ours
        assert names(tmp_path) == [locks.LOCK]
    assert f"Stopped: the lock {file} was taken over by process {os.getpid()} on " in errors


def test_a_worker_finishes_no_file_if_its_parents_lock_was_taken_over(tmp_path: Path, file: Path):
    file.write_bytes(ELSEWHERE)
    with (
        pytest.raises(Stopped, match="taken over by process 8 on node9"),
        files.atomic_path(tmp_path / "a") as temporary,
    ):
        temporary.touch()
        taken_by_another(file)
    assert names(tmp_path) == [locks.LOCK]


def test_a_process_without_a_lock_is_not_stopped_by_locks_that_appear_or_disappear(tmp_path: Path, file: Path):
    file.write_bytes(ELSEWHERE)
    with files.atomic_path(tmp_path / "a") as temporary:
        temporary.touch()
        file.unlink()
    with files.atomic_path(tmp_path / "b") as temporary:
        temporary.touch()
        file.write_bytes(ELSEWHERE)
    assert names(tmp_path) == [locks.LOCK, "a", "b"]


# disks whose own locks fail, or do not exclude other processes

SHIM = """
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
static int number(void) { const char *text = getenv("DISK_GIVES"); return text ? atoi(text) : 0; }
int flock(int descriptor, int operation) {
    if (number() > 0) { errno = number(); return -1; }
    return 0;  /* excludes nobody */
}
int fsync(int descriptor) {
    struct stat status;
    if (number() > 0 && fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode)) { errno = EINVAL; return -1; }
    return 0;
}
"""
ON_ODD_DISKS = """
import os, sys
from pathlib import Path
import h5py, numpy
from world_models.runtime import locks
from world_models.runtime.errors import Stopped
from world_models.data.shards import Column, Format
from world_models.data.shards.reader import Shard
from world_models.data.shards.writer import write_shard

columns = {"x": "float32", "terminated": "bool", "truncated": "bool"}
form = Format("test", 1, {name: Column((dtype,)) for name, dtype in columns.items()}, (), (), None)
folder = Path(sys.argv[1])
for number in map(int, sys.argv[2].split(",")):
    os.environ["DISK_GIVES"] = str(number)
    path = folder / f"{number}.h5"
    with locks.only_writer(folder):
        try:
            with locks.only_writer(folder):
                print("two writers at once")
        except Stopped:
            pass
        with write_shard(path, form, {}) as shard:
            ends = {"terminated": numpy.array([0, 1, 0], bool), "truncated": numpy.zeros(3, bool)}
            shard.append(x=numpy.arange(3, dtype="f4"), **ends)
            shard.end_episode(0, "p")
    try:
        h5py.File(path).close()
    except OSError as error:
        assert "unable to lock file" in str(error)
        print("HDF5 refuses", number)
    for _ in range(2):  # the first one stays open
        assert Shard(path, form, verify=True).read("x").tolist() == [0, 1, 2]
"""
ERRNOS = [errno.ENOLCK, errno.ENOSYS, errno.EBADF, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, 524]


def test_on_disks_whose_own_locks_fail_shards_are_written_and_second_writers_refused(tmp_path: Path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("needs a C compiler, for a library that takes the place of flock")
    (tmp_path / "shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "shim.so", tmp_path / "shim.c"], check=True)
    (tmp_path / "data").mkdir()
    numbers = ",".join(map(str, [*ERRNOS, -1]))
    run = subprocess.run(
        [sys.executable, "-c", ON_ODD_DISKS, tmp_path / "data", numbers],
        env=os.environ | {"LD_PRELOAD": str(tmp_path / "shim.so")},
        capture_output=True,
        text=True,
    )
    refuses = [number for number in ERRNOS if number != errno.ENOSYS]  # HDF5 accepts this one
    assert run.stdout.splitlines() == [f"HDF5 refuses {number}" for number in refuses]
    assert run.stderr.count("\n") == 1 and "this disk cannot flush folders (Invalid argument)" in run.stderr
    assert run.returncode == 0
