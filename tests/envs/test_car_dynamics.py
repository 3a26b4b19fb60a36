"""The fast car computes the same numbers as Gymnasium's car at every step. Otherwise it is not used."""

import inspect
import math
import struct
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.box2d import car_dynamics, car_racing

from world_models.envs.car_dynamics import FastCar, fast_car_agrees
from world_models.envs.car_racing import CarRacing

STEPS = 300
Prepare = Callable[[Any], None]


class BlindCarRacing(car_racing.CarRacing):
    """CarRacing without pictures: thousands of steps a second."""

    def _render(self, mode: str) -> None:
        return None


def bits(*numbers: Any) -> bytes:
    """The doubles to the last bit, the sign of a zero as well."""
    return struct.pack(f"{len(numbers)}d", *map(float, numbers))


def state(env: Any) -> dict[str, Any]:
    """The complete state of a car."""
    car = env.car
    found: dict[str, Any] = {
        "reward": bits(env.reward, env.prev_reward),
        "fuel_spent": bits(car.fuel_spent),
        "hull": moves(car.hull),
        "particles": [trace(particle) for particle in car.particles],
    }
    for index, wheel in enumerate(car.wheels):
        joint = wheel.joint
        found[f"wheel {index}"] = moves(wheel)
        found[f"controls {index}"] = bits(wheel.gas, wheel.brake, wheel.steer)
        found[f"turn {index}"] = bits(wheel.phase, wheel.omega)
        found[f"joint {index}"] = bits(joint.angle, joint.speed, joint.motorSpeed)
        found[f"tiles {index}"] = sorted(tile.idx for tile in wheel.tiles)
        found[f"skid {index}"] = (wheel.skid_start and bits(*wheel.skid_start), trace(wheel.skid_particle))
    return found


def moves(body: Any) -> bytes:
    return bits(*body.position, body.angle, *body.linearVelocity, body.angularVelocity)


def trace(particle: Any) -> Any:
    return particle and (particle.color, particle.grass, particle.ttl, [bits(*point) for point in particle.poly])


def begin(car_class: type, seed: int, continuous: bool = True) -> Any:
    """An episode with a car of the class."""
    env: Any = BlindCarRacing(continuous=continuous)
    env.reset(seed=seed)
    replace_car(env, car_class)
    return env


def replace_car(env: Any, car_class: type) -> None:
    if car_class is FastCar:
        env.car = FastCar(env.car)


def assert_same_drive(
    actions: Any, seed: int = 0, continuous: bool = True, prepare: Prepare = lambda env: None
) -> list[dict[str, Any]]:
    """Drive both cars, and compare all of both after each step; returns the states."""
    envs = [begin(car_class, seed, continuous) for car_class in (car_dynamics.Car, FastCar)]
    for env in envs:
        prepare(env)
    states = []
    for step, action in enumerate(actions):
        (*_, plain), (*_, quick) = ((*env.step(action), state(env)) for env in envs)
        differing = [name for name in plain if plain[name] != quick[name]]
        assert differing == [], f"step {step}, action {action}"
        states.append(quick)
    return states


def uniform(low: tuple[float, ...], high: tuple[float, ...], seed: int = 0, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, (steps, 3)).astype(np.float32)


def held(actions: np.ndarray, steps: int) -> np.ndarray:
    return actions[: len(actions) // steps].repeat(steps, axis=0)


def wandering(seed: int) -> np.ndarray:
    walk = np.random.default_rng(seed).normal(0, math.sqrt(1 / 50), (STEPS, 3)).cumsum(axis=0)
    walk[:, 1] += 0.6
    return np.clip(walk, (-1, 0, 0), (1, 1, 1)).astype(np.float32)


def shift(x: float, y: float) -> Prepare:
    """Moves the car away."""

    def carry(env: Any) -> None:
        for body in (env.car.hull, *env.car.wheels):
            body.position = (body.position[0] + x, body.position[1] + y)

    return carry


# --- the same doubles


@pytest.mark.parametrize("seed", range(2))
def test_random_actions_give_the_same_doubles(seed: int):
    assert_same_drive(uniform((-1, 0, 0), (1, 1, 1), seed), seed)


@pytest.mark.parametrize("seed", range(2))
def test_wandering_actions_give_the_same_doubles(seed: int):
    assert_same_drive(wandering(seed), seed)


@pytest.mark.parametrize("steps", [5, 25])
def test_actions_that_last_several_steps_give_the_same_doubles(steps: int):
    assert_same_drive(held(uniform((-1, 0, -1), (1, 1, 1)), steps))


def test_actions_out_of_bounds_give_the_same_doubles():
    assert_same_drive(held(uniform((-4, -2, -2), (4, 5, 3)), 5))


@pytest.mark.parametrize("brake", [-1.0, -0.0, 0.0, 1e-9, 0.5, math.nextafter(0.9, 0), 0.9, 1.0, 7.0])
def test_any_brake_gives_the_same_doubles(brake: float):
    assert_same_drive([*[np.array([0.1, 1.0, 0.0])] * 40, *[np.array([0.1, 0.0, brake])] * 40])


@pytest.mark.parametrize("gas", [-1.0, -0.0, 1e-9, 0.05, 0.1, 1.0, math.nextafter(1, 2), 9.0])
def test_any_gas_gives_the_same_doubles(gas: float):
    drive = [np.array([0.3, gas, 0.0])] * 30
    assert_same_drive([*drive, np.array([0.3, 0.02, 0.0]), *drive])


@pytest.mark.parametrize("steer", [0.0, -0.0, 1e-7, 0.06, 0.4, 1.0, -3.0])
def test_any_steering_gives_the_same_doubles(steer: float):
    assert_same_drive([np.array([steer, 0.5, 0.0])] * 60)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_actions_of_any_dtype_give_the_same_doubles(dtype: Any):
    assert_same_drive(uniform((-2, -1, 0), (2, 2, 1), steps=100).astype(dtype))


def test_discrete_actions_give_the_same_doubles():
    assert_same_drive(np.random.default_rng(0).integers(5, size=STEPS), continuous=False)


def test_full_throttle_from_road_to_grass_gives_the_same_doubles():
    states = assert_same_drive([np.array([0.0, 1.0, 0.0])] * 300)
    tiles = [bool(state["tiles 2"]) for state in states]
    assert True in tiles and False in tiles


def test_driving_on_grass_gives_the_same_doubles():
    states = assert_same_drive(held(uniform((-1, 0, -0.5), (1, 1, 1)), 20), prepare=shift(60.0, 60.0))
    assert not any(state["tiles 0"] for state in states)


@pytest.mark.parametrize("friction", [0.0, 0.3, 0.6, 0.7, 2.5])
def test_a_road_of_another_friction_gives_the_same_doubles(friction: float):
    def polish(env: Any) -> None:
        for tile in env.road[::2]:
            tile.road_friction = friction

    assert_same_drive(held(uniform((-1, 0, -0.5), (1, 1, 1)), 20)[:200], prepare=polish)


def test_driving_backwards_gives_the_same_doubles():
    def push(env: Any) -> None:
        for body in (env.car.hull, *env.car.wheels):
            body.linearVelocity = (-body.linearVelocity[0] + 7, -30.0)
        for wheel in env.car.wheels:
            wheel.omega = -50.0

    assert_same_drive(held(uniform((-1, 0, -0.5), (1, 1, 1)), 10)[:200], prepare=push)


def test_wheels_that_lock_and_spin_leave_the_same_skid_marks():
    drift = [np.array([0.0, 1.0, 0.0])] * 60 + [np.array([1.0, 0.3, 0.95])] * 30 + [np.array([-1.0, 1.0, 0.0])] * 60
    particles = assert_same_drive(drift * 3)[-1]["particles"]
    assert len(particles) > 10 and {grass for _, grass, *_ in particles} == {True, False}


def test_a_long_skid_mark_ends_at_the_same_point():
    states = assert_same_drive([np.array([0.0, 1.0, 0.0])] * 50 + [np.array([0.0, 0.0, 1.0])] * 60)
    assert max(len(points) for *_, points in states[-1]["particles"]) == 30


def test_the_number_of_skid_marks_has_the_same_limit():
    drift = held(uniform((-1, 0.5, -2), (1, 1, 1)), 10)
    assert len(assert_same_drive(drift)[-1]["particles"]) == 30


def test_spent_fuel_is_counted_in_the_same_way():
    spent = []
    for car_class in (car_dynamics.Car, FastCar):
        car = begin(car_class, 0).car
        car.gas(0.07)
        car.step(0.02)
        spent.append(bits(car.fuel_spent))
    assert spent[0] == spent[1] != bits(0.0)


def test_the_second_episode_of_an_env_gives_the_same_doubles():
    envs = [begin(car_class, 0) for car_class in (car_dynamics.Car, FastCar)]
    for env in envs:
        env.step(np.array([0.0, 1.0, 0.0]))
        car_class = type(env.car)
        env.reset()
        replace_car(env, car_class)
    for action in uniform((-1, 0, 0), (1, 1, 1), steps=50):
        for env in envs:
            env.step(action)
        assert state(envs[0]) == state(envs[1])


# --- the trial


@pytest.fixture
def trial_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets the result of the trial, before a test and after its changes were undone."""
    fast_car_agrees.cache_clear()
    yield
    monkeypatch.undo()
    fast_car_agrees.cache_clear()


def car_after_reset() -> Any:
    env = CarRacing(renderer="gymnasium")
    env.reset(seed=0)
    return env.car


def change(monkeypatch: pytest.MonkeyPatch, method: str, before: str, after: str) -> None:
    """Gives Gymnasium's car a method that differs in a few characters, as another version's might."""
    source = textwrap.dedent(inspect.getsource(getattr(car_dynamics.Car, method)))
    assert source.count(before) == 1
    namespace: dict[str, Any] = {}
    exec(source.replace(before, after), car_dynamics.__dict__, namespace)
    monkeypatch.setattr(car_dynamics.Car, method, namespace[method])


def test_the_fast_car_agrees_with_the_installed_gymnasium(trial_anew: None):
    assert fast_car_agrees()


def test_a_reset_gives_the_fast_car(trial_anew: None):
    assert type(car_after_reset()) is FastCar


@pytest.mark.parametrize("name", ["ENGINE_POWER", "WHEEL_MOMENT_OF_INERTIA", "FRICTION_LIMIT", "SIZE"])
def test_a_changed_constant_of_gymnasium_is_noticed(trial_anew: None, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(car_dynamics, name, getattr(car_dynamics, name) * 1.001)
    assert not fast_car_agrees()


CHANGES = [
    ("gas", "diff > 0.1", "diff > 0.2"),
    ("gas", "diff = 0.1", "diff = 0.09"),
    ("gas", "np.clip(gas, 0, 1)", "np.clip(gas, 0, 2)"),
    ("gas", "np.clip(gas, 0, 1)", "np.clip(gas, -1, 1)"),
    ("gas", "self.wheels[2:4]", "self.wheels[0:4]"),
    ("step", "50.0", "49.0"),
    ("step", "val, 3.0", "val, 2.9"),
    ("step", "FRICTION_LIMIT * 0.6", "FRICTION_LIMIT * 0.5"),
    ("step", "+ 5.0", "+ 5.1"),
    ("step", "w.brake >= 0.9", "w.brake >= 0.8"),
    ("step", "w.omega = 0\n", "w.omega = 1\n"),
    ("step", "w.brake > 0:", "w.brake > 0.3:"),
    ("step", "BRAKE_FORCE = 15", "BRAKE_FORCE = 14"),
    ("step", "f_force *= 205000", "f_force *= 204000"),
    ("step", "p_force *= 205000", "p_force *= 204000"),
    ("step", "2.0 * friction_limit", "3.0 * friction_limit"),
    ("step", "poly) < 30", "poly) < 29"),
    ("step", "abs(val) > abs(w.omega)", "False"),
]


@pytest.mark.parametrize(("method", "before", "after"), CHANGES)
def test_a_changed_formula_of_gymnasium_is_noticed(
    trial_anew: None, monkeypatch: pytest.MonkeyPatch, method: str, before: str, after: str
):
    change(monkeypatch, method, before, after)
    assert not fast_car_agrees()


def test_the_same_formula_in_other_words_still_agrees(trial_anew: None, monkeypatch: pytest.MonkeyPatch):
    change(monkeypatch, "gas", "np.clip(gas, 0, 1)", "min(max(gas, 0), 1)")
    assert fast_car_agrees()


@pytest.mark.parametrize("error", [AttributeError, TypeError, KeyError])
def test_an_error_of_the_fast_car_counts_as_disagreement(
    trial_anew: None, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
):
    def fail(self: Any, dt: float) -> None:
        raise error("another version of Gymnasium")

    monkeypatch.setattr(FastCar, "step", fail)
    assert not fast_car_agrees()


def test_gymnasiums_car_stays_if_the_fast_car_disagrees(trial_anew: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(car_dynamics, "ENGINE_POWER", 1.0)
    assert type(car_after_reset()) is car_dynamics.Car


def test_a_car_that_was_not_replaced_drives_as_in_gymnasium(trial_anew: None, monkeypatch: pytest.MonkeyPatch):
    change(monkeypatch, "step", "50.0", "10.0")
    envs: list[Any] = [CarRacing(renderer="gymnasium"), car_racing.CarRacing()]
    for kind in (CarRacing, car_racing.CarRacing):
        monkeypatch.setattr(kind, "_render", lambda self, mode: None)
    for env in envs:
        env.reset(seed=0)
    for action in uniform((-1, 0, 0), (1, 1, 1), steps=50):
        for env in envs:
            env.step(action)
        assert state(envs[0]) == state(envs[1])


def test_the_trial_is_driven_once(trial_anew: None):
    for _ in range(2):
        car_after_reset()
    assert fast_car_agrees.cache_info().misses == 1
