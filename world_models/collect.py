"""Drive an environment and save what was seen, done and earned: rollouts/<name>/shard-*.h5.

Examples:
  python -m world_models.collect                                        40 episodes of CarRacing, a laptop's minute
  python -m world_models.collect --out rollouts/random --policy random --seed 1000
  python -m world_models.collect --config configs/paper/collect.yaml    10,000 episodes
  python -m world_models.collect --env CartPole-v1 --policy random --out rollouts/cartpole
  python -m world_models.collect --verify rollouts/carracing            check a data set and show what it holds

Run the same command again after a crash and it goes on; a larger --num_episodes extends a data set. What a shard
holds depends only on the config and the shard's number, never on workers or interruptions.
"""

import contextlib
import dataclasses
import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from world_models import envs, executors, files, overview, policies, tracking
from world_models.config import Stopped, require, run_command, to_yaml
from world_models.rollouts import FORMAT, Rollouts, RolloutWriter, write_rollouts
from world_models.shards import shard_path, shard_paths
from world_models.shards.reader import Shard

BYTES_PER_FRAME = 1300  # CarRacing packs into 1,150 bytes a frame; the estimate errs upwards
IDENTITY = ("env", "seed", "max_steps", "episodes_per_shard", "policy", "mixture", "warmup_steps", "preprocess")


def _default_mixture() -> dict[str, float]:
    return {"brownian": 1.0, "driver": 1.0}


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """What to collect, and how.

    Attributes:
        out: folder of the data set.
        num_episodes: episodes in all; more than are there extends the data set.
        max_steps: steps after which an episode is truncated.
        env: id of a Gymnasium environment with image observations or render_mode rgb_array.
        policy: who drives: random, brownian, driver, mixture, or your own as package.module:name.
        mixture: weights of the policies that mixture deals out over the episodes.
        seed: seed of the first episode; episode i has seed + i.
        warmup_steps: steps with zero actions before an episode's first row, which are not stored.
        crop: rows of the observation to keep: auto, none, or TOP:BOTTOM.
        num_workers: processes at once; 0 for one a core.
        executor: where the work runs: processes, serial, or ray.
        episodes_per_shard: episodes in a file.
        verify: check this data set and show what it holds, instead of collecting.
    """

    out: str = "rollouts/carracing"
    num_episodes: int = 40
    max_steps: int = 500
    env: str = "CarRacing-v3"
    policy: str = "mixture"
    mixture: dict[str, float] = dataclasses.field(default_factory=_default_mixture)
    seed: int = 0
    warmup_steps: int = 0
    crop: str = "auto"
    num_workers: int = 0
    executor: executors.Executor = "processes"
    episodes_per_shard: int = 10
    verify: str | None = None

    def __post_init__(self):
        for name, least in {
            "num_episodes": 1,
            "max_steps": 1,
            "episodes_per_shard": 1,
            "seed": 0,
            "warmup_steps": 0,
        }.items():
            require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}; give {least} or more")
        require(self.num_workers >= 0, f"num_workers is {self.num_workers}; give 0 (one a core) or more")
        good = self.mixture and all(weight > 0 and np.isfinite(weight) for weight in self.mixture.values())
        require(bool(good), f"mixture is {self.mixture}; give each policy a weight above 0")

    @property
    def weights(self) -> dict[str, float]:
        """The policies that drive, by weight."""
        return self.mixture if self.policy == "mixture" else {self.policy: 1.0}


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    config: CollectConfig
    index: int
    policies: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The file to be."""
        return shard_path(Path(self.config.out), self.index)


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked collection: the shards still to be made."""

    config: CollectConfig
    tasks: tuple[ShardTask, ...]


def prepare(config: CollectConfig) -> Job | Rollouts:
    """Check everything that can be wrong before the first step, and find what is left to do."""
    if config.verify is not None:
        return Rollouts(config.verify, verify=True)
    executors.check(config.executor)
    _try_policies(config)
    there = _shards_there(config)
    dealt = policies.deal(config.weights, config.num_episodes)
    size = config.episodes_per_shard
    shards = [tuple(dealt[first : first + size]) for first in range(0, config.num_episodes, size)]
    tasks = tuple(
        ShardTask(config, index, names) for index, names in enumerate(shards) if there.get(index, 0) < len(names)
    )
    frames = sum(len(task.policies) for task in tasks) * (config.max_steps + 1)
    files.check_room(Path(config.out), frames * BYTES_PER_FRAME)
    return Job(config, tasks)


def _try_policies(config: CollectConfig) -> None:
    """Make the environment, and ask every policy for its first action, so that what cannot work fails here."""
    env = envs.make_env(config.env, config.crop)
    try:
        for name in config.weights:
            factory, frame = policies.load_policy(name), _warm_up(env, config.seed, config.warmup_steps)
            try:
                envs.to_columns(env.action_space, factory(env, config.seed)(frame))
            except Exception as error:
                if name in policies.BUILTIN:
                    raise
                place = traceback.extract_tb(error.__traceback__)[-1]
                at = f"{place.filename}:{place.lineno}"
                raise ValueError(f"policy {name!r} fails on its first frame: {error!r} at {at}; mend it") from error
    except Stopped as stopped:
        raise ValueError(str(stopped)) from None
    finally:
        env.close()


def identity(config: CollectConfig) -> dict[str, Any]:
    """What makes two collections the same data set; workers, executor and folder may differ."""
    crop = envs.parse_crop(config.crop, config.env)
    how = {"preprocess": envs.spec(envs.Preprocess(crop)), "mixture": config.weights}
    return json.loads(json.dumps({name: how.get(name, getattr(config, name, None)) for name in IDENTITY}))


def _shards_there(config: CollectConfig) -> dict[int, int]:
    """Episodes that each finished shard in `out` holds.

    Raises:
        ValueError: the folder holds another data set, or more than was asked for.
    """
    there = {}
    for path in shard_paths(Path(config.out)):
        shard = Shard(path, FORMAT)
        index = int(path.stem.removeprefix("shard-"))
        held = identity(_config_of(shard))
        asked = identity(config)
        other = [f"{name} {held[name]}, not {asked[name]}" for name in IDENTITY if held[name] != asked[name]]
        if other:
            raise ValueError(
                f"{config.out} holds a data set of {'; '.join(other)}: ask for the same, or choose another --out"
            )
        if index * config.episodes_per_shard + len(shard.starts) > config.num_episodes:
            raise ValueError(
                f"{config.out} holds more than {config.num_episodes} episodes: ask for more, or choose another --out"
            )
        there[index] = len(shard.starts)
    return there


def _config_of(shard: Shard) -> CollectConfig:
    try:
        return CollectConfig(**yaml.safe_load(shard.attributes["config"]))
    except (TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{shard.path}: collected by another program ({error}); choose another --out") from None


def collect(job: Job | Rollouts) -> None:
    """Make the shards that are missing, with a progress bar; or show a verified data set."""
    if isinstance(job, Rollouts):
        overview.show(job)
        return
    out = Path(job.config.out)
    out.mkdir(parents=True, exist_ok=True)
    with files.only_writer(out):
        files.remove_partials(out)
        try:
            _make_shards(job)
        finally:
            files.remove_partials(out)
    data = Rollouts(out)
    print(
        f"{out}: {len(data)} episodes, {data.num_rows:,} frames in {len(data.shards)} shards"
        + ("" if job.tasks else ", all there already")
    )


def _make_shards(job: Job) -> None:
    planned = [len(task.policies) * job.config.max_steps for task in job.tasks]
    with tracking.progress(sum(planned), "frames", "collect") as bar:

        def watch(frames: int) -> None:
            bar.update(frames - bar.n)

        with contextlib.closing(
            executors.run(collect_shard, job.tasks, job.config.executor, job.config.num_workers, watch)
        ) as run:
            for index, frames in run:
                bar.total -= planned[index] - frames  # episodes that ended early
        bar.update(bar.total - bar.n)


def collect_shard(task: ShardTask, report: executors.Report) -> int:
    """Collect one shard, a pure function of the task; returns its number of steps."""
    settings = task.config
    env = envs.make_env(settings.env, settings.crop)
    attributes = {
        "env": settings.env,
        "preprocess": json.dumps(envs.spec(env.preprocess)),
        "action_space": json.dumps(envs.describe_space(env.action_space)),
        "warmup_steps": settings.warmup_steps,
        "config": to_yaml(settings),
    }
    env.close()
    steps = 0
    with write_rollouts(task.path, envs.num_columns(env.action_space), env.telemetry_names, attributes) as rollouts:
        for offset, name in enumerate(task.policies):
            seed = settings.seed + task.index * settings.episodes_per_shard + offset
            steps += drive(settings, name, seed, rollouts, lambda done, before=steps: report(before + done))
    return steps


def drive(settings: CollectConfig, name: str, seed: int, rollouts: RolloutWriter, report: executors.Report) -> int:
    """Drive one episode into a shard; returns its number of steps.

    The environment is made anew, since a simulator may carry something over from one episode to the next.
    """
    env = envs.make_env(settings.env, settings.crop)
    frame = _warm_up(env, seed, settings.warmup_steps)
    policy = policies.load_policy(name)(env, seed)
    done, step = False, 0
    while not done:
        telemetry, action = env.telemetry(), envs.to_columns(env.action_space, policy(frame))
        following, reward, terminated, truncated = env.step(action)
        step += 1
        truncated = truncated or step == settings.max_steps
        rollouts.step(frame, telemetry, action, reward, terminated, truncated)
        frame, done = following, terminated or truncated
        if step % 16 == 0 or done:
            report(step)
    rollouts.end_episode(frame, env.telemetry(), seed, name)
    env.close()
    return step


def _warm_up(env: envs.FrameEnv, seed: int, steps: int) -> envs.Frame:
    frame = env.reset(seed)
    nothing = np.zeros(envs.num_columns(env.action_space), np.float32)
    for step in range(steps):
        frame, _, terminated, truncated = env.step(nothing)
        if terminated or truncated:
            raise Stopped(f"the episode of seed {seed} ended in warm-up step {step + 1}; give fewer --warmup_steps")
    return frame


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, CollectConfig, prepare, collect, argv)


if __name__ == "__main__":
    main()
