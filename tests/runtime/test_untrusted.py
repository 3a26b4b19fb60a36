"""Files that anybody may have written cannot make a reader wait, nor take much memory or time."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from world_models.runtime import cli, untrusted
from world_models.train_vae.config import TrainConfig

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.fixture
def odd(tmp_path: Path) -> Callable[[str], Path]:
    """Makes something at the path that is not a file."""

    def make(kind: str) -> Path:
        path = tmp_path / "odd"
        if kind == "a named pipe":
            os.mkfifo(path)
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        return path

    return make


ODD = ("a named pipe", "a device", "a folder")


@pytest.mark.parametrize("kind", ODD)
def test_something_that_is_not_a_file_is_never_opened(odd: Callable[[str], Path], kind: str):
    with pytest.raises(ValueError, match=f"odd: {kind}, wanted a file"):
        untrusted.read_text(odd(kind), 10)


@pytest.mark.parametrize("flag", ["--config", "--config=", "--vae", "--wandb="])
def test_settings_are_never_read_from_a_pipe(odd: Callable[[str], Path], flag: str, capsys: pytest.CaptureFixture[str]):
    path = str(odd("a named pipe"))
    argv = [flag + path] if flag.endswith("=") else [flag, path]
    with pytest.raises((SystemExit, ValueError)) as caught:
        cli.parse(TrainConfig, argv, prog="train_vae")
    assert "a named pipe, wanted a file" in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, r"the alias \*a"),
        ("lr: !!python/object:os.system 5\n", "the tag "),
        ("[" * 500 + "]" * 500, "nested deeper than 50 levels"),
        ("a: [" + "1, " * 40_000 + "]", "more than 30,000 values"),
    ],
)
def test_settings_that_could_take_minutes_to_read_are_refused_in_one_line(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises((SystemExit, ValueError)) as caught:
        cli.parse(TrainConfig, ["--config", str(tmp_path / "a.yaml")], prog="train_vae")
    shown = str(caught.value) + capsys.readouterr().err
    assert shown.count("\n") <= 1
    with pytest.raises(yaml.YAMLError, match=said):
        untrusted.check_yaml(text)


def test_settings_that_are_far_too_large_are_refused_without_reading_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.yaml").write_text("a" * 1_000_001)
    with pytest.raises((SystemExit, ValueError)) as caught:
        cli.parse(TrainConfig, ["--config", str(tmp_path / "a.yaml")], prog="train_vae")
    assert "1,000,001 bytes, wanted 1,000,000 at most" in str(caught.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "lists and objects"),
        ("[" * 5000 + "]" * 5000, "nested"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested deeper than 50 levels"),
        ("9" * 5000, "digits"),
        ("[" + "[]," * 20_000 + "1]", "more than 10,000 lists and objects"),
        (b"\xff{}", "decode"),
        ("{'a': 1}", "Expecting"),
    ],
)
def test_json_that_would_crash_a_reader_is_a_value_error(text: str | bytes, said: str):
    with pytest.raises(ValueError, match=said):
        untrusted.from_json(text)


def test_our_json_and_yaml_files_are_read_back_unchanged():
    assert untrusted.from_json(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert untrusted.from_yaml("a: [1, {b: null}]\n") == {"a": [1, {"b": None}]}


def test_yaml_with_aliases_that_multiply_is_refused_at_once():
    start = time.perf_counter()
    with pytest.raises(ValueError, match="alias"):
        untrusted.from_yaml(LAUGHS)
    assert time.perf_counter() - start < 60  # unpacked they take hours
