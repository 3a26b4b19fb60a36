"""The whole pipeline on a small scale: collect, train, encode, evaluate, and say where everything is.

Examples:
  python -m world_models                       about seven minutes on two cores
  python -m world_models --num_frames 400000   a better model, for more time
  python -m world_models --root /data/try --num_episodes 100

Finished stages are not repeated: run it again after a crash, or to see the summary once more.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from world_models import collect, encode, evaluate, files, train_vae
from world_models.checkpoints import load_description
from world_models.config import require, run_command
from world_models.latents import Latents
from world_models.report import summary
from world_models.rollouts import Rollouts
from world_models.tracking import WandbConfig

HELD_OUT_SEED = 1_000_000


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """The pipeline's scale; each stage's own command has all its settings.

    Attributes:
        root: folder that gets rollouts/, runs/ and latents/.
        name: of the data set, run and latents.
        num_episodes: episodes to train on; a fifth as many more are collected to score it on.
        max_steps: steps of an episode.
        num_frames: frames that training sees.
        num_workers: processes that collect; 0 for one a core.
        seed: of tracks, policies and training.
        wandb: Weights & Biases.
    """

    root: str = "."
    name: str = "quick"
    num_episodes: int = 40
    max_steps: int = 500
    num_frames: int = 120_000
    num_workers: int = 0
    seed: int = 0
    wandb: WandbConfig = dataclasses.field(default_factory=WandbConfig)

    def __post_init__(self):
        require(self.num_episodes >= 2, f"num_episodes is {self.num_episodes}; give 2 or more, since some are held out")


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The configs of all stages."""

    collecting: collect.CollectConfig
    held_out: collect.CollectConfig
    training: train_vae.TrainConfig
    encoding: encode.EncodeConfig
    evaluating: evaluate.EvaluateConfig


def plan(config: PipelineConfig) -> Pipeline:
    """The stages' configs; checks what the first of them needs."""
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
        num_episodes=max(2, config.num_episodes // 5),
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
    collect.prepare(first)
    return pipeline


def run(pipeline: Pipeline) -> None:
    """Run the stages that are not finished, and print the summary."""
    held_out, run_folder = pipeline.held_out.out, Path(pipeline.training.out)
    times: dict[str, float] = {}
    _stage("collect", pipeline.collecting, collect.prepare, collect.collect, times)
    _stage("collect, held out", pipeline.held_out, collect.prepare, collect.collect, times)
    _stage("train", pipeline.training, train_vae.prepare, train_vae.train, times)
    _stage("encode", pipeline.encoding, encode.prepare, encode.encode, times)
    if _evaluated(run_folder, held_out):
        print("evaluate: finished before")
    else:
        _stage("evaluate", pipeline.evaluating, evaluate.prepare, evaluate.evaluate, times)
    print(_summary(pipeline, times))


def _stage(
    name: str, config: Any, prepare: Callable[[Any], Any], work: Callable[[Any], Any], times: dict[str, float]
) -> None:
    job = prepare(config)
    if finished(job):
        print(f"{name}: finished before")
        return
    print(f"{name}: {config.out if hasattr(config, 'out') else config.vae}")
    start = time.perf_counter()
    work(job)
    times[name] = time.perf_counter() - start


def finished(job: Any) -> bool:
    """Whether a stage has nothing left to do."""
    match job:
        case collect.Job(tasks=()) | encode.Job(todo=()):
            return True
        case train_vae.Job(saved=dict() as saved):
            return job.batches.frames_at(saved["step"]) >= job.config.num_frames
    return False


def _evaluated(run_folder: Path, held_out: str) -> bool:
    """Whether eval.json is of these weights and this data."""
    path = run_folder / "eval.json"
    if not path.exists():
        return False
    scores = json.loads(path.read_text(encoding="utf-8"))
    weights = files.file_sha256(run_folder / "best.safetensors")
    return (scores["vae_sha256"], scores["data_digest"]) == (weights, Rollouts(held_out).digest())


def _summary(pipeline: Pipeline, times: dict[str, float]) -> str:
    """Where everything is, how good the model is, and how fast each stage was."""
    run_folder = Path(pipeline.training.out)
    scores = json.loads((run_folder / "eval.json").read_text(encoding="utf-8"))
    frames = {
        "collect": Rollouts(pipeline.collecting.out).num_rows,
        "collect, held out": Rollouts(pipeline.held_out.out).num_rows,
        "train": pipeline.training.num_frames,
        "encode": Latents(pipeline.encoding.out).num_rows,
        "evaluate": scores["frames"],
    }
    speeds = [
        f"  {name:18} {seconds:6.0f} s, {frames[name] / seconds:8,.0f} frames/s" for name, seconds in times.items()
    ]
    return "\n".join(
        [
            "",
            summary(scores),
            f"  rollouts   {pipeline.collecting.out}, held out {pipeline.held_out.out}",
            f"  V model    {run_folder} ({load_description(run_folder)['step']:,} steps)",
            f"  report     {run_folder / 'report.html'}",
            f"  latents    {pipeline.encoding.out}, which LatentSequences reads",
            *(["time of each stage"] if speeds else []),
            *speeds,
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the pipeline."""
    run_command(__doc__, PipelineConfig, plan, run, argv)


if __name__ == "__main__":
    main()
