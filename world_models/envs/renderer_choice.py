"""Chooses CarRacing's renderer on this machine. Its frames are compared with Gymnasium's own first."""

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
from world_models.envs.car_renderer import (
    CRenderer,
    GymnasiumRenderer,
    Observation,
    PygameRenderer,
    Renderer,
)
from world_models.envs.simulators import MismatchError, RendererName

RENDERERS: dict[str, type[Renderer]] = {
    "c": CRenderer,
    "pygame": PygameRenderer,
    "gymnasium": GymnasiumRenderer,
}

TESTED = {"gymnasium": ("1.1.", "1.2.", "1.3.", "1.4."), "pygame-ce": ("2.5.",)}
"""Versions that the renderers were tested with, as prefixes; others are checked on more frames."""

TRIAL_FRAMES = 8
CAUTION = 8
"""How many times as many frames are checked with versions that were never tested."""


def versions() -> str:
    """The versions that a report of a mismatch should name."""
    found = [f"{name} {version}" for name in (*TESTED, "pygame", "box2d") if (version := _version(name))]
    sdl = ".".join(map(str, pygame.get_sdl_version()))
    return ", ".join([*found, f"SDL {sdl}", f"smoothscale {pygame.transform.get_smoothscale_backend()}"])


def caution() -> int:
    """How many times the usual number of frames has to be checked with the installed versions."""
    tested = all((_version(name) or "").startswith(prefixes) for name, prefixes in TESTED.items())
    return 1 if tested else CAUTION


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def compare(renderer: Renderer, frame: Observation, env: car_racing.CarRacing) -> None:
    """Compare a frame that the renderer just drew with the one that Gymnasium, or a class made of its own, draws.

    Raises:
        MismatchError: they differ.
    """
    differing = int((frame != GymnasiumRenderer().draw(env)).any(axis=2).sum())
    if differing:
        raise MismatchError(
            f"renderer {renderer.name} drew {differing} of {frame.shape[0] * frame.shape[1]} pixels unlike "
            f"{_drawn_by(type(env))}"
        )


def _drawn_by(kind: type) -> str:
    """Whose pixels they are; a class that draws otherwise on purpose is no mistake to report."""
    own = next(base for base in kind.__mro__ if base.__module__ != "world_models.envs.car_racing")
    if own.__module__ == car_racing.__name__:
        return f"Gymnasium; please report it with these versions: {versions()}"
    return f"those of {own.__module__}.{own.__qualname__}"


def _car_racing() -> gymnasium.Env:
    """Gymnasium's own, in all colours."""
    return car_racing.CarRacing(domain_randomize=True)


@functools.cache
def choose(name: RendererName, make: Callable[[], gymnasium.Env] = _car_racing) -> tuple[str, str]:
    """The renderer that a name stands for here, and in a line why.

    Args:
        name: of a renderer, or auto.
        make: makes the environment, wrapped or not, of the class of CarRacing that is to be drawn.

    Raises:
        ValueError: it cannot be had.
    """
    if name not in ("auto", *RENDERERS):
        raise ValueError(f"renderer is {name!r}; give auto, {', '.join(RENDERERS)}")
    if name != "auto":
        if problem := _problem(name, make):
            raise ValueError(f"renderer {name} cannot be had: {problem}; choose auto or another renderer")
        return name, "as asked"
    problems = []
    for candidate in RENDERERS:
        problem = _problem(candidate, make)
        if problem is None:
            frames = "" if candidate == "gymnasium" else f", {TRIAL_FRAMES * caution()} trial frames like Gymnasium's"
            return candidate, "; ".join([f"the fastest here{frames}", *problems])
        problems.append(f"not {candidate}: {problem}")
    raise AssertionError("Gymnasium's renderer is always there")


@functools.cache
def _problem(name: str, make: Callable[[], gymnasium.Env]) -> str | None:
    """Why a renderer cannot be used here: it is not there, or draws a trial frame unlike Gymnasium."""
    if name == "gymnasium":
        return None
    try:
        renderer = RENDERERS[name]()
        with contextlib.closing(make()) as env:
            env.reset(seed=0)
            car: Any = env.unwrapped
            rng = np.random.default_rng(0)
            for _ in range(TRIAL_FRAMES * caution()):
                scatter(car, rng)
                compare(renderer, renderer.draw(car), car)
    except Exception as problem:  # whatever another version of a library makes of it
        said = str(problem) if isinstance(problem, ImportError | OSError | MismatchError) else repr(problem)
        return " ".join(said.split())
    return None


def scatter(env: car_racing.CarRacing, rng: np.random.Generator) -> None:
    """Put the car at a random place, heading, speed and time, for a trial drawing."""
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
