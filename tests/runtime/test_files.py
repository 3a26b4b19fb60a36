import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import largest_file

from world_models.runtime import disks, files
from world_models.runtime.errors import Stopped
from world_models.version import __version__


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def raises(error: Exception) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        raise error

    return run


# whole, write_*


def test_a_file_gets_its_name_when_the_block_ends(tmp_path: Path):
    with files.atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_block_leaves_no_file(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), files.atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise error
    assert names(tmp_path) == []


def test_an_exception_in_the_block_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), files.atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_contents_are_on_the_disk_before_the_file_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, (tmp_path / "a").exists()))
        sync(descriptor)

    monkeypatch.setattr(disks.os, "fsync", spy)
    with files.atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert synced == [(temporary.name, False), (tmp_path.name, True)]


def test_a_full_disk_that_is_noticed_at_closing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files.write_text(tmp_path / "a", "old")
    monkeypatch.setattr(disks.os, "fsync", raises(OSError(errno.ENOSPC, "full")))
    with pytest.raises(Stopped, match="no space left"):
        files.write_text(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_link_with_the_name_of_a_temporary_file_is_not_followed(tmp_path: Path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "a.partial").symlink_to(tmp_path / "theirs")
    files.write_text(tmp_path / "a", "ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "a.partial").is_symlink()
    assert (tmp_path / "a").read_text() == "ours"
    assert not (tmp_path / "a").is_symlink()


def test_an_existing_file_with_a_temporary_name_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "theirs").write_text("theirs")
    monkeypatch.setattr(files.writers, "new", lambda: "guessed")
    (tmp_path / "a.guessed.partial").symlink_to(tmp_path / "theirs")
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "a", "ours")
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_if_two_write_one_file_at_the_same_time_the_last_one_decides_its_contents(tmp_path: Path):
    with files.atomic_path(tmp_path / "a") as one, files.atomic_path(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["a" * 255, "µ" * 127])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path, name: str):
    files.write_text(tmp_path / name, "x")
    assert names(tmp_path) == [name]


def test_text_is_written_as_utf8(tmp_path: Path):
    files.write_text(tmp_path / "a", "µ σ²\n")
    assert (tmp_path / "a").read_bytes() == "µ σ²\n".encode()


def test_json_is_written_with_a_newline_at_the_end(tmp_path: Path):
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


def test_sha256_is_that_of_the_joined_parts():
    assert files.sha256(b"ab", memoryview(b"c")) == hashlib.sha256(b"abc").hexdigest()


def test_file_sha256_is_right_for_a_file_larger_than_a_block(tmp_path: Path):
    data = os.urandom((1 << 20) + 17)
    (tmp_path / "a").write_bytes(data)
    assert files.file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()


# remove_partials


HOUR_S = 3600.0


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A file that a process of another machine is writing."""
    partial = tmp_path / "b.ffffffffffff-7-7-ffffffffffffffff.partial"
    partial.touch()
    return partial


def age(path: Path, seconds: float) -> None:
    now = time.time()
    os.utime(path, (now, now - seconds))


def test_unfinished_files_of_a_killed_process_are_removed_and_finished_files_kept(
    tmp_path: Path, leave_partial: Callable[[Path], Path]
):
    leave_partial(tmp_path / "a.h5")
    (tmp_path / "a.h5").touch()
    files.remove_partials(tmp_path)
    assert names(tmp_path) == ["a.h5"]


def test_only_partial_files_of_the_names_given_are_removed(tmp_path: Path, leave_partial: Callable[[Path], Path]):
    leave_partial(tmp_path / "page.html")
    other = leave_partial(tmp_path / "other")
    files.remove_partials(tmp_path, names=["page.html", "page.png"])
    assert names(tmp_path) == [other.name]


def test_files_that_another_process_is_writing_are_kept(tmp_path: Path):
    write = "import sys; from pathlib import Path; from world_models.runtime import files\n"
    write += "with files.atomic_path(Path(sys.argv[1])) as t:\n  t.touch(); print(t, flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", write, tmp_path / "a"], text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        partial = Path(process.stdout.readline().strip())
        age(partial, 2 * HOUR_S)
        files.remove_partials(tmp_path)
        assert partial.exists()
        process.communicate("")
    assert names(tmp_path) == ["a"]


def test_new_unfinished_files_of_another_machine_are_kept(tmp_path: Path, elsewhere: Path):
    age(elsewhere, 0.5 * HOUR_S)
    files.remove_partials(tmp_path)
    assert elsewhere.exists()


def test_unfinished_files_of_another_machine_are_removed_after_an_hour(tmp_path: Path, elsewhere: Path):
    age(elsewhere, 1.1 * HOUR_S)
    files.remove_partials(tmp_path)
    assert names(tmp_path) == []


def test_the_age_of_a_file_is_measured_by_the_clock_of_the_disk(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(disks, "now", lambda folder: elsewhere.stat().st_mtime + 1.1 * HOUR_S)
    files.remove_partials(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("hours", "left"), [(0.9, ["shard-00000.h5.partial"]), (1.1, [])])
def test_old_unfinished_files_of_an_earlier_version_are_removed(tmp_path: Path, hours: float, left: list[str]):
    (tmp_path / "shard-00000.h5.partial").touch()
    age(tmp_path / "shard-00000.h5.partial", hours * HOUR_S)
    files.remove_partials(tmp_path)
    assert names(tmp_path) == left


def test_links_pipes_and_folders_with_such_names_are_kept(tmp_path: Path):
    (tmp_path / "link.partial").symlink_to(tmp_path / "somewhere")
    os.mkfifo(tmp_path / "pipe.partial")
    (tmp_path / "folder.partial").mkdir()
    os.utime(tmp_path / "link.partial", (0, 0), follow_symlinks=False)
    os.utime(tmp_path / "pipe.partial", (0, 0))
    os.utime(tmp_path / "folder.partial", (0, 0))
    files.remove_partials(tmp_path)
    assert names(tmp_path) == ["folder.partial", "link.partial", "pipe.partial"]


@pytest.fixture
def folder_elsewhere(tmp_path: Path) -> Path:
    """A folder into which a process of another machine writes."""
    partial = tmp_path / ".mnist-ffffffffffff-7-7-ffffffffffffffff.partial"
    partial.mkdir()
    (partial / "half").touch()
    return partial


def test_a_temporary_folder_of_a_killed_process_is_removed(tmp_path: Path, leave_partial: Callable[[Path], Path]):
    killed = leave_partial(tmp_path / ".mnist-")
    killed.unlink()
    (killed / "raw").mkdir(parents=True)
    (killed / "raw" / "half").touch()
    files.remove_partials(tmp_path)
    assert names(tmp_path) == []


def test_a_temporary_folder_of_another_machine_is_kept_while_a_file_in_it_is_new(
    tmp_path: Path, folder_elsewhere: Path
):
    age(folder_elsewhere, 2 * HOUR_S)
    files.remove_partials(tmp_path)
    assert folder_elsewhere.exists()
    age(folder_elsewhere / "half", 1.1 * HOUR_S)
    files.remove_partials(tmp_path)
    assert names(tmp_path) == []


def test_a_temporary_folder_exists_during_its_block_and_other_processes_keep_it(tmp_path: Path):
    with files.temporary_folder(tmp_path, ".mnist-") as folder:
        (folder / "half").touch()
        with files.temporary_folder(tmp_path, ".mnist-"):
            assert (folder / "half").exists()
    assert names(tmp_path) == []


def test_removing_unfinished_files_accepts_a_missing_folder(tmp_path: Path):
    files.remove_partials(tmp_path / "figures")


def test_files_that_cannot_be_removed_are_kept(
    tmp_path: Path, leave_partial: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
):
    partial = leave_partial(tmp_path / "a")
    monkeypatch.setattr(Path, "unlink", raises(PermissionError(1, "of another user")))
    files.remove_partials(tmp_path)
    assert partial.exists()


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


def test_work_that_just_fits_on_the_disk_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        files.os, "statvfs", lambda path: SimpleNamespace(f_blocks=9_000, f_bavail=3_000, f_frsize=1_000)
    )
    files.check_room(tmp_path, 3_000_000)
    with pytest.raises(ValueError):
        files.check_room(tmp_path, 3_000_001)


def test_a_file_system_without_a_known_size_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.os, "statvfs", lambda path: SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=4096))
    files.check_room(tmp_path, 12_500_000_000)
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_file_system_that_takes_no_folders_is_refused():
    with pytest.raises(ValueError, match=r"^/proc is not writable; choose another --out$"):
        files.check_room(Path("/proc/not_there"), 0)


@pytest.mark.parametrize("absolute", [True, False])
def test_the_free_space_for_a_new_folder_is_that_of_its_nearest_parent(
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
    with pytest.raises(ValueError, match=r"is not writable; choose another --out"):
        files.check_room(tmp_path / "out", 1)


# a disk that takes no more


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "no space left on device; what is finished stays: make room"),
        (errno.EDQUOT, "disk quota exceeded; what is finished stays: make room"),
        (errno.EFBIG, "file too large; what is finished stays: allow larger files (ulimit -f)"),
        (errno.EIO, "input/output error; what is finished stays: repair the disk"),
        (errno.EROFS, "read-only file system; what is finished stays: make the disk writable"),
    ],
)
def test_a_full_disk_ends_work_in_one_line_and_leaves_the_old_file(tmp_path: Path, number: int, advice: str):
    (tmp_path / "a").write_text("old")
    with pytest.raises(Stopped) as stopped, files.atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(number, "of the system")
    assert str(stopped.value) == f"{tmp_path / 'a'}: {advice} and run the same command again"
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_another_error_of_the_system_is_not_changed(tmp_path: Path):
    with pytest.raises(OSError) as error, files.disk_errors_as_stopped(tmp_path):
        raise OSError(errno.ENOTCONN, "of the system")
    assert error.value.errno == errno.ENOTCONN


def test_appending_to_a_file_on_a_full_disk_ends_work_in_one_line(tmp_path: Path):
    files.append_text(tmp_path / "a", "123456\n")
    with largest_file(10), pytest.raises(Stopped, match=f"^{tmp_path / 'a'}: file too large"):
        files.append_text(tmp_path / "a", "123456\n")
    assert (tmp_path / "a").read_text().splitlines()[0] == "123456"


def test_added_text_is_appended_to_a_file(tmp_path: Path):
    for text in ("ü\n", "é\n"):
        files.append_text(tmp_path / "a", text)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "ü\né\n"


def test_making_a_folder_on_a_full_disk_ends_work_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "mkdir", raises(OSError(errno.EDQUOT, "x")))
    with pytest.raises(Stopped, match="disk quota exceeded"):
        files.make_folder(tmp_path / "a")
