"""CarRacing's telemetry has the right units, signs and geometry, measured in another way."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.box2d import car_racing

from world_models import envs
from world_models.envs.car_racing import CURVATURE_AHEAD_M, CarTelemetry

WHEELS = ("front_left", "front_right", "rear_left", "rear_right")
WIDTH_M = car_racing.TRACK_WIDTH  # of half the road


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Iterator[envs.FrameEnv]:
    """The car at rest on the start of seed 0's track; nothing is drawn, for speed."""
    monkeypatch.setattr(car_racing.CarRacing, "_render", lambda self, mode: np.zeros((96, 96, 3), np.uint8))
    made = envs.make_env("CarRacing-v3", renderer="gymnasium")
    made.reset(0)
    yield made
    made.close()


def simulator(env: envs.FrameEnv) -> Any:
    return env.env.unwrapped


def read(env: envs.FrameEnv) -> dict[str, float]:
    """The telemetry of this moment. `env.telemetry()` is that of the latest step, and tests move the car in between."""
    return dict(zip(env.telemetry_names, map(float, CarTelemetry(simulator(env))()), strict=True))


def drive(env: envs.FrameEnv, *action: float, steps: int) -> None:
    for _ in range(steps):
        env.step(np.array(action, np.float32))


def put(env: envs.FrameEnv, x: float, y: float) -> None:
    """Carry the whole car to a place, and let its wheels touch the ground there."""
    car = simulator(env).car
    shift = np.array([x, y]) - car.hull.position
    for body in (car.hull, *car.wheels):
        body.position = tuple(np.array(body.position) + shift)
    drive(env, 0, 0, 0, steps=1)


def directions(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Forward and left of a heading: forward is +y turned by it."""
    return np.array([-math.sin(angle), math.cos(angle)]), np.array([-math.cos(angle), -math.sin(angle)])


def wrapped(angle: float | np.ndarray) -> Any:
    return np.arctan2(np.sin(angle), np.cos(angle))


def test_telemetry_is_a_float32_for_each_name(env: envs.FrameEnv):
    assert (env.telemetry().shape, env.telemetry().dtype) == ((len(CarTelemetry.NAMES),), np.float32)


def test_each_name_occurs_once():
    assert len(set(CarTelemetry.NAMES)) == len(CarTelemetry.NAMES) == 19


def test_every_number_with_a_dimension_names_its_unit():
    dimensionless = {"wheels_on_road_share", "tile_index"}
    units = ("_m", "_rad", "_per_s", "_per_m")
    assert {name for name in CarTelemetry.NAMES if not name.endswith(units)} == dimensionless


def test_reading_telemetry_changes_nothing(env: envs.FrameEnv):
    np.testing.assert_array_equal(env.telemetry(), env.telemetry())


@pytest.mark.parametrize("seed", range(5))
def test_the_car_starts_on_the_centre_line_along_the_road(env: envs.FrameEnv, seed: int):
    env.reset(seed)
    state = read(env)
    assert (state["center_distance_m"], state["relative_heading_rad"]) == pytest.approx((0, 0), abs=0.02)


def test_the_car_starts_at_rest_on_the_first_tile(env: envs.FrameEnv):
    state = read(env)
    speeds = [value for name, value in state.items() if name.endswith("_per_s")]
    assert (state["tile_index"], speeds) == (0, pytest.approx([0] * 7, abs=1e-4))


def test_after_a_reset_the_telemetry_is_of_the_new_track(env: envs.FrameEnv):
    env.reset(7)
    found = dict(zip(env.telemetry_names, env.telemetry(), strict=True))
    assert (found["position_x_m"], found["position_y_m"]) == pytest.approx(simulator(env).track[0][2:], abs=0.1)


def test_position_is_that_of_the_hull(env: envs.FrameEnv):
    put(env, 12.0, -34.0)
    assert (read(env)["position_x_m"], read(env)["position_y_m"]) == pytest.approx((12, -34), abs=0.1)


# --- motion


def test_gas_gives_speed_along_the_car(env: envs.FrameEnv):
    drive(env, 0, 0.5, 0, steps=40)
    state = read(env)
    assert state["velocity_along_m_per_s"] > 5 > 1 > abs(state["velocity_across_m_per_s"])


@pytest.mark.parametrize("angle", [0.0, 1.0, -2.5])
@pytest.mark.parametrize(("along", "to_left"), [(7.0, 0.0), (-7.0, 0.0), (0.0, 3.0), (0.0, -3.0), (5.0, -2.0)])
def test_velocity_is_split_along_the_car_and_to_its_left(
    env: envs.FrameEnv, angle: float, along: float, to_left: float
):
    hull = simulator(env).car.hull
    forward, left = directions(angle)
    hull.angle, hull.linearVelocity = angle, tuple(map(float, along * forward + to_left * left))
    state = read(env)
    found = (state["velocity_along_m_per_s"], state["velocity_across_m_per_s"])
    assert found == pytest.approx((along, to_left), abs=1e-5)


@pytest.mark.parametrize(("steer", "sign"), [(-1, 1), (1, -1)])
def test_steering_left_gives_a_positive_angle(env: envs.FrameEnv, steer: float, sign: int):
    drive(env, steer, 0, 0, steps=10)
    assert 0.1 < sign * read(env)["steering_angle_rad"] < 0.45


@pytest.mark.parametrize(("steer", "sign"), [(-1, 1), (1, -1)])
def test_turning_left_is_a_positive_yaw_rate(env: envs.FrameEnv, steer: float, sign: int):
    drive(env, 0, 0.5, 0, steps=30)
    drive(env, 0.3 * steer, 0.1, 0, steps=15)
    assert sign * read(env)["yaw_rate_rad_per_s"] > 0.1


def test_yaw_rate_is_the_change_of_heading_per_second(env: envs.FrameEnv):
    drive(env, 0, 0.5, 0, steps=30)
    drive(env, -0.3, 0.1, 0, steps=15)
    before = read(env)["heading_rad"]
    drive(env, -0.3, 0.1, 0, steps=1)
    after = read(env)
    assert after["yaw_rate_rad_per_s"] == pytest.approx((after["heading_rad"] - before) * car_racing.FPS, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "side", "end"), [(w, -1 if "left" in w else 1, 1 if "front" in w else -1) for w in WHEELS]
)
def test_each_wheel_speed_belongs_to_the_wheel_in_its_name(env: envs.FrameEnv, name: str, side: int, end: int):
    car = simulator(env).car
    for wheel in car.wheels:
        x, y = car.hull.GetLocalPoint(wheel.position)
        wheel.omega = 8.0 if (x * side > 0 and y * end > 0) else 1.0
    speeds = {wheel: read(env)[f"wheel_speed_{wheel}_rad_per_s"] for wheel in WHEELS}
    assert speeds == {wheel: 8.0 if wheel == name else 1.0 for wheel in WHEELS}


# --- place on the track


@pytest.mark.parametrize("away_m", [-4.0, -1.0, 1.0, 4.0])
@pytest.mark.parametrize("tile", [0, 100, 200])
def test_center_distance_is_positive_to_the_left(env: envs.FrameEnv, tile: int, away_m: float):
    _, heading, x, y = simulator(env).track[tile]
    _, left = directions(heading)
    simulator(env).car.hull.position = tuple(map(float, np.array([x, y]) + away_m * left))
    assert read(env)["center_distance_m"] == pytest.approx(away_m, abs=0.15)


@pytest.mark.parametrize("turn", [-0.3, 0.3, 3.0, -3.0])
@pytest.mark.parametrize("laps", [-1, 0, 2])
def test_relative_heading_is_positive_when_the_car_is_turned_left(env: envs.FrameEnv, turn: float, laps: int):
    simulator(env).car.hull.angle = simulator(env).track[0][1] + turn + 2 * math.pi * laps
    assert read(env)["relative_heading_rad"] == pytest.approx(turn, abs=1e-5)


def test_heading_zero_points_along_y(env: envs.FrameEnv):
    hull = simulator(env).car.hull
    hull.angle = 0.0
    assert (read(env)["heading_rad"], tuple(hull.GetWorldVector((0, 1)))) == (0.0, pytest.approx((0, 1)))


@pytest.mark.parametrize("tile", [0, 1, 57, -1])
def test_tile_index_is_the_nearest_point_of_the_centre_line(env: envs.FrameEnv, tile: int):
    track = simulator(env).track
    simulator(env).car.hull.position = tuple(map(float, track[tile][2:]))
    assert read(env)["tile_index"] == tile % len(track)


def test_all_wheels_are_on_the_road_at_the_start(env: envs.FrameEnv):
    assert read(env)["wheels_on_road_share"] == 1


def test_no_wheel_is_on_the_road_on_the_grass(env: envs.FrameEnv):
    put(env, 300.0, 300.0)
    assert read(env)["wheels_on_road_share"] == 0


@pytest.mark.parametrize("side", [-1, 1])
def test_half_of_the_wheels_are_on_the_road_at_its_edge(env: envs.FrameEnv, side: int):
    heading, *start = simulator(env).track[0][1:]
    _, left = directions(heading)
    put(env, *(np.array(start) + side * WIDTH_M * left))
    assert read(env)["wheels_on_road_share"] == 0.5


# --- the road ahead


def bend(track: np.ndarray, tile: int, distance_m: float) -> float:
    """Walk the distance along the line, then measure the bend over the two points to either side."""
    n, here, left_m = len(track), tile, distance_m

    def gap(i: int) -> float:
        return math.dist(track[i % n, 2:], track[(i + 1) % n, 2:])

    while left_m >= gap(here):
        left_m -= gap(here)
        here += 1
    turn = wrapped(track[(here + 2) % n, 1] - track[(here - 2) % n, 1])
    return float(turn) / sum(gap(here + i) for i in (-2, -1, 0, 1))


@pytest.mark.parametrize("distance_m", CURVATURE_AHEAD_M)
def test_curvature_ahead_is_the_change_of_heading_per_metre_at_that_distance(env: envs.FrameEnv, distance_m: int):
    track = np.array(simulator(env).track)
    found = []
    for point in track:
        simulator(env).car.hull.position = tuple(map(float, point[2:]))
        found.append(read(env)[f"curvature_ahead_{distance_m}m_per_m"])
    expected = [bend(track, tile, distance_m) for tile in range(len(track))]
    np.testing.assert_allclose(found, expected, atol=1e-6)


class Circle:
    """A track that is a circle of 100 m, turning left (1) or right (-1), with a car on it."""

    RADIUS_M, POINTS = 100.0, 180

    def __init__(self, sign: int):
        around = sign * 2 * math.pi * np.arange(self.POINTS) / self.POINTS
        heading = around + (0 if sign == 1 else math.pi)
        x, y = self.RADIUS_M * np.cos(around), self.RADIUS_M * np.sin(around)
        self.track = np.stack([around, heading, x, y], axis=1).tolist()
        wheel = SimpleNamespace(omega=0.0, tiles={1}, joint=SimpleNamespace(angle=0.0))
        hull = SimpleNamespace(position=(99.0, 0.0), angle=0.0, linearVelocity=(0.0, 0.0), angularVelocity=0.0)
        self.car, self.t = SimpleNamespace(hull=hull, wheels=[wheel] * 4), 0.0


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("distance_m", CURVATURE_AHEAD_M)
def test_curvature_of_a_circle_is_one_over_its_radius_and_positive_to_the_left(sign: int, distance_m: int):
    state = dict(zip(CarTelemetry.NAMES, CarTelemetry(Circle(sign))(), strict=True))
    assert state[f"curvature_ahead_{distance_m}m_per_m"] == pytest.approx(sign / Circle.RADIUS_M, rel=1e-3)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_inside_of_a_left_turn_is_on_the_left(sign: int):
    state = dict(zip(CarTelemetry.NAMES, CarTelemetry(Circle(sign))(), strict=True))
    assert state["center_distance_m"] == pytest.approx(sign)


# --- the camera


@pytest.mark.parametrize(("t", "zoom"), [(0.0, 0.6), (0.5, 8.4), (1.0, 16.2), (30.0, 16.2)])
def test_the_camera_zooms_in_over_the_first_second(env: envs.FrameEnv, t: float, zoom: float):
    simulator(env).t = t
    assert read(env)["zoom_px_per_m"] == pytest.approx(zoom)
