"""If a disk fails, HDF5 does not see it. The writer of the shard reports it in one line, and can write again later."""

import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import largest_file

from world_models.data.latents import FORMAT
from world_models.data.shards import steady_file
from world_models.data.shards.reader import Shard
from world_models.data.shards.steady_file import SteadyFile
from world_models.data.shards.writer import write_shard
from world_models.runtime.errors import Stopped

ROWS = 1500


def write_latents(path: Path) -> None:
    columns = {"mu": np.ones((ROWS, 4), np.float32), "logvar": np.zeros((ROWS, 4), np.float32)}
    columns |= {"actions": np.zeros((ROWS, 3), np.float32), "rewards": np.zeros(ROWS, np.float32)}
    ends = np.arange(ROWS) == ROWS - 2
    with write_shard(path, FORMAT, {"mu": (4,), "logvar": (4,), "actions": (3,)}) as shard:
        shard.attributes.update(dict.fromkeys(FORMAT.required, "{}"))
        for start in range(0, ROWS, 100):
            some = {name: column[start : start + 100] for name, column in columns.items()}
            flags = ends[start : start + 100]
            shard.append(**some, terminated=flags, truncated=np.zeros(len(flags), bool))
        shard.set_episodes([ROWS], [0], ["random"])


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_writing_a_shard_to_a_full_disk_ends_in_one_line_and_works_once_there_is_room(tmp_path: Path, share: float):
    path = tmp_path / "shard-00000.h5"
    write_latents(path)
    size = path.stat().st_size
    path.unlink()
    with (
        largest_file(int(share * size)),
        pytest.raises(Stopped, match=f"^{path}: file too large; what is finished stays"),
    ):
        write_latents(path)
    assert list(tmp_path.iterdir()) == []
    write_latents(path)
    assert Shard(path, FORMAT, verify=True).num_rows == ROWS


def with_tests_on_the_path() -> dict[str, str]:
    """The environment variables of a process that can import this module and conftest."""
    here = Path(__file__).parent
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1]), *sys.path])}


@pytest.mark.slow
def test_a_process_ends_by_itself_after_a_full_disk(tmp_path: Path):
    program = "from test_steady_file import *\nwith largest_file(30_000): write_latents(Path(sys.argv[1]) / 'a.h5')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=with_tests_on_the_path(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("world_models.runtime.errors.Stopped: ")


@pytest.mark.slow
def test_ctrl_c_during_writing_is_raised_in_the_program_and_not_inside_hdf5(tmp_path: Path):
    """Ten interrupts in a row. They would be raised inside HDF5's calls if it worked in the main thread."""
    program = """
import os, signal, sys, threading, time
from test_steady_file import *
def interrupt():
    for _ in range(10):
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
heard, end = 0, time.monotonic() + 60
while heard < 10 and time.monotonic() < end:
    try:
        write_latents(Path(sys.argv[1]) / "a.h5")
    except KeyboardInterrupt:
        heard += 1
print("heard")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=with_tests_on_the_path(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert "Error" not in done.stderr
    assert done.returncode in (0, -signal.SIGINT)  # the latter if an interrupt was raised outside of the `try`


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[SteadyFile]:
    with contextlib.closing(SteadyFile(tmp_path / "a")) as file:
        yield file


def test_written_bytes_are_read_back(steady: SteadyFile, tmp_path: Path):
    steady.write(b"abcdef")
    steady.seek(2)
    steady.write(b"XY")
    steady.seek(1)
    assert steady.read(4) == b"bXYe"
    assert (steady.tell(), steady.seek(0, io.SEEK_END), steady.seek(-2, io.SEEK_CUR)) == (5, 6, 4)
    assert (tmp_path / "a").read_bytes() == b"abXYef"


def test_bytes_that_were_never_written_are_zero(steady: SteadyFile):
    steady.seek(2)
    steady.write(b"a")
    steady.seek(0)
    assert steady.read(5) == b"\0\0a\0\0"


def test_after_a_failure_written_bytes_are_still_read_back_and_the_failure_is_raised(
    steady: SteadyFile, tmp_path: Path
):
    steady.write(b"abcdef")
    with largest_file(6):
        steady.seek(4)
        steady.write(b"1234")
        steady.seek(7)
        steady.write(b"9")
    steady.seek(0)
    assert steady.read(9) == b"abcd1239\0"
    with pytest.raises(OSError) as failed:
        steady.check()
    assert failed.value.errno == errno.EFBIG


def test_a_size_larger_than_the_disk_is_a_failure(steady: SteadyFile):
    with largest_file(10):
        assert steady.truncate(20) == 20
    with pytest.raises(OSError):
        steady.check()


def test_a_file_that_cannot_be_read_is_a_failure(steady: SteadyFile, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> bytes:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "pread", fail)
    assert steady.read(3) == b"\0\0\0"
    with pytest.raises(OSError, match="broken"):
        steady.check()


def test_writing_after_closing_changes_no_file(tmp_path: Path):
    steady = SteadyFile(tmp_path / "a")
    steady.close()
    with (tmp_path / "b").open("wb"):  # it may have the number of the closed descriptor
        steady.write(b"lost")
    assert (tmp_path / "b").read_bytes() == b""


def test_hdf5_reads_a_file_that_was_written_through_a_steady_file(tmp_path: Path):
    with steady_file.atomic_file(tmp_path / "a.h5") as steady, h5py.File(steady, "w") as file:
        file["x"] = np.arange(5)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][:].tolist() == [0, 1, 2, 3, 4]  # type: ignore[index]


def test_a_link_at_the_name_of_a_new_file_is_not_followed(tmp_path: Path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "ours").symlink_to("theirs")
    with pytest.raises(FileExistsError):
        SteadyFile(tmp_path / "ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
