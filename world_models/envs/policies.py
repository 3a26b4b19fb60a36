"""Who drives: random, brownian, driver, expert, mixtures of them, or your own.

A policy is made once an episode, `make(env, seed) -> policy`, and called once a step, `policy(frame) -> action`. All
its randomness derives from the seed, so `episode_seed` and `episode_policy` reproduce an episode. Your own is named
`package.module:name`; see docs/collect.md.
"""

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32, UInt8

from world_models.envs.expert import Expert

Policy = Callable[[UInt8[np.ndarray, "64 64 3"]], Any]


@runtime_checkable
class Drivable(Protocol):
    """What a policy may ask of its environment."""

    action_space: spaces.Space
    telemetry_names: tuple[str, ...]
    env: Any

    def telemetry(self) -> Float32[np.ndarray, " S"]:
        """The simulator's state at the current frame."""
        ...


PolicyFactory = Callable[[Any, int], Policy]


def generator(seed: int) -> np.random.Generator:
    """Random numbers of a policy: derived from the episode's seed, yet not the stream that made its track."""
    return np.random.default_rng([seed, 0x706F6C696379])  # "policy"


def random(env: Drivable, seed: int) -> Policy:
    """Uniform over the action space, each step anew."""
    space = env.action_space
    space.seed(int(generator(seed).integers(2**31)))
    return lambda frame: space.sample()


def brownian(env: Drivable, seed: int) -> Policy:
    """Actions that wander: a_0 is uniform, a_{t+1} = clip(a_t + sqrt(1/50) * N(0, 1)).

    Raises:
        ValueError: actions are not a bounded box.
    """
    space = env.action_space
    if not (isinstance(space, spaces.Box) and space.is_bounded()):
        raise ValueError(
            f"policy brownian needs bounded continuous actions, this env has {space}; "
            "use random, as in --policy random, or leave brownian out of --mixture"
        )
    rng = generator(seed)
    action: np.ndarray | None = None

    def act(frame: UInt8[np.ndarray, "64 64 3"]) -> np.ndarray:
        nonlocal action
        if action is None:
            action = rng.uniform(space.low, space.high)
        else:
            step = math.sqrt(1 / 50) * rng.standard_normal(space.shape)
            action = np.clip(action + step, space.low, space.high)
        return action.astype(np.float32)

    return act


class Driver:
    """Follows the centre line ahead with a speed target; each episode has a style and nerves of its own.

    The style (offset from the centre line, speed, steering gain) stays for the episode; the nerves are an
    Ornstein-Uhlenbeck noise on the offset and the steering, and now and then a moment of inattention, so that the data
    holds recoveries from the road's edge and the grass too.
    """

    NEEDS = (
        "velocity_along_m_per_s",
        "center_distance_m",
        "relative_heading_rad",
        "curvature_ahead_10m_per_m",
        "curvature_ahead_25m_per_m",
        "curvature_ahead_50m_per_m",
    )
    WHEELBASE_M = 3.24
    MAX_WHEEL_ANGLE_RAD = 0.4

    def __init__(self, env: Drivable, seed: int):
        missing = [name for name in self.NEEDS if name not in env.telemetry_names]
        space = env.action_space
        has_pedals, has_keys = isinstance(space, spaces.Box) and space.shape == (3,), space == spaces.Discrete(5)
        if missing or not (has_pedals or has_keys):
            raise ValueError(
                f"policy driver needs CarRacing's telemetry and continuous actions or keys, this env has {space}; "
                "use random, as in --policy random, or leave driver out of --mixture"
            )
        self._keys = Keys() if has_keys else None
        self._env = env
        self._columns = [env.telemetry_names.index(name) for name in self.NEEDS]
        self._rng = generator(seed)
        self._lane_m = self._rng.uniform(-3.0, 3.0)
        self._top_speed_m_per_s = self._rng.uniform(25.0, 65.0)
        self._grip_m_per_s2 = self._rng.uniform(25.0, 70.0)
        self._wander_m = 0.0
        self._shake = 0.0
        self._dozing_steps = 0

    def __call__(self, frame: UInt8[np.ndarray, "64 64 3"]) -> Float32[np.ndarray, " 3"] | int:
        """Steer, gas and brake for the current state, or a key where the actions are CarRacing's five keys."""
        state = self._env.telemetry()
        speed, offset, heading, *curvatures = (float(state[column]) for column in self._columns)
        self._feel()
        steer = self._steer(speed, offset, heading, curvatures[0])
        target = min(self._top_speed_m_per_s, math.sqrt(self._grip_m_per_s2 / (max(map(abs, curvatures)) + 1e-3)))
        gas = min(max(0.08 * (target - speed), 0.0), 1.0) * (1 - 0.6 * abs(steer))
        brake = min(max(0.03 * (speed - 1.15 * target), 0.0), 0.6)
        action = np.array([steer, gas, brake], np.float32)
        return self._keys.press(action) if self._keys else action

    def _feel(self) -> None:
        """Update the noise by a step. It has about two seconds of memory for the lane, a quarter for the hands."""
        self._wander_m += -0.01 * self._wander_m + 0.25 * self._rng.standard_normal()
        self._shake += -0.08 * self._shake + 0.04 * self._rng.standard_normal()
        if self._rng.random() < 0.003:
            self._dozing_steps = int(self._rng.integers(10, 40))
        self._dozing_steps -= 1

    def _steer(self, speed: float, offset: float, heading: float, curvature: float) -> float:
        """Stanley's law: the wheel angle that the curve asks for, less the errors of heading and of offset."""
        if self._dozing_steps > 0:
            return float(np.clip(self._shake, -1, 1))
        error = offset - self._lane_m - self._wander_m
        angle = math.atan(self.WHEELBASE_M * curvature) - 0.9 * heading - math.atan(0.6 * error / (abs(speed) + 10.0))
        return float(np.clip(-angle / self.MAX_WHEEL_ANGLE_RAD * 0.5 + self._shake, -1, 1))


class Keys:
    """CarRacing's discrete actions, one key a step: pressed so that in sum they come to steer, gas and brake.

    What was wanted and not yet given is carried over, up to a limit. The key that leaves the least of it is pressed.
    """

    GIVES = np.array([[0, 0, 0], [0.6, 0, 0], [-0.6, 0, 0], [0, 0.2, 0], [0, 0, 0.8]])
    """Steer, gas and brake of each key: none, right, left, gas, brake; as CarRacing defines them."""
    LIMIT = np.array([1.0, 0.4, 0.8])

    def __init__(self):
        self._owed = np.zeros(3)

    def press(self, wanted: Float32[np.ndarray, " 3"]) -> int:
        """The key for this step."""
        self._owed = np.clip(self._owed + wanted, -self.LIMIT, self.LIMIT)
        key = int(((self._owed - self.GIVES) ** 2).sum(axis=1).argmin())
        self._owed = self._owed - self.GIVES[key]
        return key


BUILTIN: dict[str, PolicyFactory] = {"random": random, "brownian": brownian, "driver": Driver, "expert": Expert}


def load_policy(name: str) -> PolicyFactory:
    """The factory that a name stands for: a built-in one, or `package.module:name`.

    Raises:
        ValueError: no built-in policy of that name, or nothing callable to import.
    """
    if name in BUILTIN:
        return BUILTIN[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(
            f"policy {name!r} is none of {', '.join(BUILTIN)}, mixture; give one of them or package.module:name"
        )
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing somebody's module runs it
        raise ValueError(f"policy {name!r} cannot be imported ({error!r}); give package.module:name") from None
    if not callable(factory):
        raise ValueError(f"policy {name!r} is {type(factory).__name__}, not callable; give a function of (env, seed)")
    return cast(PolicyFactory, factory)


def deal(weights: Mapping[str, float], num_episodes: int) -> list[str]:
    """Which policy drives each of the first episodes: dealt out by weight over the index, not by chance.

    Each episode goes to the policy that is furthest behind its share, so every stretch of episodes holds them in
    proportion, and a longer list begins with the shorter one.
    """
    total = sum(weights.values())
    dealt = dict.fromkeys(weights, 0)
    names = []
    for count in range(1, num_episodes + 1):
        name = max(sorted(weights), key=lambda name: weights[name] * count / total - dealt[name])
        dealt[name] += 1
        names.append(name)
    return names
