"""Drive an environment and save what was seen, done and earned: rollouts/<name>/shard-*.h5.

Examples:
  python -m world_models.collect                                        40 episodes of CarRacing, seconds
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from world_models import envs, executors, files, overview, policies, progress
from world_models.config import Stopped, require, require_bounds, run_command, to_yaml
from world_models.envs.renderer_choice import RendererName
from world_models.paths import PATH, resolve_fields
from world_models.recording import ShardTask, record_shard, warm_up
from world_models.rollouts import FORMAT, Rollouts
from world_models.shards import shard_path, shard_paths
from world_models.shards.reader import Shard

BYTES_PER_FRAME, BYTES_PER_SHARD = 1700, 30_000  # CarRacing takes 1,580 bytes a frame; the estimate errs upwards
MAX_WEIGHT = 1_000_000_000
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
        renderer: who draws CarRacing: auto, c, pygame, or gymnasium; the frames are the same.
        num_workers: processes at once; 0 for one a core.
        executor: where the work runs: processes, serial, or ray.
        episodes_per_shard: episodes in a file.
        verify: check this data set and show what it holds, instead of collecting.
    """

    out: str = dataclasses.field(default="rollouts/carracing", metadata=PATH)
    num_episodes: int = 40
    max_steps: int = 500
    env: str = "CarRacing-v3"
    policy: str = "mixture"
    mixture: dict[str, float] = dataclasses.field(default_factory=_default_mixture)
    seed: int = 0
    warmup_steps: int = 0
    crop: str = "auto"
    renderer: RendererName = "auto"
    num_workers: int = 0
    executor: executors.Executor = "processes"
    episodes_per_shard: int = 10
    verify: str | None = dataclasses.field(default=None, metadata=PATH)

    def __post_init__(self):
        resolve_fields(self)
        require(self.num_workers >= 0, f"num_workers is {self.num_workers}; give 0 (one a core) or more")
        require_bounds(
            self,
            num_episodes=(1, 100_000_000),
            max_steps=(1, 2**31 - 2),  # the column episode_length is int32
            episodes_per_shard=(1, 100_000_000),
            seed=(0, 2**63 - 1),
            warmup_steps=(0, 10_000),
            num_workers=(0, 10_000),
        )
        require(
            self.seed + self.num_episodes <= 2**63, f"seed is {self.seed}; give one whose last episode is below 2^63"
        )
        good = self.mixture and all(0 < weight <= MAX_WEIGHT for weight in self.mixture.values())
        require(bool(good), f"mixture is {self.mixture}; give each policy a weight above 0, {MAX_WEIGHT:,} at most")

    @property
    def weights(self) -> dict[str, float]:
        """The policies that drive, by weight."""
        return self.mixture if self.policy == "mixture" else {self.policy: 1.0}


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked collection: the shards still to be made, and what is said before it begins."""

    config: CollectConfig
    tasks: tuple[ShardTask, ...]
    note: str


def prepare(config: CollectConfig) -> Job | Rollouts:
    """Check everything that can be wrong before the first step, and find what is left to do."""
    if config.verify is not None:
        return Rollouts(config.verify, verify=True)
    executors.check(config.executor)
    there = _shards_there(config)
    files.check_room(Path(config.out), _bytes_missing(config, there))  # before millions of episodes are planned
    renderer, note = _try_env(config)
    dealt = policies.deal(config.weights, config.num_episodes)
    size = config.episodes_per_shard
    shards = [tuple(dealt[first : first + size]) for first in range(0, config.num_episodes, size)]
    tasks = tuple(
        shard_task(config, index, names, renderer)
        for index, names in enumerate(shards)
        if there.get(index, 0) < len(names)
    )
    return Job(config, tasks, note)


def _bytes_missing(config: CollectConfig, there: Mapping[int, int]) -> int:
    """Room that the shards still to be made take, by how many episodes those that are there hold."""
    size = config.episodes_per_shard
    whole = [held for index, held in there.items() if held == min(size, config.num_episodes - index * size)]
    frames = (config.num_episodes - sum(whole)) * (config.max_steps + 1)
    return frames * BYTES_PER_FRAME + (-(-config.num_episodes // size) - len(whole)) * BYTES_PER_SHARD


def shard_task(config: CollectConfig, index: int, names: tuple[str, ...], renderer: str) -> ShardTask:
    """The task of recording the shard of this number, its episodes driven by these policies."""
    return ShardTask(
        path=shard_path(Path(config.out), index),
        env=config.env,
        crop=config.crop,
        renderer=renderer,
        warmup_steps=config.warmup_steps,
        max_steps=config.max_steps,
        first_seed=config.seed + index * config.episodes_per_shard,
        policies=names,
        config=to_yaml(config),
    )


def _try_env(config: CollectConfig) -> tuple[str, str]:
    """Make the environment, and ask every policy for its first action, so that what cannot work fails here.

    Returns:
        The renderer that draws, and a line on why where that was not asked for.
    """
    env = envs.make_env(config.env, config.crop, config.renderer)
    try:
        for name in config.weights:
            factory, frame = policies.load_policy(name), warm_up(env, config.seed, config.warmup_steps)
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
    return env.renderer, env.renderer_note if config.renderer == "auto" else ""


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
        saved: dict[str, Any] = dict(yaml.safe_load(shard.attributes["config"]))
        saved["out"] = str(shard.path.parent)  # the folder where it was made may be none on this machine
        return CollectConfig(**saved)
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{shard.path}: collected by another program ({error}); choose another --out") from None


def collect(job: Job | Rollouts) -> None:
    """Make the shards that are missing, with a progress bar; or show a verified data set."""
    if isinstance(job, Rollouts):
        overview.show(job)
        return
    out = Path(job.config.out)
    files.make_folder(out)
    if job.tasks and job.note:
        print(job.note)
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
    with progress.bar(sum(planned), "frames", "collect") as bar:

        def watch(frames: int) -> None:
            bar.update(frames - bar.n)

        with contextlib.closing(
            executors.run(record_shard, job.tasks, job.config.executor, job.config.num_workers, watch)
        ) as run:
            for index, recorded in run:
                bar.total -= planned[index] - recorded.steps  # episodes that ended early
                if recorded.mismatch:
                    bar.write(f"{job.tasks[index].path.name} was made again, drawn by Gymnasium: {recorded.mismatch}")
        bar.update(bar.total - bar.n)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, CollectConfig, prepare, collect, argv)


if __name__ == "__main__":
    main()
