"""Record one shard of rollouts: its episodes driven one after the other, into one file."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from world_models import envs, executors, policies
from world_models.config import Stopped
from world_models.envs import renderer_choice
from world_models.rollouts import RolloutWriter, write_rollouts

CHECKED_FRAMES = 4
"""Random frames of a shard that are compared with Gymnasium's, beside its first."""


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to record one shard, and all that its contents depend on.

    Attributes:
        path: the file to be.
        env, env_args, crop, warmup_steps, max_steps: as in the collection's config.
        renderer: who draws CarRacing, no longer `auto`.
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
    """What became of a task: its number of steps, and why Gymnasium's renderer had to make it, if it had to."""

    steps: int
    mismatch: str | None = None


@envs.off_screen()
@envs.gymnasium_warnings()  # which the collection said before it began
def record_shard(task: ShardTask, report: executors.Report) -> Recorded:
    """Record one shard, a pure function of the task; `report` is told the number of steps."""
    try:
        return Recorded(_write(task, report))
    except renderer_choice.MismatchError as mismatch:  # nothing of it was kept
        return Recorded(_write(dataclasses.replace(task, renderer="gymnasium"), report), str(mismatch))


def _write(task: ShardTask, report: executors.Report) -> int:
    env = envs.make_env(task.env, task.crop, task.renderer, task.env_args)
    env.close()
    attributes = {
        "env": task.env,
        "env_args": envs.check_arguments(task.env_args),
        "preprocess": json.dumps(envs.spec(env.preprocess)),
        "action_space": json.dumps(envs.describe_space(env.action_space)),
        "warmup_steps": task.warmup_steps,
        "config": task.config,
        "renderer": env.renderer,
    }
    steps, checked, checks = 0, 0, _frames_to_check(task)
    with write_rollouts(task.path, envs.num_columns(env.action_space), env.telemetry_names, attributes) as rollouts:
        for episode in range(len(task.policies)):
            of_episode = {step for of, step in checks if of == episode}
            driven, compared = _drive(task, episode, of_episode, rollouts, lambda n, before=steps: report(before + n))
            steps, checked = steps + driven, checked + compared
        rollouts.set_attribute("renderer_frames_checked", checked)
    return steps


def _frames_to_check(task: ShardTask) -> set[tuple[int, int]]:
    """The shard's first frame, and some by chance, as (episode, step)."""
    rng = np.random.default_rng([task.first_seed, 0x6672616D6573])  # "frames"
    count = CHECKED_FRAMES * renderer_choice.caution()
    episodes, steps = rng.integers(len(task.policies), size=count), rng.integers(task.max_steps, size=count)
    return {(0, 0), *zip(episodes.tolist(), steps.tolist(), strict=True)}


def _drive(
    task: ShardTask, episode: int, checks: set[int], rollouts: RolloutWriter, report: executors.Report
) -> tuple[int, int]:
    """Drive one episode into a shard; returns its number of steps and how many frames were compared.

    The environment is made anew, since a simulator may carry something over from one episode to the next.
    """
    name, seed = task.policies[episode], task.first_seed + episode
    env = envs.make_env(task.env, task.crop, task.renderer, task.env_args)
    if 0 in checks:
        env.check_next_frame()
    frame = warm_up(env, seed, task.warmup_steps)
    policy = policies.load_policy(name)(env, seed)
    done, step = False, 0
    while not done:
        telemetry, action = env.telemetry(), envs.to_columns(env.action_space, policy(frame))
        step += 1
        if step in checks:
            env.check_next_frame()
        following, reward, terminated, truncated = env.step(action)
        truncated = truncated or step == task.max_steps
        rollouts.step(frame, telemetry, action, reward, terminated, truncated)
        frame, done = following, terminated or truncated
        if step % 16 == 0 or done:
            report(step)
    rollouts.end_episode(frame, env.telemetry(), seed, name)
    env.close()
    return step, env.num_checked


def warm_up(env: envs.FrameEnv, seed: int, steps: int) -> envs.Frame:
    """Begin the episode that the seed determines, and take some steps with zero actions; returns the frame then seen.

    Raises:
        Stopped: the episode ended meanwhile.
    """
    frame = env.reset(seed)
    nothing = np.zeros(envs.num_columns(env.action_space), np.float32)
    for step in range(steps):
        frame, _, terminated, truncated = env.step(nothing)
        if terminated or truncated:
            raise Stopped(f"the episode of seed {seed} ended in warm-up step {step + 1}; give fewer --warmup_steps")
    return frame
