"""The evaluation of a V model on new rollouts: its measures and figures."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from world_models.data.episode import Episode
from world_models.data.frames import FrameSet
from world_models.drawing import charts, grids, model_views
from world_models.envs import car_frames
from world_models.evaluate import breakdown, page, probes, rollout_job
from world_models.evaluate.config import EvaluateConfig
from world_models.evaluate.driving import measurement, track_map
from world_models.evaluate.driving.lockstep import DriveResult
from world_models.evaluate.evaluation import Evaluation, Figures, PartDone, Results
from world_models.evaluate.foresight import study as foresight
from world_models.evaluate.rollout_job import PROBE_FRAMES, RolloutJob, set_of_frames, spread_episodes
from world_models.runs import rate_distortion
from world_models.runs.records import distinct_names
from world_models.runs.score_parts import R2, DataScores, DriveScores
from world_models.runs.scores import RolloutScores
from world_models.runtime import files, threads
from world_models.runtime.errors import Stopped
from world_models.vae import baselines, metrics
from world_models.vae.labelled_frames import LabelledFrames

NUM_TRAINING_FRAMES, NUM_HELD_OUT_FRAMES = 4000, 1000  # numbers of frames that dreams are compared with
MEMORY_FRAMES = 150_000  # largest number of training frames for memory models
DREAM_FRAMES = 100  # number of frames of the clip that shows a memory model's dream

Probes = Mapping[str, R2]


def prepare(config: EvaluateConfig) -> Evaluation:
    """Check everything that can be wrong before the first frame.

    Raises:
        FileNotFoundError, ValueError: something is missing, damaged, or cannot be compared.
    """
    job = rollout_job.prepare(config)
    num_frames = min(config.max_frames, job.data.num_rows)
    return Evaluation(job.run, job.inputs, num_frames, job.notes, 8, functools.partial(measure, job))


class HeldOut(NamedTuple):
    """The held-out frames, and the scores that most measures need.

    Attributes:
        all_frames: all held-out frames.
        frames: the frames that are scored.
        columns: telemetry of the scored frames.
        frame_scores: scores of each scored frame.
        mean_scores: scores over all scored frames.
    """

    all_frames: FrameSet
    frames: metrics.Frames
    columns: breakdown.Columns
    frame_scores: metrics.FrameScores
    mean_scores: metrics.MeanScores


def _held_out(job: RolloutJob) -> HeldOut:
    all_frames = FrameSet(job.data, range(len(job.data)))
    frames, telemetry = (all_frames.read_spread(job.config.max_frames, of) for of in ("frames", "telemetry"))
    frame_scores = metrics.score_frames(job.vae, LabelledFrames.of_one_class(frames))
    if not all(np.isfinite(part).all() for part in frame_scores):
        raise Stopped(f"{job.run}: the model gives numbers that are not finite for some frames; train it again")
    columns = dict(zip(job.telemetry, _usable_columns(job, telemetry).T, strict=True))
    return HeldOut(all_frames, frames, columns, frame_scores, metrics.mean_scores(frame_scores, job.vae.num_values))


def measure(job: RolloutJob, part_done: PartDone) -> Results:
    """Score the model."""
    held_out = _held_out(job)
    part_done()
    study = _study(job) if job.config.foresight else None
    part_done()
    drive, driven = _drive(job) if job.config.drive else (None, None)
    part_done()
    scores = _scores(job, held_out, part_done)
    scores = dataclasses.replace(scores, foresight=study.score(_whole_episodes(job)) if study else None, drive=drive)
    part_done()

    def draw() -> Figures:
        figures = dict(_draw(job, held_out, scores))
        figures |= {"drive": track_map.draw(driven)} if driven else {}
        return figures | ({"dream": _dream(job, study)} if study else {})

    return Results(scores, draw, functools.partial(page.page, job.run.name, scores))


def _scores(job: RolloutJob, held_out: HeldOut, part_done: PartDone) -> RolloutScores:
    """All measures except `foresight` and `drive`."""
    vae, mean_scores, frame_scores = job.vae, held_out.mean_scores, held_out.frame_scores
    bounded = held_out.all_frames.read_spread(job.config.num_iwae_frames)
    iwae_nats = metrics.iwae_nats(vae, LabelledFrames.of_one_class(bounded))
    part_done()
    baseline_errors = job.baselines.measure(held_out.frames)
    previous_sse = baselines.previous_sse(each.frames for each in _whole_episodes(job))
    part_done()
    probe_r2, probe_r2_on_road = _probes(job, held_out)
    part_done()
    scores = RolloutScores(
        sse=mean_scores.sse,
        psnr_db=mean_scores.psnr_db,
        ssim=mean_scores.ssim,
        kl_nats=mean_scores.kl_nats,
        kl_per_dim=mean_scores.kl_per_dim,
        active_units=mean_scores.active_units,
        dims_used=mean_scores.dims_used,
        elbo_nats=mean_scores.elbo_nats,
        iwae_nats=iwae_nats,
        iwae_frames=len(bounded),
        mean_sse=baseline_errors.mean_sse,
        pca_sse=baseline_errors.pca_sse,
        pca_sse_by_components=baseline_errors.pca_sse_by_components,
        previous_sse=previous_sse,
        probe_r2=None if probe_r2 is None else probe_r2["mu_linear"],
        probes=probe_r2,
        probes_on_road=probe_r2_on_road,
        sse_by_kind=breakdown.by_kind(frame_scores.sse, held_out.columns),
        sse_by_telemetry=breakdown.by_telemetry(frame_scores.sse, held_out.columns),
        aggregate_posterior=breakdown.aggregate_posterior(frame_scores.mu, frame_scores.variance),
        unsteadiness=_unsteadiness(job),
        plausible_share=_plausible_share(job, held_out.frames),
        pca_components=len(job.baselines.components),
        frames=len(held_out.frames),
        episodes=len(job.data),
        trained_on_episodes=sum(job.num_trained_episodes),
        data=job.inputs.data,
        data_digest=job.inputs.data_digest,
        weights=job.inputs.weights,
        vae_sha256=job.inputs.vae_sha256,
        variance=vae.variance.item(),
        versions=files.versions(),
        foresight=None,
        drive=None,
        by_data=_by_data(job, held_out),
    )
    part_done()
    return scores


def _unsteadiness(job: RolloutJob) -> list[float]:
    return breakdown.unsteadiness([job.vae.encode(each.frames).mu.cpu().numpy() for each in _whole_episodes(job)])


def _by_data(job: RolloutJob, held_out: HeldOut) -> dict[str, DataScores] | None:
    """The main scores of each data set, by a short name of its folder; None if there is only one."""
    sets, frame_scores = job.data.sets, held_out.frame_scores
    if len(sets) == 1:
        return None
    set_of = set_of_frames(job.data, job.config.max_frames)
    found = {}
    for number, name in enumerate(distinct_names([each.path for each in sets])):
        chosen = set_of == number
        part = metrics.FrameScores(frame_scores.error_map, *(column[chosen] for column in frame_scores[1:]))
        mean_scores = metrics.mean_scores(part, job.vae.num_values)
        errors = job.baselines.measure(held_out.frames[chosen])
        found[name] = DataScores(
            sse=mean_scores.sse,
            psnr_db=mean_scores.psnr_db,
            ssim=mean_scores.ssim,
            kl_nats=mean_scores.kl_nats,
            active_units=mean_scores.active_units,
            elbo_nats=mean_scores.elbo_nats,
            mean_sse=errors.mean_sse,
            pca_sse=errors.pca_sse,
            frames=int(chosen.sum()),
            episodes=len(sets[number]),
            trained_on_episodes=job.num_trained_episodes[number],
            data=str(sets[number].path),
            data_digest=sets[number].digest(),
        )
    return found


def _drive(job: RolloutJob) -> tuple[DriveScores, DriveResult]:
    """Train a controller on mu, and let it drive."""
    env_settings = measurement.env_settings_of(job.data)
    return measurement.measure(env_settings, job.vae, job.baselines, job.config.drive_seed)


def _draw(job: RolloutJob, held_out: HeldOut, scores: RolloutScores) -> Figures:
    own = rate_distortion.RatePoint(job.name, held_out.mean_scores.kl_nats, held_out.mean_scores.sse)
    return {
        **page.draw(job.vae, job.data, held_out.frames, job.baselines, held_out.mean_scores),
        **page.draw_breakdown(job.vae, held_out.frames, held_out.frame_scores, held_out.columns, scores),
        "rate_distortion": charts.rate_distortion([own, *job.others], rate_distortion.pca_of(scores)),
        **page.draw_curves(job.run, scores),
    }


def _whole_episodes(job: RolloutJob) -> Iterator[Episode]:
    """Whole episodes, evenly spread over the data."""
    return map(job.data.__getitem__, spread_episodes(job.data))


def _plausible_share(job: RolloutJob, frames: metrics.Frames) -> float | None:
    """The share of plausible dreams; None if there are no training frames to compare with."""
    if job.probe_data is None:
        return None
    dreams = model_views.dreams(job.vae, breakdown.NUM_DREAMS)
    held_out = frames[np.linspace(0, len(frames) - 1, min(len(frames), NUM_HELD_OUT_FRAMES)).astype(int)]
    return breakdown.plausible_share(dreams, job.probe_data.read_spread(NUM_TRAINING_FRAMES), held_out)


def _study(job: RolloutJob) -> foresight.Study:
    """Train memory models on the latents of training episodes."""
    assert job.probe_data is not None
    episodes = job.probe_data.episodes(MEMORY_FRAMES)
    return foresight.train_study(job.vae, job.baselines, episodes, job.probe_data.read_spread(NUM_TRAINING_FRAMES))


def _dream(job: RolloutJob, study: foresight.Study) -> bytes:
    """A GIF of the middle of the held-out episode with the highest return, with the memory models' dreams of it."""
    episode = job.data[int(np.argmax(job.data.returns()))]
    num_frames = min(DREAM_FRAMES, len(episode) - foresight.WARM_UP)
    start = max(foresight.WARM_UP, (len(episode) - num_frames) // 2)
    return grids.clip_gif(*study.dream(episode, start, num_frames).values())


def _probes(job: RolloutJob, held_out: HeldOut) -> tuple[Probes | None, Probes | None]:
    """R2 on held-out frames of probes to each telemetry column, fitted on training episodes.

    The second is of probes fitted and scored on frames that show the car driving along the road.
    """
    names = job.telemetry
    if job.probe_data is None or not names:
        return None, None
    fitted, scored = _training_examples(job, job.probe_data), _held_out_examples(job, held_out)
    fitted_on_road, scored_on_road = (_along_the_road(names, examples) for examples in (fitted, scored))
    if fitted_on_road and scored_on_road and min(len(fitted_on_road), len(scored_on_road)) >= 2:
        found, found_on_road = probes.fit_and_score(names, (fitted, scored), (fitted_on_road, scored_on_road))
        return found, found_on_road
    return probes.fit_and_score(names, (fitted, scored))[0], None


def _along_the_road(names: Sequence[str], examples: probes.Examples) -> probes.Examples | None:
    chosen = car_frames.along_the_road(dict(zip(names, examples.telemetry.T, strict=True)))
    return None if chosen is None else examples.where(chosen)


def _training_examples(job: RolloutJob, frames: FrameSet) -> probes.Examples:
    chosen, telemetry = frames.read_spread(PROBE_FRAMES), frames.read_spread(PROBE_FRAMES, "telemetry")
    mu = threads.in_threads(lambda batch: job.vae.encode(batch).mu.cpu(), [*metrics.batches(chosen)])
    return _examples(job, chosen, torch.cat(mu).numpy(), _usable_columns(job, telemetry))


def _held_out_examples(job: RolloutJob, held_out: HeldOut) -> probes.Examples:
    """Some of the scored frames, which are encoded already."""
    count = min(len(held_out.frames), PROBE_FRAMES)
    chosen = np.linspace(0, len(held_out.frames) - 1, count).astype(int)
    telemetry = np.stack([held_out.columns[name][chosen] for name in job.telemetry], 1)
    return _examples(job, held_out.frames[chosen], held_out.frame_scores.mu[chosen], telemetry)


def _examples(job: RolloutJob, frames: metrics.Frames, mu: np.ndarray, telemetry: np.ndarray) -> probes.Examples:
    pca = threads.in_threads(job.baselines.coefficients, [*metrics.batches(frames)])
    return probes.Examples(mu, torch.cat(pca).numpy(), frames.reshape(len(frames), -1), telemetry)


def _usable_columns(job: RolloutJob, telemetry: np.ndarray) -> np.ndarray:
    """The columns that are used."""
    return telemetry[:, [job.data.telemetry_names.index(name) for name in job.telemetry]]
