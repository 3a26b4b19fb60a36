"""Record one shard of rollouts: its episodes driven one after the other, into one file."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from world_models import envs
from world_models.data.rollouts import RolloutWriter, write_rollouts
from world_models.data.shards import SKIPPED_SEEDS
from world_models.envs import live_episode
from world_models.runtime import executors
from world_models.runtime.errors import Stopped

CHECKED_FRAMES = 4
"""Random frames of a shard that are compared with those that the environment itself draws, beside its first."""


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to record one shard, and all that its contents depend on.

    Attributes:
        path: the file to be.
        env, env_args, crop, warmup_steps, max_steps: as in the collection's config.
        renderer: who draws the observations, no longer `auto`.
        first_seed: seed of the first episode; the next ones count on.
        policies: who drives each episode.
        config: the collection's config, as YAML.
    """

    path: Path
    env: str
    env_args: Mapping[str, Any]
    crop: str
    renderer: str
    warmup_steps: int
    max_steps: int
    first_seed: int
    policies: tuple[str, ...]
    config: str


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What became of a task.

    Attributes:
        steps: how many were taken.
        mismatch: why the environment's own renderer had to make it, if it had to.
        num_clipped: actions that lay outside their Box.
    """

    steps: int
    mismatch: str | None = None
    num_clipped: int = 0


@envs.off_screen()
@envs.gymnasium_warnings()  # which the collection said before it began
def record_shard(task: ShardTask, report: executors.Report) -> Recorded:
    """Record one shard, a pure function of the task; `report` is told the number of steps.

    Raises:
        Stopped: a policy or the environment gives what cannot be stored; nothing of the shard is kept.
    """
    try:
        return _write(task, report)
    except envs.MismatchError as mismatch:  # nothing of it was kept
        again = _write(dataclasses.replace(task, renderer="gymnasium"), report)
        return dataclasses.replace(again, mismatch=str(mismatch))


class _Driven(NamedTuple):
    """Steps that were taken, frames that were compared, and actions that lay outside their Box."""

    steps: int = 0
    num_checked: int = 0
    num_clipped: int = 0


def _write(task: ShardTask, report: executors.Report) -> Recorded:
    with _new_env(task) as env:
        pass  # what the attributes say of it is known when it is made
    attributes = {
        "env": task.env,
        "env_args": envs.check_arguments(task.env_args),
        "preprocess": json.dumps(envs.spec(env.preprocess)),
        "action_space": json.dumps(envs.describe_space(env.action_space)),
        "warmup_steps": task.warmup_steps,
        "config": task.config,
        "renderer": env.simulator.renderer,
    }
    driven, checks = _Driven(), _frames_to_check(task, env.simulator.caution)
    skipped: list[int] = []
    with write_rollouts(task.path, envs.num_columns(env.action_space), env.telemetry_names, attributes) as rollouts:
        for episode in range(len(task.policies)):
            of_episode = {step for of, step in checks if of == episode}
            one = _drive(task, episode, of_episode, rollouts, lambda n, before=driven.steps: report(before + n))
            driven = _Driven(*map(sum, zip(driven, one, strict=True)))
            if not one.steps:
                skipped.append(task.first_seed + episode)
        rollouts.set_attribute("renderer_frames_checked", driven.num_checked)
        if skipped:
            rollouts.set_attribute(SKIPPED_SEEDS, json.dumps(skipped))
    return Recorded(driven.steps, num_clipped=driven.num_clipped)


def _frames_to_check(task: ShardTask, caution: int) -> set[tuple[int, int]]:
    """The shard's first frame, and some by chance, as (episode, step); `caution` times as many as usual."""
    rng = np.random.default_rng([task.first_seed, 0x6672616D6573])  # "frames"
    count = CHECKED_FRAMES * caution
    episodes, steps = rng.integers(len(task.policies), size=count), rng.integers(task.max_steps, size=count)
    return {(0, 0), *zip(episodes.tolist(), steps.tolist(), strict=True)}


def _drive(
    task: ShardTask, episode: int, checks: set[int], rollouts: RolloutWriter, report: executors.Report
) -> _Driven:
    """Drive one episode into a shard; one that ends in its warm-up has no step and leaves no row.

    The environment is made anew, since a simulator may carry something over from one episode to the next.
    """
    name, seed = task.policies[episode], task.first_seed + episode
    with _new_env(task) as env:
        if 0 in checks:
            env.simulator.check_next_frame()
        live = live_episode.begin(env, name, seed, task.warmup_steps)
        if live is None:
            return _Driven(0, env.simulator.num_checked)
        done = False
        while not done:
            frame, telemetry, action = live.frame, env.telemetry(), live.act()
            if live.steps in checks:
                env.simulator.check_next_frame()
            reward, terminated, truncated = live.step(action)
            truncated = truncated or live.steps == task.max_steps
            rollouts.step(frame, telemetry, action, reward, terminated, truncated)
            done = terminated or truncated
            if live.steps % 16 == 0 or done:
                report(live.steps)
        rollouts.end_episode(live.frame, env.telemetry(), seed, name)
    return _Driven(live.steps, env.simulator.num_checked, live.num_clipped)


@contextlib.contextmanager
def _new_env(task: ShardTask) -> Iterator[envs.FrameEnv]:
    """The task's environment, made anew; closed after the block, unless it failed and may fail again.

    Raises:
        Stopped: it cannot be made any more, although the trial made one, or fails when it is closed.
    """
    try:
        env = envs.make_env(task.env, task.crop, task.renderer, task.env_args)
    except ValueError as error:
        raise Stopped(str(error)) from error
    yield env
    with live_episode.at("the end of an episode"):
        env.close()
