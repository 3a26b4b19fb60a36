"""Observations that look like pictures but are not are never stored as RGB: `render()` is used, or they are refused."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    FilterObservation,
    FrameStackObservation,
    GrayscaleObservation,
    ResizeObservation,
    TransformObservation,
)

from world_models import envs
from world_models.envs import PictureError, observations, preprocess

RGB = spaces.Box(0, 255, (48, 40, 3), np.uint8)
DRAWN = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)


class Shows(gymnasium.Env):
    """Gives observations of its space, or those that a test sets; it can be rendered."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = spaces.Discrete(2)
    shown: list[Any]

    def __init__(self, space: spaces.Space, render_mode: str | None = None):
        self.observation_space, self.render_mode = space, render_mode
        self.drawn: list[Any] = [DRAWN]

    def observe(self) -> Any:
        return self.shown.pop(0) if getattr(self, "shown", None) else self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.observation_space.seed(seed)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.observe(), 0.0, False, False, {}

    def render(self) -> Any:
        return self.drawn.pop(0) if len(self.drawn) > 1 else self.drawn[0]


@pytest.fixture
def make() -> Iterator[Callable[..., envs.FrameEnv]]:
    """Makes an environment with an observation space, with or without wrappers."""

    def made(space: spaces.Space, wrap: Callable[[Any], Any] = lambda env: env, draws: bool = True) -> envs.FrameEnv:
        def create(render_mode: str | None = None) -> Any:
            env = Shows(space, render_mode)
            env.metadata = Shows.metadata if draws else {"render_modes": []}
            return wrap(env)

        entry_point: Any = create
        gymnasium.register("Shows-v0", entry_point)
        return envs.make_env("Shows-v0")

    yield made
    gymnasium.registry.pop("Shows-v0", None)


def box(*shape: int, high: float = 255, dtype: Any = np.uint8) -> spaces.Box:
    return spaces.Box(0, high, shape, dtype)


def stacked_last(env: gymnasium.Env) -> gymnasium.Env:
    """Three stacked grey frames in the place of the channels of one."""
    stack: Any = FrameStackObservation(GrayscaleObservation(env), 3)
    return TransformObservation(stack, lambda frames: np.moveaxis(frames, 0, -1), RGB)


def joined(env: gymnasium.Env) -> gymnasium.Env:
    """The same without a wrapper that has a telling name."""
    grey: Any = GrayscaleObservation(env)
    return TransformObservation(grey, lambda frame: np.stack([frame] * 3, axis=2), RGB)


# --- pictures


@pytest.mark.parametrize("space", [RGB, box(48, 40), box(48, 40, 1), box(16, 16, 3)], ids=str)
def test_rgb_and_grey_pictures_are_accepted(make: Callable[..., envs.FrameEnv], space: spaces.Box):
    env = make(space)
    frame = env.reset(3)
    assert not env.from_render and env.picture is not None
    np.testing.assert_array_equal(frame, preprocess(env.picture, env.preprocess))


@pytest.mark.parametrize(
    "wrap",
    [
        GrayscaleObservation,
        lambda env: GrayscaleObservation(env, keep_dim=True),
        lambda env: ResizeObservation(env, (32, 32)),
        lambda env: ResizeObservation(GrayscaleObservation(env), (32, 32)),
    ],
)
def test_pictures_of_wrappers_are_accepted(make: Callable[..., envs.FrameEnv], wrap: Callable[[Any], Any]):
    env = make(RGB, wrap)
    env.reset(0)
    assert not env.from_render and env.picture is not None and env.picture.shape == env.env.observation_space.shape


# --- pictures in dicts

HEALTH = spaces.Box(0, 100, (1,), np.float32)


@pytest.mark.parametrize(
    ("space", "name"),
    [
        (spaces.Dict(health=HEALTH, screen=RGB), "screen"),
        (spaces.Dict(depth=box(48, 40, 1), screen=RGB), "screen"),
        (spaces.Dict(depth=box(48, 40), symbols=box(7, 7, 3)), "depth"),
    ],
    ids=str,
)
def test_the_only_rgb_or_else_the_only_grey_picture_of_a_dict_is_the_frame(
    make: Callable[..., envs.FrameEnv], space: spaces.Dict, name: str
):
    env = make(space)
    shown = [space.sample(), space.sample()]
    env.env.unwrapped.shown = list(shown)  # type: ignore[attr-defined]
    frames = env.reset(0), env.step(np.zeros(1, np.float32))[0]
    np.testing.assert_array_equal(frames, [preprocess(one[name], env.preprocess) for one in shown])
    assert env.picture_name == name and not env.from_render


@pytest.mark.parametrize("draws", [False, True])
def test_a_dict_with_several_pictures_is_refused_by_their_names(make: Callable[..., envs.FrameEnv], draws: bool):
    several = spaces.Dict(left=RGB, right=RGB, depth=box(48, 40, 1))
    with pytest.raises(ValueError, match="Shows-v0 observes 2 pictures: left, right; choose an env that observes one"):
        make(several, draws=draws)


def test_a_refused_environment_is_closed(make: Callable[..., envs.FrameEnv]):
    closed: list[bool] = []

    class Closes(gymnasium.Wrapper):
        def close(self) -> None:
            closed.append(True)
            super().close()

    with pytest.raises(ValueError, match="observes 2 pictures"):
        make(spaces.Dict(left=RGB, right=RGB), Closes)
    assert closed == [True]


def test_a_wrapper_may_leave_one_of_several_pictures(make: Callable[..., envs.FrameEnv]):
    env = make(spaces.Dict(left=RGB, right=RGB), lambda env: FilterObservation(env, ["right"]))
    assert env.picture_name == "right"


def test_stacked_dicts_hold_no_picture(make: Callable[..., envs.FrameEnv]):
    env = make(spaces.Dict(screen=RGB, health=HEALTH), lambda env: FrameStackObservation(env, 4))
    assert env.from_render and env.picture_name is None


@pytest.mark.parametrize("shown", [{"health": np.zeros(1)}, np.zeros((48, 40, 3), np.uint8)], ids=["other", "no dict"])
def test_an_observation_without_the_promised_picture_is_refused(make: Callable[..., envs.FrameEnv], shown: Any):
    env = make(spaces.Dict(screen=RGB, health=HEALTH))
    env.env.unwrapped.shown = [shown]  # type: ignore[attr-defined]
    with pytest.raises(PictureError, match="Shows-v0: 'screen' of the observation gave None, not uint8 48x40x3"):
        env.reset(0)


def test_a_crop_beyond_the_picture_of_a_dict_is_refused(make: Callable[..., envs.FrameEnv]):
    make(spaces.Dict(screen=RGB))
    with pytest.raises(ValueError, match="crop 0:49 keeps rows to 49, Shows-v0 has 48"):
        envs.make_env("Shows-v0", crop="0:49")


# --- what is none

NO_PICTURES = [
    (spaces.Box(-1.0, 1.0, (4,)), "4 numbers"),
    (spaces.Discrete(500), r"Discrete\(500\)"),
    (spaces.Dict(image=box(7, 7, 3), mission=spaces.Discrete(2)), "a Dict of image, mission"),
    (spaces.MultiBinary([64, 64]), r"MultiBinary\(\(64, 64\)\)"),
    (box(128), "128 numbers"),
    (box(4, 84, 84), "uint8 4x84x84: channels first or stacked frames"),
    (box(3, 84, 84), "uint8 3x84x84: channels first or stacked frames"),
    (box(84, 84, 4), "uint8 84x84x4: RGBA or stacked frames"),
    (box(4, 96, 96, 3), "uint8 4x96x96x3: stacked frames"),
    (box(84, 84, 3, high=1, dtype=np.float32), "float32 84x84x3, not uint8"),
    (box(84, 84, 3, dtype=np.float32), "float32 84x84x3, not uint8"),
    (box(84, 84, 3, dtype=np.int64), "int64 84x84x3, not uint8"),
    (box(7, 7, 3), "uint8 7x7x3: too small for pictures, so they are symbols"),
    (box(4, 128), "uint8 4x128: too small for pictures, so they are symbols"),
    (box(32, 32, 3, high=10), "uint8 32x32x3 with values to 10, not 255: symbols or parts of colours"),
]


@pytest.mark.parametrize(("space", "found"), NO_PICTURES, ids=str)
def test_an_env_whose_observations_are_no_pictures_is_rendered(
    make: Callable[..., envs.FrameEnv], space: spaces.Space, found: str
):
    env = make(space)
    np.testing.assert_array_equal(env.reset(0), preprocess(DRAWN, env.preprocess))
    assert env.from_render


@pytest.mark.parametrize(("space", "found"), NO_PICTURES, ids=str)
def test_an_env_without_pictures_that_cannot_be_rendered_is_refused_by_name(
    make: Callable[..., envs.FrameEnv], space: spaces.Space, found: str
):
    with pytest.raises(ValueError, match=f"Shows-v0 has neither .*its observations are .*{found}; choose an env that"):
        make(space, draws=False)


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (lambda env: FrameStackObservation(env, 4), "uint8 4x48x40x3: stacked frames"),
        (lambda env: FrameStackObservation(GrayscaleObservation(env), 4), "channels first or stacked frames"),
        (stacked_last, "uint8 48x40x3, stacked by FrameStackObservation"),
        (joined, "uint8 48x40x3, which TransformObservation made of grey ones: maybe stacked frames"),
    ],
)
def test_stacked_frames_do_not_count_as_a_picture(
    make: Callable[..., envs.FrameEnv], wrap: Callable[[Any], Any], found: str
):
    assert found in str(observations.why_no_pictures(make(RGB, wrap).env))


# --- pictures that are not those that were promised

LIES = [
    (np.zeros((60, 40, 3), np.uint8), "the observation gave 60x40x3, not 48x40x3"),
    (np.zeros((48, 40, 3), np.float32), "the observation gave float32 48x40x3, not uint8 48x40x3"),
    (np.zeros((48, 40, 3), np.uint8).tolist(), "the observation gave a list, not uint8 48x40x3"),
    (None, "the observation gave None, not uint8 48x40x3"),
]


@pytest.mark.parametrize(("shown", "said"), LIES, ids=[said for _, said in LIES])
@pytest.mark.parametrize("good", [0, 2])
def test_an_env_whose_observations_do_not_fit_its_space_is_refused_at_once(
    make: Callable[..., envs.FrameEnv], shown: Any, said: str, good: int
):
    env = make(RGB)
    env.env.unwrapped.shown = [RGB.sample()] * good + [shown]  # type: ignore[attr-defined]
    with pytest.raises(PictureError, match=f"Shows-v0: {said}; fix the environment"):
        env.reset(0)
        for _ in range(good):
            env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (None, "gave None, not uint8 height x width x 3"),
        ([DRAWN], "gave a list, not uint8"),
        (DRAWN / 255, "gave float64 60x80x3, not uint8"),
        (np.zeros((60, 80, 4), np.uint8), "gave 60x80x4, not height x width x 3"),
        (np.zeros((0, 80, 3), np.uint8), "gave 0x80x3, not height x width x 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_render_that_gives_no_picture_is_refused(make: Callable[..., envs.FrameEnv], drawn: Any, said: str):
    env = make(spaces.Discrete(2))
    env.env.unwrapped.drawn = [drawn]  # type: ignore[attr-defined]
    with pytest.raises(PictureError, match=rf"Shows-v0: render\(\) {said}"):
        env.reset(0)


def test_a_rendered_picture_may_not_change_its_size_within_an_episode(make: Callable[..., envs.FrameEnv]):
    env = make(spaces.Discrete(2))
    env.env.unwrapped.drawn = [DRAWN, DRAWN[:50]]  # type: ignore[attr-defined]
    env.reset(0)
    with pytest.raises(PictureError, match=r"render\(\) gave 50x80x3, not 60x80x3"):
        env.step(np.zeros(1, np.float32))


def test_another_episode_may_be_rendered_in_another_size(make: Callable[..., envs.FrameEnv]):
    env = make(spaces.Discrete(2))
    env.env.unwrapped.drawn = [DRAWN, DRAWN[:50]]  # type: ignore[attr-defined]
    env.reset(0)
    np.testing.assert_array_equal(env.reset(1), preprocess(DRAWN[:50], env.preprocess))
