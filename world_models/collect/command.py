"""Drive an environment and save frames, actions and rewards: rollouts/<name>/shard-*.h5.

Examples:
  python -m world_models.collect                                        40 episodes of CarRacing, seconds
  python -m world_models.collect --out rollouts/random --policy random --seed 1000
  python -m world_models.collect --config configs/paper/collect.yaml    10,000 episodes
  python -m world_models.collect --env CartPole-v1 --policy random --out rollouts/cartpole
  python -m world_models.collect --env_args '{"domain_randomize": true}' --out rollouts/colours
  python -m world_models.collect --verify rollouts/carracing            check a data set and show what it holds

After a crash, run the same command again: it continues. A larger --num_episodes extends a data set. The contents of a
shard depend only on the config and on the shard's number, not on workers or interruptions.
"""

import contextlib
import dataclasses
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from world_models import envs
from world_models.collect import overview, remote, trial
from world_models.collect.config import IDENTITY, CollectConfig, identity
from world_models.collect.recording import ShardResult, ShardTask, record_shard
from world_models.data.rollouts import FORMAT, Rollouts, telemetry_names
from world_models.data.shards import shard_path, shard_paths, strings
from world_models.data.shards.reader import Shard
from world_models.drawing import grids
from world_models.envs import policies
from world_models.runtime import executors, files, locks, progress, terminal, untrusted
from world_models.runtime.cli import run_command, to_yaml
from world_models.runtime.errors import Stopped

BYTES_PER_FRAME, BYTES_PER_SHARD = 1700, 30_000  # CarRacing takes 1,580 bytes a frame; the estimate is a little higher


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked collection.

    Attributes:
        config: its settings.
        tasks: the shards that are still missing.
        note: lines that are printed before the work begins.
        first_frames: picture of the first frames, to be saved in the data set's folder.
    """

    config: CollectConfig
    tasks: tuple[ShardTask, ...]
    note: str
    first_frames: grids.Picture

    @property
    def is_finished(self) -> bool:
        """Whether all shards exist."""
        return not self.tasks

    @property
    def num_frames(self) -> int:
        """Number of frames of its shards. Before it has run, an upper bound, because episodes may end early."""
        return sum(
            Shard(task.path, FORMAT).num_rows if task.path.exists() else len(task.policies) * (task.max_steps + 1)
            for task in self.tasks
        )

    def run(self) -> None:
        """Make the missing shards, with a progress bar."""
        _record(self)


@dataclasses.dataclass(frozen=True)
class Verification:
    """A data set that was read completely and is undamaged. Its work is to describe the data set."""

    data: Rollouts
    is_finished = False

    @property
    def num_frames(self) -> int:
        """Number of frames that were read."""
        return self.data.num_rows

    def run(self) -> None:
        """Print what the data set holds, and draw its contact sheet."""
        overview.show(self.data)


def prepare(config: CollectConfig) -> Job | Verification:
    """Check everything that can be wrong before the first step, and find the missing shards.

    Raises:
        ValueError, OSError: the input is bad, or the data set in `out` is another one. Nothing was written.
    """
    if config.verify is not None:
        data = Rollouts(config.verify, verify=True)
        untrusted.is_file(overview.sheet_path(data))
        return Verification(data)
    text = to_yaml(config)  # once, because it takes as long as everything else for 100 shards
    strings.check_size("the config", text)
    finished_shards = _finished_shards(config)
    num_finished = {index: shard.num_planned for index, shard in finished_shards.items()}
    files.check_room(Path(config.out), _missing_bytes(config, num_finished))  # before millions of episodes are planned
    with envs.gymnasium_warnings() as warned:
        env, note, first_frames = _try_env(config)
    note = "\n".join([*(f"Gymnasium: {line}" for line in dict.fromkeys(warned)), note])
    _check_same(config, env, finished_shards)
    names = policies.deal(config.weights, config.num_episodes)
    size = config.episodes_per_shard
    names_by_shard = [tuple(names[first : first + size]) for first in range(0, config.num_episodes, size)]
    renderer = config.renderer if config.executor == "ray" else env.simulator.renderer  # each node tries its own
    tasks = tuple(
        shard_task(config, index, names, renderer, text)
        for index, names in enumerate(names_by_shard)
        if num_finished.get(index, 0) < len(names)
    )
    if tasks and config.executor == "ray":
        remote.check(config)
    return Job(config, tasks, note, first_frames)


def _missing_bytes(config: CollectConfig, num_finished: Mapping[int, int]) -> int:
    """Estimated bytes of the missing shards.

    Args:
        config: the settings.
        num_finished: number of episodes of each finished shard, by the shard's number.
    """
    size = config.episodes_per_shard
    complete = [held for index, held in num_finished.items() if held == min(size, config.num_episodes - index * size)]
    frames = (config.num_episodes - sum(complete)) * (config.max_steps + 1)
    return frames * BYTES_PER_FRAME + (-(-config.num_episodes // size) - len(complete)) * BYTES_PER_SHARD


def shard_task(
    config: CollectConfig, index: int, names: tuple[str, ...], renderer: str, text: str | None = None
) -> ShardTask:
    """The task of recording shard `index`. `names` gives the policy of each episode, `text` the config as YAML."""
    return ShardTask(
        path=shard_path(Path(config.out), index),
        env=config.env,
        env_args=config.env_args,
        crop=config.crop,
        renderer=renderer,
        warmup_steps=config.warmup_steps,
        max_steps=config.max_steps,
        first_seed=config.seed + index * config.episodes_per_shard,
        policies=names,
        config=to_yaml(config) if text is None else text,
    )


@envs.off_screen()
def _try_env(config: CollectConfig) -> tuple[envs.FrameEnv, str, grids.Picture]:
    """Make the environment and let every policy drive a few steps, so that errors appear before the collection.

    Returns:
        The environment, closed; lines about its renderer and the frames; the picture of the first frames.
    """
    env = envs.make_env(config.env, config.crop, config.renderer, config.env_args)
    seeds = range(config.seed, config.seed + config.num_episodes)
    try:
        result = trial.drive(env, list(config.weights), seeds, config.warmup_steps, config.max_steps)
    except Stopped as stopped:
        raise ValueError(str(stopped)) from stopped
    finally:
        env.close()
    renderer_note = env.simulator.renderer_note
    note = f"{renderer_note}\n" if config.renderer == "auto" and renderer_note else ""
    return env, note + result.frames_line, result.first_frames


def _finished_shards(config: CollectConfig) -> dict[int, Shard]:
    """The finished shards in `out`, by their numbers.

    Raises:
        ValueError: a shard is damaged.
    """
    paths = shard_paths(Path(config.out))
    return {int(path.stem.removeprefix("shard-")): Shard(path, FORMAT) for path in paths}


def _check_same(config: CollectConfig, env: envs.FrameEnv, shards: Mapping[int, Shard]) -> None:
    """Refuse a folder that holds another data set, or more episodes than `config.num_episodes`.

    Raises:
        ValueError: the message says what differs.
    """
    wanted = identity(config, envs.preprocess_spec(env.preprocess))
    for index, shard in shards.items():
        found = identity(_config_of(shard), shard.json_attribute("preprocess"))
        differing = [f"{name} {found[name]}, not {wanted[name]}" for name in IDENTITY if found[name] != wanted[name]]
        if differing:
            raise ValueError(
                f"{config.out} holds a data set of {'; '.join(differing)}: give the same settings, or choose another "
                "--out"
            )
        if telemetry_names(shard) != env.telemetry_names:
            raise ValueError(
                f"{shard.path}: has {len(telemetry_names(shard))} columns of telemetry, and {config.env} now gives "
                f"{len(env.telemetry_names)}; choose another --out"
            )
        if index * config.episodes_per_shard + shard.num_planned > config.num_episodes:
            raise ValueError(
                f"{config.out} holds more than {config.num_episodes} episodes: give a larger --num_episodes, or choose "
                "another --out"
            )


def _config_of(shard: Shard) -> CollectConfig:
    try:
        saved = dict(untrusted.from_yaml(str(shard.attributes["config"])))
        saved["out"] = str(shard.path.parent)  # the original folder may not exist on this machine
        config = CollectConfig(**saved)
        identity(config, {})  # checks values that the config does not check
        return config
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{shard.path}: collected by another program ({error}); choose another --out") from None


def collect(job: Job | Verification) -> None:
    """Make the missing shards, or describe a verified data set."""
    job.run()


def _record(job: Job) -> None:
    out = Path(job.config.out)
    files.make_folder(out)
    picture = out / trial.FIRST_FRAMES
    if job.tasks:
        terminal.say(*f"{job.note}; the first ones are shown in {picture}".splitlines())
    with locks.only_writer(out) as lock:
        files.remove_partials(out)
        if job.tasks and not picture.exists():
            grids.save(picture, job.first_frames)
        try:
            recorded = _make_shards(job, lock)
        finally:
            files.remove_partials(out)
    _report(job, recorded)


def _make_shards(job: Job, lock: locks.Lock) -> list[ShardResult]:
    planned = [len(task.policies) * job.config.max_steps for task in job.tasks]
    made: list[ShardResult] = []
    with progress.bar(sum(planned), "frames", "collect") as bar:

        def watch(frames: int) -> None:
            bar.update(frames - bar.n)

        with contextlib.closing(_run(job, watch)) as run:
            for index, recorded in run:
                lock.check()
                made.append(recorded)
                bar.total -= planned[index] - recorded.steps  # some episodes ended early
                if recorded.mismatch:
                    name = job.tasks[index].path.name
                    terminal.say(f"{name} was made again, drawn by Gymnasium: {recorded.mismatch}")
        bar.update(bar.total - bar.n)
    return made


def _run(job: Job, watch: executors.Report) -> Generator[tuple[int, ShardResult], None, None]:
    config = job.config
    if config.executor == "ray":
        return remote.record(config, job.tasks, watch)
    return executors.run(record_shard, job.tasks, config.executor, config.num_workers, watch)


def _report(job: Job, recorded: Sequence[ShardResult]) -> None:
    """Print what the data set holds, how many episodes were left out, and how many actions were clipped."""
    try:
        data = Rollouts(job.config.out)
    except ValueError as error:  # the seeds do not determine the environment's episodes
        raise Stopped(str(error)) from None
    clipped, steps = sum(one.num_clipped for one in recorded), sum(one.steps for one in recorded)
    terminal.say(
        f"{job.config.out}: {len(data)} episodes, {data.num_rows:,} frames in {len(data.shards)} shards"
        + ("" if job.tasks else ", all finished before")
    )
    if left_out := len(data.skipped_seeds):
        terminal.say(f"{left_out} of {len(data) + left_out} episodes ended during their warm-up and were left out")
    if clipped:
        terminal.say(f"{clipped:,} of {steps:,} actions lay outside the action space and were clipped to it")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, CollectConfig, prepare, collect, argv)
