"""Failures of W&B neither end nor change the work, nor make it wait; most tests use packages that replace W&B."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from world_models.runs import wandb_run
from world_models.runs.wandb_link import MessageQueue
from world_models.runs.wandb_messages import Request, WandbConfig

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
    run.call("log", {"x": 1}, 1)
    run.finish()


# the way of a run


def test_all_messages_are_sent_in_their_order(tmp_path: Path, package: Callable[..., None]):
    package()
    run = _begin(tmp_path)
    for step in range(50):
        run.call("log", {"x": step}, step)
    run.finish()
    assert _logged(tmp_path) == [f"{step} {{'x': {step}}}" for step in range(50)]


def test_the_command_that_uploads_is_printed_at_the_end(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package()
    _ended(tmp_path)
    assert capsys.readouterr().err == f"W&B: `wandb sync {tmp_path}/wandb/offline-run-1-x7` uploads the run.\n"


def test_the_address_of_an_online_run_is_printed(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package("Run.offline, Run.url = False, 'https://wandb.example/x7'")
    _ended(tmp_path)
    assert capsys.readouterr().err == "W&B: https://wandb.example/x7\n"


def test_an_upload_that_is_not_complete_in_time_is_reported(
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
def test_with_wandb_set_to_silent_nothing_is_printed_without_an_error(
    tmp_path: Path, package: Callable[..., None], online: bool, capsys: pytest.CaptureFixture[str]
):
    settings = "project=None, run_name=None, run_tags=None, silent=True"
    package(f"setup = lambda: SimpleNamespace(settings=SimpleNamespace({settings}))\nRun.offline = {not online}")
    _ended(tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_if_going_online_fails_the_run_is_kept_offline_with_all_messages(
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('a broken package')", "a broken package."),
        ("import sys; sys.exit(3)", "SystemExit 3."),
        ("import os; os._exit(3)", "its process has ended."),
        ("nonsense nonsense", "invalid syntax"),
    ],
)
def test_a_wandb_that_cannot_be_imported_is_reported_in_one_line(
    tmp_path: Path, package: Callable[..., None], text: str, reason: str, capsys: pytest.CaptureFixture[str]
):
    package(instead=text)
    _ended(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"W&B: {reason}")
    assert line.endswith(f"W&B is not used any more; {tmp_path} has everything.")


@pytest.mark.parametrize(
    "pause_s",
    [
        pytest.param(0, id="told more at once"),
        pytest.param(1, id="told more when its process is gone", marks=pytest.mark.slow),
    ],
)
def test_a_failure_while_logging_is_reported_in_one_line(
    pause_s: int,
    tmp_path: Path,
    package: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    get = MessageQueue.get
    monkeypatch.setattr(MessageQueue, "get", lambda *arguments: time.sleep(pause_s) or get(*arguments))
    package("def log(self, values, step): raise ConnectionError('its service is gone')\nRun.log = log")
    run = _begin(tmp_path)
    for step in range(3):
        run.call("log", {"x": step}, step)
    run.finish()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("W&B: its service is gone. W&B is not used any more")


def test_a_killed_wandb_process_is_reported_in_one_line(
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


@pytest.mark.parametrize(
    "where", [pytest.param(where, marks=() if where == "log" else pytest.mark.slow) for where in HANGS]
)
def test_a_wandb_that_hangs_delays_the_end_only_up_to_the_limit(
    tmp_path: Path, package: Callable[..., None], short_limits: None, where: str
):
    package(instead=HANGS[where])
    before = psutil.Process().children()
    run = _begin(tmp_path)
    run.call("log", {"x": 1}, 1)
    begun = time.monotonic()
    run.finish()
    assert time.monotonic() - begun < wandb_run.END_S + wandb_run.KILL_S + 5
    assert psutil.Process().children() == before  # W&B's process neither runs nor is a zombie


@pytest.mark.slow
def test_a_wandb_that_does_not_end_is_reported_with_the_command_that_uploads(
    tmp_path: Path, package: Callable[..., None], short_limits: None, capsys: pytest.CaptureFixture[str]
):
    package(instead=HANGS["finish"])
    run = _begin(tmp_path)
    run.call("log", {"x": 1}, 1)
    while not (tmp_path / "logged").exists():
        time.sleep(0.01)
    run.finish()
    assert "it has not ended within" in (said := capsys.readouterr().err)
    assert f"`wandb sync {tmp_path}/wandb/offline-run-1-x7`" in said


def test_after_a_start_that_takes_too_long_the_run_is_started_offline(
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


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "(zombie)" not in status.read_text()


@pytest.mark.slow
def test_all_processes_that_wandb_started_end_with_it(tmp_path: Path, package: Callable[..., None], short_limits: None):
    """W&B starts a service in a session of its own, and that starts another process."""
    package(
        """
import subprocess, time
sleep = "import time; time.sleep(1000)"
start = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid, flush=True);" + sleep
command = [sys.executable, "-c", start, sleep]
service = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
with open("PLACE/pids", "w") as file:
    file.write(f"{service.pid} {service.stdout.readline()}")
Run.finish = lambda self, exit_code: time.sleep(1000)
"""
    )
    run = _begin(tmp_path)
    while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text().endswith("\n"):
        time.sleep(0.01)
    run.finish()
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(is_running, pids)):
        time.sleep(0.05)
    assert len(pids) == 2 and not any(map(is_running, pids))


@pytest.mark.slow
def test_sending_a_message_never_waits(tmp_path: Path, package: Callable[..., None], short_limits: None):
    package(instead=HANGS["init"])
    run = _begin(tmp_path)
    begun = time.monotonic()
    for step in range(1000):
        run.call("log", {"x": step}, step)
    assert time.monotonic() - begun < 1
    run.finish()


@pytest.mark.slow
def test_too_many_waiting_messages_end_the_use_of_wandb(
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
        run.call("log", {"x": b"x" * 100_000}, step)
    assert capsys.readouterr().err.startswith("W&B: more than 2 MB wait to be sent. W&B is not used any more")
    run.finish()


def test_a_process_that_cannot_be_started_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    _ended(tmp_path)
    assert capsys.readouterr().err.startswith("W&B: Resource temporarily unavailable. W&B is not used any more")


# which run


@pytest.mark.parametrize(("options", "variable"), [("disabled", ""), ("auto", "disabled"), ("auto", "Disabled")])
def test_no_process_is_started_if_wandb_is_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, variable: str
):
    monkeypatch.setenv("WANDB_MODE", variable)
    assert _begin(tmp_path, WandbConfig(options)) is None


def test_wandb_can_be_turned_off_in_a_folder(
    tmp_path: Path, package: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    package("Run.disabled = True")
    _ended(tmp_path)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "logged").exists()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, dict[str, str]]]:
    """What each run is begun with, and the environment of its process; no process is started."""
    found: list[tuple[Request, dict[str, str]]] = []
    monkeypatch.setattr(wandb_run.WandbRun, "__init__", lambda run, *arguments: found.append(arguments))
    return found


@pytest.mark.parametrize(("variable", "given", "own"), [("", "a1", "a1"), ("e5", "a1", "e5"), ("e5", None, "e5")])
def test_a_run_id_of_the_environment_comes_before_the_one_that_is_given(
    tmp_path: Path, begun: list[Any], monkeypatch: pytest.MonkeyPatch, variable: str, given: Any, own: str
):
    monkeypatch.setenv("WANDB_RUN_ID", variable)
    _begin(tmp_path, run_id=given)
    ((request, _),) = begun
    assert (request.run_id, request.resumed) == (own, own == given)


def test_each_new_run_has_its_own_id_at_once(tmp_path: Path, package: Callable[..., None]):
    package()
    runs = [_begin(tmp_path), _begin(tmp_path)]
    for run in runs:
        run.finish()
    assert len({run.id for run in runs}) == 2


def test_work_after_a_trial_of_a_sweep_is_a_run_of_its_own(
    tmp_path: Path, begun: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_RUN_ID", "x7")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    _begin(tmp_path, is_separate=True)
    ((request, environment),) = begun
    assert request.run_id != "x7"
    assert not {"WANDB_RUN_ID", "WANDB_SWEEP_ID"} & environment.keys()


def test_wandb_gets_the_name_of_the_program_that_works(
    tmp_path: Path, begun: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/my/train.py", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    _begin(tmp_path)
    ((_, environment),) = begun
    assert environment["WANDB_PROGRAM"] == "/my/train.py"


@pytest.mark.parametrize(
    ("data", "tag"),
    [
        ("rollouts/carracing/", "carracing"),
        ("x" * 100, "x" * 64),
        (["rollouts/a", "more/b/"], "a+b"),
        (["x" * 60, "y" * 60], f"{'x' * 60}+yyy"),
    ],
)
def test_a_run_has_the_name_of_its_data_set_as_a_tag_of_at_most_64_letters(
    tmp_path: Path, begun: list[Any], data: str | list[str], tag: str
):
    wandb_run.begin(tmp_path, {"data": data}, WandbConfig(), "train")
    ((request, _),) = begun
    assert request.data_tag == tag


# the parts


def test_messages_are_taken_from_the_queue_in_their_order():
    waiting = MessageQueue(100)
    assert waiting.put(b"a") and waiting.put(b"b")
    assert (waiting.get(0.0), waiting.get(0.0), waiting.get(0.0)) == (b"a", b"b", None)


def test_taking_a_message_makes_room_in_the_queue():
    waiting = MessageQueue(10)
    assert waiting.put(b"x" * 8) and not waiting.put(b"y" * 8)
    waiting.get(0.0)
    assert waiting.put(b"y" * 8)


def test_the_last_message_always_fits_into_the_queue():
    waiting = MessageQueue(1)
    waiting.put(b"a")
    waiting.close(b"the end")
    assert (waiting.get(0.0), waiting.get(0.0)) == (b"a", b"the end")
