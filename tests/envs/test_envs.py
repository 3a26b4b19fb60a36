"""Any environment gives 64x64x3 frames, flat action columns and named telemetry, or is refused in one line."""

import json
from collections.abc import Iterator
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import world_models
from world_models import envs
from world_models.envs.preprocessing import Preprocess, parse_crop, preprocess

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
SPEC = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}


class Vectors(gymnasium.Env):
    """Observes two numbers, and can draw itself only where `render_modes` says so."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return np.zeros(2, np.float32), 0.0, False, False, {}


class Pictures(Vectors):
    """Observes a picture of 40 rows."""

    observation_space = spaces.Box(0, 255, (40, 30, 3), np.uint8)
    taken: Any = None
    closed = False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        return PICTURE[:40, :30], {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        self.taken = action
        return PICTURE[40:80, :30], np.float64(0.5), np.bool_(False), np.bool_(False), {}

    def close(self) -> None:
        self.closed = True


class Pairs(Pictures):
    """Takes actions that are no vector."""

    action_space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))


class Precise(Pictures):
    """Takes actions of 64 bits."""

    action_space = spaces.Box(-1.0, 1.0, (2, 2), np.float64)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    kinds = {"Vectors-v0": Vectors, "Pictures-v0": Pictures, "Pairs-v0": Pairs, "Precise-v0": Precise}
    for name, kind in kinds.items():
        gymnasium.register(name, kind, max_episode_steps=3)
    yield
    for name in kinds:
        del gymnasium.registry[name]


# --- preprocessing


@pytest.mark.parametrize("crop", [None, (0, 84), (10, 51), (95, 96)])
def test_a_frame_is_the_kept_rows_resized_by_area(crop: tuple[int, int] | None):
    kept = PICTURE if crop is None else PICTURE[crop[0] : crop[1]]
    expected = cv2.resize(kept, (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(preprocess(PICTURE, Preprocess(crop)), expected)


def test_the_indicator_bar_of_car_racing_is_cut_off():
    painted = PICTURE.copy()
    painted[84:] = 0
    np.testing.assert_array_equal(preprocess(painted, SPEC), preprocess(PICTURE, SPEC))


def test_a_spec_read_from_json_gives_the_same_frame():
    how = Preprocess((3, 70))
    read_back = json.loads(json.dumps(envs.preprocess_spec(how)))
    np.testing.assert_array_equal(preprocess(PICTURE, read_back), preprocess(PICTURE, how))


def test_a_spec_read_from_json_is_the_preprocess_it_was_written_from():
    assert Preprocess.from_spec(json.loads(json.dumps(envs.preprocess_spec(Preprocess((3, 70)))))) == Preprocess(
        (3, 70)
    )


@pytest.mark.parametrize("channels", [(), (1,)])
def test_a_grey_picture_becomes_three_equal_channels(channels: tuple[int, ...]):
    grey = PICTURE[:, :, 0]
    expected = cv2.resize(grey[:84], (64, 64), interpolation=cv2.INTER_AREA)
    frame = preprocess(grey.reshape(96, 96, *channels), SPEC)
    np.testing.assert_array_equal(frame, np.stack([expected] * 3, axis=2))


def test_preprocess_does_not_change_the_observation():
    before = PICTURE.copy()
    preprocess(PICTURE, SPEC)
    np.testing.assert_array_equal(PICTURE, before)


def test_the_public_preprocess_is_the_one_that_collecting_uses():
    assert world_models.preprocess is envs.preprocess


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"crop": None, "size": 64},
        SPEC | {"crop": 84},
        SPEC | {"crop": [84]},
        SPEC | {"crop": [84, 0]},
        SPEC | {"crop": [-1, 84]},
        SPEC | {"size": 32},
        SPEC | {"size": None},
        SPEC | {"interpolation": "INTER_LINEAR"},
    ],
    ids=str,
)
def test_a_wrong_spec_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"is no preprocess|keeps no row|frames are 64x64"):
        preprocess(PICTURE, wrong)


@pytest.mark.parametrize(
    ("text", "auto", "rows"),
    [
        ("auto", (0, 84), (0, 84)),
        ("auto", None, None),
        ("none", (0, 84), None),
        ("2:90", (0, 84), (2, 90)),
        ("2:90", None, (2, 90)),
    ],
)
def test_crop_is_read(text: str, auto: tuple[int, int] | None, rows: tuple[int, int] | None):
    assert parse_crop(text, auto) == rows


@pytest.mark.parametrize("text", ["", "84", ":84", "0:", "-1:84", "a:b", "0:84:2", "0.5:84", "Auto"])
def test_a_malformed_crop_is_refused(text: str):
    with pytest.raises(ValueError, match="give auto, none, or the rows"):
        parse_crop(text, (0, 84))


# --- environments


def test_car_racing_gives_gymnasiums_observation_preprocessed():
    env, plain = envs.make_env("CarRacing-v3"), gymnasium.make("CarRacing-v3")
    np.testing.assert_array_equal(env.reset(3), preprocess(plain.reset(seed=3)[0], SPEC))


def test_the_frame_after_a_step_is_the_observation_that_the_step_returned():
    env = envs.make_env("Pictures-v0")
    env.reset(0)
    frame, *_ = env.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(frame, preprocess(PICTURE[40:80, :30], Preprocess()))


def test_an_env_without_images_gives_its_rendered_picture():
    env = envs.make_env("CartPole-v1")
    frame = env.reset(0)
    drawn: Any = env.env.render()
    np.testing.assert_array_equal(frame, preprocess(drawn, Preprocess()))


def test_a_step_returns_plain_numbers_and_flags():
    env = envs.make_env("Pictures-v0")
    env.reset(0)
    _, *rest = env.step(np.zeros(1, np.float32))
    assert [(type(value), value) for value in rest] == [(float, 0.5), (bool, False), (bool, False)]


def test_the_time_limit_of_the_registration_is_not_used():
    env = envs.make_env("Pictures-v0")  # registered with a limit of 3
    env.reset(0)
    assert not any(env.step(np.zeros(1, np.float32))[3] for _ in range(10))


def test_an_unknown_simulator_has_no_telemetry():
    env = envs.make_env("Pictures-v0")
    env.reset(0)
    assert (env.telemetry_names, env.telemetry().shape, env.telemetry().dtype) == ((), (0,), np.float32)


def test_telemetry_has_a_name_for_each_value():
    env = envs.make_env("CarRacing-v3")
    env.reset(0)
    assert len(env.telemetry_names) == len(env.telemetry()) > 0


def test_close_closes_the_wrapped_env():
    env = envs.make_env("Pictures-v0")
    env.close()
    assert env.env.unwrapped.closed  # type: ignore[attr-defined]


def test_an_env_without_any_picture_is_refused():
    with pytest.raises(ValueError, match="Vectors-v0 has neither image observations nor render_mode rgb_array"):
        envs.make_env("Vectors-v0")


def test_an_env_with_structured_actions_is_refused():
    with pytest.raises(ValueError, match="only Box, Discrete, MultiDiscrete and MultiBinary"):
        envs.make_env("Pairs-v0")


def test_a_crop_beyond_the_observation_is_refused():
    with pytest.raises(ValueError, match="keeps rows to 41, Pictures-v0 has 40"):
        envs.make_env("Pictures-v0", crop="0:41")


@pytest.mark.parametrize("crop", ["0:401", "500:600"])  # CartPole draws 400 rows
def test_a_crop_beyond_the_drawn_picture_is_refused(crop: str):
    with pytest.raises(ValueError, match="400"):
        envs.make_env("CartPole-v1", crop).reset(0)


def test_a_crop_of_the_whole_observation_is_accepted():
    assert envs.make_env("Pictures-v0", crop="0:40").preprocess == Preprocess((0, 40))


# --- actions

SPACES = [
    (spaces.Discrete(5), 1),
    (spaces.Discrete(3, start=-1), 1),
    (spaces.Box(-1.0, 1.0, (3,)), 3),
    (spaces.Box(-1.0, 1.0, (2, 2)), 4),
    (spaces.Box(-1.0, 1.0, ()), 1),
    (spaces.MultiDiscrete([3, 4]), 2),
    (spaces.MultiBinary(5), 5),
]


@pytest.mark.parametrize(("space", "columns"), SPACES, ids=str)
def test_an_action_takes_as_many_columns_as_it_has_numbers(space: spaces.Space, columns: int):
    assert envs.num_columns(space) == columns


@pytest.mark.parametrize("space", [space for space, _ in SPACES], ids=str)
def test_columns_are_read_back_as_the_same_action(space: spaces.Space):
    space.seed(0)
    for action in (space.sample() for _ in range(10)):
        np.testing.assert_array_equal(envs.from_columns(space, envs.to_columns(space, action)), action)


@pytest.mark.parametrize("space", [space for space, _ in SPACES if space.shape != ()], ids=str)
def test_actions_that_are_read_back_belong_to_the_space(space: spaces.Space):
    space.seed(0)
    assert space.contains(envs.from_columns(space, envs.to_columns(space, space.sample())))


@pytest.mark.parametrize("action", [[0.0, 1.0], 0.0, np.zeros((2, 2))])
def test_an_action_of_the_wrong_size_is_refused(action: Any):
    with pytest.raises(ValueError, match=r"the policy gave an action of \d values, .* takes 3"):
        envs.to_columns(spaces.Box(-1.0, 1.0, (3,)), action)


def test_the_env_takes_exactly_the_float32_values():
    env = envs.make_env("Precise-v0")
    env.reset(0)
    action = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    env.step(action)
    np.testing.assert_array_equal(env.env.unwrapped.taken, action.astype(np.float64).reshape(2, 2))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("space", "described"),
    [
        (spaces.Discrete(3, start=2), {"type": "Discrete", "n": 3, "start": 2}),
        (
            spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32)),
            {"type": "Box", "shape": [2], "low": [-1.0, 0.0], "high": [1.0, None]},
        ),
        (spaces.MultiDiscrete([3, 4]), {"type": "MultiDiscrete", "shape": [2]}),
        (spaces.MultiBinary(5), {"type": "MultiBinary", "shape": [5]}),
    ],
    ids=str,
)
def test_a_space_is_described_as_strict_json(space: spaces.Space, described: dict[str, Any]):
    assert json.loads(json.dumps(envs.describe_space(space), allow_nan=False)) == described
