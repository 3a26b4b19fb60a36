"""A path means the same place from the start on; an impossible path is refused in one line."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from world_models.bench.command import BenchConfig
from world_models.collect.command import CollectConfig
from world_models.compare.command import CompareConfig
from world_models.encode.command import EncodeConfig
from world_models.evaluate.command import EvaluateConfig
from world_models.runtime import paths
from world_models.train_vae.config import TrainConfig


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder, which is the working folder in the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def link(name: str, target: str | Path) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path.absolute()


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("a", "a"),
        ("./a/", "a"),
        (".", "."),
        ("..", ".."),
        ("data/new/../old", "data/old"),
        ("new/deep/../../data", "data"),
        ("a//b/./c", "a/b/c"),
        (" a", " a"),
    ],
)
def test_a_path_leads_to_the_same_place_before_and_after_its_folders_exist(here: Path, given: str, place: str):
    expected = Path(os.path.normpath(here / place))
    assert paths.resolved(given) == expected
    for folder in ("data/new", "new/deep"):
        (here / folder).mkdir(parents=True)
    assert paths.resolved(given) == expected


def test_a_path_above_the_root_is_the_root():
    assert paths.resolved("/../..") == Path("/")


def test_links_are_followed_before_dots_are_resolved(here: Path):
    (here / "far/inside").mkdir(parents=True)
    link("near", here / "far/inside")
    assert paths.resolved("near") == here / "far/inside"
    assert paths.resolved("near/x") == here / "far/inside/x"
    assert paths.resolved("near/../x") == here / "far/x"


def test_a_path_is_resolved_as_by_the_system(here: Path):
    (here / "far/inside").mkdir(parents=True)
    link("near", "far/inside")
    link("far/inside/back", "../..")
    for given in ("near", "near/back/near/..", "far/inside/back/nothing/../far"):
        assert str(paths.resolved(given)) == os.path.realpath(given)


def test_the_last_link_of_a_path_keeps_its_name_if_asked_for(here: Path):
    (here / "far").mkdir()
    link("runs/best", here / "far")
    link("latest", here / "runs")
    assert paths.resolved("latest/best", keeps_last_link=True) == here / "runs/best"
    assert paths.resolved("runs/best/.", keeps_last_link=True) == here / "runs/best"
    assert paths.resolved("runs/best/..", keeps_last_link=True) == here


@pytest.mark.parametrize("given", ["link", "link/x", "link/../x", "new/../link"])
def test_a_link_without_a_target_is_refused(given: str):
    link("link", "nowhere/at/all")
    with pytest.raises(ValueError, match=r"^out is '.*link.*link is a broken link to 'nowhere/at/all'; make"):
        paths.resolved(given, "out")


def test_a_circle_of_links_is_refused():
    link("a", "b")
    link("b", "a")
    with pytest.raises(ValueError, match="a is a broken link to 'b'"):
        paths.resolved("a/x")


@pytest.mark.parametrize("bad", ["a\0b", "a\nb", "\x1b[31m", "a\udcff", "a\x9b"])
def test_a_path_that_no_terminal_can_show_is_refused_in_one_printable_line(bad: str):
    with pytest.raises(ValueError, match=r"^out is '.*without control characters$") as refused:
        paths.resolved(bad, "out")
    assert str(refused.value).isprintable()


def test_a_link_to_undecodable_bytes_is_refused():
    Path("\udcff").mkdir()
    link("link", "\udcff")
    with pytest.raises(ValueError, match="UTF-8"):
        paths.resolved("link")


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_path_is_refused(empty: str):
    with pytest.raises(ValueError, match=r"^out is ' *'; give a name$"):
        paths.resolved(empty, "out")


@pytest.mark.parametrize("given", ["x" * 300, "x" * 220, "new/" + "x" * 300, "/".join(["x" * 100] * 60)])
def test_a_name_that_is_too_long_for_a_file_is_refused_in_a_short_line(given: str):
    with pytest.raises(ValueError, match=r"File name too long; give another name$") as refused:
        paths.resolved(given, "out")
    assert len(str(refused.value)) < 250


def test_an_existing_long_name_is_accepted(here: Path):
    (here / ("x" * 250)).mkdir()
    assert paths.resolved("x" * 250) == here / ("x" * 250)


def test_a_file_in_the_middle_of_a_path_is_refused(here: Path):
    (here / "file").touch()
    with pytest.raises(ValueError, match=r"^out is 'file/a/b': .*/file is a file, not a folder; give another name$"):
        paths.resolved("file/a/b", "out")


def test_a_deleted_working_folder_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    with pytest.raises(ValueError, match="the working folder has been deleted"):
        paths.resolved("a")


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "../../x", "/x", "a\0", "a\udcff", "x" * 201])
def test_a_text_that_is_not_the_name_of_one_folder_is_refused(bad: str):
    with pytest.raises(ValueError, match=r"^name is '"):
        paths.check_name(bad, "name")


@pytest.mark.parametrize("good", ["quick", "a.b", "...", "-x", "münchen 7"])
def test_the_name_of_one_folder_is_accepted(good: str):
    paths.check_name(good, "name")


# configs

PLACES = [
    (CollectConfig, "out"),
    (CollectConfig, "verify"),
    (TrainConfig, "data"),
    (TrainConfig, "out"),
    (EncodeConfig, "data"),
    (EncodeConfig, "vae"),
    (EncodeConfig, "out"),
    (EvaluateConfig, "data"),
    (EvaluateConfig, "vae"),
    (EvaluateConfig, "train_data"),
    (CompareConfig, "out"),
    (CompareConfig, "data"),
    (BenchConfig, "data"),
    (BenchConfig, "json"),
]


@pytest.mark.parametrize(("schema", "field"), PLACES)
def test_every_config_resolves_its_paths(here: Path, schema: type, field: str):
    config = schema(**{field: "new/../place"})
    assert getattr(config, field) == str(here / "place")
    assert getattr(dataclasses.replace(config), field) == str(here / "place")


@pytest.mark.parametrize(("schema", "field"), [(CompareConfig, "runs"), (EvaluateConfig, "compare_with")])
def test_runs_to_compare_are_resolved_and_keep_their_names(here: Path, schema: type, field: str):
    (here / "far").mkdir()
    link("runs/best", here / "far")
    assert getattr(schema(**{field: ("new/../runs/best", "b")}), field) == (str(here / "runs/best"), str(here / "b"))


@pytest.mark.parametrize("schema", [CollectConfig, TrainConfig, EncodeConfig, CompareConfig])
def test_an_output_folder_that_is_a_link_without_a_target_is_refused(schema: type):
    link("out", "nowhere")
    with pytest.raises(ValueError, match=r"^out is 'out': .* is a broken link to 'nowhere'"):
        schema(out="out")


def test_the_folder_of_the_data_is_refused_for_a_run():
    with pytest.raises(ValueError, match="the folder of the data; give the run another --out"):
        TrainConfig(data="a", out="b/../a")


@pytest.mark.parametrize("source", ["data", "vae"])
def test_the_folder_of_the_data_or_model_is_refused_for_latents(source: str):
    with pytest.raises(ValueError, match=f"like {source}; give the latents another --out"):
        EncodeConfig(**dict[str, Any]({source: "a", "out": "b/../a"}))


@pytest.mark.parametrize(
    ("schema", "field"),
    [(EncodeConfig, "data"), (CompareConfig, "data"), (CollectConfig, "verify"), (EvaluateConfig, "vae")],
)
def test_a_list_is_refused_where_one_path_is_taken(schema: type, field: str):
    with pytest.raises(ValueError, match=rf"^{field} is '\[a,b\]', and it takes one path, .*; .* once for each$"):
        schema(**{field: "[a,b]"})


def test_a_folder_with_brackets_in_its_name_is_taken(here: Path):
    (here / "[a]").mkdir()
    assert EncodeConfig(data="[a]").data == str(here / "[a]")
