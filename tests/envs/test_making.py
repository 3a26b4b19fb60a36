"""An id and arguments give an environment, or an error of one line that says what to do."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from world_models import envs

Write = Callable[[str], str]


class Shapes(gymnasium.Env):
    """Draws pictures that depend on its arguments."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, grey: int = 0, filled: bool = True, *, render_mode: str | None = None):
        if grey > 255:
            raise LookupError("no such grey\nas this")
        self.grey, self.filled, self.render_mode = grey, filled, render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        return np.full((96, 96, 3), self.grey, np.uint8), {}


def shapes(**options: Any) -> gymnasium.Env:
    """Accepts any argument; an unknown one fails while the environment is made."""
    return Shapes(**options)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, kind in {"Shapes-v0": Shapes, "AnyShapes-v0": shapes, "NotCarRacing-v0": Shapes}.items():
        gymnasium.register(name, kind)  # type: ignore[arg-type]
    yield
    for name in ("Shapes-v0", "AnyShapes-v0", "NotCarRacing-v0"):
        del gymnasium.registry[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module, and returns the name by which it can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        name = f"own_module_{abs(hash(source))}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


def refusal(**options: Any) -> str:
    """The one line of the error with which the environment is refused."""
    with pytest.raises(ValueError, match="; ") as refused:
        envs.make_env(**options)
    said = str(refused.value)
    assert len(said.splitlines()) == 1
    return said


# --- ids


@pytest.mark.parametrize("env_id", ["Nowhere-v0", "ALE/Pong-v5", "no spaces"])
def test_the_error_for_an_unknown_id_says_how_to_import_an_own_environment(env_id: str):
    said = refusal(env_id=env_id)
    assert said.startswith(f"env '{env_id}' cannot be made: ")
    assert said.endswith(f"name the module that registers it: --env my_package:{env_id}")


@pytest.mark.parametrize(
    ("env_id", "near"), [("CarRacign-v3", "CarRacing-v3"), ("CarRacing-v99", "CarRacing-v3"), ("Shape-v0", "Shapes-v0")]
)
def test_the_error_for_a_misspelt_id_names_the_right_one(env_id: str, near: str):
    assert f"; did you mean {near}" in refusal(env_id=env_id)


def test_a_module_that_does_not_exist_is_named():
    said = "cannot be made: No module named 'no_such_package'; install it, or give an id, or MODULE:ID"
    assert refusal(env_id="no_such_package.inner:Env-v0").startswith(f"env 'no_such_package.inner:Env-v0' {said}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\ny = (\n", r"SyntaxError: '(' was never closed"),
        ("class Odd(Exception):\n    pass\nraise Odd('of its own\\nand more')", "Odd: of its own"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise KeyError", "KeyError"),
    ],
)
def test_a_module_that_fails_on_import_is_a_line_with_its_file_and_line(write: Write, source: str, said: str):
    name = write(source)
    line = 2 if "y = (" in source or "sys" in source else source.count("\n") + 1
    found = refusal(env_id=f"{name}:Own-v0")
    assert f"the import of {name} fails, {said} (" in found
    assert f"{name}.py, line {line}); fix it" in found


def test_an_id_that_its_module_does_not_register_is_unknown(write: Write):
    assert "doesn't exist" in refusal(env_id=f"{write('')}:Own-v0")


def test_an_id_without_version_is_the_newest():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert envs.make_env("CartPole").env.spec.id == "CartPole-v1"  # type: ignore[union-attr]


def test_a_warning_of_gymnasium_is_printed_as_a_plain_line():
    with envs.gymnasium_warnings() as said:
        envs.make_env("CartPole")
    assert set(said) == {
        "Using the latest versioned environment `CartPole-v1` instead of the unversioned environment `CartPole`."
    }


def test_warnings_of_other_packages_are_not_changed():
    with pytest.warns(UserWarning, match="of our own"), envs.gymnasium_warnings() as said:
        warnings.warn("of our own", stacklevel=1)
    assert said == []


# --- arguments


def test_arguments_reach_the_environment():
    assert envs.make_env("Shapes-v0", env_args={"grey": 7}).reset(0)[0, 0].tolist() == [7, 7, 7]


def test_arguments_are_written_with_sorted_names():
    assert envs.check_arguments({"b": 1, "a": [True, None]}) == '{"a": [true, null], "b": 1}'


@pytest.mark.parametrize("name", ["render_mode", "max_episode_steps", "disable_env_checker", "renderer", "id"])
def test_arguments_that_are_set_by_other_flags_are_refused(name: str):
    with pytest.raises(ValueError, match=f"env_args holds {name}, which is no argument of the environment; "):
        envs.check_arguments({name: None})


@pytest.mark.parametrize(
    "wrong",
    [{"a": float("nan")}, {"a": float("inf")}, {"a": {1}}, {"a": b"b"}, {1: 2}, {"a": {1: 2}}, {"a": (1, 2)}, 5],
    ids=str,
)
def test_arguments_that_json_cannot_represent_are_refused(wrong: Any):
    with pytest.raises(ValueError, match=r"^env_args is .*; give names with values"):
        envs.check_arguments(wrong)


def test_arguments_nested_too_deeply_are_refused():
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match=r"^env_args is .*; give names with values"):
        envs.check_arguments({"a": deep})


def test_arguments_too_long_for_an_attribute_are_refused():
    with pytest.raises(ValueError, match="env_args is 20,009 characters of JSON; give 16,384 at most"):
        envs.check_arguments({"a": "x" * 20_000})


def test_an_unknown_argument_is_refused_with_the_names_of_the_known_ones():
    said = refusal(env_id="Shapes-v0", env_args={"gray": 1})
    assert said == "env_args holds gray; Shapes-v0 takes filled, grey; did you mean grey?"


def test_the_error_for_random_start_names_our_environment():
    said = refusal(env_id="CarRacing-v3", env_args={"random_start": True})
    takes = "continuous, domain_randomize, lap_complete_percent, verbose"
    assert (
        said == f"env_args holds random_start; CarRacing-v3 takes {takes}; --env world_models/CarRacing-v3 takes it too"
    )


@pytest.mark.parametrize("renderer", ["auto", "gymnasium"])
def test_car_racing_takes_the_same_arguments_with_each_renderer(renderer: str):
    assert "CarRacing-v3 takes continuous" in refusal(
        env_id="CarRacing-v3", env_args={"random_start": True}, renderer=renderer
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"filled": "false"}, "env_args.filled is 'false'; Shapes-v0 wants true or false"),
        ({"filled": 0}, "env_args.filled is 0; Shapes-v0 wants true or false"),
        ({"grey": "5"}, "env_args.grey is '5'; Shapes-v0 wants a number"),
        ({"grey": True}, "env_args.grey is True; Shapes-v0 wants a number"),
    ],
)
def test_a_value_of_another_kind_than_the_default_is_refused(value: dict[str, Any], said: str):
    assert refusal(env_id="Shapes-v0", env_args=value) == said


def test_an_error_of_an_environment_while_it_is_made_becomes_one_line():
    said = refusal(env_id="Shapes-v0", env_args={"grey": 256})
    assert said.startswith(
        "env 'Shapes-v0' cannot be made with env_args {\"grey\": 256}: LookupError: no such grey (" + __file__
    )


def test_an_environment_that_takes_any_argument_refuses_an_unknown_one_itself():
    said = refusal(env_id="AnyShapes-v0", env_args={"gray": 1})
    assert "unexpected keyword argument 'gray'" in said and f"({__file__}, line " in said


# --- the crop


def test_an_id_that_only_contains_car_racing_is_not_cropped():
    assert envs.make_env("NotCarRacing-v0").preprocess.crop is None


# --- no window

CLEAN = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "PYTHONPATH": str(Path(envs.__file__).parents[2])}


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_no_library_prints_anything_on_a_machine_without_a_screen(tmp_path: Path, executor: str):
    asked = f"--env CartPole-v1 --policy random --num_episodes 1 --max_steps 2 --executor {executor} --num_workers 1"
    command = [sys.executable, "-m", "world_models.collect", "--out", str(tmp_path / "data"), *asked.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=CLEAN, timeout=120)
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line and not line.startswith("collect:")]
    assert (done.returncode, lines) == (0, [])


def test_video_drivers_that_the_user_chose_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.delenv("SDL_AUDIODRIVER", raising=False)
    with envs.off_screen():
        assert [os.environ[name] for name in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER")] == ["x11", "dummy"]
    assert os.environ["SDL_VIDEODRIVER"] == "x11" and "SDL_AUDIODRIVER" not in os.environ


def test_after_a_collection_other_code_can_open_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from world_models import collect

    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    asked = "--env CartPole-v1 --policy random --num_episodes 1 --max_steps 1 --executor serial"
    collect.main(["--out", str(tmp_path / "data"), *asked.split()])
    assert "SDL_VIDEODRIVER" not in os.environ


def test_arguments_are_written_as_json_that_can_be_read_back():
    given = {"domain_randomize": True, "nested": {"a": [1, 2.5, "text", None]}}
    assert json.loads(envs.check_arguments(given)) == given
