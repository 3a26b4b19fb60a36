"""The input of an evaluation on rollouts, opened and checked before the work begins."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from world_models.data import several
from world_models.data.frames import FrameSet
from world_models.data.rollouts import Rollouts
from world_models.evaluate import evaluation
from world_models.evaluate.config import EvaluateConfig
from world_models.evaluate.driving import measurement
from world_models.evaluate.evaluation import ScoredInputs
from world_models.evaluate.foresight import study
from world_models.runs import checkpoints, provenance, rate_distortion, records
from world_models.runs.artifacts import Product
from world_models.runs.provenance import TrainingRecord
from world_models.runtime.distributed import torch_device
from world_models.vae import baselines
from world_models.vae.model import VAE

HELD_OUT = "rollouts/heldout"
PROBE_FRAMES = 20_000
NUM_WHOLE_EPISODES = 20  # for measures that compare neighbouring frames
LARGEST_TELEMETRY = 1e15  # float32 still holds the sum of such squares over all frames


@dataclasses.dataclass(frozen=True)
class RolloutJob:
    """A checked evaluation.

    Attributes:
        config: its settings.
        run: the model's folder, where the results go.
        inputs: the weights and the data.
        name: short name of the model, for charts with other runs.
        vae: the model.
        data: the rollouts that it is scored on, one data set or several.
        baselines: PCA and mean of its training frames.
        probe_data: training frames of tracks that are not scored. Probes and memory models are fitted on them, and
            dreams are compared with them. None if there are none.
        telemetry: the columns of telemetry with finite numbers in all frames; the others are left out.
        num_trained_episodes: number of episodes of each set of `data` that the model was trained on.
        others: other runs for the rate-distortion chart.
        notes: warnings: what is left out, which scores are too good, and why.
    """

    config: EvaluateConfig
    run: Path
    inputs: ScoredInputs
    name: str
    vae: VAE
    data: Rollouts
    baselines: baselines.Baselines
    probe_data: FrameSet | None
    telemetry: tuple[str, ...]
    num_trained_episodes: Sequence[int]
    others: Sequence[rate_distortion.RatePoint]
    notes: Sequence[str]


def prepare(config: EvaluateConfig) -> RolloutJob:
    """Check everything that can be wrong before the first frame.

    Raises:
        FileNotFoundError, ValueError: something is missing, damaged, or cannot be compared.
    """
    run, device = Path(config.vae), torch_device(config.device)
    data, vae = several.open_rollouts(config.data or HELD_OUT), checkpoints.load_vae(run, config.weights, device)
    provenance.check_preprocess(data.preprocess, data.name, vae, str(run))
    _check_alike(data, config.max_frames)
    training = provenance.load(run)
    fitted = baselines.Baselines(**checkpoints.load_baselines(run, vae))
    found = records.other_runs(run, "rollouts", [Path(folder) for folder in config.compare_with])
    others, not_taken = rate_distortion.comparable_runs(data.digest(), found.runs)
    probe_data, why_no_probes = _probe_data(run, config.train_data, training, data, vae)
    telemetry, left_out = _usable_telemetry(data, probe_data)
    notes = [*found.notes, *not_taken, *why_no_probes, *left_out]
    num_trained_episodes = [training.num_trained_episodes(each) for each in data.sets]
    for each, count in zip(data.sets, num_trained_episodes, strict=True):
        if count:
            notes.append(
                f"the model was trained on {count} episodes of {each.path}, so its scores are too good; collect with "
                "another --seed"
            )
        known_args = [record.env_args for record in training.sets]
        if each.env_args not in known_args:
            trained = " and ".join(dict.fromkeys(json.dumps(args, sort_keys=True) for args in known_args))
            scored = json.dumps(each.env_args, sort_keys=True)
            notes.append(f"{each.path} has env_args {scored}, the model's training data has {trained}")
    parts = [Product("dataset", str(each.path), each.digest()) for each in data.sets] if len(data.sets) > 1 else []
    job = RolloutJob(
        config=config,
        run=run,
        inputs=evaluation.scored_inputs(run, config.weights, data.name, data.digest(), parts),
        name=found.own_name,
        vae=vae,
        data=data,
        baselines=fitted,
        probe_data=probe_data,
        telemetry=telemetry,
        num_trained_episodes=num_trained_episodes,
        others=rate_distortion.rate_points(others),
        notes=notes,
    )
    if config.foresight:
        check_foresight(job)
    if config.drive:
        check_drive(job)
    return job


def _check_alike(data: Rollouts, max_frames: int) -> None:
    """Check that several data sets can be scored together, and that frames of each of them are scored."""
    if len(data.sets) == 1:
        return
    for each in data.sets:
        if (each.env, each.telemetry_names) != (data.env, data.telemetry_names):
            raise ValueError(
                f"{each.path} is of {each.env} and {data.path} of {data.env}, or their telemetry differs; evaluate on "
                "them one by one"
            )
    scored = set(set_of_frames(data, max_frames).tolist())
    for number, each in enumerate(data.sets):
        if number not in scored:
            raise ValueError(f"max_frames is {max_frames}, and none of them is of {each.path}; raise --max_frames")


def set_of_frames(data: Rollouts, max_frames: int) -> Int64[np.ndarray, " frames"]:
    """The number of the set that each scored frame is of."""
    all_frames = FrameSet(data, range(len(data)))
    return np.repeat(several.set_of_episodes(data), data.lengths)[all_frames.spread_positions(max_frames)]


def _probe_data(
    run: Path, train_data: tuple[str, ...] | str | None, training: TrainingRecord, data: Rollouts, vae: VAE
) -> tuple[FrameSet | None, list[str]]:
    """The run's training frames, without the tracks that are scored.

    Of several training sets, only those are taken that have the environment and the telemetry of the scored data.

    Returns:
        The frames, or None if there are none; and lines that say why.

    Raises:
        FileNotFoundError, ValueError: `train_data` cannot be used.
    """
    try:
        train = several.open_rollouts(train_data) if train_data else training.rollouts()
        provenance.check_preprocess(train.preprocess, train.name, vae, str(run))
        alike = [(each.env, each.telemetry_names) == (data.env, data.telemetry_names) for each in train.sets]
        if not any(alike):
            raise ValueError(
                f"{train.name} is of {train.env} and {data.name} of {data.env}, or their telemetry differs; "
                "name other --train_data"
            )
        scored, set_of = set(data.seeds.tolist()), several.set_of_episodes(train)
        chosen = [index for index in several.split_sets(train, training.split_seed).train if alike[set_of[index]]]
        unseen = [index for index in chosen if int(train.seeds[index]) not in scored]
        if not unseen:
            raise ValueError(
                f"all training episodes of {train.name} are on tracks that are scored; name other --train_data"
            )
        return FrameSet(train, unseen), []
    except (ValueError, OSError) as error:
        if train_data:
            raise
        return None, [f"{error}. So no probes are fitted and dreams are not compared"]


def _usable_telemetry(data: Rollouts, probe_data: FrameSet | None) -> tuple[tuple[str, ...], list[str]]:
    """The columns of telemetry that a probe can predict, and a line about those with infinite or missing numbers."""
    read = [*_columns(data, "telemetry")]
    if probe_data is not None:
        read.append(probe_data.read_spread(PROBE_FRAMES, "telemetry"))
    usable = np.logical_and.reduce([(np.abs(rows) < LARGEST_TELEMETRY).all(0) for rows in read])
    left_out = [name for name, good in zip(data.telemetry_names, usable, strict=True) if not good]
    why = f"telemetry left out, because it is not finite in some frames: {', '.join(left_out)}"
    return tuple(name for name in data.telemetry_names if name not in left_out), [why] if left_out else []


def check_foresight(job: RolloutJob) -> None:
    """Check that a memory model can be trained and scored.

    Raises:
        ValueError: there are no training data, no episode is long enough, or an action is not finite.
    """
    if job.probe_data is None:
        raise ValueError("foresight needs the training data; name it with --train_data, or leave --foresight out")
    longest = max(int(job.data.lengths[index]) for index in spread_episodes(job.data)) - 1
    if longest < study.min_steps():
        raise ValueError(
            f"{job.data.name}: episodes of {longest} steps at most, foresight wants one of {study.min_steps()}; "
            "collect longer ones, or leave --foresight out"
        )
    for actions in (job.probe_data.read_spread(len(job.probe_data), "actions"), *_columns(job.data, "actions")):
        if not np.isfinite(actions).all():
            raise ValueError(
                f"{job.data.name}, or the training data, has actions that are not finite; leave --foresight out"
            )


def check_drive(job: RolloutJob) -> None:
    """Check that a controller can be trained and scored.

    Raises:
        ValueError: there is no expert for the environment, or some of the tracks for driving are in the data.
    """
    measurement.check(job.data, provenance.load(job.run).seeds, frozenset(job.data.seeds.tolist()))


def _columns(data: Rollouts, name: str) -> Iterator[np.ndarray]:
    """The rows of a column, shard by shard."""
    return (shard.read(name) for shard in data.shards)


def spread_episodes(data: Rollouts) -> list[int]:
    """Numbers of evenly spread episodes, for measures that compare neighbouring frames."""
    return np.unique(np.linspace(0, len(data) - 1, NUM_WHOLE_EPISODES).astype(int)).tolist()
