"""The first frames are described and shown before anything is stored."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import registered_envs
from gymnasium import spaces
from PIL import Image

from world_models.collect import command
from world_models.collect.command import CollectConfig, Job
from world_models.collect.trial import FIRST_FRAMES


class Plain(gymnasium.Env):
    """Shows one colour."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space: spaces.Space = spaces.Box(0, 255, (48, 40, 3), np.uint8)
    action_space: spaces.Space = spaces.Discrete(3)
    colour = (200, 100, 50)
    last = 1000

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.now = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.now += 1
        return self.observe(), 0.0, self.now == self.last, False, {}

    def observe(self) -> Any:
        picture = np.empty((48, 40, 3), np.uint8)
        picture[:] = self.colour
        return picture

    def render(self) -> Any:
        return np.full((60, 80, 3), 77, np.uint8)


class Grey(Plain):
    observation_space = spaces.Box(0, 255, (48, 40, 1), np.uint8)

    def observe(self) -> Any:
        return super().observe()[:, :, :1]


class Grid(Plain):
    """Symbols of 24x24 cells, in a space that promises colours."""

    observation_space = spaces.Box(0, 255, (24, 24, 3), np.uint8)

    def observe(self) -> Any:
        return np.full((24, 24, 3), min(10, self.now), np.uint8)


class FadingIn(Plain):
    def observe(self) -> Any:
        return np.full((48, 40, 3), 4 * self.now, np.uint8)


class Black(Plain):
    colour = (0, 0, 0)


class Vector(Plain):
    observation_space = spaces.Box(-1.0, 1.0, (4,))

    def observe(self) -> Any:
        return np.zeros(4, np.float32)


class Brief(Plain):
    last = 3


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    with registered_envs(Plain, Grey, Grid, FadingIn, Black, Vector, Brief):
        yield


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def prepare(out: Path) -> Callable[..., Job]:
    def prepared(env: str = "Plain", **settings: Any) -> Job:
        usual = {"num_episodes": 2, "max_steps": 20, "policy": "random", "executor": "serial"}
        job = command.prepare(
            CollectConfig(str(out), **{**usual, "env": env if "-" in env else f"{env}-v0", **settings})
        )
        assert isinstance(job, Job)
        return job

    return prepared


# --- the line


@pytest.mark.parametrize(
    ("env", "settings", "line"),
    [
        ("Plain", {}, "frames: observations 48x40x3 -> 64x64"),
        ("Plain", {"crop": "4:40"}, "frames: observations 48x40x3, rows 4:40 -> 64x64"),
        ("Grey", {}, "frames: observations 48x40x1 grey -> 64x64"),
        ("Vector", {}, "frames: render(), 60x80x3 -> 64x64 (observations are 4 numbers)"),
        ("Vector", {"crop": "0:50"}, "frames: render(), 60x80x3, rows 0:50 -> 64x64 (observations are 4 numbers)"),
    ],
)
def test_a_line_says_how_observations_become_frames(
    prepare: Callable[..., Job],
    out: Path,
    env: str,
    settings: dict[str, Any],
    line: str,
    capsys: pytest.CaptureFixture[str],
):
    command.collect(prepare(env, **settings))
    said = f"{line}; the first ones are shown in {out / FIRST_FRAMES}"
    assert capsys.readouterr().out.splitlines()[0] == said


def test_the_line_of_car_racing_names_the_rows_that_are_kept(prepare: Callable[..., Job]):
    job = prepare("CarRacing-v3")
    assert job.note.splitlines()[-1] == "frames: observations 96x96x3, rows 0:84 -> 64x64"


def test_no_line_about_frames_is_printed_if_all_shards_exist(
    prepare: Callable[..., Job], capsys: pytest.CaptureFixture[str]
):
    command.collect(prepare())
    capsys.readouterr()
    command.collect(prepare())
    assert "frames:" not in capsys.readouterr().out


# --- the picture


def test_the_first_frames_are_shown_before_any_is_stored(
    prepare: Callable[..., Job], out: Path, monkeypatch: pytest.MonkeyPatch
):
    def crash(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "record_shard", crash)
    with pytest.raises(KeyboardInterrupt):
        command.collect(prepare())
    assert [path.name for path in out.iterdir()] == [FIRST_FRAMES]


def test_the_picture_shows_the_observation_and_eight_frames(prepare: Callable[..., Job], out: Path):
    command.collect(prepare())
    drawn = np.asarray(Image.open(out / FIRST_FRAMES))
    coloured = (drawn == Plain.colour).all(axis=2)
    assert coloured.sum() == 107 * 128 + 8 * 128 * 128  # the observation in its proportions, frames twice as large
    assert coloured[2:130, 2:109].all()


def test_the_picture_has_a_row_for_each_policy(prepare: Callable[..., Job]):
    mixture = {"policy": "mixture", "mixture": {"random": 1.0, "brownian": 1.0}}
    job = prepare("CarRacing-v3", **mixture)
    assert job.first_frames.shape[0] == 2 * (128 + 2) + 2


@pytest.mark.parametrize(("env", "settings", "frames"), [("Brief", {}, 4), ("Plain", {"max_steps": 2}, 3)])
def test_the_picture_of_a_short_episode_has_only_its_frames(
    prepare: Callable[..., Job], env: str, settings: dict[str, Any], frames: int
):
    drawn = prepare(env, **settings).first_frames
    assert (drawn == Plain.colour).all(axis=2).sum() == 107 * 128 + frames * 128 * 128


def test_grey_observations_are_shown(prepare: Callable[..., Job]):
    drawn = prepare("Grey").first_frames
    assert (drawn[2:130, 2:109] == 200).all() and (drawn[2:130, -130:-2] == 200).all()


def test_an_existing_picture_is_kept(prepare: Callable[..., Job], out: Path):
    command.collect(prepare())
    (out / FIRST_FRAMES).write_bytes(b"somebody's")
    command.collect(prepare(num_episodes=20))
    assert (out / FIRST_FRAMES).read_bytes() == b"somebody's"


# --- symbols


def test_observations_that_are_a_grid_of_symbols_are_refused(prepare: Callable[..., Job]):
    with pytest.raises(ValueError, match="Grid-v0 observes 24x24x3 with no value above 7 in its first 8 pictures: sym"):
        prepare("Grid")


@pytest.mark.parametrize("env", ["Black", "FadingIn"])
def test_dark_first_frames_do_not_count_as_a_grid_of_symbols(prepare: Callable[..., Job], env: str):
    assert prepare(env).note == "frames: observations 48x40x3 -> 64x64"
