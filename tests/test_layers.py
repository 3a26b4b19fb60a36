import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "world_models"
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_imports_keep_the_contracts():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", command], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("heavy", ["torch", "Box2D", "pygame", "cv2", "h5py"])
def test_importing_the_package_imports_nothing_heavy(heavy):
    script = f"import sys, world_models; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("name", ["Episode", "Latents", "LatentSequences", "Rollouts", "load_vae", "preprocess"])
def test_public_names_are_there(name):
    import world_models

    assert callable(getattr(world_models, name))
    assert name in dir(world_models)


def test_an_unknown_name_is_an_attribute_error():
    import world_models

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = world_models.nothing  # type: ignore[attr-defined]


def test_no_module_is_over_300_lines():
    long = {path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > 300}
    assert not long


def test_no_function_is_over_50_lines():
    long = [
        f"{path.name}:{node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 50
    ]
    assert not long


def test_the_median_function_is_short():
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert statistics.median(lengths) <= 8


def test_no_pickle_is_ever_loaded():
    for path in MODULES:
        text = path.read_text()
        assert "import pickle" not in text
        assert "allow_pickle" not in text
        assert text.count("torch.load(") == text.count("weights_only=True)")
