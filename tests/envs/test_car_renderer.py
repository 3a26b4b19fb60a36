"""The fast renderers draw CarRacing's observation with exactly Gymnasium's pixels, in every state of the car.

Gymnasium is asked live for every frame. WORLD_MODELS_EXACT_FRAMES says on how many frames, about, the C renderer is
compared: 1500 unless it is set, and 100000 is the full proof, a quarter of an hour. The pygame renderer is compared on
a tenth of them. `pytest -s` tells the numbers.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pygame
import pytest
from gymnasium.envs.box2d import car_dynamics, car_racing
from hypothesis import given, settings
from hypothesis import strategies as st

from world_models import envs
from world_models.envs import policies
from world_models.envs.car_racing import CarRacing
from world_models.envs.car_renderer import Renderer
from world_models.envs.renderer_choice import RENDERERS, RendererName, scatter

FRAMES = int(os.environ.get("WORLD_MODELS_EXACT_FRAMES", "1500"))
EXAMPLES = max(FRAMES // 10, 15)  # examples of hypothesis, in addition to those frames
FIELD = car_racing.PLAYFIELD
GAS, COAST, BRAKE = (np.array(action, np.float32) for action in ((0, 1, 0), (0, 0, 0), (0, 0, 1)))
NAMES: list[RendererName] = ["c", "pygame"]


def make_renderer(name: str) -> Renderer:
    try:
        return RENDERERS[name]()
    except ImportError as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=NAMES)
def renderer(request: pytest.FixtureRequest) -> Renderer:
    return make_renderer(request.param)


class Undrawn:
    """Draws nothing, so that a step is fast."""

    name: ClassVar[str] = "undrawn"

    def draw(self, env: car_racing.CarRacing) -> np.ndarray:
        return np.zeros((96, 96, 3), np.uint8)


def make_env(**options: Any) -> CarRacing:
    """CarRacing that is drawn only when the test asks for it."""
    env = CarRacing(renderer="gymnasium", **options)
    env.renderer = Undrawn()
    return env


@pytest.fixture
def env() -> Iterator[CarRacing]:
    """A car on the track of seed 0, after the first zoom, at some speed."""
    made = make_env()
    made.reset(seed=0)
    advance(made, 60)
    yield made
    made.close()


def advance(env: car_racing.CarRacing, steps: int, action: np.ndarray = GAS) -> None:
    for _ in range(steps):
        env.step(action)


def by_gymnasium(env: car_racing.CarRacing) -> np.ndarray:
    return np.asarray(car_racing.CarRacing._render(env, "state_pixels"))


def differing(renderer: Renderer, env: car_racing.CarRacing) -> int:
    """The number of bytes, of 27,648, that differ from Gymnasium's."""
    return int((renderer.draw(env) != by_gymnasium(env)).sum())


def carry(env: car_racing.CarRacing, place: Sequence[float], heading: float, steering: float = 0.0) -> None:
    """Move the whole car to a place."""
    car: Any = env.car
    car.hull.position, car.hull.angle = tuple(place), heading
    for wheel, (right, ahead) in zip(car.wheels, car_dynamics.WHEELPOS, strict=True):
        wheel.position = car.hull.GetWorldPoint((right * car_dynamics.SIZE, ahead * car_dynamics.SIZE))
        wheel.angle = heading + (steering if ahead > 0 else 0)


def scattered(env: CarRacing, seed: int, t: float = 10.0) -> np.random.Generator:
    """Put the car at a random place near a new track. Returns the random numbers for further changes."""
    rng = np.random.default_rng(seed)
    if seed % 100 == 0:
        env.reset(seed=seed)
    scatter(env, rng)
    env.t = t
    return rng


# --- episodes: a scenario plays one, and yields whenever a frame is due

Scenario = Callable[[CarRacing, int], Iterator[None]]


def played_by(policy: str, steps: int = 600) -> Scenario:
    def play(env: CarRacing, seed: int) -> Iterator[None]:
        seen = envs.FrameEnv(env, False, envs.Preprocess())
        frame = seen.reset(seed)
        act = policies.BUILTIN[policy](seen, seed)
        for _ in range(steps):
            yield
            frame, *_ = seen.step(np.asarray(act(frame), np.float32).reshape(-1))

    return play


def spin_at_full_lock(env: CarRacing, seed: int) -> Iterator[None]:
    env.reset(seed=seed)
    for _ in range(400):
        env.step(np.array([(-1) ** seed, 1, 0], np.float32))
        yield


def leave_the_field(env: CarRacing, seed: int) -> Iterator[None]:
    """Full speed across one of the four edges of the field, and long after the end of the episode."""
    env.reset(seed=seed)
    turn, along = seed % 4 * math.pi / 2, np.random.default_rng(seed).uniform(-FIELD, FIELD)
    x, y = FIELD - 60, along
    place = (x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn))
    carry(env, place, turn - math.pi / 2)
    ends = []
    for _ in range(400):
        ends.append(env.step(GAS)[2])
        yield
    assert ends[-1] and not ends[0]


def stand_still(env: CarRacing, seed: int) -> Iterator[None]:
    env.reset(seed=seed)
    for _ in range(200):
        env.step(COAST)
        yield


def brake_to_a_halt(env: CarRacing, seed: int) -> Iterator[None]:
    env.reset(seed=seed)
    for action in [GAS] * 200 + [BRAKE] * 200:
        env.step(action)
        yield


def finish_a_lap(env: CarRacing, seed: int) -> Iterator[None]:
    """Jumps from tile to tile, also after the end of the lap."""
    env.reset(seed=seed)
    lap = env.track[1:] + env.track[:20]
    for _, heading, x, y in lap:
        carry(env, (x, y), heading)
        env.step(COAST)
        yield
    assert env.tile_visited_count == len(env.track)


EPISODES: dict[str, Scenario] = {
    "driver": played_by("driver"),
    "driver, colours at random": played_by("driver"),
    "brownian": played_by("brownian"),
    "random": played_by("random"),
    "five actions": played_by("random"),
    "spin": spin_at_full_lock,
    "off the field": leave_the_field,
    "at rest": stand_still,
    "brake": brake_to_a_halt,
    "lap": finish_a_lap,
}
OPTIONS = {"driver, colours at random": {"domain_randomize": True}, "five actions": {"continuous": False}}

# --- moments: a scenario puts the car into a state that few episodes reach


def head_along_an_axis(env: CarRacing, seed: int) -> None:
    """Headings at and near multiples of 90 degrees, where pygame rounds the camera's angle."""
    rng = scattered(env, seed, t=(0.0, 0.02, 0.3, 0.77, 1.0, 20.0)[seed % 6])
    near = (0.0, 1e-7, -1e-7, 1e-6, -1e-6, 5e-7, 2e-6)[seed % 7]
    car: Any = env.car
    carry(env, car.hull.position, int(rng.integers(-8, 9)) * math.pi / 2 + near)


REWARDS = (-0.4, -0.5, -9.95, -99.5, -100.4, -999.5, -1234.5, 0.5, 899.9, 900.5, 999.5, 1e4, 12345.6, -54321.0, 1e6)


def earn_much_or_little(env: CarRacing, seed: int) -> None:
    rng = scattered(env, seed)
    env.reward = REWARDS[seed % len(REWARDS)] if seed % 2 else rng.normal(0, 10 ** rng.uniform(0, 6))


OMEGAS = (1000.0, -1000.0, 0.0, 1e-4, -1e-4, 9.9e-5, 1.1e-4, -1.1e-4, 100.0, -99.99, 50.0, 700.0)


def reach_the_limits_of_indicators(env: CarRacing, seed: int) -> None:
    rng = scattered(env, seed)
    car: Any = env.car
    carry(env, car.hull.position, car.hull.angle, steering=rng.choice([-0.4, 0.4, 1e-4, -1e-5, rng.normal()]))
    car.hull.angularVelocity = float(rng.choice([-30, 30, 0, 1e-4, -9e-5, rng.uniform(-30, 30)]))
    car.hull.linearVelocity = (float(rng.choice([0, 1e-4, 60, 500])), float(rng.choice([0, -1e-5, -100])))
    for wheel in car.wheels:
        wheel.omega = rng.choice(OMEGAS)


def zoom_in(env: CarRacing, seed: int) -> None:
    scattered(env, seed, t=seed % 60 / 50)


def be_anywhere(env: CarRacing, seed: int) -> None:
    scattered(env, seed)


def be_far_away(env: CarRacing, seed: int) -> None:
    """A place outside the field, so far away that pygame's 16 bits do not hold the coordinates of corners."""
    rng = scattered(env, seed, t=(0.1, 0.5, 10.0, 10.0)[seed % 4])
    direction, away = rng.uniform(0, 2 * math.pi), FIELD * 10 ** rng.uniform(0, (1, 1.5, 3.5)[seed % 3])
    carry(env, (away * math.cos(direction), away * math.sin(direction)), rng.uniform(-4, 4))


def meet_a_road_of_any_shape(env: CarRacing, seed: int) -> None:
    """Very thin quads, crossed quads, and quads larger than the picture. No track has such quads."""
    rng = np.random.default_rng(seed)
    lay_quads(env, rng, seed, 10 ** rng.uniform(-2, 2.5, (60, 1, 1)))


def lay_quads(env: CarRacing, rng: np.random.Generator, seed: int, sizes_m: np.ndarray) -> None:
    env.reset(seed=seed % 10)
    env.t = (10.0, 0.3)[seed % 2]
    car: Any = env.car
    centers = rng.normal(0, 20, (len(sizes_m), 1, 2)) + car.hull.position
    corners, colors = centers + sizes_m * rng.normal(0, 1, (len(sizes_m), 4, 2)), rng.uniform(0, 255, (len(sizes_m), 3))
    corners[::7, 3] = corners[::7, 0]
    env.road_poly = list(zip(corners.tolist(), colors, strict=True))


MOMENTS = [
    head_along_an_axis,
    earn_much_or_little,
    reach_the_limits_of_indicators,
    zoom_in,
    be_anywhere,
    be_far_away,
    meet_a_road_of_any_shape,
]


def share_of_frames(name: str) -> int:
    """The number of compared frames of a scenario."""
    return max(FRAMES // (len(EPISODES) + len(MOMENTS)) // (1 if name == "c" else 10), 5)


def assert_none_differ(renderer: Renderer, env: CarRacing, scenario: str, states: Iterator[None]) -> None:
    found = [differing(renderer, env) for _ in states]
    print(f"{renderer.name}, {scenario}: {len(found)} frames, {sum(found)} differing bytes")
    assert sum(found) == 0


@pytest.mark.parametrize("scenario", EPISODES)
def test_an_episode_is_drawn_as_gymnasium_draws_it(renderer: Renderer, scenario: str):
    env, frames = make_env(**OPTIONS.get(scenario, {})), share_of_frames(renderer.name)
    episodes = (None for seed in itertools.count() for _ in EPISODES[scenario](env, seed))
    stride = max(400 // frames, 1)  # few frames are spread over the episode
    assert_none_differ(renderer, env, scenario, itertools.islice(episodes, 0, frames * stride, stride))


@pytest.mark.slow
@pytest.mark.parametrize("place", MOMENTS, ids=lambda place: place.__name__)
def test_an_unusual_moment_is_drawn_as_gymnasium_draws_it(renderer: Renderer, place: Callable[[CarRacing, int], None]):
    env = make_env(domain_randomize=True)
    moments = (place(env, seed) for seed in range(share_of_frames(renderer.name)))
    assert_none_differ(renderer, env, place.__name__, moments)


@pytest.mark.slow
def test_coordinates_beyond_16_bits_wrap_around_as_in_gymnasium():
    """No track has such corners, so the pygame renderer does not look for them."""
    renderer, env = make_renderer("c"), make_env()
    found = []
    for seed in range(share_of_frames("c") // 2):
        rng = np.random.default_rng(seed)
        sizes_m = 10 ** rng.uniform(1, 5, (40, 4, 1))
        sizes_m[:, 0] = 5
        lay_quads(env, rng, seed, sizes_m)
        found.append(differing(renderer, env))
    assert sum(found) == 0


# --- any state at all


def upto(limit: float) -> st.SearchStrategy[float]:
    return st.floats(-limit, limit)


QUARTERS = st.builds(
    lambda quarter, near: quarter * math.pi / 2 + near,
    st.integers(-1000, 1000),
    st.sampled_from([0.0, 1e-7, -1e-7, 1e-6, -1e-6]) | upto(1e-5),
)
ANGLES = upto(4) | upto(1e4) | QUARTERS
PLACES = st.one_of(  # away from the middle of the field, or from a tile
    *(st.tuples(st.none(), upto(limit), upto(limit)) for limit in (FIELD, 450, 3e4, 1e6)),
    *(st.tuples(st.integers(0, 1000), upto(limit), upto(limit)) for limit in (20, 60)),
)
AWAY = st.just((0.0, 0.0)) | st.tuples(upto(3), upto(3)) | st.tuples(upto(100), upto(100))
WHEELS = st.fixed_dictionaries(
    {
        "away": AWAY,  # away from its place at the hull
        "turn": st.just(0.0) | upto(0.4) | ANGLES,
        "phase": upto(10) | ANGLES,
        "omega": upto(1e-3) | upto(200) | upto(1e4),
    }
)
CARS = st.fixed_dictionaries(
    {
        "place": PLACES,
        "heading": ANGLES,
        "velocity": st.tuples(upto(200), upto(200)),
        "yaw_rate": upto(1e-3) | upto(100),
        "t": st.floats(0, 20) | st.floats(0, 1),
        "reward": upto(1100) | upto(1e6),
        "wheels": st.tuples(WHEELS, WHEELS, WHEELS, WHEELS),
    }
)


def put(env: CarRacing, state: dict[str, Any]) -> None:
    tile, x, y = state["place"]
    from_x, from_y = (0, 0) if tile is None else env.track[tile % len(env.track)][2:]
    carry(env, (from_x + x, from_y + y), state["heading"])
    car: Any = env.car
    car.hull.linearVelocity, car.hull.angularVelocity = state["velocity"], state["yaw_rate"]
    for wheel, own in zip(car.wheels, state["wheels"], strict=True):
        wheel.position += own["away"]
        wheel.angle += own["turn"]
        wheel.phase, wheel.omega = own["phase"], own["omega"]
    env.t, env.reward = state["t"], state["reward"]


@pytest.fixture(scope="module")
def tracks() -> list[CarRacing]:
    """Two tracks in the usual colours, and two in random colours."""
    made = [make_env(domain_randomize=seed > 1) for seed in range(4)]
    for seed, env in enumerate(made):
        env.reset(seed=seed)
    return made


@pytest.mark.slow
def test_any_state_of_the_car_is_drawn_as_gymnasium_draws_it(renderer: Renderer, tracks: list[CarRacing]):
    @settings(max_examples=EXAMPLES if renderer.name == "c" else max(EXAMPLES // 10, 10), deadline=None)
    @given(track=st.integers(0, len(tracks) - 1), state=CARS)
    def draw(track: int, state: dict[str, Any]) -> None:
        put(tracks[track], state)
        assert differing(renderer, tracks[track]) == 0

    draw()


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, 1e30, -1e300])
def test_an_absurdly_large_reward_is_drawn_as_in_gymnasium(renderer: Renderer, env: CarRacing, reward: float):
    env.reward = reward
    assert differing(renderer, env) == 0


# --- what comes before a frame does not matter


class PlainCarRacing(car_racing.CarRacing):
    """Gymnasium's environment without pictures."""

    def _render(self, mode: str) -> np.ndarray:
        return np.zeros((96, 96, 3), np.uint8)


def test_a_lap_looks_the_same_as_in_gymnasiums_environment(renderer: Renderer):
    """Tiles change their colour when the car touches them. Only Gymnasium's renderer draws the other environment."""
    plain, ours = PlainCarRacing(), make_env()
    for env in (plain, ours):
        env.reset(seed=3)
    renderer.draw(ours)
    found = []
    for number, (_, heading, x, y) in enumerate(ours.track):
        for env in (plain, ours):
            carry(env, (x, y), heading)
            env.step(COAST)
        if number % 15 == 0:
            found.append(int((renderer.draw(ours) != by_gymnasium(plain)).sum()))
    assert sum(found) == 0


def test_a_touched_tile_gets_the_colour_of_the_road(renderer: Renderer, env: CarRacing):
    road: Any = env.road
    tile, (_, heading, *place) = road[200], env.track[200]
    renderer.draw(env)
    assert tile.color.tolist() != [102, 102, 102]
    carry(env, place, heading)
    env.step(COAST)
    assert (tile.color.tolist(), differing(renderer, env)) == ([102, 102, 102], 0)


def test_each_of_several_episodes_is_drawn_correctly(renderer: Renderer):
    env = make_env(domain_randomize=True)
    found = []
    for seed in range(6):
        env.reset(seed=seed)
        found.append(differing(renderer, env))
    assert found == [0] * 6


def test_several_renderers_share_an_environment(env: CarRacing):
    renderers = [make_renderer(name) for name in (*NAMES, *NAMES)]
    found = []
    for _ in range(3):
        advance(env, 25)
        found += [differing(renderer, env) for renderer in renderers]
    assert sum(found) == 0


def test_environments_with_their_own_renderers_do_not_disturb_each_other():
    pairs = [(make_renderer(name), make_env(domain_randomize=name == "c")) for name in (*NAMES, *NAMES)]
    found = []
    for seed, (_, env) in enumerate(pairs):
        env.reset(seed=seed)
    for _ in range(3):
        for renderer, env in pairs:
            advance(env, 20)
            found.append(differing(renderer, env))
    assert sum(found) == 0


def test_one_renderer_can_draw_several_environments_in_turn(renderer: Renderer, tracks: list[CarRacing]):
    found = []
    for turn in range(8):
        track = tracks[turn % 3]
        if turn > 3:
            track.reset(seed=turn)
        advance(track, 5)
        found.append(differing(renderer, track))
    assert found == [0] * 8


def test_a_returned_frame_does_not_change_later(renderer: Renderer, env: CarRacing):
    first = renderer.draw(env)
    before = first.copy()
    advance(env, 10)
    assert not np.array_equal(renderer.draw(env), before)
    np.testing.assert_array_equal(first, before)


def test_the_same_state_gives_the_same_frame_again(renderer: Renderer, env: CarRacing):
    np.testing.assert_array_equal(renderer.draw(env), renderer.draw(env))


def test_drawing_does_not_change_the_drive(renderer: Renderer):
    ends = []
    for drawn in (False, True):
        env = make_env()
        env.reset(seed=1)
        for _ in range(80):
            env.step(GAS)
            if drawn:
                renderer.draw(env)
        car: Any = env.car
        ends.append([*car.hull.position, car.hull.angle, env.reward, *(wheel.omega for wheel in car.wheels)])
    assert ends[0] == ends[1]


def test_more_colours_than_the_palette_has_are_drawn_as_gymnasium_draws_them(renderer: Renderer, env: CarRacing):
    """All tiles are near the picture before the zoom, a few of them after it."""
    road: Any = env.road
    for number, tile in enumerate(road):
        tile.color[:] = (number % 256, 40 * (number // 256), 7)
    found = []
    for t in (10.0, 0.0, 10.0, 0.3, 0.6, 10.0):
        env.t = t
        found.append(differing(renderer, env))
    assert len(road) > 256 and found == [0] * 6


@pytest.mark.parametrize("reward", [31.0, 7771.0], ids=["a text it knows", "a text it never wrote"])
def test_pygame_may_quit_between_frames(renderer: Renderer, env: CarRacing, reward: float):
    env.reward = 31.0
    renderer.draw(env)
    pygame.quit()
    env.reward = reward
    assert differing(renderer, env) == 0


def test_an_open_window_does_not_change_the_frames(renderer: Renderer, env: CarRacing, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    renderer.draw(env)
    pygame.display.init()
    pygame.display.set_mode((600, 400))
    try:
        found = [differing(renderer, env), differing(make_renderer(renderer.name), env)]
    finally:
        pygame.display.quit()
    assert [*found, differing(renderer, env)] == [0, 0, 0]


# --- states that no picture shows


def spoil(env: CarRacing, what: str, value: float) -> None:
    """Write a number into the simulator's state. The bodies no longer collide, because collisions fail with NaN."""
    car: Any = env.car
    for body in (car.hull, *car.wheels):
        body.active = False
    wheel = car.wheels[3]
    match what:
        case "time":
            env.t = value
        case "position":
            car.hull.position = (1.0, value)
        case "heading":
            car.hull.angle = value
        case "speed":
            car.hull.linearVelocity = (value, 0.0)
        case "yaw rate":
            car.hull.angularVelocity = value
        case "wheel position":
            wheel.position = (value, 0.0)
        case "wheel angle":
            car.wheels[0].angle = value
        case "wheel phase":
            wheel.phase = value
        case "wheel speed":
            wheel.omega = value


ALWAYS_SEEN = [("time", math.nan), ("time", -math.inf), ("position", 1e19), ("position", 3e38)]
ALWAYS_SEEN += [(what, value) for what in ("position", "heading") for value in (math.nan, math.inf, -math.inf)]


@pytest.mark.parametrize(("what", "value"), ALWAYS_SEEN)
def test_a_camera_position_that_is_not_finite_is_refused_with_advice(
    renderer: Renderer, env: CarRacing, what: str, value: float
):
    spoil(env, what, value)
    with pytest.raises(ValueError, match="reset the environment"):
        renderer.draw(env)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["speed", "yaw rate", "wheel position", "wheel angle", "wheel phase", "wheel speed"])
def test_a_car_position_that_is_not_a_number_is_refused_with_advice(env: CarRacing, what: str, value: float):
    renderer = make_renderer("c")
    spoil(env, what, value)
    with pytest.raises(ValueError, match="reset the environment"):
        renderer.draw(env)


def test_a_throttle_that_is_not_a_number_is_refused_with_advice_at_its_step(renderer: Renderer, env: CarRacing):
    env.renderer = renderer
    with pytest.raises(ValueError, match="reset the environment"):
        env.step(np.array([0, math.nan, 0]))


def test_an_episode_after_a_refusal_is_drawn_correctly(renderer: Renderer, env: CarRacing):
    renderer.draw(env)
    spoil(env, "position", math.nan)
    with pytest.raises(ValueError, match="reset the environment"):
        renderer.draw(env)
    env.reset(seed=5)
    assert differing(renderer, env) == 0


def test_a_frame_after_a_refusal_is_drawn_correctly(renderer: Renderer, env: CarRacing):
    env.t = math.nan
    with pytest.raises(ValueError, match="reset the environment"):
        renderer.draw(env)
    env.t = 3.0
    assert differing(renderer, env) == 0


def test_a_closed_environment_is_not_drawn(renderer: Renderer):
    env = make_env()
    env.reset(seed=0)
    renderer.draw(env)
    env.close()
    with pytest.raises(AssertionError):
        renderer.draw(env)
