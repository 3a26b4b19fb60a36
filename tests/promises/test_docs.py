"""README, guides and docstrings: commands are parsed, examples run, and all links, files, flags and names exist."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import world_models
from world_models.data.latents import LatentEpisode
from world_models.runtime import cli, errors
from world_models.vae.model import VAE
from world_models.vae.posterior import Posterior

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES, ROOT / "rollouts/README.md", ROOT / "configs/README.md", ROOT / "CONTRIBUTING.md"]
TEXT = {page: page.read_text() for page in PAGES}
COMMANDS = sorted({line for text in TEXT.values() for line in re.findall(r"python -m world_models[^`\n]*", text)})
PYTHON = [(page, block) for page in PAGES for block in re.findall(r"```python\n(.*?)```", TEXT[page], re.S)]
LINKS = [(page, link) for page in PAGES for link in re.findall(r"\]\((?!http)([^)]+)\)", TEXT[page])]
NAMED = [(page, name) for page in PAGES for name in re.findall(r"`([\w/-]+/[\w-]+\.(?:py|c|md|yaml))`", TEXT[page])]
BASH = {page: "".join(re.findall(r"```bash\n(.*?)```", text, re.S)) for page, text in TEXT.items()}
OWN_CONTROLLER = next(block for _, block in PYTHON if "def drive(env, seed)" in block)
FLAGS = [(page, flag) for page in PAGES for flag in re.findall(r"`--([\w.]+)", TEXT[page])]
OTHER_FLAGS = {"config", "help", "print_config", "cov", "memory", "processes"}  # the parser's, pytest's, the examples'
OTHER_FLAGS |= {"signal", "requeue", "rdzv_backend", "max_restarts"}  # SLURM's, torchrun's
SMALL = {
    "collect": "--num_episodes 2 --max_steps 20 --episodes_per_shard 2 --executor serial",
    "train_vae": "--num_frames 40 --batch_size 20 --lr_warmup_frames 5 --val_every_frames 1000 --wandb.mode disabled",
    "evaluate": "--num_iwae_frames 5",
    "encode": "",
}
"""Flags that make the commands of a guide small."""
SCHEMAS = {
    "__main__": "PipelineConfig",
    "bench.command": "BenchConfig",
    "collect.command": "CollectConfig",
    "compare.command": "CompareConfig",
    "convert.command": "ConvertConfig",
    "encode.command": "EncodeConfig",
    "evaluate.command": "EvaluateConfig",
    "explore.command": "ExploreConfig",
    "train_vae.command": "TrainConfig",
}


def named(page: Path) -> str:
    """A page's path in the repository, which names its tests."""
    return page.relative_to(ROOT).as_posix()


def _examples() -> Iterator[Any]:
    """Module, name and text of every docstring with an example. Training and evaluation take longer than the rest."""
    for path in sorted((ROOT / "world_models").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ">>>" in (text := ast.get_docstring(node) or ""):
                slow = [pytest.mark.slow] if module in ("world_models.train_vae", "world_models.evaluate") else []
                yield pytest.param(module, node.name, text, marks=slow, id=f"{module}-{node.name}")


def _public() -> dict[str, Any]:
    """Everything that a user calls from Python, by name: functions, and classes with their methods and properties."""
    exported = [getattr(world_models, name) for name in world_models.__all__ if name != "__version__"]
    returned_or_raised = [LatentEpisode, Posterior, errors.Stopped]
    verbs = [name.removesuffix(".command") for name in SCHEMAS if name != "__main__"]
    commands = [importlib.import_module(f"world_models.{verb}") for verb in verbs]
    public = {kind.__name__: kind for kind in (*exported, *returned_or_raised, VAE)}
    for kind in [kind for kind in public.values() if inspect.isclass(kind) and kind is not VAE]:
        public |= {f"{kind.__name__}.{name}": member for name, member in _own_members(kind).items()}
    public |= {"VAE.encode": VAE.encode, "VAE.decode": VAE.decode}
    return public | {f"{command.__name__}.main": command.main for command in commands}


def _own_members(kind: type) -> dict[str, Any]:
    """Public methods and properties of a class that no class of another package declares."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("world_models")]
    theirs = {name for base in kind.__mro__ if base not in ours for name in vars(base)}
    names = {name for base in ours for name in vars(base) if not name.startswith("_")} - theirs
    members = {name: inspect.getattr_static(kind, name) for name in sorted(names)}
    return {name: member for name, member in members.items() if callable(member) or isinstance(member, property)}


PUBLIC = _public()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_the_docs_can_be_parsed(command, monkeypatch):
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


@pytest.fixture(scope="module")
def used_folder(rollouts_dir, run_dir, latents_dir, tmp_path_factory) -> Path:
    """A folder where the commands of the README and the guides have been run. The data are copies."""
    folder = tmp_path_factory.mktemp("used")
    for name, made in {
        "rollouts/carracing": rollouts_dir,
        "rollouts/heldout": rollouts_dir,
        "runs/vae": run_dir,
        "latents/carracing": latents_dir,
        "latents/random": latents_dir,
        "latents/driven": latents_dir,
    }.items():
        shutil.copytree(made, folder / name)
    _write_controller(folder)
    return folder


def _write_controller(folder: Path) -> None:
    """Write a controller as `examples/controller.py` does, and the policy of the guide that drives with it."""
    weights = {"weight": np.full((3, 32), 0.01, np.float32), "bias": np.zeros(3, np.float32)}
    (folder / "runs/controller").mkdir(parents=True)
    save_file(weights, folder / "runs/controller/controller.safetensors")
    (folder / "my_driver.py").write_text(OWN_CONTROLLER)


@pytest.fixture
def run_small(monkeypatch, one_thread):
    """Runs a command of a guide at a small scale, in a folder whose modules can be imported."""

    def run(folder: Path, line: str) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "my_driver", raising=False)
        _, _, module, *argv = shlex.split(line, comments=True)
        verb = module.removeprefix("world_models.")
        importlib.import_module(module).main([*argv, *SMALL[verb].split()])

    return run


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=[f"{named(page)}-{i}" for i, (page, _) in enumerate(PYTHON)])
def test_every_python_block_runs(page, block, used_folder, monkeypatch):
    monkeypatch.chdir(used_folder)
    exec(compile(block, str(page), "exec"), {})


def test_the_controller_of_the_guide_collects_the_same_frames_for_the_same_seed(used_folder, run_small):
    (command,) = (line for line in BASH[ROOT / "docs/collect.md"].splitlines() if "my_driver:drive" in line)
    names = ("by_controller", "again")
    for name in names:
        run_small(used_folder, command.replace("rollouts/driven", f"rollouts/{name}"))
    first, again = (world_models.Rollouts(used_folder / f"rollouts/{name}") for name in names)
    assert (first[0].policy, first[0].seed) == ("my_driver:drive", 10_000)
    assert first.digest() == again.digest()


@pytest.mark.slow
def test_the_iterative_training_of_the_guide_runs(tmp_path, run_small):
    text = TEXT[ROOT / "docs/train.md"]
    blocks = re.findall(r"```bash\n(.*?)```", text[text.index("## Iterative training") :], re.S)[:2]
    for line in "".join(blocks).splitlines():
        if line.startswith("python examples/controller.py"):
            _write_controller(tmp_path)
        else:
            run_small(tmp_path, line)
    assert json.loads((tmp_path / "runs/both/eval.json").read_text())["by_data"].keys() == {
        "random-heldout",
        "driven-heldout",
    }
    assert len(world_models.Latents(tmp_path / "latents/driven")) == 2


@pytest.mark.parametrize(("module", "name", "docstring"), list(_examples()))
def test_every_example_of_a_docstring_runs(module, name, docstring, used_folder, monkeypatch):
    monkeypatch.chdir(used_folder)
    names = {"gymnasium": gymnasium, "np": np, "torch": torch, "world_models": world_models}
    names |= vars(importlib.import_module(module))
    example = doctest.DocTestParser().get_doctest(docstring, names, f"{module}.{name}", None, None)
    assert not doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_docstring_ends_with_an_example(name):
    docstring = inspect.getdoc(PUBLIC[name])
    assert docstring
    assert doctest.DocTestParser().get_examples(docstring.rstrip().split("\n\n")[-1])


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{named(page)}-{link}" for page, link in LINKS])
def test_the_target_of_every_link_exists(page, link):
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists()
    assert not heading or heading in _anchors(target.read_text())


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "name"), NAMED, ids=[f"{named(page)}-{name}" for page, name in NAMED])
def test_every_file_that_a_page_names_exists(page, name):
    assert any((folder / name).exists() for folder in (ROOT, ROOT / "world_models", page.parent))


def test_every_name_in_the_architecture_guide_is_in_the_code():
    code = "\n".join(path.read_text() for path in (ROOT / "world_models").rglob("*.py"))
    names = re.findall(r"`(?:VAE\.|VAEConfig\.)?([A-Za-z_]\w+)(?:\(\w*\))?`", TEXT[ROOT / "docs/architecture.md"])
    assert not set(names) - set(re.findall(r"\w+", code))


@pytest.mark.parametrize("guide", GUIDES, ids=named)
def test_the_readme_links_to_every_guide(guide):
    assert f"](docs/{guide.name})" in TEXT[ROOT / "README.md"]


def test_every_picture_is_shown_on_a_page():
    shown = {(page.parent / link).resolve() for page, link in LINKS}
    assert {picture.resolve() for picture in (ROOT / "docs").glob("*.png")} <= shown


def test_the_changelog_keeps_its_headings():
    headings = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings
    assert set(headings) <= {"Added", "Changed", "Fixed", "Removed"}


def test_no_page_has_a_placeholder_left():
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
