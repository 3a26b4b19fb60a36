import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import world_models

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "world_models"
VERBS = ("train_vae", "encode", "evaluate", "compare", "explore", "bench")
"""Commands that import PyTorch; collect never does."""
ALLOWED = {"_replace", "_asdict", "_exit", "_C", "_render", "_init_colors"}
"""Names with an underscore that tests may use: public ones of Python and PyTorch, and two methods of Gymnasium."""


def test_imports_keep_the_contracts():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", command], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("heavy", ["torch", "Box2D", "pygame", "cv2", "h5py"])
def test_importing_the_package_imports_nothing_heavy(heavy):
    script = f"import sys, world_models; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("name", sorted(set(world_models.__all__) - {"__version__"}))
def test_every_public_name_can_be_used(name):
    assert callable(getattr(world_models, name))
    assert name in dir(world_models)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = world_models.nothing  # type: ignore[attr-defined]


@pytest.mark.slow
def test_threads_of_openmp_wait_without_using_the_cores():
    command = [sys.executable, "-m", "world_models.encode", "--help"]
    env = {**os.environ, "OMP_DISPLAY_ENV": "true"}
    env.pop("OMP_WAIT_POLICY", None)
    shown = subprocess.run(command, env=env, capture_output=True, text=True).stderr
    if "OMP_WAIT_POLICY" not in shown:
        pytest.skip("PyTorch's OpenMP here does not display its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown


def test_importing_the_package_does_not_change_openmp():
    script = "import os, world_models; print(os.environ.get('OMP_WAIT_POLICY'))"
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    assert subprocess.check_output([sys.executable, "-c", script], env=env, text=True) == "None\n"


@pytest.mark.parametrize("argv", [["-c", "import world_models"], ["-m", "world_models.data.shards.reader"]])
def test_importing_the_package_does_not_change_ctrl_c_and_the_environment(argv, tmp_path):
    # sitecustomize looks when the process ends
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, signal\nbefore = dict(os.environ), signal.getsignal(signal.SIGINT)\n"
        "atexit.register(lambda: print((dict(os.environ), signal.getsignal(signal.SIGINT)) == before))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | {"PYTHONPATH": path}
    assert subprocess.check_output([sys.executable, *argv], env=env, text=True) == "True\n"


@pytest.mark.parametrize("command", ["world_models", *(f"world_models.{verb}" for verb in VERBS)])
def test_a_command_sets_openmp_before_pytorch_is_imported(command, tmp_path):
    shown = "import os, sys\nprint(os.environ.get('OMP_WAIT_POLICY'), flush=True)\nos._exit(0)\n"
    (tmp_path / "torch.py").write_text(shown)
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | {"PYTHONPATH": path}
    assert subprocess.check_output([sys.executable, "-m", command], env=env, text=True) == "PASSIVE\n"


def modules_of(test: Path) -> list[Path]:
    """The files that a test file may be named for: a module, a C library, a script of a page, or the package itself."""
    folder, name = PACKAGE / test.parent.relative_to(TESTS), test.stem.removeprefix("test_")
    library = name.removesuffix("_library")
    found = [folder / f"{name}.py", folder / "js" / f"{name}.js"]
    found += [folder / f"_{library}.c"] if library != name else []
    return found + ([folder / "__init__.py"] if name == folder.name else [])


def test_each_test_file_is_named_for_a_module_or_lies_in_promises():
    tests = [test for test in sorted(TESTS.rglob("test_*.py")) if test.parent != TESTS / "promises"]
    assert len(tests) > 80
    misplaced = [str(test) for test in tests if not any(module.exists() for module in modules_of(test))]
    assert misplaced == [], "name each for the module that it tests, or move it to tests/promises"


def private_names(test: Path) -> set[str]:
    """Private names of other objects that a test reads, imports or replaces."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name):
                found.add(name)
            case ast.ImportFrom(names=names):
                found |= {alias.name for alias in names}
            case ast.Call(func=ast.Attribute(attr="setattr"), args=[_, ast.Constant(value=str(name)), *_]):
                found.add(name)
    return {name for name in found if name.startswith("_") and not name.startswith("__")} - ALLOWED


def test_tests_use_public_names_only():
    assert {str(test): names for test in sorted(TESTS.rglob("*.py")) if (names := private_names(test))} == {}
