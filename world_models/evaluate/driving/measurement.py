"""Measures how well a controller drives with a V model: linear controllers learn on mu, then their mean drives.

The measurement is the same for every model: practice tracks, expert, regression, and the 100 scored tracks. For
comparison, the same controller learns on PCA's coefficients, and the expert drives too.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from world_models.data.rollouts import Rollouts
from world_models.envs.preprocessing import Preprocess
from world_models.evaluate.driving import imitation, lockstep
from world_models.evaluate.driving.imitation import Controller, PracticePlan
from world_models.evaluate.driving.lockstep import DriveResult, EnvSettings, ReadFeatures
from world_models.runs.score_parts import DriveScores
from world_models.runtime import executors, progress, threads
from world_models.runtime.workers import Report
from world_models.vae.baselines import Baselines
from world_models.vae.model import VAE

NUM_STEPS = 1000
SCORED_TRACKS = range(2**40, 2**40 + 100)
FIRST_PRACTICE_SEED, PRACTICE_SEEDS_APART = 2**41, 10**6
PRACTICE = PracticePlan(num_rounds=4, num_tracks=20, num_steps=300, first_seed=FIRST_PRACTICE_SEED)
"""Short on purpose. After little practice, a controller drives much better on a trained V model than on random weights.

With three times the practice, the difference of the scores is only 75.
"""
NUM_LEARNERS = 5
"""Number of controllers that practise, each on its own tracks. The mean of their weights drives.

A single controller is fitted too much to its tracks: other practice tracks change its score by up to 43.
"""
TRACKS_PER_PROCESS = 20
"""Number of scored tracks that a process drives at the same time."""
EXECUTOR: executors.Executor = "processes"


@dataclasses.dataclass(frozen=True)
class FeatureReader:
    """Reads the features of frames for a controller. It can be sent to another process.

    Attributes:
        read: gives the features of frames.
        z_dim: number of features.
    """

    read: ReadFeatures
    z_dim: int


@dataclasses.dataclass(frozen=True)
class TrainTask:
    """A task: train a controller on these features."""

    env_settings: EnvSettings
    reader: FeatureReader
    plan: PracticePlan


@dataclasses.dataclass(frozen=True)
class DriveTask:
    """A task: drive the tracks of these seeds by a controller, or by the expert if there is no controller."""

    env_settings: EnvSettings
    seeds: Sequence[int]
    controller: Controller | None = None
    reader: FeatureReader | None = None


def env_settings_of(data: Rollouts) -> EnvSettings:
    """The environment of rollouts."""
    crop = Preprocess.from_spec(data.preprocess).crop
    return EnvSettings(data.env, data.env_args, "none" if crop is None else f"{crop[0]}:{crop[1]}")


def check(data: Rollouts, *seeds: frozenset[int]) -> None:
    """Check that there is an expert, and that no scored track is in the data.

    Args:
        data: the rollouts whose environment is driven.
        seeds: seeds of the episodes that the model was trained or scored on.

    Raises:
        ValueError: there is no expert, or a scored track is in the data.
    """
    try:
        env_settings_of(data).check()
    except ValueError as error:
        raise ValueError(f"--drive cannot drive {data.env} of {data.path}: {error}; or leave --drive out") from None
    if num_taken := sum(len(each.intersection(SCORED_TRACKS)) for each in seeds):
        raise ValueError(
            f"--drive drives the tracks of seeds {SCORED_TRACKS.start} to {SCORED_TRACKS.stop - 1}, and {num_taken} of "
            "them are among the episodes for training or scoring; collect with other seeds"
        )


def measure(env_settings: EnvSettings, vae: VAE, baselines: Baselines, seed: int) -> tuple[DriveScores, DriveResult]:
    """Train controllers on mu and on PCA's coefficients, and let them drive.

    Args:
        env_settings: the environment.
        vae: the model whose mu the controllers read.
        baselines: PCA, for the comparison.
        seed: seed of the practice tracks.

    Returns:
        The scores, and the drives of the controller on mu.
    """
    practice = practice_plans(seed)
    groups = [
        SCORED_TRACKS[start : start + TRACKS_PER_PROCESS] for start in range(0, len(SCORED_TRACKS), TRACKS_PER_PROCESS)
    ]
    readers = [mu_reader(vae), pca_reader(baselines)]
    train_tasks = [TrainTask(env_settings, reader, plan) for reader in readers for plan in practice]
    num_scored = (len(readers) + 1) * len(SCORED_TRACKS)  # the expert drives too
    with progress.bar(len(train_tasks) * PRACTICE.total_steps + num_scored * NUM_STEPS, "steps", "drive") as bar:
        done = _run_tasks(train_tasks + [DriveTask(env_settings, group) for group in groups], bar)
        learned, expert = done[: len(train_tasks)], done[len(train_tasks) :]
        controllers = [Controller.mean(learned[: len(practice)]), Controller.mean(learned[len(practice) :])]
        driven = _run_tasks(
            [
                DriveTask(env_settings, group, controller, reader)
                for controller, reader in zip(controllers, readers, strict=True)
                for group in groups
            ],
            bar,
        )
    mu, pca = (DriveResult.concatenated(part) for part in (driven[: len(groups)], driven[len(groups) :]))
    return scores(mu, pca, DriveResult.concatenated(expert)), mu


def practice_plans(seed: int) -> list[PracticePlan]:
    """The practice of each learner, on tracks that no other learner of any seed has."""
    first = FIRST_PRACTICE_SEED + seed * NUM_LEARNERS * PRACTICE_SEEDS_APART
    return [dataclasses.replace(PRACTICE, first_seed=first + n * PRACTICE_SEEDS_APART) for n in range(NUM_LEARNERS)]


def _run_tasks(tasks: Sequence[TrainTask | DriveTask], bar: tqdm) -> list[Any]:
    """Do the tasks. Returns their results in order."""
    before = bar.n

    def watch(steps: int) -> None:
        bar.update(before + steps - bar.n)

    results = dict(executors.run(run_task, tasks, EXECUTOR, 0, watch))
    return [results[index] for index in range(len(tasks))]


def run_task(task: TrainTask | DriveTask, report: Report) -> Controller | DriveResult:
    """Do a task, in a process that uses one core."""
    with threads.single_threaded():
        if isinstance(task, TrainTask):
            return imitation.train_controller(task.env_settings, task.reader.read, task.reader.z_dim, task.plan, report)
        if task.controller is None or task.reader is None:
            return lockstep.drive(
                task.env_settings, task.seeds, NUM_STEPS, lockstep.expert_actions, report, drawn=False
            )
        choose = imitation.controller_actions(task.controller, task.reader.read, len(task.seeds))
        return lockstep.drive(task.env_settings, task.seeds, NUM_STEPS, choose, report)


def scores(on_mu: DriveResult, on_pca: DriveResult, by_expert: DriveResult) -> DriveScores:
    """The scores for eval.json: of the controller on mu, of that on PCA's coefficients, and of the expert."""
    returns = on_mu.returns
    return DriveScores(
        mean=float(returns.mean()),
        std=float(returns.std()),
        median=float(np.median(returns)),
        laps=int(on_mu.finished.sum()),
        tracks=len(returns),
        pca_mean=float(on_pca.returns.mean()),
        expert_mean=float(by_expert.returns.mean()),
    )


@dataclasses.dataclass(frozen=True)
class _ReadMu:
    vae: VAE

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        return self.vae.encode(frames).mu


def mu_reader(vae: VAE) -> FeatureReader:
    """Features: mu of frames, computed on the CPU."""
    return FeatureReader(_ReadMu(copy.deepcopy(vae).cpu()), vae.config.z_dim)


def pca_reader(baselines: Baselines) -> FeatureReader:
    """Features: PCA's coefficients of frames."""
    return FeatureReader(baselines.coefficients, len(baselines.components))
