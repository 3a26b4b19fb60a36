"""Each policy is a function of its seed and of its observations, and every wrong name has a clear message."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing

from world_models import envs
from world_models.envs import car_driver, drivable, policies
from world_models.envs.expert import Expert

FRAME = np.zeros((64, 64, 3), np.uint8)
CAR_ACTIONS = spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))


class Stub:
    """An environment whose state the test gives."""

    def __init__(self, action_space: spaces.Space = CAR_ACTIONS, **state: float):
        self.action_space, self.env = action_space, None
        self.telemetry_names: tuple[str, ...] = tuple(
            dict.fromkeys((*car_driver.Driver.NEEDED_COLUMNS, *Expert.NEEDED_COLUMNS))
        )
        self.state = dict.fromkeys(self.telemetry_names, 0.0) | state

    def telemetry(self) -> np.ndarray:
        return np.array([self.state[name] for name in self.telemetry_names], np.float32)


def act(policy: drivable.Policy, steps: int) -> np.ndarray:
    return np.stack([np.asarray(policy(FRAME)) for _ in range(steps)])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(car_racing.CarRacing, "_render", lambda self, mode: np.zeros((96, 96, 3), np.uint8))


# --- random numbers


@pytest.mark.parametrize("name", policies.BUILTIN)
def test_actions_depend_only_on_the_seed(name: str):
    make = policies.BUILTIN[name]
    first = Stub(spaces.Box(CAR_ACTIONS.low, CAR_ACTIONS.high))
    first.action_space.seed(99)
    first.action_space.sample()
    second = Stub(spaces.Box(CAR_ACTIONS.low, CAR_ACTIONS.high))
    np.testing.assert_array_equal(act(make(first, 7), 100), act(make(second, 7), 100))


@pytest.mark.parametrize("name", sorted(policies.BUILTIN.keys() - {"random", "repeated"}))
def test_a_policy_that_does_not_fit_the_actions_names_those_that_do(name: str):
    with pytest.raises(ValueError, match="use random or repeated, which take any actions"):
        policies.BUILTIN[name](Stub(spaces.Discrete(3)), 0)


@pytest.mark.parametrize("name", sorted(policies.BUILTIN.keys() - {"expert"}))
def test_another_seed_gives_other_actions(name: str):
    make = policies.BUILTIN[name]
    assert not np.array_equal(act(make(Stub(), 7), 20), act(make(Stub(), 8), 20))


def test_policy_and_track_of_one_seed_do_not_share_random_numbers():
    assert not set(drivable.generator(5).random(1000)) & set(np.random.default_rng(5).random(1000))


@pytest.mark.parametrize("name", policies.BUILTIN)
def test_a_policy_uses_none_of_the_envs_random_numbers(name: str, undrawn: None):
    env = envs.make_env("CarRacing-v3", renderer="gymnasium")
    env.reset(5)
    before = env.env.unwrapped.np_random.bit_generator.state
    act(policies.BUILTIN[name](env, 5), 10)
    assert env.env.unwrapped.np_random.bit_generator.state == before


# --- random


def test_random_stays_within_the_box():
    actions = act(policies.random(Stub(), 0), 500)
    assert (actions >= CAR_ACTIONS.low).all() and (actions <= CAR_ACTIONS.high).all()


def test_random_is_uniform_over_the_box():
    actions = act(policies.random(Stub(), 0), 4000)
    np.testing.assert_allclose(np.quantile(actions, [0.25, 0.5, 0.75], axis=0)[:, 0], [-0.5, 0, 0.5], atol=0.06)


def test_random_takes_each_discrete_action_and_no_other():
    actions = act(policies.random(Stub(spaces.Discrete(4, start=1)), 0), 200)
    assert set(actions.tolist()) == {1, 2, 3, 4}


# --- repeated


def test_repeated_takes_each_action_for_one_to_ten_steps():
    actions = act(policies.repeated(Stub(), 5), 3000)
    changes = np.flatnonzero((actions[1:] != actions[:-1]).any(axis=1)) + 1  # two actions in turn are never equal
    _, counts = np.unique(np.diff(changes), return_counts=True)
    assert len(counts) == 10 and counts.min() > 0.5 * counts.mean()


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=1), spaces.MultiBinary(4)], ids=str)
def test_repeated_takes_actions_of_any_space(space: spaces.Space):
    policy = policies.repeated(Stub(space), 5)  # type: ignore[arg-type]
    actions = [policy(FRAME) for _ in range(300)]
    assert all(action in space for action in actions)
    assert len({str(action) for action in actions}) > 2


# --- brownian


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_brownian_is_a_clipped_walk_from_a_uniform_start(seed: int):
    rng = np.random.default_rng([seed, int.from_bytes(b"policy", "big")])
    low, high = CAR_ACTIONS.low.astype(np.float64), CAR_ACTIONS.high.astype(np.float64)
    expected = [low + (high - low) * rng.random(3)]
    for _ in range(300):
        expected.append(np.minimum(np.maximum(expected[-1] + rng.normal(0, 1, 3) / math.sqrt(50), low), high))
    np.testing.assert_allclose(act(policies.brownian(Stub(), seed), 301), expected, atol=1e-6)


def test_brownian_stays_within_the_box_and_reaches_its_edges():
    actions = act(policies.brownian(Stub(), 0), 2000)
    np.testing.assert_array_equal([actions.min(0), actions.max(0)], [CAR_ACTIONS.low, CAR_ACTIONS.high])


def test_brownian_gives_float32_of_the_boxs_shape():
    action = policies.brownian(Stub(spaces.Box(-1.0, 1.0, (2, 3))), 0)(FRAME)
    assert (action.dtype, action.shape) == (np.float32, (2, 3))


def test_an_action_of_brownian_does_not_change_later():
    policy = policies.brownian(Stub(), 0)
    first = policy(FRAME)
    kept = first.copy()
    policy(FRAME)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(2), spaces.Box(-np.inf, np.inf, (2,)), spaces.MultiBinary(2)], ids=str
)
def test_brownian_refuses_actions_without_bounds(space: spaces.Space):
    with pytest.raises(ValueError, match=r"brownian needs bounded continuous actions.*use random"):
        policies.brownian(Stub(space), 0)


# --- driver


def returns(name: str, seed: int, steps: int = 500) -> float:
    env = envs.make_env("CarRacing-v3", renderer="gymnasium")
    frame = env.reset(seed)
    policy = policies.load_policy(name)(env, seed)
    earned = 0.0
    for _ in range(steps):
        frame, reward, terminated, _ = env.step(envs.to_columns(env.action_space, policy(frame)))
        earned += reward
        if terminated:
            break
    env.close()
    return earned


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_driver_earns_far_more_than_random(seed: int, undrawn: None):
    assert returns("driver", seed) > returns("random", seed) + 150


def mean_action(**state: float) -> np.ndarray:
    """The mean over many seeds, which give the driver different habits."""
    return np.mean([act(car_driver.Driver(Stub(CAR_ACTIONS, **state), seed), 5).mean(0) for seed in range(20)], axis=0)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("name", "size"), [("center_distance_m", 10), ("relative_heading_rad", 0.8), ("curvature_ahead_10m_per_m", -0.1)]
)
def test_driver_steers_against_the_error(name: str, size: float, sign: int):
    steer = mean_action(**{name: sign * size, "velocity_along_m_per_s": 20.0})[0]  # left of the line: steer right
    assert sign * steer > 0.2


def test_driver_gives_gas_from_rest():
    _, gas, brake = mean_action()
    assert gas > 0.5 and brake == 0


@pytest.mark.parametrize("ahead_m", [10, 25, 50])
def test_driver_brakes_before_a_sharp_turn(ahead_m: int):
    turn = {f"curvature_ahead_{ahead_m}m_per_m": 0.2, "velocity_along_m_per_s": 60.0}
    _, gas, brake = mean_action(**turn)
    assert gas == 0 and brake > 0.3


def test_driver_stays_within_the_action_space():
    actions = np.concatenate([act(car_driver.Driver(Stub(center_distance_m=x), 0), 200) for x in (-30.0, 0.0, 30.0)])
    assert (actions >= CAR_ACTIONS.low).all() and (actions <= CAR_ACTIONS.high).all()


def test_driver_is_sometimes_inattentive():
    steers = act(car_driver.Driver(Stub(center_distance_m=1e4, relative_heading_rad=3.0), 0), 3000)[:, 0]
    assert 0.01 < np.mean(steers < 0.5) < 0.3  # so far off the road, attention is steering fully to the right


def test_driver_refuses_an_env_without_telemetry():
    env = envs.make_env("CartPole-v1")
    with pytest.raises(ValueError, match="driver needs CarRacing's telemetry"):
        car_driver.Driver(env, 0)


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(-1.0, 1.0, (2,))], ids=str)
def test_driver_refuses_action_spaces_that_are_not_a_cars(space: spaces.Space):
    with pytest.raises(ValueError, match=r"driver needs .* continuous actions"):
        car_driver.Driver(Stub(space), 0)


def test_driver_with_discrete_actions_steers_back_to_the_road():
    keys = act(car_driver.Driver(Stub(spaces.Discrete(5), center_distance_m=1e4, relative_heading_rad=3.0), 0), 300)
    assert set(keys.tolist()) <= set(range(5)) and np.mean(keys == 1) > 0.5  # right, back to the road


def test_discrete_actions_average_to_the_wanted_action():
    wanted = np.array([0.12, 0.05, 0.2], np.float32)
    keys = car_driver.Keys()
    given = np.mean([car_driver.Keys.ACTIONS[keys.press(wanted)] for _ in range(500)], axis=0)
    np.testing.assert_allclose(given, wanted, atol=0.01)


# --- names


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes the module `own_policy_module`, which can be imported during the test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_policy_module", raising=False)

    def write(source: str) -> None:
        (tmp_path / "own_policy_module.py").write_text(source)

    return write


@pytest.mark.parametrize("name", ["random", "brownian", "driver"])
def test_a_builtin_policy_has_a_name(name: str):
    assert policies.load_policy(name) is policies.BUILTIN[name]


def test_a_policy_of_the_user_is_given_by_module_and_name(own_module: Callable[[str], None]):
    own_module("def full_gas(env, seed):\n    return lambda frame: [seed, 1, 0]\n")
    policy = policies.load_policy("own_policy_module:full_gas")(Stub(), 3)
    assert policy(FRAME) == [3, 1, 0]


def test_a_policy_of_the_user_may_be_a_class(own_module: Callable[[str], None]):
    own_module("class Still:\n    def __init__(self, env, seed): pass\n    def __call__(self, frame): return 0\n")
    assert policies.load_policy("own_policy_module:Still")(Stub(), 0)(FRAME) == 0


@pytest.mark.parametrize("name", ["", "brwnian", "mixture", "own_policy_module"])
def test_the_error_for_an_unknown_policy_lists_the_known_ones(name: str):
    with pytest.raises(
        ValueError, match="is none of random, repeated, brownian, driver, expert, mixture; give one of them or package"
    ):
        policies.load_policy(name)


@pytest.mark.parametrize("name", ["no_such_module:drive", "math:no_such_name", ":drive", "math:", ".relative:drive"])
def test_a_policy_that_cannot_be_imported_is_refused(name: str):
    with pytest.raises(ValueError, match=r"cannot be imported .*; give package\.module:name"):
        policies.load_policy(name)


def test_a_policy_that_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match=r"'math:pi' is float, not callable; give a function of \(env, seed\)"):
        policies.load_policy("math:pi")


# --- mixtures

WEIGHTS: list[dict[str, float]] = [
    {"a": 1.0},
    {"a": 3.0, "b": 1.0},
    {"a": 0.7, "b": 0.3},
    {"a": 1.0, "b": 1.0, "c": 1.0},
]


def test_policies_with_equal_weights_take_turns():
    assert policies.deal({"a": 1.0, "b": 1.0}, 7) == list("abababa")


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_every_first_part_of_a_mixture_has_the_policies_in_proportion(weights: dict[str, float]):
    dealt = policies.deal(weights, 60)
    for count in range(1, 61):
        for name, weight in weights.items():
            assert abs(dealt[:count].count(name) - count * weight / sum(weights.values())) < 1


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_a_mixture_of_more_episodes_begins_with_the_same_policies(weights: dict[str, float]):
    long = policies.deal(weights, 30)
    assert [policies.deal(weights, n) for n in range(30)] == [long[:n] for n in range(30)]


def test_the_order_in_which_weights_are_written_does_not_change_a_mixture():
    assert policies.deal({"a": 1.0, "b": 1.0}, 6) == policies.deal({"b": 1.0, "a": 1.0}, 6)


def test_a_frame_env_has_everything_that_a_policy_may_use():
    env: Any = envs.make_env("CarRacing-v3", renderer="gymnasium")
    assert isinstance(env, drivable.Drivable)
