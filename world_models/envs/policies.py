"""Policies that drive an environment: random, repeated, brownian, driver, expert, mixtures of them, or your own.

A policy is made once an episode, `make(env, seed) -> policy`, and called once a step, `policy(frame) -> action`. All
its randomness comes from the seed, so `episode_seed` and `episode_policy` reproduce an episode. Give your own policy as
`package.module:name`; see docs/collect.md.
"""

import importlib
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8

from world_models.envs.car_driver import Driver
from world_models.envs.drivable import FOR_ANY_ACTIONS, Drivable, Policy, PolicyFactory, generator
from world_models.envs.expert import Expert

MAX_REPEATS = 10
"""Largest number of steps for which `repeated` takes an action."""


def random(env: Drivable, seed: int) -> Policy:
    """A new action in each step, uniform over the action space."""
    space = env.action_space
    space.seed(int(generator(seed).integers(2**31)))
    return lambda frame: space.sample()


def repeated(env: Drivable, seed: int) -> Policy:
    """Random actions, each taken for 1 to 10 steps. Action and number of steps are uniform.

    The random policy that the paper's code drives Doom with also repeats its actions up to 10 times.
    """
    new_action, rng = random(env, seed), generator(seed)
    action: Any = None
    steps_left = 0

    def act(frame: UInt8[np.ndarray, "64 64 3"]) -> Any:
        nonlocal action, steps_left
        if steps_left == 0:
            action, steps_left = new_action(frame), int(rng.integers(1, MAX_REPEATS + 1))
        steps_left -= 1
        return action

    return act


def brownian(env: Drivable, seed: int) -> Policy:
    """Brownian motion of the actions: a_0 is uniform, a_{t+1} = clip(a_t + sqrt(1/50) * N(0, 1)).

    Raises:
        ValueError: the action space is not a bounded Box.
    """
    space = env.action_space
    if not (isinstance(space, spaces.Box) and space.is_bounded()):
        raise ValueError(
            f"policy brownian needs bounded continuous actions, this env has {space}; "
            f"{FOR_ANY_ACTIONS}, or leave brownian out of --mixture"
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


BUILTIN: dict[str, PolicyFactory] = {
    "random": random,
    "repeated": repeated,
    "brownian": brownian,
    "driver": Driver,
    "expert": Expert,
}


def load_policy(name: str) -> PolicyFactory:
    """The factory of a policy, by its name: a built-in one, or `package.module:name`.

    Raises:
        ValueError: no built-in policy has this name, or it cannot be imported or called.

    Example:
        >>> from world_models import envs
        >>> env = envs.make_env("CarRacing-v3")
        >>> frame = env.reset(seed=3)
        >>> policy = load_policy("brownian")(env, 3)
        >>> policy(frame).shape
        (3,)
        >>> env.close()
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
    except Exception as error:  # the import runs the user's code
        raise ValueError(f"policy {name!r} cannot be imported ({error!r}); give package.module:name") from None
    if not callable(factory):
        raise ValueError(f"policy {name!r} is {type(factory).__name__}, not callable; give a function of (env, seed)")
    return cast(PolicyFactory, factory)


def deal(weights: Mapping[str, float], num_episodes: int) -> list[str]:
    """The name of the policy that drives each of the first episodes. It depends on the weights, not on chance.

    Each episode gets the policy that is furthest below its share so far. So every part of the data set has about the
    right proportions, and a longer list begins with the shorter one.

    Example:
        >>> deal({"brownian": 1.0, "driver": 2.0}, 6)
        ['driver', 'brownian', 'driver', 'driver', 'brownian', 'driver']
    """
    total = sum(weights.values())
    dealt = dict.fromkeys(weights, 0)
    names = []
    for count in range(1, num_episodes + 1):
        name = max(sorted(weights), key=lambda name: weights[name] * count / total - dealt[name])
        dealt[name] += 1
        names.append(name)
    return names
