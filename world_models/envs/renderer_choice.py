"""Chooses CarRacing's renderer for this machine, after comparing its frames with Gymnasium's."""

import contextlib
import functools
from collections.abc import Callable
from importlib import metadata
from typing import Any

import gymnasium
import numpy as np
import pygame
from gymnasium.envs.box2d import car_racing

from world_models.envs.car_dynamics import move_car
from world_models.envs.car_names import RendererName
from world_models.envs.car_renderer import (
    CRenderer,
    GymnasiumRenderer,
    Observation,
    PygameRenderer,
    Renderer,
)
from world_models.envs.simulators import MismatchError

RENDERERS: dict[str, type[Renderer]] = {
    "c": CRenderer,
    "pygame": PygameRenderer,
    "gymnasium": GymnasiumRenderer,
}

TESTED = {"gymnasium": ("1.1.", "1.2.", "1.3.", "1.4."), "pygame-ce": ("2.5.",)}
"""Prefixes of the versions that the renderers were tested with. With other versions more frames are compared."""

TRIAL_FRAMES = 8
UNTESTED_CHECK_FACTOR = 8
"""With untested versions, this many times as many frames are compared."""


def versions() -> str:
    """The installed versions on which the frames depend, for reports of a mismatch."""
    found = [f"{name} {version}" for name in (*TESTED, "pygame", "box2d") if (version := _version(name))]
    sdl = ".".join(map(str, pygame.get_sdl_version()))
    return ", ".join([*found, f"SDL {sdl}", f"smoothscale {pygame.transform.get_smoothscale_backend()}"])


def check_factor() -> int:
    """The usual number of compared frames is multiplied by this. It is 1 for tested versions."""
    tested = all((_version(name) or "").startswith(prefixes) for name, prefixes in TESTED.items())
    return 1 if tested else UNTESTED_CHECK_FACTOR


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def compare(renderer: Renderer, frame: Observation, env: car_racing.CarRacing) -> None:
    """Compare a frame that the renderer has just drawn with the one that the environment's own class draws.

    Raises:
        MismatchError: the frames differ.
    """
    differing = int((frame != GymnasiumRenderer().draw(env)).any(axis=2).sum())
    if differing:
        raise MismatchError(
            f"renderer {renderer.name} drew {differing} of {frame.shape[0] * frame.shape[1]} pixels unlike "
            f"{_name_of_reference(type(env))}"
        )


def _name_of_reference(kind: type) -> str:
    """The class that the renderer differs from. Only if it is Gymnasium's does the message ask for a report."""
    own = next(base for base in kind.__mro__ if base.__module__ != "world_models.envs.car_racing")
    if own.__module__ == car_racing.__name__:
        return f"Gymnasium; please report it with these versions: {versions()}"
    return f"those of {own.__module__}.{own.__qualname__}"


def _car_racing() -> gymnasium.Env:
    """Gymnasium's CarRacing, with random colours."""
    return car_racing.CarRacing(domain_randomize=True)


@functools.cache
def choose(name: RendererName, make: Callable[[], gymnasium.Env] = _car_racing) -> tuple[str, str]:
    """Choose the renderer on this machine. Returns its name, and the reason in one line.

    Args:
        name: name of a renderer, or `auto` for the fastest that works.
        make: makes an environment of the class that will be drawn, wrapped or not.

    Raises:
        ValueError: the renderer cannot be used.
    """
    if name not in ("auto", *RENDERERS):
        raise ValueError(f"renderer is {name!r}; give auto, {', '.join(RENDERERS)}")
    if name != "auto":
        if problem := problem_of(name, make):
            raise ValueError(f"renderer {name} cannot be used: {problem}; choose auto or another renderer")
        return name, "as asked"
    problems = []
    for candidate in RENDERERS:
        problem = problem_of(candidate, make)
        if problem is None:
            count = TRIAL_FRAMES * check_factor()
            frames = "" if candidate == "gymnasium" else f", {count} trial frames like Gymnasium's"
            return candidate, "; ".join([f"the fastest here{frames}", *problems])
        problems.append(f"not {candidate}: {problem}")
    raise AssertionError("Gymnasium's renderer is always there")


@functools.cache
def problem_of(name: str, make: Callable[[], gymnasium.Env]) -> str | None:
    """Why a renderer cannot be used here: it was not built, or a trial frame differs. None if it can be used."""
    if name == "gymnasium":
        return None
    try:
        renderer = RENDERERS[name]()
        with contextlib.closing(make()) as env:
            env.reset(seed=0)
            car: Any = env.unwrapped
            rng = np.random.default_rng(0)
            for _ in range(TRIAL_FRAMES * check_factor()):
                scatter(car, rng)
                compare(renderer, renderer.draw(car), car)
    except Exception as problem:  # another version of a library may fail in any way
        reason = str(problem) if isinstance(problem, ImportError | OSError | MismatchError) else repr(problem)
        return " ".join(reason.split())
    return None


def scatter(env: car_racing.CarRacing, rng: np.random.Generator) -> None:
    """Give the car a random position, heading and speed, and the episode a random time, for a trial frame."""
    car = env.car
    assert car is not None and car.hull is not None
    _, heading, x, y = env.track[rng.integers(len(env.track))]
    heading += rng.normal(0, 1)
    move_car(car, x + rng.normal(0, 8), y + rng.normal(0, 8), heading)
    for wheel in car.wheels:
        wheel.angle += rng.normal(0, 0.2)
        wheel.phase, wheel.omega = rng.uniform(0, 100), rng.normal(0, 100)
    car.hull.linearVelocity, car.hull.angularVelocity = rng.normal(0, 40, 2).tolist(), rng.normal(0, 3)
    env.t = rng.choice([rng.uniform(0, 1), 10.0])
    env.reward = rng.normal(0, 1000)
