import os
import subprocess
import sys
from pathlib import Path

import pytest

import world_models

PACKAGE = Path(__file__).parents[2] / "world_models"
VERBS = ("train_vae", "encode", "evaluate", "compare", "bench")
"""Commands that import PyTorch; collect never does."""


def test_imports_keep_the_contracts():
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", command], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("heavy", ["torch", "Box2D", "pygame", "cv2", "h5py"])
def test_importing_the_package_imports_nothing_heavy(heavy):
    script = f"import sys, world_models; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("name", sorted(set(world_models.__all__) - {"__version__"}))
def test_public_names_are_there(name):
    assert callable(getattr(world_models, name))
    assert name in dir(world_models)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = world_models.nothing  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_command_lets_openmp_wait_without_taking_the_cores():
    command = [sys.executable, "-m", "world_models.encode", "--help"]
    env = {**os.environ, "OMP_DISPLAY_ENV": "true"}
    env.pop("OMP_WAIT_POLICY", None)
    shown = subprocess.run(command, env=env, capture_output=True, text=True).stderr
    if "OMP_WAIT_POLICY" not in shown:
        pytest.skip("PyTorch's OpenMP here does not display its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown


def test_openmp_is_left_alone_where_the_package_is_imported():
    script = "import os, world_models; print(os.environ.get('OMP_WAIT_POLICY'))"
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    assert subprocess.check_output([sys.executable, "-c", script], env=env, text=True) == "None\n"


@pytest.mark.parametrize("argv", [["-c", "import world_models"], ["-m", "world_models.data.shards.reader"]])
def test_importing_the_package_leaves_ctrl_c_and_the_environment_alone(argv, tmp_path):
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
