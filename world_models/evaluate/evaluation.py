"""The evaluation of a V model on rollouts it has never seen: eval.json, figures and report.html in the run's folder."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from world_models.data.frames import FrameSet
from world_models.data.rollouts import Episode
from world_models.drawing import charts, grids, model_views
from world_models.evaluate import breakdown, page, probes
from world_models.evaluate.driving import measurement, track_map
from world_models.evaluate.foresight import study as foresight
from world_models.evaluate.job import PROBE_FRAMES, RolloutJob, spread_episodes
from world_models.runs import layout, rate_distortion
from world_models.runs.layout import FIGURES, SCORES_FILE
from world_models.runtime import files, locks, progress, terminal, threads
from world_models.runtime.errors import Stopped
from world_models.vae import baselines, metrics
from world_models.vae.model import VAE

SEEN_FRAMES, HELD_OUT_FRAMES = 4000, 1000  # that dreams are compared with
MEMORY_FRAMES = 150_000  # training frames at most that memory models learn from
DREAM_FRAMES = 100  # of the clip that shows a memory model's dream


def evaluate(
    job: RolloutJob, max_frames: int, num_iwae_frames: int, with_foresight: bool, drive_seed: int | None = None
) -> tuple[dict[str, Any], page.Shown]:
    """Score the model, write eval.json, the figures and the report.

    Args:
        job: what to score, and on what.
        max_frames: frames scored at most, spread evenly.
        num_iwae_frames: frames of which the importance-weighted bounds are taken.
        with_foresight: train a memory model too; needs `probe_data`.
        drive_seed: of the tracks on which a controller practises; None for none.

    Returns:
        what eval.json holds, and the figures.
    """
    held_out = FrameSet(job.data, range(len(job.data)))
    frames, telemetry = (held_out.read_spread(max_frames, of) for of in ("frames", "telemetry"))
    columns = dict(zip(job.telemetry, _of_columns(job, telemetry).T, strict=True))
    with progress.bar(9, "parts", "evaluate") as bar, locks.only_writer(job.run):
        files.remove_partials(job.run, job.run / FIGURES)
        scored = metrics.score_frames(job.vae, frames)
        if not all(np.isfinite(part).all() for part in scored):
            raise Stopped(f"{job.run}: its model makes of some frames what is no number; train it again")
        bar.update()
        study = _study(job) if with_foresight else None
        bar.update()
        driven, maps = _driven(job, drive_seed)
        bar.update()
        scores: dict[str, Any] = dict(metrics.summary(scored, job.vae.num_values))
        for measure in _measures(job, held_out, frames, scored, columns, num_iwae_frames):
            scores |= measure()
            bar.update()
        scores |= {"foresight": study.score(_walked(job)) if study else None, "drive": driven}
        bar.update()
        shown: dict[str, grids.Picture | bytes] = {**_draw(job, frames, scored, columns, scores), **maps}
        if study:
            shown |= {"dream": _dream(job, study)}
        page.write(job.run, scores, shown)
        files.write_json(job.run / SCORES_FILE, scores)  # last: it says that the evaluation is whole
        bar.update()
    terminal.say(page.summary(scores))
    return scores, shown


def _measures(
    job: RolloutJob,
    held_out: FrameSet,
    frames: metrics.Frames,
    scored: metrics.Scored,
    columns: breakdown.Columns,
    num_iwae_frames: int,
) -> tuple[Callable[[], dict[str, Any]], ...]:
    """Parts of eval.json, each to be measured by a call."""
    return (
        lambda: _bounds(job.vae, held_out.read_spread(num_iwae_frames)),
        lambda: (
            job.baselines.measure(frames)
            | {"previous_sse": baselines.previous_sse(each.frames for each in _walked(job))}
        ),
        lambda: _probes(job, held_out),
        lambda: _breakdown(job, frames, scored, columns) | _provenance(job, len(frames)),
    )


def _driven(job: RolloutJob, drive_seed: int | None) -> tuple[dict[str, Any] | None, page.Shown]:
    """What a controller on mu does at the wheel, and its map; None and no map where it was not asked for."""
    if drive_seed is None:
        return None, {}
    found, driven = measurement.measure(measurement.place_of(job.data), job.vae, job.baselines, drive_seed)
    return found, {"drive": track_map.draw(driven)}


def _bounds(vae: VAE, frames: metrics.Frames) -> dict[str, Any]:
    return {"iwae_nats": metrics.iwae_nats(vae, frames), "iwae_frames": len(frames)}


def _draw(
    job: RolloutJob,
    frames: metrics.Frames,
    scored: metrics.Scored,
    columns: breakdown.Columns,
    scores: dict[str, Any],
) -> dict[str, grids.Picture | bytes]:
    own = rate_distortion.RatePoint(job.name, scores["kl_nats"], scores["sse"])
    return {
        **page.draw(job.vae, job.data, frames, job.baselines, scores),
        **page.draw_breakdown(job.vae, frames, scored, columns, scores),
        "rate_distortion": charts.rate_distortion([own, *job.others], rate_distortion.pca_of(scores)),
        **page.draw_curves(job.run, scores),
    }


def _breakdown(
    job: RolloutJob, frames: metrics.Frames, scored: metrics.Scored, columns: breakdown.Columns
) -> dict[str, Any]:
    """Where the error lies, and how the latents do."""
    walked = [job.vae.encode(episode.frames).mu.cpu().numpy() for episode in _walked(job)]
    return {
        "sse_by_kind": breakdown.by_kind(scored.sse, columns),
        "sse_by_telemetry": breakdown.by_telemetry(scored.sse, columns),
        "aggregate_posterior": breakdown.aggregate_posterior(scored.mu, scored.variance),
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
        "vae_sha256": files.file_sha256(layout.weights_path(job.run, job.weights)),
        "variance": job.vae.variance.item(),
        "versions": files.versions(),
    }


def _walked(job: RolloutJob) -> Iterator[Episode]:
    """Whole episodes, spread over the data."""
    return map(job.data.__getitem__, spread_episodes(job.data))


def _plausible_share(job: RolloutJob, frames: metrics.Frames) -> float | None:
    """Of what the model dreams; None where its training frames are not there to compare with."""
    if job.probe_data is None:
        return None
    dreams = model_views.dreams(job.vae, breakdown.NUM_DREAMS)
    held_out = frames[np.linspace(0, len(frames) - 1, min(len(frames), HELD_OUT_FRAMES)).astype(int)]
    return breakdown.plausible_share(dreams, job.probe_data.read_spread(SEEN_FRAMES), held_out)


def _study(job: RolloutJob) -> foresight.Study:
    """Memory models on the latents of training episodes."""
    assert job.probe_data is not None
    episodes = job.probe_data.episodes(MEMORY_FRAMES)
    return foresight.study(job.vae, job.baselines, episodes, job.probe_data.read_spread(SEEN_FRAMES))


def _dream(job: RolloutJob, study: foresight.Study) -> bytes:
    """The middle of the held-out episode with the highest return, and what is dreamt of it, as a GIF."""
    episode = job.data[int(np.argmax(job.data.returns()))]
    num_frames = min(DREAM_FRAMES, len(episode) - foresight.WARM_UP)
    start = max(foresight.WARM_UP, (len(episode) - num_frames) // 2)
    return grids.clip_gif(*study.dream(episode, start, num_frames).values())


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
    read = threads.in_threads(
        lambda batch: (job.vae.encode(batch).mu.cpu(), job.baselines.coefficients(batch)), [*metrics.batches(chosen)]
    )
    mu, pca = (torch.cat(features).numpy() for features in zip(*read, strict=True))
    return probes.Seen(mu, pca, chosen.reshape(len(chosen), -1), _of_columns(job, telemetry))


def _of_columns(job: RolloutJob, telemetry: np.ndarray) -> np.ndarray:
    """The columns that are used."""
    return telemetry[:, [job.data.telemetry_names.index(name) for name in job.telemetry]]
