"""The evaluation of a V model on rollouts it has never seen: eval.json, figures and report.html in the run's folder."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from world_models import (
    baselines,
    breakdown,
    checkpoints,
    comparison,
    figures,
    files,
    foresight,
    locks,
    metrics,
    pictures,
    probes,
    progress,
    report,
    run_records,
    terminal,
    training_record,
)
from world_models.config import Stopped
from world_models.frames import FrameSet, split_episodes
from world_models.rollouts import Episode, Rollouts
from world_models.training_record import TrainingRecord
from world_models.vae import VAE

PROBE_FRAMES = 20_000
EPISODES_WALKED = 20  # through which the model is followed from frame to frame
LARGEST_TELEMETRY = 1e15  # whose square float32 still holds, summed over all frames
SEEN_FRAMES, HELD_OUT_FRAMES = 4000, 1000  # that dreams are compared with


@dataclasses.dataclass(frozen=True)
class RolloutJob:
    """A checked evaluation.

    Attributes:
        run: the model's folder, where the results go.
        name: what to call the model beside others.
        weights: which of its weights.
        vae: the model.
        data: the rollouts it is scored on.
        baselines: PCA and the mean of its training frames.
        probe_data: training frames of tracks that are not scored, for probes and memories to be fitted on and dreams to
            be judged by; None where they are not to be had.
        telemetry: the columns of telemetry that are numbers throughout; the others are left out.
        trained_on: how many of the episodes of `data` it was trained on.
        others: other runs in the rate-distortion plane.
        notes: what is left out or flatters, and why.
    """

    run: Path
    name: str
    weights: checkpoints.Weights
    vae: VAE
    data: Rollouts
    baselines: baselines.Baselines
    probe_data: FrameSet | None
    telemetry: tuple[str, ...]
    trained_on: int
    others: Sequence[figures.RatePoint]
    notes: Sequence[str]


def prepare(
    run: Path,
    weights: checkpoints.Weights,
    data_path: str,
    train_data: str | None,
    beside: Sequence[Path],
    device: torch.device,
) -> RolloutJob:
    """Check everything that can be wrong before the first frame.

    Args:
        run: the model's folder.
        weights: best or last.
        data_path: rollouts to score it on.
        train_data: rollouts to fit probes and memories on; those of its training when None.
        beside: folders of other runs, or of folders of runs.
        device: where to compute.

    Raises:
        FileNotFoundError, ValueError: something is missing, damaged, or cannot be compared.
    """
    data, vae = Rollouts(data_path), checkpoints.load_vae(run, weights, device)
    checkpoints.check_preprocess(data.preprocess, data.path, vae, str(run))
    training = training_record.load(run)
    fitted = baselines.Baselines(**checkpoints.load_baselines(run, vae))
    notes: list[str] = []
    name, others = run_records.beside(run, "rollouts", beside, notes)
    points = comparison.rate_points(comparison.on_data(data.digest(), others, notes))
    probe_data = _probe_data(run, train_data, training, data, vae, notes)
    telemetry = _usable_telemetry(data, probe_data, notes)
    trained_on = len(training.seen(data))
    if trained_on:
        notes.append(
            f"{trained_on} episodes of {data.path} were trained on, so the scores flatter; collect with another --seed"
        )
    if training.env_args != data.env_args:
        given, learnt = (json.dumps(args, sort_keys=True) for args in (data.env_args, training.env_args))
        notes.append(f"{data.path} is of env_args {given}, the model's training data of {learnt}")
    return RolloutJob(run, name, weights, vae, data, fitted, probe_data, telemetry, trained_on, points, notes)


def _probe_data(
    run: Path, train_data: str | None, training: TrainingRecord, data: Rollouts, vae: VAE, notes: list[str]
) -> FrameSet | None:
    """The run's training frames but those of tracks that are scored; None where they are not to be had.

    Raises:
        FileNotFoundError, ValueError: training data that was named cannot be used.
    """
    try:
        train = Rollouts(train_data) if train_data else training.rollouts()
        checkpoints.check_preprocess(train.preprocess, train.path, vae, str(run))
        if (data.env, data.telemetry_names) != (train.env, train.telemetry_names):
            raise ValueError(
                f"{train.path} is of {train.env} and {data.path} of {data.env}, or their telemetry differs; "
                "name other --train_data"
            )
        scored = set(data.seeds.tolist())
        chosen = split_episodes(train.seeds, training.split_seed).train
        unseen = [index for index in chosen if int(train.seeds[index]) not in scored]
        if not unseen:
            raise ValueError(
                f"all training episodes of {train.path} are of tracks that are scored; name other --train_data"
            )
        return FrameSet(train, unseen)
    except (ValueError, OSError) as error:
        if train_data:
            raise
        notes.append(f"{error}. So no probes are fitted and no dreams judged")
        return None


def _usable_telemetry(data: Rollouts, probe_data: FrameSet | None, notes: list[str]) -> tuple[str, ...]:
    """The columns of telemetry without infinities and the like, to which no probe can be fitted."""
    read = [*_columns(data, "telemetry")]
    if probe_data is not None:
        read.append(probe_data.read_spread(PROBE_FRAMES, "telemetry"))
    usable = np.logical_and.reduce([(np.abs(rows) < LARGEST_TELEMETRY).all(0) for rows in read])
    left_out = [name for name, good in zip(data.telemetry_names, usable, strict=True) if not good]
    if left_out:
        notes.append(f"telemetry left out, since it is infinite or no number in some frames: {', '.join(left_out)}")
    return tuple(name for name in data.telemetry_names if name not in left_out)


def check_foresight(job: RolloutJob) -> None:
    """Refuse to train a memory model where it cannot be trained or scored.

    Raises:
        ValueError: no training data, or no episode that is long enough.
    """
    if job.probe_data is None:
        raise ValueError("foresight needs the training data; name it with --train_data, or leave --foresight out")
    longest = max(int(job.data.lengths[index]) for index in _spread(job.data)) - 1
    if longest < foresight.min_steps():
        raise ValueError(
            f"{job.data.path}: episodes of {longest} steps at most, foresight wants one of {foresight.min_steps()}; "
            "collect longer ones, or leave --foresight out"
        )
    for actions in (job.probe_data.read_spread(len(job.probe_data), "actions"), *_columns(job.data, "actions")):
        if not np.isfinite(actions).all():
            raise ValueError(
                f"{job.data.path}, or the training data, has actions that are not finite; leave --foresight out"
            )


def _columns(data: Rollouts, name: str) -> Iterator[np.ndarray]:
    """A column, shard by shard."""
    return (shard.read(name) for shard in data.shards)


def evaluate(
    job: RolloutJob, max_frames: int, num_iwae_frames: int, with_foresight: bool
) -> tuple[dict[str, Any], report.Shown]:
    """Score the model, write eval.json, the figures and the report.

    Args:
        job: what to score, and on what.
        max_frames: frames scored at most, spread evenly.
        num_iwae_frames: frames of which the importance-weighted bounds are taken.
        with_foresight: train a memory model too; needs `probe_data`.

    Returns:
        what eval.json holds, and the figures.
    """
    held_out = FrameSet(job.data, range(len(job.data)))
    frames, telemetry = (held_out.read_spread(max_frames, of) for of in ("frames", "telemetry"))
    columns = dict(zip(job.telemetry, _of_columns(job, telemetry).T, strict=True))
    with progress.bar(8, "parts", "evaluate") as bar, locks.only_writer(job.run):
        files.remove_partials(job.run, job.run / "figures")
        scored = breakdown.score_frames(job.vae, frames)
        if not all(np.isfinite(part).all() for part in scored):
            raise Stopped(f"{job.run}: its model makes of some frames what is no number; train it again")
        bar.update()
        parts: tuple[Callable[[], dict[str, Any]], ...] = (
            lambda: dict(metrics.measure(job.vae, frames)),
            lambda: _bounds(job.vae, held_out.read_spread(num_iwae_frames)),
            lambda: (
                job.baselines.measure(frames)
                | {"previous_sse": baselines.previous_sse(each.frames for each in _walked(job))}
            ),
            lambda: _probes(job, held_out),
            lambda: {"foresight": _foresight(job) if with_foresight else None},
            lambda: _breakdown(job, frames, scored, columns) | _provenance(job, len(frames)),
        )
        scores: dict[str, Any] = {}
        for part in parts:
            scores |= part()
            bar.update()
        shown = _draw(job, frames, scored, columns, scores)
        report.write(job.run, scores, shown)
        files.write_json(job.run / "eval.json", scores)  # last: it says that the evaluation is whole
        bar.update()
    terminal.say(report.summary(scores))
    return scores, shown


def _bounds(vae: VAE, frames: metrics.Frames) -> dict[str, Any]:
    return {"iwae_nats": metrics.iwae_nats(vae, frames), "iwae_frames": len(frames)}


def _draw(
    job: RolloutJob,
    frames: metrics.Frames,
    scored: breakdown.Scored,
    columns: breakdown.Columns,
    scores: dict[str, Any],
) -> report.Shown:
    own = figures.RatePoint(job.name, scores["kl_nats"], scores["sse"])
    return {
        **report.draw(job.vae, job.data, frames, job.baselines, scores),
        **report.draw_breakdown(job.vae, frames, scored, columns, scores),
        "rate_distortion": figures.rate_distortion([own, *job.others], comparison.pca_of(scores)),
        **report.draw_curves(job.run, scores),
    }


def _breakdown(
    job: RolloutJob, frames: metrics.Frames, scored: breakdown.Scored, columns: breakdown.Columns
) -> dict[str, Any]:
    """Where the error lies, and how the latents do."""
    walked = [job.vae.encode(episode.frames).mu.cpu().numpy() for episode in _walked(job)]
    return {
        "sse_by_kind": breakdown.by_kind(scored.sse, columns),
        "sse_by_telemetry": breakdown.by_telemetry(scored.sse, columns),
        "aggregate_posterior": breakdown.aggregate_posterior(scored),
        "unsteadiness": breakdown.unsteadiness(walked),
        "plausible_share": _plausible_share(job, frames),
    }


def _provenance(job: RolloutJob, num_frames: int) -> dict[str, Any]:
    return {
        "pca_components": len(job.baselines.components),
        "frames": num_frames,
        "episodes": len(job.data),
        "trained_on_episodes": job.trained_on,
        "data": str(job.data.path),
        "data_digest": job.data.digest(),
        "weights": job.weights,
        "vae_sha256": files.file_sha256(checkpoints.weights_path(job.run, job.weights)),
        "variance": job.vae.variance.item(),
        "versions": files.versions(),
    }


def _walked(job: RolloutJob) -> Iterator[Episode]:
    """Whole episodes, spread over the data."""
    return map(job.data.__getitem__, _spread(job.data))


def _spread(data: Rollouts) -> list[int]:
    return np.unique(np.linspace(0, len(data) - 1, EPISODES_WALKED).astype(int)).tolist()


def _plausible_share(job: RolloutJob, frames: metrics.Frames) -> float | None:
    """Of what the model dreams; None where its training frames are not there to compare with."""
    if job.probe_data is None:
        return None
    dreams = pictures.dreams(job.vae, breakdown.NUM_DREAMS)
    held_out = frames[np.linspace(0, len(frames) - 1, min(len(frames), HELD_OUT_FRAMES)).astype(int)]
    return breakdown.plausible_share(dreams, job.probe_data.read_spread(SEEN_FRAMES), held_out)


def _foresight(job: RolloutJob) -> dict[str, dict[str, float]]:
    """SSE of what a small memory model foresees on held-out episodes."""
    assert job.probe_data is not None
    memory = foresight.fit([foresight.remember(job.vae, episode) for episode in job.probe_data.episodes()])
    return foresight.score(job.vae, memory, _walked(job))


def _probes(job: RolloutJob, held_out: FrameSet) -> dict[str, Any]:
    """R2 on held-out episodes of probes to each telemetry column, fitted on training episodes.

    `probe_r2` is the linear one from mu; `probes` has all, by what they read; `probes_on_road` those fitted and scored
    on frames that show the car driving along the road.
    """
    names = job.telemetry
    if job.probe_data is None or not names:
        return {"probe_r2": None, "probes": None, "probes_on_road": None}
    both = [_seen(job, frames) for frames in (job.probe_data, held_out)]
    found = probes.read(names, *both)
    on_road = [_along_the_road(names, seen) for seen in both]
    enough = all(seen is not None and len(seen) >= 2 for seen in on_road)
    return {
        "probe_r2": found["mu_linear"],
        "probes": found,
        "probes_on_road": probes.read(names, *filter(None, on_road)) if enough else None,
    }


def _along_the_road(names: Sequence[str], seen: probes.Seen) -> probes.Seen | None:
    chosen = breakdown.along_the_road(dict(zip(names, seen.telemetry.T, strict=True)))
    return None if chosen is None else seen.where(chosen)


def _seen(job: RolloutJob, frames: FrameSet) -> probes.Seen:
    chosen, telemetry = frames.read_spread(PROBE_FRAMES), frames.read_spread(PROBE_FRAMES, "telemetry")
    read = [(job.vae.encode(batch).mu.cpu(), job.baselines.coefficients(batch)) for batch in metrics.batches(chosen)]
    mu, pca = (torch.cat(features).numpy() for features in zip(*read, strict=True))
    return probes.Seen(mu, pca, chosen.reshape(len(chosen), -1), _of_columns(job, telemetry))


def _of_columns(job: RolloutJob, telemetry: np.ndarray) -> np.ndarray:
    """The columns that are used."""
    return telemetry[:, [job.data.telemetry_names.index(name) for name in job.telemetry]]
