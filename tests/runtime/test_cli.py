import dataclasses
import importlib.machinery
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from world_models.runs import layout
from world_models.runs.tracking import WandbConfig
from world_models.runtime import cli, errors
from world_models.version import __version__

PROG = "python -m things.make"
THIS = sys.modules[__name__]


@dataclasses.dataclass(frozen=True)
class Model:
    z_dim: int = 32
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"

    def __post_init__(self):
        errors.require(self.z_dim >= 1, f"vae.z_dim is {self.z_dim}; give 1 or more")


def mixture() -> dict[str, float]:
    return {"brownian": 1.0, "driver": 2.0}


@dataclasses.dataclass(frozen=True)
class Things:
    """Settings of a command.

    Attributes:
        data: folder of things.
        lr: how fast to learn.
    """

    data: str
    num_frames: int = 100
    lr: float = 1e-3
    resume: bool = False
    sizes: tuple[int, ...] = (64, 32)
    memory_gb: float | None = None
    mixture: dict[str, float] = dataclasses.field(default_factory=mixture)
    vae: Model = dataclasses.field(default_factory=Model)

    def __post_init__(self):
        errors.require(self.lr > 0, f"lr is {self.lr}; give a number above 0")


def parse(*argv: str) -> Things:
    return cli.parse(Things, argv, prog=PROG, description="Makes things.")


@pytest.fixture
def yaml_file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line of the error with which a call refuses its input. Nothing may be printed."""

    def run(call: Callable[..., Any], *args: Any) -> str:
        with pytest.raises(ValueError) as caught:
            call(*args)
        assert capsys.readouterr() == ("", "")
        (line,) = str(caught.value).splitlines()
        return line

    return run


# values


def test_defaults_come_from_the_dataclass():
    assert parse("--data", "d") == Things(data="d")


def test_flags_override_fields_and_nested_fields():
    assert parse("--data=d", "--lr", "1e-4", "--vae.z_dim", "8", "--vae.likelihood=bernoulli") == Things(
        data="d", lr=1e-4, vae=Model(z_dim=8, likelihood="bernoulli")
    )


def test_a_yaml_file_gives_fields(yaml_file: Callable[[str], str]):
    file = yaml_file("data: d\nsizes: [1, 2, 3]\nvae:\n  z_dim: 4\nmixture: {random: 1}\n")
    assert parse("--config", file) == Things(data="d", sizes=(1, 2, 3), vae=Model(z_dim=4), mixture={"random": 1.0})


def test_a_later_yaml_file_overrides_single_fields_of_an_earlier_one(yaml_file: Callable[[str], str]):
    first = yaml_file("data: one\nlr: 0.5\nvae:\n  z_dim: 4\n  likelihood: bernoulli\n")
    second = yaml_file("data: two\nvae:\n  z_dim: 5\n")
    assert parse("--config", first, "--config", second) == Things(
        data="two", lr=0.5, vae=Model(z_dim=5, likelihood="bernoulli")
    )


def test_a_flag_after_a_yaml_file_overrides_it(yaml_file: Callable[[str], str]):
    file = yaml_file("data: d\nlr: 0.5\n")
    assert parse("--config", file, "--lr=0.25").lr == 0.25


@pytest.mark.parametrize(("text", "value"), [("True", True), ("true", True), ("False", False), ("false", False)])
@pytest.mark.parametrize("form", ["--resume={}", "--resume {}"])
def test_booleans_are_accepted_as_wandb_sweeps_write_them(form: str, text: str, value: bool):
    assert parse("--data=d", *form.format(text).split()).resume is value


def test_a_value_of_a_string_field_that_looks_like_a_number_stays_a_string():
    assert parse("--data=007").data == "007"


def test_an_optional_field_takes_a_value_and_null():
    assert parse("--data=d", "--memory_gb=2").memory_gb == 2.0
    assert parse("--data=d", "--memory_gb=null").memory_gb is None


def test_the_result_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("--data=d").lr = 1.0  # type: ignore[misc]


def test_by_default_the_flags_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["make", "--data=from-argv"])
    assert cli.parse(Things, prog=PROG).data == "from-argv"


# what is shown


def test_a_printed_config_can_be_read_back(yaml_file: Callable[[str], str], capsys: pytest.CaptureFixture[str]):
    flags = ["--data=d", "--sizes=[7]", "--vae.z_dim=3", "--memory_gb=1.5", "--resume=True", "--mixture={a: 0.5}"]
    with pytest.raises(SystemExit) as caught:
        parse(*flags, "--print_config")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert parse("--config", yaml_file(shown)) == parse(*flags)


def test_a_config_written_as_yaml_can_be_read_back(yaml_file: Callable[[str], str]):
    things = parse("--data=d", "--sizes=[7, 8]", "--lr=1e-5", "--vae.likelihood=bernoulli", "--mixture={a: 0.5}")
    assert parse("--config", yaml_file(cli.to_yaml(things))) == things


def test_to_yaml_keeps_the_order_of_the_fields_and_holds_plain_values_only():
    values = yaml.safe_load(cli.to_yaml(Things(data="d")))
    assert list(values) == [field.name for field in dataclasses.fields(Things)]
    assert values["sizes"] == [64, 32]
    assert values["vae"] == {"z_dim": 32, "likelihood": "gaussian"}


@dataclasses.dataclass(frozen=True)
class Newer:
    """Settings, one of which is newer than the files of some runs."""

    lr: float = 0.5
    weights: tuple[float, ...] = dataclasses.field(default=(), metadata=cli.ONLY_IF_SET)


def test_to_yaml_leaves_a_newer_field_out_until_it_is_set():
    assert cli.to_yaml(Newer()) == "lr: 0.5\n"
    assert yaml.safe_load(cli.to_yaml(Newer(weights=(1.0,)))) == {"lr": 0.5, "weights": [1.0]}
    assert yaml.safe_load(cli.to_yaml(Newer(), every_field=True)) == {"lr": 0.5, "weights": []}


def test_the_flag_version_prints_the_version_of_the_package(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        parse("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"world_models {__version__}\n"


def test_help_shows_the_description_line_by_line_and_every_field(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        cli.parse(Things, ["--help"], prog=PROG, description="One.\n\nExamples:\n  a    b\n  c")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Examples:\n  a    b\n  c\n" in shown
    for flag in ("--data", "--vae.z_dim", "--config", "--print_config", "folder of things", "how fast to learn"):
        assert flag in shown


# refusals


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("", "data"),
        ("--data", "--data"),
        ("--data d extra", "extra"),
        ("--data d --lr fast", "fast"),
        ("--data d --num_frames 1.5", "1.5"),
        ("--data d --num_frames=", "num_frames"),
        ("--data d --vae.likelihood laplace", "laplace"),
        ("--data d --vae 3", "vae"),
        ("--data d --sizes [a]", "sizes"),
        ("--data d --memory_gb much", "much"),
        ("--data d --resume=perhaps", "perhaps"),
        ("--data d --num 5", "unrecognized arguments: --num 5"),
        ("--data d --lr 0", "lr is 0.0; give a number above 0"),
        ("--data d --vae.z_dim 0", "vae.z_dim is 0; give 1 or more"),
        ("--data d --config missing.yaml", "missing.yaml"),
    ],
)
def test_a_bad_flag_is_refused_in_one_line(refusal: Callable[..., str], argv: str, said: str):
    assert said in refusal(parse, *argv.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dta: d\n", "dta"),
        ("data: d\nvae:\n  z_dmi: 3\n", "z_dmi"),
        ("data: d\nlr: fast\n", "fast"),
        ("data: d\nnum_frames: '3 or so'\n", "3 or so"),
        ("data: d\nlr: -1\n", "lr is -1.0; give a number above 0"),
        ("data: d\nvae: {z_dim: 0}\n", "vae.z_dim is 0; give 1 or more"),
        ("lr: 0.5\n", "data"),
        ("data: [\n", "not YAML (line 2: "),
        ("- data\n", "holds no settings"),
        ("\0", "not YAML"),
    ],
)
def test_a_bad_yaml_file_is_refused_in_one_line(
    refusal: Callable[..., str], yaml_file: Callable[[str], str], text: str, said: str
):
    assert said in refusal(parse, "--config", yaml_file(text))


@pytest.mark.parametrize(
    ("flag", "meant"), [("--dta", "--data"), ("--memory_bg", "--memory_gb"), ("--vae.z_dmi", "--vae.z_dim")]
)
def test_the_error_for_a_misspelt_flag_suggests_the_right_one(refusal: Callable[..., str], flag: str, meant: str):
    assert refusal(parse, "--data=d", flag, "3").endswith(f"; did you mean {meant}?")


def test_the_error_for_a_misspelt_yaml_key_suggests_the_right_one(
    refusal: Callable[..., str], yaml_file: Callable[[str], str]
):
    line = refusal(parse, "--config", yaml_file("data: d\nnum_framse: 3\n"))
    assert line.endswith("; did you mean --num_frames?")


def test_the_error_for_an_unknown_flag_names_help(refusal: Callable[..., str]):
    line = refusal(parse, "--data=d", "--qqqqqqqq", "3")
    assert "did you mean" not in line
    assert line.endswith("; see --help")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--lr=fast", "lr is fast; give a number"),
        ("--vae.likelihood=x", "vae.likelihood is x; give 'gaussian', 'bernoulli'"),
    ],
)
def test_a_wrong_type_is_refused_in_plain_words(refusal: Callable[..., str], flag: str, said: str):
    assert refusal(parse, "--data=d", flag) == said


def test_the_error_for_a_value_out_of_bounds_is_complete(refusal: Callable[..., str]):
    assert refusal(parse, "--data=d", "--lr=0") == "lr is 0.0; give a number above 0"


# run_command


def run_command(
    prepare: Callable[[Things], Any], work: Callable[[Any], Any], *argv: str, doc: str | None = "Makes things."
) -> None:
    cli.run_command(doc, Things, prepare, work, argv or ["--data=d"])


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str]]:
    """Runs a command as a process does, and returns the status that it ends with and what it said."""

    def run(prepare: Callable[[Things], Any], work: Callable[[Any], Any], *argv: str) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["make", *(argv or ["--data=d"])])
        with pytest.raises(SystemExit) as caught:
            cli.run_command("Makes things.", Things, prepare, work)
        return caught.value.code, capsys.readouterr().err

    return run


def raising(error: BaseException) -> Callable[[Any], Any]:
    def call(value: Any) -> Any:
        raise error

    return call


def never(value: Any) -> None:
    pytest.fail("was called")


def test_work_gets_the_result_of_prepare():
    seen: list[str] = []

    def work(job: str) -> None:
        seen.append(job)

    run_command(lambda things: things.data * 2, work, "--data=ab")
    assert seen == ["abab"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("data holds\nnothing; name another"),
        FileNotFoundError("d: no such folder"),
        PermissionError("d: locked"),
    ],
)
def test_an_error_in_prepare_ends_with_status_2_and_one_line_before_work(
    ended: Callable[..., tuple[Any, str]], error: Exception
):
    line = f"python -m {__name__}: error: {' '.join(str(error).split())}\n"
    assert ended(raising(error), never) == (2, line)


@pytest.mark.parametrize("error", [ValueError("data holds nothing"), FileNotFoundError("d: no such folder")])
def test_in_python_an_error_in_prepare_is_raised(error: Exception):
    with pytest.raises(type(error)) as caught:
        run_command(raising(error), never)
    assert caught.value is error


def test_an_error_of_the_operating_system_in_prepare_names_the_file(
    ended: Callable[..., tuple[Any, str]], tmp_path: Path
):
    def prepare(things: Things) -> bytes:
        return (tmp_path / "none").read_bytes()

    assert str(tmp_path / "none") in ended(prepare, never)[1]


def test_bad_flags_end_before_prepare(refusal: Callable[..., str]):
    refusal(run_command, never, never, "--data=d", "--lr=0")


def test_stopped_work_ends_with_status_1_and_its_message(ended: Callable[..., tuple[Any, str]]):
    status, _ = ended(str, raising(errors.Stopped("3 of 4 done; run it again")))
    # what Python does with a string: prints it on standard error and exits with status 1
    assert status == f"python -m {__name__}: 3 of 4 done; run it again"


def test_an_interrupted_command_ends_with_status_130_and_one_line(ended: Callable[..., tuple[Any, str]]):
    line = f"\npython -m {__name__}: interrupted; what is finished stays\n"
    assert ended(str, raising(KeyboardInterrupt())) == (130, line)


def test_an_interrupted_preparation_ends_with_status_130_too(ended: Callable[..., tuple[Any, str]]):
    assert ended(raising(KeyboardInterrupt()), never)[0] == 130


@pytest.mark.parametrize("error", [errors.Stopped("3 of 4 done"), KeyboardInterrupt()])
def test_in_python_the_reason_for_an_early_end_is_raised(error: BaseException):
    with pytest.raises(type(error)) as caught:
        run_command(str, raising(error))
    assert caught.value is error


@pytest.mark.parametrize("error", [ValueError("bug"), FileNotFoundError("gone"), RuntimeError("bug"), KeyError("bug")])
def test_any_other_error_of_work_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error)) as caught:
        run_command(str, raising(error))
    assert caught.value is error


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyError("bug"), TypeError("bug")])
def test_an_error_in_prepare_that_is_not_about_input_keeps_its_traceback(error: Exception):
    with pytest.raises(type(error)) as caught:
        run_command(raising(error), never)
    assert caught.value is error


@pytest.mark.parametrize(
    ("module", "prog"), [("things.make", "python -m things.make"), ("things.__main__", "python -m things")]
)
def test_the_error_names_the_command_as_it_was_started(
    ended: Callable[..., tuple[Any, str]], monkeypatch: pytest.MonkeyPatch, module: str, prog: str
):
    monkeypatch.setattr(THIS, "__spec__", importlib.machinery.ModuleSpec(module, None))
    assert ended(never, never, "--lr=1")[1].startswith(f"{prog}: error: ")


def test_a_command_that_is_run_as_a_file_is_named_by_its_module(
    ended: Callable[..., tuple[Any, str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(THIS, "__spec__", None)
    assert ended(never, never, "--lr=1")[1].startswith(f"python -m {__name__}: error: ")


@pytest.mark.parametrize(("doc", "shown"), [("Makes\n    things.\n    ", "Makes\nthings."), (None, "usage")])
def test_help_shows_the_modules_docstring_dedented(capsys: pytest.CaptureFixture[str], doc: str | None, shown: str):
    with pytest.raises(SystemExit) as caught:
        run_command(never, never, "--help", doc=doc)
    assert caught.value.code == 0
    assert shown in capsys.readouterr().out


def test_require_raises_its_message_if_the_condition_is_false():
    errors.require(True, "never")
    with pytest.raises(ValueError, match=r"^give 1 or more$"):
        errors.require(False, "give 1 or more")


def test_an_empty_yaml_is_refused_in_plain_words(tmp_path: Path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ValueError, match="it holds no settings"):
        cli.parse(WandbConfig, ["--config", str(tmp_path / "empty.yaml")], prog="test")


# words that follow no flag


@dataclasses.dataclass(frozen=True)
class Folders:
    """Which folders.

    Attributes:
        runs: folders.
        count: how many.
        resume: go on.
    """

    runs: tuple[str, ...] = dataclasses.field(default=(), metadata=cli.POSITIONAL)
    count: int = 8
    resume: bool = False


@pytest.mark.parametrize(
    "argv",
    ["a b --count 3", "--count 3 a b", "a --count 3 b", "a --count=3 b", "--runs=[a,b] --count=3", "a b --count=3"],
)
def test_arguments_without_a_flag_may_be_before_between_and_after_flags(argv: str):
    assert cli.parse(Folders, argv.split(), prog=PROG) == Folders(("a", "b"), 3)


def test_a_negative_value_of_a_flag_belongs_to_the_flag():
    assert cli.parse(Folders, ["--count", "-3", "a"], prog=PROG) == Folders(("a",), -3)


@pytest.mark.parametrize("word", ["007", "true", "null", "[x]", 'a"b', "a b", "ä", "x: y"])
def test_an_argument_without_a_flag_is_not_changed(word: str):
    assert cli.parse(Folders, [word], prog=PROG).runs == (word,)


def test_by_default_the_arguments_without_a_flag_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["make", "a", "--resume", "true", "b"])
    assert cli.parse(Folders, prog=PROG) == Folders(("a", "b"), resume=True)


def test_arguments_without_a_flag_override_a_yaml_file(yaml_file: Callable[[str], str]):
    file = yaml_file("runs: [p, q]\ncount: 3\n")
    assert cli.parse(Folders, ["--config", file], prog=PROG) == Folders(("p", "q"), 3)
    assert cli.parse(Folders, ["--config", file, "a"], prog=PROG) == Folders(("a",), 3)


def test_help_shows_the_place_of_arguments_without_a_flag(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.parse(Folders, ["--help"], prog=PROG)
    assert f"usage: {PROG} [runs ...] [--flag value ...]" in capsys.readouterr().out


@pytest.mark.parametrize("argv", ["--cuont 3 a", "a --count", "a --count --resume true"])
def test_a_bad_flag_after_other_arguments_ends_with_status_2_and_one_line(refusal: Callable[..., str], argv: str):
    assert "count" in refusal(lambda: cli.parse(Folders, argv.split(), prog=PROG))


@pytest.mark.parametrize(
    ("nested", "flat"),
    [
        ({}, {}),
        ({"lr": 0.1, "vae": {"beta": 4, "sizes": [1]}}, {"lr": 0.1, "vae.beta": 4, "vae.sizes": [1]}),
        ({"a": {"b": {"c": 1}}, "empty": {}, 5: None}, {"a.b.c": 1, "empty": {}, "5": None}),
    ],
)
def test_nested_values_are_flattened_to_dotted_names(nested: dict[Any, Any], flat: dict[str, Any]):
    assert layout.flatten(nested) == flat


def test_names_are_joined_with_the_given_separator():
    assert layout.flatten({"iwae": {"10": 1.5}}, "/") == {"iwae/10": 1.5}
