"""Text from a file cannot control the terminal."""

import io
import re
from collections.abc import Callable

import pytest

from world_models.collect.command import CollectConfig
from world_models.runtime import progress
from world_models.runtime.cli import run_command
from world_models.runtime.errors import Stopped
from world_models.runtime.terminal import printable, say, warn


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("one\nline\r", r"one\nline\r"),
        ("\x9b2J\x07", r"\x9b2J\x07"),
        ("\u202eright to left", r"\u202eright to left"),
        ("half a name \udc80", r"half a name \udc80"),
        ("Köln 東京", "Köln 東京"),
    ],
)
def test_invisible_characters_are_written_as_escapes(text: str, shown: str):
    assert printable(text) == shown


def test_a_text_with_line_breaks_is_printed_as_one_line(capsys: pytest.CaptureFixture[str]):
    say("a\nb", "c")
    warn("d\x1b[2J")
    assert capsys.readouterr() == ("a\\nb\nc\n", "d\\x1b[2J\n")


def _screen(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> io.StringIO:
    """What both standard output and standard error write to, as on a terminal or after `> log 2>&1`."""
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", screen)
    return screen


@pytest.mark.parametrize("print_line", [say, warn])
def test_a_line_is_printed_on_its_own_while_a_terminal_shows_a_bar(
    monkeypatch: pytest.MonkeyPatch, print_line: Callable[..., None]
):
    screen = _screen(monkeypatch, is_terminal=True)
    with progress.bar(10, "frames", "train"):
        print_line("posterior collapse")
    assert re.search(r"frames/s\]\r +\rposterior collapse\n\rtrain: ", screen.getvalue())


@pytest.mark.parametrize("print_line", [say, warn])
def test_a_line_in_a_log_does_not_repeat_the_bar(monkeypatch: pytest.MonkeyPatch, print_line: Callable[..., None]):
    screen = _screen(monkeypatch, is_terminal=False)
    with progress.bar(10, "frames", "train") as bar:
        print_line("one", "two")
        print_line("three")
        bar.update(10)
    first, *said, last = screen.getvalue().splitlines()
    assert said == ["one", "two", "three"]
    assert first.startswith("train:   0%") and last.startswith("train: 100%")


def test_an_empty_text_prints_nothing(capsys: pytest.CaptureFixture[str]):
    warn()
    assert capsys.readouterr().err == ""


def test_a_refusal_contains_no_escape_sequence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def prepare(config: CollectConfig) -> None:
        raise ValueError("\x1b]0;owned\x07")

    monkeypatch.setattr("sys.argv", ["collect"])
    with pytest.raises(SystemExit):
        run_command("", CollectConfig, prepare, print)
    assert capsys.readouterr().err.endswith("error: \\x1b]0;owned\\x07\n")


def test_the_reason_for_stopping_is_shown_without_escape_sequences(monkeypatch: pytest.MonkeyPatch):
    def work(job: None) -> None:
        raise Stopped("\x1b[31m")

    monkeypatch.setattr("sys.argv", ["collect"])
    with pytest.raises(SystemExit) as caught:
        run_command("", CollectConfig, lambda config: None, work)
    assert str(caught.value.code).endswith(": \\x1b[31m")
