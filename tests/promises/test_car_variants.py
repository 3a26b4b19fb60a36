"""CarRacing's variants and subclasses keep telemetry, driver and fast renderer; a start at a random tile."""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import GrayscaleObservation

from world_models import envs
from world_models.envs import car_driver
from world_models.envs.car_dynamics import move_car
from world_models.envs.car_racing import CarRacing, CarTelemetry

FASTEST = "c" if find_spec("world_models.envs._car_canvas") else "pygame"
GAS = np.array([0.1, 0.8, 0], np.float32)


class Kart(car_racing.CarRacing):
    """A subclass with higher rewards and Gymnasium's drawing."""

    def __init__(self, boost: float = 2.0, **options: Any):
        super().__init__(**options)
        self.boost = boost

    def step(self, action: Any):  # pyright: ignore[reportIncompatibleMethodOverride]: its ends are passed on
        observation, reward, *rest = super().step(action)
        return observation, self.boost * float(reward), *rest


class WithoutBar(car_racing.CarRacing):
    """Draws no indicators."""

    def _render_indicators(self, W: int, H: int) -> None:  # noqa: N803
        pass


class OurKart(CarRacing):
    """A subclass of our own class, with other colours."""

    def _init_colors(self) -> None:
        super()._init_colors()
        self.bg_color = np.array([250, 20, 200])


class Cut(gymnasium.ObservationWrapper):
    """Cuts the bar off by itself."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (84, 96, 3), np.uint8)

    def observation(self, observation: Any) -> Any:
        return observation[:84]


KINDS: dict[str, Any] = {
    "Kart-v0": Kart,
    "WithoutBar-v0": WithoutBar,
    "OurKart-v0": OurKart,
    "Grey-v0": lambda **options: GrayscaleObservation(car_racing.CarRacing(**options)),
    "Cut-v0": lambda **options: Cut(car_racing.CarRacing(**options)),
}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for name, kind in KINDS.items():
        gymnasium.register(name, kind)
    yield
    for name in KINDS:
        del gymnasium.registry[name]


def drive(env: envs.FrameEnv, actions: Any) -> list[Any]:
    """All that is stored of an episode, and its telemetry."""
    steps = [[env.reset(5).tobytes()], *([*env.step(action)] for action in actions)]
    env.close()
    return [[part.tobytes() if isinstance(part, np.ndarray) else part for part in step] for step in steps]


# --- classes made of CarRacing, and wrappers around it


@pytest.mark.parametrize("env_id", ["Kart-v0", "OurKart-v0", "Grey-v0", "Cut-v0"])
def test_subclasses_of_car_racing_use_a_fast_renderer(env_id: str):
    assert envs.make_env(env_id).simulator.renderer == FASTEST


@pytest.mark.parametrize("env_id", KINDS)
def test_subclasses_of_car_racing_have_its_telemetry(env_id: str):
    assert envs.make_env(env_id).telemetry_names == CarTelemetry.NAMES


@pytest.mark.parametrize("env_id", ["Kart-v0", "OurKart-v0", "Grey-v0"])
def test_a_fast_renderer_does_not_change_the_stored_data(env_id: str):
    fast, plain = (envs.make_env(env_id, renderer=name) for name in ("auto", "gymnasium"))
    assert (fast.simulator.renderer, plain.simulator.renderer) == (FASTEST, "gymnasium")
    assert drive(fast, [GAS] * 6) == drive(plain, [GAS] * 6)


def test_frames_of_a_subclass_of_car_racing_are_checked():
    env = envs.make_env("Kart-v0")
    env.simulator.check_next_frame()
    env.reset(0)
    env.close()
    assert env.simulator.num_checked == 1


def test_a_subclass_with_its_own_drawing_draws_itself_and_a_note_says_so():
    env = envs.make_env("WithoutBar-v0")
    assert env.simulator.renderer == "gymnasium"
    assert "drew" in env.simulator.renderer_note and "test_car_variants.WithoutBar" in env.simulator.renderer_note
    assert "report" not in env.simulator.renderer_note


def test_a_named_renderer_is_refused_for_a_subclass_with_its_own_drawing():
    with pytest.raises(
        ValueError, match=r"renderer pygame cannot be used: .* unlike those of .*WithoutBar; choose auto"
    ):
        envs.make_env("WithoutBar-v0", renderer="pygame")


@pytest.mark.parametrize(
    ("env_id", "crop"),
    [("Kart-v0", (0, 84)), ("OurKart-v0", (0, 84)), ("Grey-v0", (0, 84)), ("Cut-v0", None), ("WithoutBar-v0", None)],
)
def test_the_indicator_bar_is_cut_off_if_there_is_one(env_id: str, crop: tuple[int, int] | None):
    assert envs.make_env(env_id).preprocess.crop == crop


def test_the_trial_of_a_renderer_does_not_change_the_environment():
    env: Any = envs.make_env("Kart-v0").env.unwrapped
    assert (
        env.car is None and isinstance(env, Kart) and (type(env).__name__, type(env).__module__) == ("Kart", __name__)
    )


def test_the_driver_drives_a_subclass_of_car_racing():
    env = envs.make_env("Kart-v0")
    frame = env.reset(0)
    policy = car_driver.Driver(env, 0)
    assert env.step(np.asarray(policy(frame)))[1] > 0


# --- variants


@pytest.mark.parametrize("renderer", ["auto", "pygame"])
@pytest.mark.parametrize("env_args", [{"domain_randomize": True}, {"continuous": False}, {"lap_complete_percent": 0.5}])
def test_a_variant_equals_gymnasiums_with_a_fast_renderer(env_args: dict[str, Any], renderer: str):
    fast, plain = (envs.make_env("CarRacing-v3", "auto", name, env_args) for name in (renderer, "gymnasium"))
    assert fast.simulator.renderer != "gymnasium" and fast.telemetry_names == CarTelemetry.NAMES
    actions = [GAS if fast.action_space.shape else np.array([3], np.float32)] * 4
    assert drive(fast, actions) == drive(plain, actions)


def test_the_colours_of_a_seed_are_always_the_same():
    first, again, other = (envs.make_env("CarRacing-v3", env_args={"domain_randomize": True}) for _ in range(3))
    other.reset(1)
    frame = first.reset(0)
    np.testing.assert_array_equal(again.reset(0), frame)
    np.testing.assert_array_equal(other.reset(0), frame)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_driver_stays_on_the_road_with_discrete_actions(seed: int):
    env = envs.make_env("CarRacing-v3", env_args={"continuous": False})
    frame, driver = env.reset(seed), car_driver.Driver(env, seed)
    earned = sum(env.step(envs.to_columns(env.action_space, driver(frame)))[1] for _ in range(120))
    env.close()
    assert earned > 20  # random actions earn a negative return


# --- a start at a random tile


def start(seed: int, **options: Any) -> Any:
    env = CarRacing(random_start=True, **options)
    env.reset(seed=seed)
    return env


def place(env: Any) -> int:
    """Index of the tile at whose end the car stands."""
    x, y = env.car.hull.position
    return int(np.argmin([math.hypot(x - there[2], y - there[3]) for there in env.track]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_random_start_does_not_change_the_track_of_a_seed(seed: int):
    plain = CarRacing()
    plain.reset(seed=seed)
    assert start(seed).track == plain.track


def test_a_random_start_does_not_change_the_tracks_of_later_episodes():
    anywhere, plain = start(3), CarRacing()
    plain.reset(seed=3)
    for env in (anywhere, plain):
        env.reset()
    assert anywhere.track == plain.track


def test_random_starts_are_spread_over_the_track():
    places = [place(env) / len(env.track) for env in map(start, range(12))]
    assert len(set(places)) == 12 and min(places) < 0.25 and max(places) > 0.75


def test_a_seed_always_starts_at_the_same_tile():
    first, again = start(4), start(9)
    observation, _ = again.reset(seed=4)
    assert place(again) == place(first)
    np.testing.assert_array_equal(observation, first.state)


def test_the_next_episode_starts_elsewhere():
    env = start(4)
    before = place(env) / len(env.track)
    env.reset()
    assert abs(place(env) / len(env.track) - before) > 0.01


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_car_stands_on_the_road_along_the_track_and_at_rest(seed: int):
    env = start(seed)
    state = dict(zip(CarTelemetry.NAMES, CarTelemetry(env)().tolist(), strict=True))
    moved = ("center_distance_m", "relative_heading_rad", "velocity_along_m_per_s", "yaw_rate_rad_per_s")
    assert [state[name] for name in (*moved, "steering_angle_rad")] == pytest.approx([0] * 5, abs=1e-3)
    assert state["wheels_on_road_share"] == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_the_tiles_under_the_car_count_as_visited_as_at_gymnasiums_start(seed: int):
    env = start(seed)
    assert sorted(tile.idx for tile in env.road if tile.road_visited) == [0, 1]
    assert env.tile_visited_count == 2
    plain = car_racing.CarRacing()
    plain.reset(seed=seed)
    assert sorted(tile.idx for tile in plain.road if tile.road_visited) == [0, 1]  # type: ignore[union-attr]
    nothing = np.zeros(3, np.float32)
    assert env.step(nothing)[1] == pytest.approx(plain.step(nothing)[1], abs=1e-9)


def test_a_lap_is_complete_where_it_began():
    env = start(2)
    (first,) = [tile for tile in env.road if tile.idx == 0]
    index = env.road.index(first)
    assert index == place(env)
    env.tile_visited_count, first.road_visited = len(env.track) - 1, False
    heading, x, y = env.track[index - 4][1:4]
    move_car(env.car, x, y, heading)  # as if the car had returned
    ends = [env.step(np.array([0, 1, 0], np.float32)) for _ in range(60)]
    assert any(terminated and info["lap_finished"] for _, _, terminated, _, info in ends)


@pytest.mark.parametrize("renderer", ["c", "pygame"] if FASTEST == "c" else ["pygame"])
def test_all_renderers_give_the_same_frames_after_a_random_start(renderer: str):
    fast, plain = start(6, renderer=renderer), start(6, renderer="gymnasium")
    np.testing.assert_array_equal(fast.state, plain.state)
    for _ in range(3):
        np.testing.assert_array_equal(fast.step(GAS)[0], plain.step(GAS)[0])


def test_frames_after_a_random_start_are_checked():
    env = envs.make_env(envs.FAST_CAR_RACING, env_args={"random_start": True})
    env.simulator.check_next_frame()
    env.reset(0)
    assert env.simulator.num_checked == 1


def test_gymnasium_make_accepts_random_start():
    env = gymnasium.make("world_models/CarRacing-v3", random_start=True)
    observation, _ = env.reset(seed=6)
    np.testing.assert_array_equal(observation, start(6).state)


@pytest.mark.filterwarnings("ignore:.*Box action space.*:UserWarning", "ignore:.*render.*:UserWarning")
def test_an_environment_with_a_random_start_passes_gymnasiums_checker():
    check_env(CarRacing(random_start=True), skip_render_check=True)
