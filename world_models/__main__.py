"""Run the whole pipeline on a small scale: collect, train, encode, evaluate, and print where the results are.

Examples:
  python -m world_models                                      six to seven minutes on two cores
  python -m world_models --num_frames 400000 --name better
  python -m world_models --root /data/try --num_episodes 40

Finished stages are not repeated. Run it again after a crash, or to see the summary again.
"""

from world_models.runtime import host

if __name__ == "__main__":
    host.begin_command("world_models")  # before PyTorch is imported

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from world_models.collect import command as collect
from world_models.encode import command as encode
from world_models.evaluate import command as evaluate
from world_models.runs import description
from world_models.runs.layout import REPORT_FILE, STATE_FILE
from world_models.runs.scores import read_scores
from world_models.runs.tracking import WandbConfig
from world_models.runtime import terminal
from world_models.runtime.cli import Job, run_command
from world_models.runtime.errors import Stopped, require
from world_models.runtime.paths import PATH, check_name, resolve_fields
from world_models.train_vae import command as train_vae

HELD_OUT_SEED = 1_000_000


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """The scale of the pipeline. The command of each stage has more settings.

    Attributes:
        root: folder in which rollouts/, runs/ and latents/ are made.
        name: name of the data set, the run and the latents.
        num_episodes: number of episodes to train on; a tenth as many are collected for the evaluation.
        max_steps: number of steps of an episode.
        num_frames: number of frames that training sees.
        num_workers: number of processes that collect; 0 for one per core.
        seed: seed of tracks, policies and training.
        wandb: Weights & Biases.
    """

    root: str = dataclasses.field(default=".", metadata=PATH)
    name: str = "quick"
    num_episodes: int = 200
    max_steps: int = 500
    num_frames: int = 120_000
    num_workers: int = 0
    seed: int = 0
    wandb: WandbConfig = dataclasses.field(default_factory=WandbConfig)

    def __post_init__(self):
        resolve_fields(self)
        check_name(self.name, "name")
        require(
            self.num_episodes >= 2, f"num_episodes is {self.num_episodes}; give 2 or more, because some are held out"
        )


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The configs of all stages."""

    collecting: collect.CollectConfig
    held_out: collect.CollectConfig
    training: train_vae.TrainConfig
    encoding: encode.EncodeConfig
    evaluating: evaluate.EvaluateConfig


def plan(config: PipelineConfig) -> Pipeline:
    """Make the configs of the stages, and check the input of the first stages.

    Raises:
        ValueError, OSError: the input is bad, or the folders hold another pipeline's results.
    """
    root = Path(config.root)
    rollouts, held_out = str(root / "rollouts" / config.name), str(root / "rollouts" / f"{config.name}-heldout")
    run, latents = str(root / "runs" / config.name), str(root / "latents" / config.name)
    first = collect.CollectConfig(
        out=rollouts,
        num_episodes=config.num_episodes,
        max_steps=config.max_steps,
        seed=config.seed,
        num_workers=config.num_workers,
        episodes_per_shard=5,
    )
    second = dataclasses.replace(
        first,
        out=held_out,
        num_episodes=max(2, config.num_episodes // 10),
        seed=config.seed + HELD_OUT_SEED,
        episodes_per_shard=2,
    )
    pipeline = Pipeline(
        first,
        second,
        train_vae.TrainConfig(
            data=rollouts, out=run, num_frames=config.num_frames, seed=config.seed, resume=True, wandb=config.wandb
        ),
        encode.EncodeConfig(data=rollouts, vae=run, out=latents),
        evaluate.EvaluateConfig(data=held_out, vae=run),
    )
    todo = [collect.prepare(settings) for settings in (first, second)]
    if todo[0].is_finished:
        try:
            train_vae.prepare(pipeline.training)
        except ValueError as error:
            raise ValueError(f"{error}; here, choose another --name") from None
    elif (Path(run) / STATE_FILE).exists():
        raise ValueError(f"{run} was trained on fewer episodes than {config.num_episodes}; choose another --name")
    return pipeline


def run(pipeline: Pipeline) -> None:
    """Run the stages that are not finished, and print the summary."""
    speeds = [
        _stage("collect", pipeline.collecting, collect.prepare, collect.collect),
        _stage("collect, held out", pipeline.held_out, collect.prepare, collect.collect),
        _stage("train", pipeline.training, train_vae.prepare, train_vae.train),
        _stage("encode", pipeline.encoding, encode.prepare, encode.encode),
        _stage("evaluate", pipeline.evaluating, evaluate.prepare, evaluate.evaluate),
    ]
    terminal.say(*_summary(pipeline, "\n".join(filter(None, speeds))).split("\n"))


def _stage(name: str, config: Any, prepare: Callable[[Any], Job], work: Callable[[Any], Any]) -> str | None:
    """Run a stage unless it is finished. Returns a line about its speed; None if it was finished."""
    try:
        job = prepare(config)
    except (ValueError, OSError) as error:
        raise Stopped(str(error)) from error
    if job.is_finished:
        terminal.say(f"{name}: finished before")
        return None
    terminal.say(f"{name}: {getattr(config, 'out', None) or config.vae}")
    start = time.perf_counter()
    work(job)
    seconds = time.perf_counter() - start
    return f"  {name:18} {seconds:6.0f} s, {job.num_frames / seconds:8,.0f} frames/s"


def _summary(pipeline: Pipeline, speeds: str) -> str:
    """The summary: the model's scores, the folders, and the speed of each stage."""
    run_folder = Path(pipeline.training.out)
    scores, _ = read_scores(run_folder)
    assert scores is not None, "the last stage has evaluated the model"
    return f"""
{scores.summary()}
  rollouts   {pipeline.collecting.out}, held out {pipeline.held_out.out}
  V model    {run_folder} ({description.load(run_folder).step:,} steps)
  report     {run_folder / REPORT_FILE}
  latents    {pipeline.encoding.out}, which LatentSequences reads
{"time of each stage" if speeds else ""}
{speeds}""".rstrip()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the pipeline."""
    run_command(__doc__, PipelineConfig, plan, run, argv)


if __name__ == "__main__":
    main()
