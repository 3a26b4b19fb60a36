"""W&B itself, with servers of every kind: the login, the data that reach the server, and the time limits."""

import contextlib
import gzip
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server, socket
from typing import Any

import psutil
import pytest

from world_models.runs import wandb_run
from world_models.runs.tracking import Tracker, WandbConfig

pytestmark = pytest.mark.slow

KEY = "k" * 40
LATE_START_S, END_S = wandb_run.LATE_START_S, wandb_run.END_S
SCRIPT = """
import sys
from pathlib import Path
from world_models.runs.tracking import Tracker, WandbConfig
tracker = Tracker(Path(sys.argv[1]), {"data": "rollouts/a"}, WandbConfig(), "train")
tracker.log({"step": 1, "frames_seen": 10})
tracker.finish()
print("the end")
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without W&B's account and settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no server listens on this port
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine W&B takes long to be imported."""
    monkeypatch.setattr(wandb_run, "LATE_START_S", 60.0)
    monkeypatch.setattr(wandb_run, "END_S", 150.0)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual time limits."""
    monkeypatch.setattr(wandb_run, "LATE_START_S", LATE_START_S)
    monkeypatch.setattr(wandb_run, "END_S", END_S)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


class _Server(BaseHTTPRequestHandler):
    """The part of W&B's server that runs and `wandb sync` need: it keeps histories of runs, and continues them."""

    protocol_version = "HTTP/1.1"
    histories: dict[str, dict[int, dict[str, Any]]]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body) if body[:1] == b"{" else {}
        if self.path.endswith("/graphql"):
            self._answer({"data": self._data(asked.get("query", ""), asked.get("variables") or {})})
            return
        for name, chunk in (asked.get("files") or {}).items():
            if "history" in name:
                rows = enumerate(map(json.loads, chunk["content"]), chunk["offset"])
                self.histories.setdefault(self.path.split("/")[-2], {}).update(rows)
        self._answer({"limits": {}})

    do_GET = do_PUT = do_POST  # noqa: N815

    def _data(self, query: str, names: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "world_models", "entity": {"id": "e", "name": "me"}}
        name = names.get("name")
        if "upsertBucket" in query:
            self.histories.setdefault(str(name), {})
            bucket = {"id": "b", "name": name, "displayName": name, "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "RunResumeStatus" in query:
            history = self.histories.get(str(name))
            tail = json.dumps([json.dumps(row) for row in list(history.values())[-1:]]) if history else "[]"
            known = {"id": "b", "name": name, "historyLineCount": len(history or ()), "historyTail": tail}
            rest = {"eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]", "summaryMetrics": "{}", "config": "{}"}
            known |= {"displayName": name, "wandbConfig": '{"t": {}}'}
            return {"model": {**project, "bucket": None if history is None else {**known, **rest, "tags": []}}}
        if "createRunFiles" in query:
            url = f"http://{self.headers['Host']}/put"
            files = [{"name": file, "uploadUrl": url} for file in names["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        user = {"id": "u", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": user, "serverInfo": {"features": [], "cliVersionInfo": {}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[int, dict[str, Any]]]]:
    """A server where the runs go; gives their histories."""
    histories: dict[str, dict[int, dict[str, Any]]] = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (_Server,), {"histories": histories})) as listening:
        listening.daemon_threads = True
        listening.handle_error = lambda *_: None  # type: ignore[method-assign]  # W&B hangs up
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.server_port}")
        yield histories
        listening.shutdown()


def _track(folder: Path, *steps: int, options: WandbConfig | None = None, run_id: str | None = None) -> Tracker:
    tracker = Tracker(folder, {"data": "rollouts/a"}, options or WandbConfig(), "train", run_id=run_id)
    for step in steps:
        tracker.log({"step": step, "frames_seen": 10 * step, "train/sse": step / 2})
    tracker.finish()
    return tracker


def _steps(history: dict[int, dict[str, Any]]) -> list[int]:
    return [history[line]["step"] for line in sorted(history)]


def _wandb(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "wandb", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# who is logged in, and how


def test_after_a_login_with_wandbs_own_command_runs_are_online(
    run_folder: Path, server: dict[str, Any], home: Path, capsys: pytest.CaptureFixture[str]
):
    _wandb("login", KEY)
    assert (home / ".netrc").exists()
    tracker = _track(run_folder, 1, 2)
    assert _steps(server[str(tracker.run_id)]) == [1, 2]
    assert str(tracker.run_id) in capsys.readouterr().err  # the address


def test_without_a_login_runs_are_offline_and_the_command_that_uploads_is_printed(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
):
    tracker = _track(run_folder, 1)
    (written,) = (run_folder / "wandb").glob(f"offline-run-*-{tracker.run_id}")
    why, how = capsys.readouterr().err.splitlines()
    assert why.endswith("The run is kept offline.")
    assert how == f"W&B: `wandb sync {written}` uploads the run."
    assert b"train/sse" in (written / f"run-{tracker.run_id}.wandb").read_bytes()


def test_wandb_offline_in_a_folder_makes_runs_offline(run_folder: Path, server: dict[str, Any], monkeypatch: Any):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    _wandb("offline")
    _track(run_folder, 1)
    assert not server
    assert list((run_folder / "wandb").glob("offline-run-*"))


def test_wandb_disabled_in_a_folder_turns_wandb_off(run_folder: Path, server: dict[str, Any], monkeypatch: Any):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    _wandb("disabled")
    _track(run_folder, 1)
    assert not server
    assert not (run_folder / "wandb").exists()


@pytest.mark.parametrize(
    ("variable", "value"), [("WANDB_MODE", "of"), ("WANDB_BASE_URL", "http://[bad"), ("WANDB_CONSOLE", "nonsense")]
)
def test_a_variable_that_is_wrong_keeps_the_run_offline_in_one_line(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv(variable, value)
    _track(run_folder, 1)
    why, _ = capsys.readouterr().err.splitlines()
    assert why == f"W&B: {variable} is {value!r}, which it refuses. The run is kept offline."


def test_the_printed_command_names_the_folder_that_was_written(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "new" / "place"))
    _track(run_folder, 1, options=WandbConfig("offline"))
    (written,) = (tmp_path / "new" / "place" / "wandb").glob("offline-run-*")
    assert f"`wandb sync {written}`" in capsys.readouterr().err


def test_wandb_asks_no_questions_in_a_terminal(run_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / ".netrc").write_text(f"machine localhost\n  login user\n  password {KEY}\n")
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:8080")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run_folder)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # as a terminal ends
            while piece := os.read(ours, 10_000):
                shown += piece
        os.close(ours)
    assert process.returncode == 0
    assert b"the end" in shown
    assert b"choice" not in shown


# servers that do not do as they should


def _silent(connection: socket) -> None:
    time.sleep(1000)


def _slow(connection: socket) -> None:
    with contextlib.suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b" " * 100_000:
            connection.sendall(bytes([byte]))
            time.sleep(1)


def _failing(connection: socket) -> None:
    with contextlib.suppress(OSError):
        connection.recv(100_000)
        connection.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
        connection.close()


def _closing(connection: socket) -> None:
    connection.close()


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator["Listen"]:
    """Starts a server that treats each connection so."""
    open_ones: list[socket] = []

    def start(treat: Callable[[socket], None]) -> None:
        server = create_server(("127.0.0.1", 0), backlog=100)
        open_ones.append(server)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    open_ones.append(connection)
                    threading.Thread(target=treat, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    yield start
    for one in open_ones:
        one.close()


Listen = Callable[[Callable[[socket], None]], None]


@pytest.mark.parametrize("treat", [_silent, _slow, _failing, _closing])
def test_a_bad_server_delays_neither_the_first_step_nor_the_end(
    run_folder: Path, listen: Listen, limits: None, treat: Callable[[socket], None]
):
    listen(treat)
    begun = time.monotonic()
    tracker = Tracker(run_folder, {"data": "rollouts/a"}, WandbConfig(), "train")
    tracker.log({"step": 1, "frames_seen": 10, "train/sse": 2.5})
    assert time.monotonic() - begun < 15
    done = time.monotonic()
    tracker.finish()
    assert time.monotonic() - done < 30
    assert len((run_folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_what_was_logged_while_a_server_was_silent_is_kept_offline(
    run_folder: Path, listen: Listen, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(wandb_run, "LATE_START_S", 3.0)
    listen(_silent)
    tracker = _track(run_folder, 1)
    (written,) = (run_folder / "wandb").glob(f"offline-run-*/run-{tracker.run_id}.wandb")
    assert b"train/sse" in written.read_bytes()


def test_killing_wandbs_service_does_not_end_the_work(
    run_folder: Path,
    server: dict[str, Any],
    limits: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    tracker = Tracker(run_folder, {"data": "rollouts/a"}, WandbConfig(), "train")
    deadline = time.monotonic() + 60
    while not server and time.monotonic() < deadline:
        time.sleep(0.05)
    services = [service for child in psutil.Process().children() for service in child.children(recursive=True)]
    for service in services:
        with contextlib.suppress(psutil.NoSuchProcess):
            service.kill()
    for step in range(5):
        tracker.log({"step": step, "frames_seen": step})
        time.sleep(0.1)
    begun = time.monotonic()
    tracker.finish()
    assert time.monotonic() - begun < 30
    assert len((run_folder / "metrics.jsonl").read_text().splitlines()) == 5
    assert "W&B: " in capsys.readouterr().err


# runs in parts


def test_the_printed_command_uploads_all_parts_of_a_run_that_was_resumed_offline(
    run_folder: Path, server: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    first = _track(run_folder, 10, 20, options=WandbConfig("offline"))
    time.sleep(1.1)  # W&B names the parts by the second
    _track(run_folder, 30, 40, options=WandbConfig("offline"), run_id=first.run_id)
    command = capsys.readouterr().err.splitlines()[-1].split("`")[1]
    assert command.startswith("wandb sync ")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    _wandb(*command.split()[1:])
    assert _steps(server[str(first.run_id)]) == [10, 20, 30, 40]
