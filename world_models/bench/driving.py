"""The work of collecting: whole collections, single steps of the environment, and the parts of a step."""

import contextlib
import functools
import importlib.util
import io
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from world_models import envs
from world_models.bench.measuring import Work
from world_models.collect import command as collect
from world_models.data.rollouts import write_rollouts
from world_models.envs import policies, renderer_choice
from world_models.runtime import host, workers

STEPS = 500
"""Length of an episode. Each begins with the opening zoom, which is the slowest part to draw."""

EPISODES_PER_CORE = {"c": 20, "pygame": 3, "gymnasium": 1}
"""Chosen so that a sample takes seconds, with the start of the processes. Two cores collect 40 episodes by C."""


def comparisons(folder: Path) -> Iterator[dict[str, Work]]:
    """The comparisons, each with the baseline first: on all cores, in one process, and the environment alone."""
    yield whole_collections(folder, host.available_cores(), "")
    yield whole_collections(folder, 1, "_one_process")
    yield env_steps()


def available_renderers() -> list[renderer_choice.RendererName]:
    """The renderers that work on this machine, the fastest first."""
    available: list[renderer_choice.RendererName] = []
    for name in ("c", "pygame", "gymnasium"):
        with contextlib.suppress(ValueError):
            renderer_choice.choose(name)
            available.append(name)
    return available


def whole_collections(folder: Path, cores: int, suffix: str) -> dict[str, Work]:
    """Whole collections. The baseline drives Gymnasium's CarRacing in as many processes and stores nothing."""
    fresh = itertools.count()

    def plain_loops() -> tuple[int, float]:
        episodes = [(seed, STEPS) for seed in range(cores)]
        loops = workers.run_processes(plain_loop, episodes, cores, lambda units: None)
        return cores * STEPS, max(seconds for _, seconds in loops)  # without the start of the processes

    def collected(renderer: renderer_choice.RendererName) -> int:
        out = str(folder / f"collect{suffix}_{renderer}_{next(fresh)}")
        episodes = cores * EPISODES_PER_CORE[renderer]
        settings = collect.CollectConfig(
            out,
            episodes,
            STEPS,
            renderer=renderer,
            num_workers=cores,
            episodes_per_shard=max(1, episodes // cores // 5),
        )
        with contextlib.redirect_stdout(None), contextlib.redirect_stderr(io.StringIO()):
            collect.collect(collect.prepare(settings))
        return episodes * STEPS

    ours: dict[str, Work] = {f"{name}{suffix}": functools.partial(collected, name) for name in available_renderers()}
    return {f"gymnasium_loop{suffix}": plain_loops, **ours}


def plain_loop(episode: tuple[int, int], report: Callable[[int], None]) -> float:
    """Drive an episode (seed, length) of Gymnasium's CarRacing, as public code does. Returns the seconds."""
    seed, steps = episode
    actions, start = brownian_actions(seed, steps), time.perf_counter()
    env = gymnasium.make("CarRacing-v3")
    env.reset(seed=seed)
    for action in actions:
        env.step(action)
    env.close()
    return time.perf_counter() - start


def brownian_actions(seed: int, steps: int) -> np.ndarray:
    """The actions of an episode, the same for every environment."""
    policy = policies.brownian(envs.make_env("CarRacing-v3", renderer="gymnasium"), seed)
    return np.stack([policy(np.zeros((64, 64, 3), np.uint8)) for _ in range(steps)])


def env_steps() -> dict[str, Work]:
    """`env.step` alone, for the same steps of the same episodes. Each round has a new episode. Resets do not count."""

    def stepper(make: Callable[[], Any]) -> Work:
        env, seeds = make(), itertools.count()

        def work() -> tuple[int, float]:
            seed = next(seeds)
            env.reset(seed=seed)
            actions = brownian_actions(seed, STEPS)
            start = time.perf_counter()
            for action in actions:
                env.step(action)
            return STEPS, time.perf_counter() - start

        return work

    def fast(renderer: str) -> Work:
        return stepper(lambda: gymnasium.make(envs.FAST_CAR_RACING, max_episode_steps=-1, renderer=renderer))

    works = {"gymnasium_step": stepper(lambda: gymnasium.make("CarRacing-v3", max_episode_steps=-1))}
    works |= {f"{name}_step": fast(name) for name in available_renderers() if name != "gymnasium"}
    if importlib.util.find_spec("envpool"):
        works["envpool_step"] = stepper(_EnvPool)
    return works


class _EnvPool:
    """EnvPool's CarRacing on one thread. It is the same game with other pixels."""

    def __init__(self):
        import envpool  # type: ignore[import-not-found]

        self._env = envpool.make_gymnasium("CarRacing-v3", num_envs=1, num_threads=1, max_episode_steps=10 * STEPS)

    def reset(self, seed: int) -> None:
        self._env.reset()

    def step(self, action: np.ndarray) -> None:
        self._env.step(action[None])


def parts_us(folder: Path) -> dict[str, float]:
    """The time of each part of a step in microseconds, with the default renderer, measured over one episode."""
    spent: dict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            spent[part] += time.perf_counter() - start
            return result

        return call

    env: Any = envs.make_env("CarRacing-v3")
    simulator = env.env.unwrapped
    simulator.renderer.draw = timed("rendering", simulator.renderer.draw)
    env.env.step = timed("step", env.env.step)
    env._frame = timed("resize", env._frame)
    frame = timed("reset", env.reset)(0)
    spent["step"] = spent["rendering"] = spent["resize"] = 0.0  # leave out the reset
    policy, telemetry = timed("policy", policies.brownian(env, 0)), timed("telemetry", env.telemetry)
    with write_rollouts(
        folder / "parts.h5",
        3,
        env.telemetry_names,
        dict.fromkeys(("env", "preprocess"), "")
        | {
            "action_space": "",
            "warmup_steps": 0,
            "config": "",
        },
    ) as rollouts:
        write = timed("write", rollouts.step)
        for _ in range(STEPS):
            state, action = telemetry(), policy(frame)
            following, reward, terminated, truncated = env.step(action)
            write(frame, state, action, reward, terminated, truncated)
            frame = following
        timed("write", rollouts.end_episode)(frame, telemetry(), 0, "brownian")
    env.close()
    spent["physics"] = spent.pop("step") - spent["rendering"]
    return {part: round(1e6 * seconds / STEPS, 1) for part, seconds in sorted(spent.items(), key=lambda item: -item[1])}
