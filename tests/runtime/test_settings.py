"""Settings are read by their types, and a message names the wrong one."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from world_models.runtime import cli, config_files


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 3


@dataclasses.dataclass(frozen=True)
class Model:
    z_dim: int = 32
    variance: float | None = None
    hidden: tuple[int, ...] = (400,)
    inner: Inner = dataclasses.field(default_factory=Inner)


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains."""

    out: str = "runs"
    num_frames: int = 100
    batch_size: int | None = 5
    lr: float = 1e-3
    resume: bool = False
    schedule: Literal["cosine", "constant"] = "cosine"
    group: str | None = None
    tags: tuple[str, ...] = ()
    mixture: dict[str, float] = dataclasses.field(default_factory=lambda: {"driver": 1.0})
    vae: Model = dataclasses.field(default_factory=lambda: Model(z_dim=8))


def parse(*argv: str) -> Train:
    return cli.parse(Train, argv, prog="train")


def refusal(*argv: str) -> str:
    with pytest.raises(ValueError) as caught:
        parse(*argv)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.fixture
def yaml_file(tmp_path: Path) -> Callable[[str | bytes], str]:
    def write(text: str | bytes) -> str:
        path = tmp_path / "settings.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


# flags


@pytest.mark.parametrize(
    ("flag", "changed"),
    [
        ("--num_frames=64", {"num_frames": 64}),
        ("--lr=3", {"lr": 3.0}),
        ("--batch_size=None", {"batch_size": None}),
        ("--batch_size=null", {"batch_size": None}),
        ("--group=None", {"group": None}),
        ("--group=5", {"group": "5"}),
        ("--out=None", {"out": "None"}),
        ("--out=", {"out": ""}),
        ("--resume=True", {"resume": True}),
        ("--schedule=constant", {"schedule": "constant"}),
        ("--tags=['a', 'b c']", {"tags": ("a", "b c")}),
        ("--tags=[]", {"tags": ()}),
        ("--mixture={random: 2}", {"mixture": {"random": 2.0}}),
        ("--mixture.random=2", {"mixture": {"driver": 1.0, "random": 2.0}}),
        ("--vae.variance=None", {"vae": Model(z_dim=8)}),
        ("--vae.hidden=[400, 200]", {"vae": Model(z_dim=8, hidden=(400, 200))}),
        ("--vae.inner.width=4", {"vae": Model(z_dim=8, inner=Inner(4))}),
        ("--vae={'variance': 0.5, 'inner': {'width': 4}}", {"vae": Model(8, 0.5, inner=Inner(4))}),
    ],
)
def test_a_flag_is_accepted_in_the_ways_people_and_sweeps_write_it(flag: str, changed: dict[str, Any]):
    assert parse(flag) == dataclasses.replace(Train(), **changed)
    assert parse(*flag.split("=", 1)) == parse(flag)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("--num_frames=1.5", "num_frames is 1.5; give a whole number"),
        ("--num_frames=1e5", "num_frames is 100000.0; give a whole number"),
        ("--num_frames=None", "num_frames is None; give a whole number"),
        ("--num_frames=", "num_frames is empty; give a whole number"),
        ("--num_frames=true", "num_frames is True; give a whole number"),
        ("--batch_size=x", "batch_size is x; give a whole number or null"),
        ("--lr=nan", "lr is nan; give a number"),
        ("--resume=1", "resume is 1; give true or false"),
        ("--schedule=line", "schedule is line; give 'cosine', 'constant'"),
        ("--tags=a", "tags is a; give a list in brackets, as in '[a]'"),
        ("--mixture=3", "mixture is 3; give names with values, as in --mixture.name 1"),
        ("--mixture.random=x", "mixture is x; give a number"),
        ("--vae.hidden=[1, a]", "vae.hidden is a; give a whole number"),
        ("--vae=3", "vae is 3; give its settings one by one, see vae.* in --help"),
        ("--vae={z_dmi: 3}", "Group 'vae' does not accept option 'z_dmi'; did you mean --vae.z_dim?"),
        ("--num-frames=5", "unrecognized arguments: --num-frames=5; did you mean --num_frames?"),
        ("--vae.inner.widht=5", "unrecognized arguments: --vae.inner.widht=5; did you mean --vae.inner.width?"),
        ("--qqqqqq=5", "unrecognized arguments: --qqqqqq=5; see --help"),
        ("--num_frames", "argument --num_frames: expected one argument"),
        ("--num_farmes", "unrecognized arguments: --num_farmes; did you mean --num_frames?"),
        ("-n", "unrecognized arguments: -n; see --help"),
        ("word", "unrecognized arguments: word; see --help"),
    ],
)
def test_a_wrong_flag_is_refused_with_what_was_found_and_wanted(argv: str, line: str):
    assert refusal(argv) == line


def test_a_setting_without_a_default_must_be_given():
    @dataclasses.dataclass(frozen=True)
    class Needs:
        """Needs."""

        data: str

    with pytest.raises(ValueError, match="arguments are required: data"):
        cli.parse(Needs, [], prog="needs")


# files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_frames:\n", "num_frames is empty; give a whole number"),
        ("vae:\n  z_dim:\n", "vae.z_dim is empty; give a whole number"),
        ("vae: 5\n", "vae is 5; give its settings one by one"),
        ("vae: [1]\n", "vae is [1]; give its settings one by one"),
        ("vae:\n", "vae is empty; give its settings one by one"),
        ("vae:\n  z_dmi: 3\n", "Group 'vae' does not accept option 'z_dmi'; did you mean --vae.z_dim?"),
        ("lr: 1\nlr: 2\n", "lr occurs twice, again in line 2"),
        ("out: 5\n", "out is 5; give text"),
        ("5: 5\n", "Key must be a string"),
        ("", "it holds no settings"),
        ("null\n", "it holds no settings"),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_a_wrong_file_is_refused_with_what_was_found(
    yaml_file: Callable[[str | bytes], str], text: str | bytes, said: str
):
    path = yaml_file(text)
    line = refusal("--config", path)
    assert line.startswith(f"{path}: ") and said in line


def test_an_empty_line_sets_an_optional_setting_to_null(yaml_file: Callable[[str | bytes], str]):
    path = yaml_file("batch_size:\ngroup:\nvae:\n  variance:\n")
    assert parse("--vae.variance=2", "--config", path) == dataclasses.replace(Train(), batch_size=None)


def test_a_name_in_a_file_may_have_dots(yaml_file: Callable[[str | bytes], str]):
    assert parse("--config", yaml_file("vae.z_dim: 9\n")).vae.z_dim == 9


# the files that come with the package


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "ours"
    for name in ("train.yaml", "mnist/vae.yaml", "sweeps/vae.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("num_frames: 7\n")
    monkeypatch.setattr(config_files, "PLACES", (tmp_path / "not there", folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("name", ["mnist/vae", "mnist/vae.yaml", "configs/mnist/vae.yaml", "train"])
def test_our_files_are_found_by_name_from_any_folder(ours: Path, name: str):
    assert parse("--config", name).num_frames == 7


def test_an_existing_file_is_used_before_ours(ours: Path, tmp_path: Path):
    (tmp_path / "train").write_text("num_frames: 8\n")
    assert parse("--config", "train").num_frames == 8


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mnist/vea", "no such file (did you mean mnist/vae?); name a YAML file, or one of ours: mnist/vae, train"),
        ("", "no such file; name a YAML file, or one of ours: mnist/vae, train"),
        ("sweeps/vae", "no such file"),
        ("ours", "a folder; name a YAML file"),
    ],
)
def test_the_error_for_a_missing_file_lists_ours(ours: Path, name: str, line: str):
    assert line in refusal(f"--config={name}")


def test_the_packages_own_files_exist():
    assert {"collect", "train_vae", "encode", "mnist/vae", "paper/train_vae"} <= config_files.shipped().keys()
