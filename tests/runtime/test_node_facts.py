"""Machines that would make other shards differ in a fact, which is named."""

from importlib import metadata
from pathlib import Path

import pytest

from world_models.runtime import node_facts
from world_models.version import __version__


@pytest.fixture(autouse=True)
def not_remembered() -> None:
    node_facts.collect.cache_clear()


def facts(*packages: str, modules: tuple[str, ...] = ()) -> node_facts.Facts:
    return node_facts.collect(tuple(node_facts.names(packages, modules)))


def write_module(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a_policy_of_mine.py").write_text(text)
    monkeypatch.syspath_prepend(folder)


def test_a_machine_is_like_itself():
    found = facts("numpy", "gymnasium")
    assert node_facts.differences(dict(found), found) == []


def test_facts_hold_the_installed_versions():
    found = facts("numpy")
    assert (found["numpy"], found["world_models"]) == (metadata.version("numpy"), __version__)


def test_a_package_of_another_version_is_named():
    here = facts("numpy")
    assert node_facts.differences(here | {"numpy": "0.1"}, here) == [f"numpy is 0.1 there and {here['numpy']} here"]


def test_a_package_that_is_not_installed_is_missing():
    assert facts("no-such-package")["no-such-package"] == "missing"


def test_the_same_version_with_other_code_differs():
    here = facts()
    (line,) = node_facts.differences(here | {"the code of world_models": "sha256 000000000000"}, here)
    assert line.startswith("the code of world_models is sha256 000000000000 there and sha256 ")


def test_a_module_that_one_machine_lacks_is_missing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    there = facts(modules=("a_policy_of_mine",))
    write_module(tmp_path, "", monkeypatch)
    node_facts.collect.cache_clear()
    (line,) = node_facts.differences(there, facts(modules=("a_policy_of_mine",)))
    assert line.startswith("module a_policy_of_mine is missing there and sha256 ")


def test_a_module_with_another_text_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_module(tmp_path, "speed = 1\n", monkeypatch)
    there = facts(modules=("a_policy_of_mine",))
    write_module(tmp_path, "speed = 2\n", monkeypatch)
    node_facts.collect.cache_clear()
    assert len(node_facts.differences(there, facts(modules=("a_policy_of_mine",)))) == 1


@pytest.mark.parametrize(("module", "fact"), [("sys", "found"), ("no_such.module", "missing"), ("json.no", "missing")])
def test_modules_without_a_file_are_found_or_missing(module: str, fact: str):
    assert facts(modules=(module,))[f"module {module}"] == fact
