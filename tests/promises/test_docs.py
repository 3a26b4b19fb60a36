"""The README's commands are parsed, its Python blocks run, its links lead somewhere."""

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

from world_models.runtime import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "rollouts/README.md", ROOT / "CONTRIBUTING.md"]
TEXT = {page: page.read_text() for page in PAGES}
COMMANDS = sorted({line for text in TEXT.values() for line in re.findall(r"python -m world_models[^`\n]*", text)})
PYTHON = [(page, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", TEXT[page], re.S)]
LINKS = [(page, link) for page in PAGES for link in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT[page])]
SCHEMAS = {
    "__main__": "PipelineConfig",
    "bench": "BenchConfig",
    "collect.command": "CollectConfig",
    "compare.command": "CompareConfig",
    "encode.command": "EncodeConfig",
    "evaluate.command": "EvaluateConfig",
    "train_vae.command": "TrainConfig",
}


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


@pytest.fixture
def in_a_used_folder(rollouts_dir, run_dir, latents_dir, tmp_path, monkeypatch):
    """A folder where the commands of the README have been run."""
    for name, made in {
        "rollouts/carracing": rollouts_dir,
        "runs/vae": run_dir,
        "latents/carracing": latents_dir,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(made)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("in_a_used_folder")
@pytest.mark.parametrize(
    ("page", "block"), PYTHON, ids=[f"{page.parent.name}-{i}" for i, (page, _) in enumerate(PYTHON)]
)
def test_every_python_block_runs(page, block):
    exec(compile(block, str(page), "exec"), {})


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_link_leads_somewhere(page, link):
    assert (page.parent / link).exists()


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
