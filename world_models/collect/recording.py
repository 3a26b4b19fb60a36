"""Record one shard of rollouts: drive its episodes one after the other, and write them into one file."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from world_models import envs
from world_models.data.rollouts import RolloutWriter, write_rollouts
from world_models.data.shards import SKIPPED_SEEDS
from world_models.envs import live_episode
from world_models.runtime import executors
from world_models.runtime.errors import Stopped
from world_models.runtime.typed_json import Json

CHECKED_FRAMES = 4
"""Number of random frames of a shard that are compared with the environment's own. The first is compared too."""


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Everything that a worker needs to record one shard. The shard's contents depend on nothing else.

    Attributes:
        path: the file to write.
        env, env_args, crop, warmup_steps, max_steps: as in the collection's config.
        renderer: name of the renderer, or `auto` for the fastest of the machine that records.
        first_seed: seed of the first episode; episode i of the shard has first_seed + i.
        policies: name of the policy of each episode.
        config: the collection's config, as YAML.
    """

    path: Path
    env: str
    env_args: Mapping[str, Json]
    crop: str
    renderer: str
    warmup_steps: int
    max_steps: int
    first_seed: int
    policies: tuple[str, ...]
    config: str


@dataclasses.dataclass(frozen=True)
class ShardResult:
    """The result of a task.

    Attributes:
        steps: number of steps.
        mismatch: why the shard was recorded again with the environment's own renderer; None if it was not.
        num_clipped: number of actions that lay outside their Box.
    """

    steps: int
    mismatch: str | None = None
    num_clipped: int = 0


@envs.off_screen()
@envs.gymnasium_warnings()  # `prepare` has printed them already
def record_shard(task: ShardTask, report: executors.Report) -> ShardResult:
    """Record one shard. Its contents are a pure function of the task.

    Args:
        task: what to record.
        report: called with the number of steps so far.

    Raises:
        Stopped: a policy or the environment gives a value that cannot be stored. No file is kept.
    """
    try:
        return _write(task, report)
    except envs.MismatchError as mismatch:  # the writer has removed the unfinished file
        recorded = _write(dataclasses.replace(task, renderer="gymnasium"), report)
        return dataclasses.replace(recorded, mismatch=str(mismatch))


class _Counts(NamedTuple):
    """Numbers of steps, of compared frames, and of actions that lay outside their Box."""

    steps: int = 0
    num_checked: int = 0
    num_clipped: int = 0


def _write(task: ShardTask, report: executors.Report) -> ShardResult:
    with _new_env(task) as env:
        pass  # only needed for the attributes below
    attributes = {
        "env": task.env,
        "env_args": envs.check_arguments(task.env_args),
        "preprocess": json.dumps(envs.preprocess_spec(env.preprocess)),
        "action_space": json.dumps(envs.describe_space(env.action_space)),
        "warmup_steps": task.warmup_steps,
        "config": task.config,
        "renderer": env.simulator.renderer,
    }
    total, checks = _Counts(), _frames_to_check(task, env.simulator.check_factor)
    skipped: list[int] = []
    with write_rollouts(task.path, envs.num_columns(env.action_space), env.telemetry_names, attributes) as rollouts:
        for episode in range(len(task.policies)):
            steps_to_check = {step for checked_episode, step in checks if checked_episode == episode}
            counts = _drive(task, episode, steps_to_check, rollouts, lambda n, before=total.steps: report(before + n))
            total = _Counts(*map(sum, zip(total, counts, strict=True)))
            if not counts.steps:
                skipped.append(task.first_seed + episode)
        rollouts.set_attribute("renderer_frames_checked", total.num_checked)
        if skipped:
            rollouts.set_attribute(SKIPPED_SEEDS, json.dumps(skipped))
    return ShardResult(total.steps, num_clipped=total.num_clipped)


def _frames_to_check(task: ShardTask, check_factor: int) -> set[tuple[int, int]]:
    """The frames to compare, as (episode, step): the shard's first, and `CHECKED_FRAMES * check_factor` random ones."""
    rng = np.random.default_rng([task.first_seed, 0x6672616D6573])  # "frames"
    count = CHECKED_FRAMES * check_factor
    episodes, steps = rng.integers(len(task.policies), size=count), rng.integers(task.max_steps, size=count)
    return {(0, 0), *zip(episodes.tolist(), steps.tolist(), strict=True)}


def _drive(
    task: ShardTask, episode: int, checks: set[int], rollouts: RolloutWriter, report: executors.Report
) -> _Counts:
    """Drive one episode and write its rows. An episode that ends during its warm-up has no steps and no rows.

    Each episode gets a new environment, because a simulator may carry state over from one episode to the next.
    """
    name, seed = task.policies[episode], task.first_seed + episode
    with _new_env(task) as env:
        if 0 in checks:
            env.simulator.check_next_frame()
        live = live_episode.begin(env, name, seed, task.warmup_steps)
        if live is None:
            return _Counts(0, env.simulator.num_checked)
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
    return _Counts(live.steps, env.simulator.num_checked, live.num_clipped)


@contextlib.contextmanager
def _new_env(task: ShardTask) -> Iterator[envs.FrameEnv]:
    """A new environment for the task. It is closed after the block, unless the block raised an error.

    Raises:
        Stopped: the environment cannot be made, although the trial could make one, or it fails when it is closed.
    """
    try:
        env = envs.make_env(task.env, task.crop, task.renderer, task.env_args)
    except ValueError as error:
        raise Stopped(str(error)) from error
    yield env
    with live_episode.env_errors_at("the end of an episode"):
        env.close()
