"""Who drives: random, brownian, driver, expert, mixtures of them, or your own.

A policy is made once an episode, `make(env, seed) -> policy`, and called once a step, `policy(frame) -> action`. All
its randomness derives from the seed, so `episode_seed` and `episode_policy` reproduce an episode. Your own is named
`package.module:name`; see docs/collect.md.
"""

import importlib
import math
from collections.abc import Mapping
from typing import cast

import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8

from world_models.envs.car_driver import Driver
from world_models.envs.drivable import Drivable, Policy, PolicyFactory, generator
from world_models.envs.expert import Expert


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
