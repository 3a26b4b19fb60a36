import errno
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from world_models import files
from world_models.config import Stopped
from world_models.version import __version__

HOLD = """
import sys, time
from pathlib import Path
from world_models import files
with files.only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# whole, write_*


def test_a_file_appears_under_its_name_when_the_block_ends(tmp_path: Path):
    with files.whole(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert names(tmp_path) == ["a.partial"]
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_leaves_no_file(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), files.whole(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise error
    assert names(tmp_path) == []


def test_an_exception_in_the_block_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), files.whole(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), files.whole(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_contents_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, (tmp_path / "a").exists()))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", spy)
    files.write_text(tmp_path / "a", "x")
    assert synced == [("a.partial", False), (tmp_path.name, True)]


def test_text_is_written_as_utf8(tmp_path: Path):
    files.write_text(tmp_path / "a", "µ σ²\n")
    assert (tmp_path / "a").read_bytes() == "µ σ²\n".encode()


def test_json_is_written_as_json_that_ends_with_a_newline(tmp_path: Path):
    files.write_json(tmp_path / "a", {"x": [1, 2.5, None]})
    text = (tmp_path / "a").read_text()
    assert json.loads(text) == {"x": [1, 2.5, None]}
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_json_is_refused_and_the_old_file_stays(tmp_path: Path, value: float):
    files.write_json(tmp_path / "a", 1)
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a", {"x": value})
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "1\n"


# digests


def test_sha256_is_of_the_parts_one_after_the_other():
    assert files.sha256(b"ab", memoryview(b"c")) == hashlib.sha256(b"abc").hexdigest()


def test_file_sha256_is_of_the_bytes_of_a_file_larger_than_a_block(tmp_path: Path):
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "a").write_bytes(data)
    assert files.file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


# only_writer, remove_partials


def test_a_second_writer_is_refused_by_folder_name_in_one_line(tmp_path: Path):
    with files.only_writer(tmp_path), pytest.raises(Stopped) as caught, files.only_writer(tmp_path):
        pass
    assert str(tmp_path) in str(caught.value)
    assert "another process" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refused_writer_leaves_the_first_ones_lock(tmp_path: Path):
    with files.only_writer(tmp_path):
        for _ in range(2):
            with pytest.raises(Stopped), files.only_writer(tmp_path):
                pass


def test_a_folder_is_free_again_after_its_writer_ends(tmp_path: Path):
    with pytest.raises(RuntimeError), files.only_writer(tmp_path):
        raise RuntimeError
    with files.only_writer(tmp_path):
        pass


def test_locking_leaves_no_file_and_no_descriptor_behind(tmp_path: Path):
    before = len(names(Path("/proc/self/fd")))
    with files.only_writer(tmp_path), pytest.raises(Stopped), files.only_writer(tmp_path):
        pass
    assert names(tmp_path) == []
    assert len(names(Path("/proc/self/fd"))) == before


def test_another_process_holds_the_folder_until_it_is_killed(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(Stopped, match="another process"), files.only_writer(tmp_path):
                pass
        finally:
            holder.kill()
    with files.only_writer(tmp_path):
        pass


def test_partial_files_are_removed_and_finished_ones_stay(tmp_path: Path):
    for name in ("a.h5", "a.h5.partial", "b.partial"):
        (tmp_path / name).touch()
    files.remove_partials(tmp_path)
    assert names(tmp_path) == ["a.h5"]


def test_only_partial_files_of_the_names_given_are_removed(tmp_path: Path):
    for name in ("shard-00000.h5.partial", "shard-00001.h5.partial", "other.partial"):
        (tmp_path / name).touch()
    files.remove_partials(tmp_path, ["shard-*.h5"])
    assert names(tmp_path) == ["other.partial"]


# check_room


def test_work_larger_than_the_disk_is_refused_with_both_sizes_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        files.os, "statvfs", lambda path: SimpleNamespace(f_blocks=9_000, f_bavail=3_000, f_frsize=1_000_000)
    )
    with pytest.raises(ValueError) as caught:
        files.check_room(tmp_path, 12_500_000_000)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: about 12.5 GB are needed and 3 GB are free; ")
    assert "--out" in message
    assert "\n" not in message


def test_work_that_just_fits_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        files.os, "statvfs", lambda path: SimpleNamespace(f_blocks=9_000, f_bavail=3_000, f_frsize=1_000)
    )
    files.check_room(tmp_path, 3_000_000)
    with pytest.raises(ValueError):
        files.check_room(tmp_path, 3_000_001)


def test_a_store_that_does_not_say_its_size_is_taken_at_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.os, "statvfs", lambda path: SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=4096))
    files.check_room(tmp_path, 12_500_000_000)
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_file_system_that_takes_no_folders_is_refused():
    with pytest.raises(ValueError, match=r"^/proc cannot be written to; choose another --out$"):
        files.check_room(Path("/proc/not_there"), 0)


@pytest.mark.parametrize("absolute", [True, False])
def test_room_for_a_folder_to_be_is_that_of_its_nearest_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
):
    asked: list[Path] = []
    statvfs = os.statvfs

    def spy(path: Path) -> Any:
        asked.append(Path(path))
        return statvfs(path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files.os, "statvfs", spy)
    files.check_room((tmp_path if absolute else Path()) / "not" / "yet", 0)
    assert asked == [tmp_path]


# versions


@pytest.fixture
def fresh_versions():
    files.versions.cache_clear()
    yield
    files.versions.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    run = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_versions: None) -> Path:
    (tmp_path / "files.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "files.py")
    git(tmp_path, "commit", "-q", "-m", "one")
    monkeypatch.setattr(files, "__file__", str(tmp_path / "files.py"))
    return tmp_path


def test_versions_name_the_package_python_and_the_libraries(fresh_versions: None):
    found = files.versions()
    assert found["world_models"] == __version__
    assert found["python"] == platform.python_version()
    assert {"numpy", "h5py", "gymnasium", "torch"} <= set(found)
    assert json.loads(json.dumps(found)) == found


def test_a_library_that_is_not_installed_is_left_out(fresh_versions: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "PACKAGES", ("numpy", "no-such-package-here"))
    assert set(files.versions()) == {"world_models", "git_commit", "python", "numpy"}


def test_a_clean_checkout_is_named_by_its_commit(checkout: Path):
    assert files.versions()["git_commit"] == git(checkout, "rev-parse", "HEAD")


def test_an_untracked_file_leaves_a_checkout_clean(checkout: Path):
    (checkout / "notes").touch()
    assert files.versions()["git_commit"] == git(checkout, "rev-parse", "HEAD")


def test_a_changed_checkout_is_called_dirty(checkout: Path):
    (checkout / "files.py").write_text("x = 2\n")
    assert files.versions()["git_commit"] == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_an_installed_package_inside_anothers_checkout_has_an_unknown_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
):
    (checkout / "site-packages").mkdir()
    (checkout / "site-packages" / "files.py").touch()
    monkeypatch.setattr(files, "__file__", str(checkout / "site-packages" / "files.py"))
    assert files.versions()["git_commit"] == "unknown"


def raises(error: Exception) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        raise error

    return run


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)])
def test_a_missing_or_stuck_git_gives_an_unknown_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    monkeypatch.setattr(files.subprocess, "run", raises(error))
    assert files.versions()["git_commit"] == "unknown"


def test_git_is_asked_once_a_process(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    first = files.versions()
    monkeypatch.setattr(files.subprocess, "run", raises(AssertionError("asked again")))
    assert files.versions() == first


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"cannot be written to; choose another --out"):
        files.check_room(tmp_path / "out", 1)


# a disk that takes no more


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "no space left on device; what is finished stays: make room"),
        (errno.EDQUOT, "disk quota exceeded; what is finished stays: make room"),
        (errno.EFBIG, "file too large; what is finished stays: allow larger files (ulimit -f)"),
        (errno.EIO, "input/output error; what is finished stays: mend the disk"),
        (errno.EROFS, "read-only file system; what is finished stays: make the disk writable"),
    ],
)
def test_a_disk_that_takes_no_more_ends_work_in_one_line_and_leaves_the_old_file(
    tmp_path: Path, number: int, advice: str
):
    (tmp_path / "a").write_text("old")
    with pytest.raises(Stopped) as stopped, files.whole(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(number, "of the system")
    assert str(stopped.value) == f"{tmp_path / 'a'}: {advice} and run the same command again"
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_another_error_of_the_system_is_shown_as_it_is(tmp_path: Path):
    with pytest.raises(OSError) as error, files.writing(tmp_path):
        raise OSError(errno.ENOTCONN, "of the system")
    assert error.value.errno == errno.ENOTCONN


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 10 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_line_for_which_there_is_no_room_ends_work_in_one_line(tmp_path: Path):
    files.append_text(tmp_path / "a", "123456\n")
    with pytest.raises(Stopped, match=f"^{tmp_path / 'a'}: file too large"):
        files.append_text(tmp_path / "a", "123456\n")
    assert (tmp_path / "a").read_text().splitlines()[0] == "123456"


def test_added_text_stands_after_what_was_there(tmp_path: Path):
    for text in ("ü\n", "é\n"):
        files.append_text(tmp_path / "a", text)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "ü\né\n"


def test_a_folder_for_which_there_is_no_room_ends_work_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "mkdir", raises(OSError(errno.EDQUOT, "x")))
    with pytest.raises(Stopped, match="disk quota exceeded"):
        files.make_folder(tmp_path / "a")
