"""Failures of W&B neither end nor change the work, nor make it wait; most tests use packages that replace W&B."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from world_models.runs import wandb_link, wandb_run
from world_models.runs.wandb_link import Waiting
from world_models.runs.wandb_messages import WandbConfig

GOOD = """
import sys
from types import SimpleNamespace

__version__ = "0.31.0"

class Settings(dict):
    model_fields = {}

class Run:
    id, offline, disabled, url = "x7", True, False, None
    settings = SimpleNamespace(sync_dir="PLACE/wandb/offline-run-1-x7")
    summary = config = {}

    def define_metric(self, name, **options): pass

    def log(self, values, step):
        with open("PLACE/logged", "a") as file:
            file.write(f"{step} {values}\\n")

    def finish(self, exit_code): pass

def setup():
    return SimpleNamespace(settings=SimpleNamespace(project=None, run_name=None, run_tags=None, silent=None))

def init(**options):
    return Run()
"""


LATE_START_S, END_S, KILL_S = wandb_run.LATE_START_S, wandb_run.END_S, wandb_run.KILL_S


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an interpreter takes long to start."""
    monkeypatch.setattr(wandb_run, "LATE_START_S", 60.0)
    monkeypatch.setattr(wandb_run, "END_S", 150.0)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Installs a package wandb: one that works, with changes at the end."""

    def install(changes: str = "", instead: str | None = None) -> None:
        folder = tmp_path / "packages" / "wandb"
        folder.mkdir(parents=True)
        text = GOOD + changes if instead is None else instead
        (folder / "__init__.py").write_text(text.replace("PLACE", str(tmp_path)))
        monkeypatch.syspath_prepend(tmp_path / "packages")

    return install


@pytest.fixture
def short_limits(patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits in small, long enough for an interpreter to start on a busy machine."""
    monkeypatch.setattr(wandb_run, "LATE_START_S", 0.5)
    monkeypatch.setattr(wandb_run, "END_S", 3.5)
    monkeypatch.setattr(wandb_run, "EXIT_S", 0.5)
    monkeypatch.setattr(wandb_run, "KILL_S", 1.0)


def _begin(folder: Path, options: WandbConfig | None = None, **more: Any) -> Any:
    return wandb_run.begin(folder, {"data": "rollouts/a"}, options or WandbConfig(), "train", **more)


def _logged(folder: Path) -> list[str]:
    return (folder / "logged").read_text().splitlines()


def _ended(folder: Path) -> None:
    run = _begin(folder)
    run.tell("log", {"x": 1}, 1)
    run.finish()


# the way of a run


def test_everything_is_told_in_its_order(tmp_path: Path, package: Callable[..., None]):
    package()
    run = _begin(tmp_path)
    for step in range(50):
        run.tell("log", {"x": step}, step)
    run.finish()
    assert _logged(tmp_path) == [f"{step} {{'x': {step}}}" for step in range(50)]


def test_at_the_end_the_command_that_uploads_is_said(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package()
    _ended(tmp_path)
    assert capsys.readouterr().err == f"W&B: `wandb sync {tmp_path}/wandb/offline-run-1-x7` uploads the run.\n"


def test_an_online_run_is_said_by_its_address(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package("Run.offline, Run.url = False, 'https://wandb.example/x7'")
    _ended(tmp_path)
    assert capsys.readouterr().err == "W&B: https://wandb.example/x7\n"


def test_what_cannot_be_uploaded_in_time_is_said(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package(
        """
def slow(self, exit_code):
    raise TimeoutError

Run.offline, Run.url, Run.finish = False, "https://wandb.example/x7", slow
"""
    )
    _ended(tmp_path)
    assert "not everything could be uploaded. `wandb sync" in capsys.readouterr().err


@pytest.mark.parametrize("online", [True, False])
def test_a_silent_wandb_says_nothing_while_all_is_well(
    tmp_path: Path, package: Callable[..., None], online: bool, capsys: pytest.CaptureFixture[str]
):
    settings = "project=None, run_name=None, run_tags=None, silent=True"
    package(f"setup = lambda: SimpleNamespace(settings=SimpleNamespace({settings}))\nRun.offline = {not online}")
    _ended(tmp_path)
    assert capsys.readouterr().err == ""


def test_where_online_fails_the_run_is_kept_offline_with_all_that_was_told(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package(
        """
def init(mode, **options):
    if mode != "offline":
        raise ConnectionError("no network")
    return Run()
"""
    )
    _ended(tmp_path)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "W&B: no network. The run is kept offline."
    assert "wandb sync" in second
    assert _logged(tmp_path) == ["1 {'x': 1}"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('a broken package')", "a broken package."),
        ("import sys; sys.exit(3)", "SystemExit 3."),
        ("import os; os._exit(3)", "its process has ended."),
        ("nonsense nonsense", "invalid syntax"),
    ],
)
def test_a_package_that_cannot_be_imported_is_left_out_in_one_line(
    tmp_path: Path, package: Callable[..., None], text: str, reason: str, capsys: pytest.CaptureFixture[str]
):
    package(instead=text)
    _ended(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"W&B: {reason}")
    assert line.endswith(f"W&B is not used any more; {tmp_path} has everything.")


@pytest.mark.parametrize("pause_s", [0, 1], ids=["told more at once", "told more when its process is gone"])
def test_a_failure_while_logging_leaves_wandb_out_in_one_line(
    pause_s: int,
    tmp_path: Path,
    package: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    get = Waiting.get
    monkeypatch.setattr(Waiting, "get", lambda *arguments: time.sleep(pause_s) or get(*arguments))
    package("def log(self, values, step): raise ConnectionError('its service is gone')\nRun.log = log")
    run = _begin(tmp_path)
    for step in range(3):
        run.tell("log", {"x": step}, step)
    run.finish()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("W&B: its service is gone. W&B is not used any more")


def test_a_process_that_is_killed_leaves_wandb_out_in_one_line(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package("import os\ndef log(self, values, step): os._exit(9)\nRun.log = log")
    _ended(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("W&B: its process has ended. W&B is not used any more")


HANGS = {
    "import": "import time; time.sleep(1000)",
    "init": GOOD + "\ndef init(**options): import time; time.sleep(1000)",
    "log": GOOD + "\ndef log(self, values, step): import time; time.sleep(1000)\nRun.log = log",
    "finish": GOOD + "\ndef finish(self, exit_code): import time; time.sleep(1000)\nRun.finish = finish",
    "exit": GOOD + "\nimport atexit, time; atexit.register(time.sleep, 1000)",
    "a thread": GOOD + "\nimport threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()",
}


@pytest.mark.parametrize("where", HANGS)
def test_a_wandb_that_hangs_holds_the_end_no_longer_than_is_allowed(
    tmp_path: Path, package: Callable[..., None], short_limits: None, where: str
):
    package(instead=HANGS[where])
    run = _begin(tmp_path)
    run.tell("log", {"x": 1}, 1)
    begun = time.monotonic()
    run.finish()
    assert time.monotonic() - begun < wandb_run.END_S + wandb_run.KILL_S + 5
    assert run._process._process.returncode is not None  # neither running nor a zombie


def test_the_end_is_allowed_less_than_half_a_minute():
    assert END_S + KILL_S < 30
    assert LATE_START_S < END_S / 2


def test_a_wandb_that_does_not_end_is_said_with_what_is_left_to_do(
    tmp_path: Path, package: Callable[..., None], short_limits: None, capsys: pytest.CaptureFixture[str]
):
    package(instead=HANGS["finish"])
    run = _begin(tmp_path)
    run.tell("log", {"x": 1}, 1)
    while not (tmp_path / "logged").exists():
        time.sleep(0.01)
    run.finish()
    assert "it has not ended within" in (said := capsys.readouterr().err)
    assert f"`wandb sync {tmp_path}/wandb/offline-run-1-x7`" in said


def test_a_start_that_takes_too_long_is_begun_again_offline(
    tmp_path: Path,
    package: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    package(
        """
def init(mode, **options):
    if mode != "offline":
        import time; time.sleep(1000)
    return Run()
"""
    )
    monkeypatch.setattr(wandb_run, "LATE_START_S", 1.0)
    _ended(tmp_path)
    assert capsys.readouterr().err.startswith("W&B: it does not start. The run is kept offline.\n")
    assert _logged(tmp_path) == ["1 {'x': 1}"]


def test_all_that_wandb_started_ends_with_it(tmp_path: Path, package: Callable[..., None], short_limits: None):
    package(
        """
import subprocess, time
service = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
with open("PLACE/service", "w") as file:
    file.write(str(service.pid))
Run.finish = lambda self, exit_code: time.sleep(1000)
"""
    )
    run = _begin(tmp_path)
    while not (tmp_path / "service").exists() or not (tmp_path / "service").read_text():
        time.sleep(0.01)
    run.finish()
    service = Path("/proc") / (tmp_path / "service").read_text()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and service.exists() and "(zombie)" not in (service / "status").read_text():
        time.sleep(0.05)
    assert not service.exists() or "(zombie)" in (service / "status").read_text()


def test_telling_never_waits(tmp_path: Path, package: Callable[..., None], short_limits: None):
    package(instead=HANGS["init"])
    run = _begin(tmp_path)
    begun = time.monotonic()
    for step in range(1000):
        run.tell("log", {"x": step}, step)
    assert time.monotonic() - begun < 1
    run.finish()


def test_what_waits_is_bounded_in_memory(
    tmp_path: Path,
    package: Callable[..., None],
    short_limits: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(wandb_run, "MAX_WAITING_BYTES", 2_000_000)
    package(instead=HANGS["init"])
    run = _begin(tmp_path)
    for step in range(100):
        run.tell("log", {"x": b"x" * 100_000}, step)
    assert run._waiting._num_bytes <= 2_000_000
    assert capsys.readouterr().err.startswith("W&B: more than 2 MB wait to be sent. W&B is not used any more")
    run.finish()


def test_no_process_that_can_be_started_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    _ended(tmp_path)
    assert capsys.readouterr().err.startswith("W&B: Resource temporarily unavailable. W&B is not used any more")


# which run


@pytest.mark.parametrize(("options", "variable"), [("disabled", ""), ("auto", "disabled"), ("auto", "Disabled")])
def test_where_wandb_is_turned_off_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, variable: str
):
    monkeypatch.setenv("WANDB_MODE", variable)
    assert _begin(tmp_path, WandbConfig(options)) is None


def test_a_folder_that_turns_wandb_off_is_heeded(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package("Run.disabled = True")
    _ended(tmp_path)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "logged").exists()


@pytest.mark.parametrize(("variable", "given", "own"), [("", "a1", "a1"), ("e5", "a1", "e5"), ("e5", None, "e5")])
def test_the_environment_names_the_run_before_we_do(
    tmp_path: Path, package: Callable[..., None], monkeypatch: pytest.MonkeyPatch, variable: str, given: Any, own: str
):
    package()
    monkeypatch.setenv("WANDB_RUN_ID", variable)
    run = _begin(tmp_path, run_id=given)
    run.finish()
    assert (run.id, run._request.resumed) == (own, own == given)


def test_a_new_run_has_an_id_at_once(tmp_path: Path, package: Callable[..., None]):
    package()
    runs = [_begin(tmp_path), _begin(tmp_path)]
    for run in runs:
        run.finish()
    assert len({run.id for run in runs}) == 2


def test_work_after_a_trial_of_a_sweep_is_a_run_of_its_own(
    tmp_path: Path, package: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    package()
    monkeypatch.setenv("WANDB_RUN_ID", "x7")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    run = _begin(tmp_path, apart=True)
    run.finish()
    assert run.id != "x7"
    assert not {"WANDB_RUN_ID", "WANDB_SWEEP_ID"} & run._environment.keys()


def test_wandb_is_told_which_program_works(
    tmp_path: Path, package: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    package()
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/my/train.py", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    run = _begin(tmp_path)
    run.finish()
    assert run._environment["WANDB_PROGRAM"] == "/my/train.py"


@pytest.mark.parametrize(
    ("data", "tag"),
    [
        ("rollouts/carracing/", "carracing"),
        ("x" * 100, "x" * 64),
        (["rollouts/a", "more/b/"], "a+b"),
        (["x" * 60, "y" * 60], f"{'x' * 60}+yyy"),
    ],
)
def test_a_run_is_tagged_with_its_data_set_as_far_as_wandb_allows(
    tmp_path: Path, package: Callable[..., None], data: str | list[str], tag: str
):
    package()
    run = wandb_run.begin(tmp_path, {"data": data}, WandbConfig(), "train")
    assert run
    run.finish()
    assert run._request.data_tag == tag


# the parts


def test_messages_wait_in_their_order():
    waiting = Waiting(100)
    assert waiting.put(b"a") and waiting.put(b"b")
    assert (waiting.get(0.0), waiting.get(0.0), waiting.get(0.0)) == (b"a", b"b", None)


def test_a_message_that_was_taken_makes_room():
    waiting = Waiting(10)
    assert waiting.put(b"x" * 8) and not waiting.put(b"y" * 8)
    waiting.get(0.0)
    assert waiting.put(b"y" * 8)


def test_the_last_message_always_has_room():
    waiting = Waiting(1)
    waiting.put(b"a")
    waiting.close(b"the end")
    assert (waiting.get(0.0), waiting.get(0.0)) == (b"a", b"the end")


def test_descendants_are_found_over_generations():
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'input()']); print(); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout and parent.stdout.readline()
        assert len(wandb_link._descendants(parent.pid)) == 1
        assert parent.pid in wandb_link._descendants(os.getpid())
        parent.communicate(b"\n\n")
