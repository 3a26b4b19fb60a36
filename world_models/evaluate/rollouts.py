"""The evaluation of a V model on new rollouts: its measures and figures."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from world_models.data.frames import FrameSet
from world_models.data.rollouts import Episode
from world_models.drawing import charts, grids, model_views
from world_models.evaluate import breakdown, page, probes
from world_models.evaluate import job as rollout_job
from world_models.evaluate.config import EvaluateConfig
from world_models.evaluate.driving import measurement, track_map
from world_models.evaluate.driving.lockstep import Driven
from world_models.evaluate.evaluation import Done, Evaluation, Found, Shown
from world_models.evaluate.foresight import study as foresight
from world_models.evaluate.job import PROBE_FRAMES, RolloutJob, set_of_frames, spread_episodes
from world_models.runs import rate_distortion
from world_models.runs.records import distinct_names
from world_models.runs.score_parts import R2, DataScores, Drive
from world_models.runs.scores import RolloutScores
from world_models.runtime import files, threads
from world_models.runtime.errors import Stopped
from world_models.vae import baselines, metrics
from world_models.vae.labelled_frames import LabelledFrames

SEEN_FRAMES, HELD_OUT_FRAMES = 4000, 1000  # numbers of frames that dreams are compared with
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
    return Evaluation(job.run, job.source, num_frames, job.notes, 8, functools.partial(measure, job))


class HeldOut(NamedTuple):
    """The held-out frames, and the scores that most measures need.

    Attributes:
        every: all held-out frames.
        frames: the frames that are scored.
        columns: telemetry of the scored frames.
        scored: scores of each scored frame.
        summary: scores over all scored frames.
    """

    every: FrameSet
    frames: metrics.Frames
    columns: breakdown.Columns
    scored: metrics.Scored
    summary: metrics.Summary


def _held_out(job: RolloutJob) -> HeldOut:
    every = FrameSet(job.data, range(len(job.data)))
    frames, telemetry = (every.read_spread(job.config.max_frames, of) for of in ("frames", "telemetry"))
    scored = metrics.score_frames(job.vae, LabelledFrames.of_one_class(frames))
    if not all(np.isfinite(part).all() for part in scored):
        raise Stopped(f"{job.run}: the model gives numbers that are not finite for some frames; train it again")
    columns = dict(zip(job.telemetry, _of_columns(job, telemetry).T, strict=True))
    return HeldOut(every, frames, columns, scored, metrics.summary(scored, job.vae.num_values))


def measure(job: RolloutJob, done: Done) -> Found:
    """Score the model."""
    held_out = _held_out(job)
    done()
    study = _study(job) if job.config.foresight else None
    done()
    drive, driven = _drive(job) if job.config.drive else (None, None)
    done()
    scores = _scores(job, held_out, done)
    scores = dataclasses.replace(scores, foresight=study.score(_walked(job)) if study else None, drive=drive)
    done()

    def draw() -> Shown:
        shown = dict(_draw(job, held_out, scores))
        shown |= {"drive": track_map.draw(driven)} if driven else {}
        return shown | ({"dream": _dream(job, study)} if study else {})

    return Found(scores, draw, functools.partial(page.page, job.run.name, scores))


def _scores(job: RolloutJob, held_out: HeldOut, done: Done) -> RolloutScores:
    """All measures except `foresight` and `drive`."""
    vae, summary, scored = job.vae, held_out.summary, held_out.scored
    bounded = held_out.every.read_spread(job.config.num_iwae_frames)
    iwae_nats = metrics.iwae_nats(vae, LabelledFrames.of_one_class(bounded))
    done()
    baseline_errors = job.baselines.measure(held_out.frames)
    previous_sse = baselines.previous_sse(each.frames for each in _walked(job))
    done()
    probe_r2, probe_r2_on_road = _probes(job, held_out.every)
    done()
    scores = RolloutScores(
        sse=summary.sse,
        psnr_db=summary.psnr_db,
        ssim=summary.ssim,
        kl_nats=summary.kl_nats,
        kl_per_dim=summary.kl_per_dim,
        active_units=summary.active_units,
        dims_used=summary.dims_used,
        elbo_nats=summary.elbo_nats,
        iwae_nats=iwae_nats,
        iwae_frames=len(bounded),
        mean_sse=baseline_errors.mean_sse,
        pca_sse=baseline_errors.pca_sse,
        pca_sse_by_components=baseline_errors.pca_sse_by_components,
        previous_sse=previous_sse,
        probe_r2=None if probe_r2 is None else probe_r2["mu_linear"],
        probes=probe_r2,
        probes_on_road=probe_r2_on_road,
        sse_by_kind=breakdown.by_kind(scored.sse, held_out.columns),
        sse_by_telemetry=breakdown.by_telemetry(scored.sse, held_out.columns),
        aggregate_posterior=breakdown.aggregate_posterior(scored.mu, scored.variance),
        unsteadiness=breakdown.unsteadiness([vae.encode(each.frames).mu.cpu().numpy() for each in _walked(job)]),
        plausible_share=_plausible_share(job, held_out.frames),
        pca_components=len(job.baselines.components),
        frames=len(held_out.frames),
        episodes=len(job.data),
        trained_on_episodes=sum(job.trained_on),
        data=job.source.data,
        data_digest=job.source.data_digest,
        weights=job.source.weights,
        vae_sha256=job.source.vae_sha256,
        variance=vae.variance.item(),
        versions=files.versions(),
        foresight=None,
        drive=None,
        by_data=_by_data(job, held_out),
    )
    done()
    return scores


def _by_data(job: RolloutJob, held_out: HeldOut) -> dict[str, DataScores] | None:
    """The main scores of each data set, by a short name of its folder; None if there is only one."""
    sets, scored = job.data.sets, held_out.scored
    if len(sets) == 1:
        return None
    set_of = set_of_frames(job.data, job.config.max_frames)
    found = {}
    for number, name in enumerate(distinct_names([each.path for each in sets])):
        chosen = set_of == number
        part = metrics.Scored(scored.error_map, *(column[chosen] for column in scored[1:]))
        summary = metrics.summary(part, job.vae.num_values)
        errors = job.baselines.measure(held_out.frames[chosen])
        found[name] = DataScores(
            sse=summary.sse,
            psnr_db=summary.psnr_db,
            ssim=summary.ssim,
            kl_nats=summary.kl_nats,
            active_units=summary.active_units,
            elbo_nats=summary.elbo_nats,
            mean_sse=errors.mean_sse,
            pca_sse=errors.pca_sse,
            frames=int(chosen.sum()),
            episodes=len(sets[number]),
            trained_on_episodes=job.trained_on[number],
            data=str(sets[number].path),
            data_digest=sets[number].digest(),
        )
    return found


def _drive(job: RolloutJob) -> tuple[Drive, Driven]:
    """Train a controller on mu, and let it drive."""
    place = measurement.place_of(job.data)
    return measurement.measure(place, job.vae, job.baselines, job.config.drive_seed)


def _draw(job: RolloutJob, held_out: HeldOut, scores: RolloutScores) -> Shown:
    own = rate_distortion.RatePoint(job.name, held_out.summary.kl_nats, held_out.summary.sse)
    return {
        **page.draw(job.vae, job.data, held_out.frames, job.baselines, held_out.summary),
        **page.draw_breakdown(job.vae, held_out.frames, held_out.scored, held_out.columns, scores),
        "rate_distortion": charts.rate_distortion([own, *job.others], rate_distortion.pca_of(scores)),
        **page.draw_curves(job.run, scores),
    }


def _walked(job: RolloutJob) -> Iterator[Episode]:
    """Whole episodes, evenly spread over the data."""
    return map(job.data.__getitem__, spread_episodes(job.data))


def _plausible_share(job: RolloutJob, frames: metrics.Frames) -> float | None:
    """The share of plausible dreams; None if there are no training frames to compare with."""
    if job.probe_data is None:
        return None
    dreams = model_views.dreams(job.vae, breakdown.NUM_DREAMS)
    held_out = frames[np.linspace(0, len(frames) - 1, min(len(frames), HELD_OUT_FRAMES)).astype(int)]
    return breakdown.plausible_share(dreams, job.probe_data.read_spread(SEEN_FRAMES), held_out)


def _study(job: RolloutJob) -> foresight.Study:
    """Train memory models on the latents of training episodes."""
    assert job.probe_data is not None
    episodes = job.probe_data.episodes(MEMORY_FRAMES)
    return foresight.study(job.vae, job.baselines, episodes, job.probe_data.read_spread(SEEN_FRAMES))


def _dream(job: RolloutJob, study: foresight.Study) -> bytes:
    """A GIF of the middle of the held-out episode with the highest return, with the memory models' dreams of it."""
    episode = job.data[int(np.argmax(job.data.returns()))]
    num_frames = min(DREAM_FRAMES, len(episode) - foresight.WARM_UP)
    start = max(foresight.WARM_UP, (len(episode) - num_frames) // 2)
    return grids.clip_gif(*study.dream(episode, start, num_frames).values())


def _probes(job: RolloutJob, held_out: FrameSet) -> tuple[Probes | None, Probes | None]:
    """R2 on held-out episodes of probes to each telemetry column, fitted on training episodes.

    The second is of probes fitted and scored on frames that show the car driving along the road.
    """
    names = job.telemetry
    if job.probe_data is None or not names:
        return None, None
    both = [_seen(job, frames) for frames in (job.probe_data, held_out)]
    found = probes.read(names, *both)
    on_road = [_along_the_road(names, seen) for seen in both]
    enough = all(seen is not None and len(seen) >= 2 for seen in on_road)
    return found, probes.read(names, *filter(None, on_road)) if enough else None


def _along_the_road(names: Sequence[str], seen: probes.Seen) -> probes.Seen | None:
    chosen = breakdown.along_the_road(dict(zip(names, seen.telemetry.T, strict=True)))
    return None if chosen is None else seen.where(chosen)


def _seen(job: RolloutJob, frames: FrameSet) -> probes.Seen:
    chosen, telemetry = frames.read_spread(PROBE_FRAMES), frames.read_spread(PROBE_FRAMES, "telemetry")
    read = threads.in_threads(
        lambda batch: (job.vae.encode(batch).mu.cpu(), job.baselines.coefficients(batch)), [*metrics.batches(chosen)]
    )
    mu, pca = (torch.cat(features).numpy() for features in zip(*read, strict=True))
    return probes.Seen(mu, pca, chosen.reshape(len(chosen), -1), _of_columns(job, telemetry))


def _of_columns(job: RolloutJob, telemetry: np.ndarray) -> np.ndarray:
    """The columns that are used."""
    return telemetry[:, [job.data.telemetry_names.index(name) for name in job.telemetry]]
