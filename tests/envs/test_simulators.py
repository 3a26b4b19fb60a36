"""Knowledge about simulators is in one place; a new one needs a module and a line in the registry."""

import sys
import types
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing

from world_models import TelemetryInfo, envs
from world_models.envs import simulators
from world_models.envs.car_dynamics import FastCar
from world_models.envs.car_racing import CarTelemetry
from world_models.envs.simulators import Simulator, simulator_of


class Pond(gymnasium.Env):
    """A new simulator, which shows its depth."""

    observation_space = spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.depth_m = 3.0
        return self.picture(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.depth_m += 1.0
        return self.picture(), 0.0, False, False, {}

    def picture(self) -> np.ndarray:
        return np.full((96, 96, 3), self.depth_m * 30, np.uint8)


class CarRacing(Pond):
    """Another class with the name of a known simulator."""


class CopiedCarRacing(CarRacing):
    """A copy of Gymnasium's, in another package."""

    car = None


class Kart(car_racing.CarRacing):
    """A subclass of Gymnasium's."""


class Depth:
    """Reads a pond."""

    def __init__(self, env: Any):
        self.env = env

    def is_of_this_episode(self) -> bool:
        return True

    def __call__(self) -> np.ndarray:
        return np.array([self.env.depth_m], np.float32)


class PondSimulator(Simulator):
    """What is special about a pond."""

    telemetry_names = ("depth_m",)

    def telemetry(self) -> Depth:
        return Depth(self.env.unwrapped)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (Pond, CarRacing, CopiedCarRacing, Kart)}
    for name, kind in kinds.items():
        gymnasium.register(f"{name}Here-v0", kind)
    yield
    for name in kinds:
        del gymnasium.registry[f"{name}Here-v0"]


@pytest.fixture
def pond_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pond as a known simulator: with a module and a line in the registry."""
    module: Any = types.ModuleType("pond_simulator")
    module.simulator = PondSimulator
    monkeypatch.setitem(sys.modules, "pond_simulator", module)
    monkeypatch.setitem(simulators.KNOWN, "Pond", "pond_simulator")


def test_a_new_simulator_gives_the_telemetry_of_its_frames(pond_is_known: None):
    env = envs.make_env("PondHere-v0")
    env.reset(0)
    assert (env.telemetry_names, env.telemetry().tolist()) == (("depth_m",), [3.0])
    env.step(np.zeros(1, np.float32))
    assert env.telemetry().tolist() == [4.0]


def test_a_new_simulators_telemetry_is_put_into_info(pond_is_known: None):
    env = TelemetryInfo(gymnasium.make("PondHere-v0", disable_env_checker=True))
    assert env.reset(seed=0)[1] == {"depth_m": 3.0}


def test_the_refusal_of_a_renderer_names_the_simulators_that_have_one(pond_is_known: None):
    with pytest.raises(ValueError, match="renderer c draws CarRacing and Pond, not PondHere-v0; leave it out"):
        envs.make_env("PondHere-v0", renderer="c")


def test_another_class_with_a_known_name_is_an_unknown_environment():
    env = envs.make_env("CarRacingHere-v0")
    assert (env.telemetry_names, env.preprocess.crop, type(env.simulator)) == ((), None, Simulator)


def test_a_copy_of_car_racing_has_telemetry_and_a_bar_and_draws_itself():
    env = envs.make_env("CopiedCarRacingHere-v0")
    assert (env.telemetry_names, env.preprocess.crop) == (CarTelemetry.NAMES, (0, 84))
    assert (env.simulator.renderer, env.simulator.renderer_note) == ("gymnasium", "")
    with pytest.raises(ValueError, match="renderer c draws CarRacing, not CopiedCarRacingHere-v0"):
        envs.make_env("CopiedCarRacingHere-v0", renderer="c")


def test_an_environment_that_draws_itself_has_nothing_to_compare_or_to_stop():
    env = envs.make_env("PondHere-v0")
    env.simulator.check_next_frame()
    env.simulator.stop_drawing()
    assert env.reset(0).any()
    assert (env.simulator.num_checked, env.simulator.check_factor) == (0, 1)


def test_an_environment_with_a_fast_renderer_keeps_its_class_and_gets_a_fast_car():
    env = envs.make_env("KartHere-v0", renderer="pygame")
    kart: Any = env.env.unwrapped
    env.reset(0)
    assert type(kart) is Kart and type(kart.car) is FastCar and env.simulator.renderer == "pygame"
    env.close()


def test_a_subclass_of_car_racing_can_stop_drawing_too():
    env = envs.make_env("KartHere-v0", renderer="pygame")
    env.simulator.stop_drawing()
    assert not env.reset(0).any()
    env.close()


def test_an_unwrapped_environment_is_known_like_a_wrapped_one():
    env = gymnasium.make("CarRacing-v3", disable_env_checker=True)
    assert type(simulator_of(env)) is type(simulator_of(env.unwrapped)) is not Simulator
