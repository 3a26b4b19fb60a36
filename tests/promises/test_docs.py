"""README and guides: commands are parsed, Python blocks run, and every link, file, flag and name is there."""

import dataclasses
import doctest
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import get_type_hints

import pytest

from world_models.runtime import cli

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES, ROOT / "rollouts/README.md", ROOT / "configs/README.md", ROOT / "CONTRIBUTING.md"]
TEXT = {page: page.read_text() for page in PAGES}
COMMANDS = sorted({line for text in TEXT.values() for line in re.findall(r"python -m world_models[^`\n]*", text)})
PYTHON = [(page, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", TEXT[page], re.S)]
LINKS = [(page, link) for page in PAGES for link in re.findall(r"\]\((?!http)([^)]+)\)", TEXT[page])]
NAMED = [(page, name) for page in PAGES for name in re.findall(r"`([\w/-]+/[\w-]+\.(?:py|c|md|yaml))`", TEXT[page])]
FLAGS = [(page, flag) for page in PAGES for flag in re.findall(r"`--([\w.]+)", TEXT[page])]
OTHER_FLAGS = {"config", "help", "print_config", "cov", "memory", "processes"}  # the parser's, pytest's, the examples'
SCHEMAS = {
    "__main__": "PipelineConfig",
    "bench": "BenchConfig",
    "collect.command": "CollectConfig",
    "compare.command": "CompareConfig",
    "encode.command": "EncodeConfig",
    "evaluate.command": "EvaluateConfig",
    "train_vae.command": "TrainConfig",
}


def named(page: Path) -> str:
    """A page's path in the repository, which names its tests."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", ["envs.making", "vae.posterior", "runtime.terminal"])
def test_the_examples_of_docstrings_are_true(name):
    ran = doctest.testmod(importlib.import_module(f"world_models.{name}"))
    assert ran.attempted and not ran.failed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_docs_is_parsed(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, _, module, *argv = shlex.split(command, comments=True)
    name = module.removeprefix("world_models").removeprefix(".") or "__main__"
    name = name if name in SCHEMAS else f"{name}.command"
    schema = getattr(importlib.import_module(f"world_models.{name}"), SCHEMAS[name])
    assert isinstance(cli.parse(schema, argv, prog="test"), schema)


def _fields(schema: type) -> set[str]:
    """Names of a config's settings, nested ones with dots."""
    hints = get_type_hints(schema)
    nested = {
        name: _fields(kind) for name, kind in hints.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    return set(hints) | {f"{name}.{inner}" for name, inners in nested.items() for inner in inners}


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """The settings of all commands."""
    modules = {name: importlib.import_module(f"world_models.{name}") for name in SCHEMAS}
    return {field for name, schema in SCHEMAS.items() for field in _fields(getattr(modules[name], schema))}


@pytest.mark.parametrize(("page", "flag"), FLAGS, ids=[f"{named(page)}-{flag}" for page, flag in FLAGS])
def test_every_flag_that_a_page_names_exists(page, flag, settings):
    assert flag.removesuffix(".driver") in settings | OTHER_FLAGS  # mixture.driver: policies are free names


@pytest.fixture
def in_a_used_folder(rollouts_dir, run_dir, latents_dir, tmp_path, monkeypatch):
    """A folder where the commands of the README and the guides have been run."""
    for name, made in {
        "rollouts/carracing": rollouts_dir,
        "runs/vae": run_dir,
        "latents/carracing": latents_dir,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(made)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_a_used_folder")
@pytest.mark.parametrize(("page", "block"), PYTHON, ids=[f"{named(page)}-{i}" for i, (page, _) in enumerate(PYTHON)])
def test_every_python_block_runs(page, block):
    exec(compile(block, str(page), "exec"), {})


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{named(page)}-{link}" for page, link in LINKS])
def test_every_link_leads_somewhere(page, link):
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    assert not heading or heading in _anchors(target.read_text())


def _anchors(text: str) -> set[str]:
    """What a link to each heading of a page ends with, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "name"), NAMED, ids=[f"{named(page)}-{name}" for page, name in NAMED])
def test_every_file_that_a_page_names_exists(page, name):
    assert any((folder / name).exists() for folder in (ROOT, ROOT / "world_models", page.parent))


def test_every_name_on_the_map_is_in_the_code():
    code = "\n".join(path.read_text() for path in (ROOT / "world_models").rglob("*.py"))
    names = re.findall(r"`(?:VAE\.|VAEConfig\.)?([A-Za-z_]\w+)(?:\(\w*\))?`", TEXT[ROOT / "docs/architecture.md"])
    assert not set(names) - set(re.findall(r"\w+", code))


@pytest.mark.parametrize("guide", GUIDES, ids=named)
def test_the_readme_leads_to_every_guide(guide):
    assert f"](docs/{guide.name})" in TEXT[ROOT / "README.md"]


def test_every_picture_is_shown():
    shown = {(page.parent / link).resolve() for page, link in LINKS}
    assert {picture.resolve() for picture in (ROOT / "docs").glob("*.png")} <= shown


def test_the_changelog_keeps_its_headings():
    headings = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings
    assert set(headings) <= {"Added", "Changed", "Fixed", "Removed"}


def test_nothing_was_left_to_fill_in():
    assert not [page.name for page, text in TEXT.items() if "@@" in text]


def test_the_format_page_names_every_column():
    from world_models.data.rollouts import FORMAT
    from world_models.data.shards import EPISODE_COLUMNS

    for name in (*FORMAT.columns, *EPISODE_COLUMNS, "episode_policy"):
        assert f"`{name}`" in TEXT[ROOT / "rollouts/README.md"]


def test_the_format_page_names_every_metric(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert not {name for line in lines for name in line if f"`{name}`" not in TEXT[ROOT / "docs/formats.md"]}


def test_the_format_page_names_every_key_of_latents_json(latents_dir):
    summary = json.loads((latents_dir / "latents.json").read_text())
    assert not {name for name in (*summary, *summary["check"]) if f"`{name}`" not in TEXT[ROOT / "docs/formats.md"]}
