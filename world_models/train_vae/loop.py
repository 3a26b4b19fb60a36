"""The training loop: it takes step after step, logs, validates on held-out frames, and saves the run."""

import dataclasses
import math
from collections.abc import Callable

import torch

from world_models.data.batches import Batches
from world_models.runtime import distributed, progress
from world_models.runtime.errors import Stopped
from world_models.runtime.host import stop_requests
from world_models.train_vae.config import TrainConfig
from world_models.train_vae.data import KINDS
from world_models.train_vae.learner import Learner
from world_models.train_vae.run_writer import Position, RunWriter
from world_models.vae import metrics
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE
from world_models.vae.noise import noise

VAL_NOISE_SEED = 0x7A1
RESULT = (
    "SSE {scores.sse:.2f}, {kl}{scores.active_units} active units, loss {scores.loss_nats:,.2f} nats, on held-out "
    "frames, after {frames_seen:,} frames; pictures are in figures/"
)
COLLAPSED = (
    "posterior collapse after {frames_seen:,} frames: no latent dimension is used, so z has no information about the "
    "frame; lower --vae.beta, or give --beta_warmup_frames"
)


@dataclasses.dataclass(frozen=True)
class Training:
    """A running training.

    Attributes:
        config: the settings of the run.
        device: the device that computes.
        batches: makes batches of the training frames.
        learner: the model and its optimizer.
        run: the run's folder; None in all processes but the first, which alone writes.
        held_out: validation frames.
        as_saved: turns the learner's model into the model that is scored and saved.
    """

    config: TrainConfig
    device: torch.device
    batches: Batches
    learner: Learner
    run: RunWriter | None
    held_out: LabelledFrames
    as_saved: Callable[[VAE], VAE]

    def position(self, frames_seen: int) -> Position:
        """The position after `frames_seen` frames."""
        return Position(self.learner.step, frames_seen, frames_seen / len(self.batches.frames))


def loop(training: Training) -> None:
    """Train batch after batch, from the learner's step on, until `num_frames` frames were seen."""
    learner, config, batches = training.learner, training.config, training.batches
    frames_seen, scores = batches.frames_at(learner.step), None
    meter = progress.Meter(frames_seen)
    stream = batches(training.device, learner.step)
    shown = distributed.world().is_first
    with progress.bar(config.num_frames, "frames", "train", frames_seen, shown) as bar, stop_requests() as stop:
        while frames_seen < config.num_frames:
            batch = next(stream).cut(config.num_frames - frames_seen)
            learner.learn(batch, config.lr_at(frames_seen), config.beta_share_at(frames_seen))
            validate = frames_seen // config.val_every_frames < (frames_seen + batch.size) // config.val_every_frames
            frames_seen += batch.size
            bar.update(batch.size)
            is_last = frames_seen >= config.num_frames
            if learner.step % config.log_every_steps == 0 or is_last:
                _log(training, frames_seen, meter)
            if validate or is_last:
                with meter.paused():
                    scores = _validate(training, frames_seen)
            if distributed.is_true_anywhere(stop.is_set(), learner.step, training.device) and not is_last:
                _save(training, training.as_saved(learner.vae))
                command = "the same command" if config.resume else "the same command with --resume true"
                raise Stopped(f"stopped at {frames_seen:,} frames; {command} continues from there")
    if scores and training.run:
        training.run.log_final_model()
        kl = "" if scores.kl_nats is None else f"KL {scores.kl_nats:.1f} nats, "
        training.run.say(RESULT.format(frames_seen=frames_seen, kl=kl, scores=scores))


def _log(training: Training, frames_seen: int, meter: progress.Meter) -> None:
    """Log the mean training metrics since the last call."""
    means, config = training.learner.means(), training.config
    _check_finite(means["loss_nats"], frames_seen, config.out)
    rates = {"frames_per_s": meter.frames_per_s(frames_seen), "lr": config.lr_at(frames_seen)}
    if training.run:
        training.run.log(training.position(frames_seen), "train", means | rates)


def _check_finite(loss: float, frames_seen: int, out: str) -> None:
    if not math.isfinite(loss):
        raise Stopped(
            f"the loss is {loss} after {frames_seen:,} frames; lower --lr or --grad_clip. {out} keeps its last "
            "checkpoint"
        )


def _validate(training: Training, frames_seen: int) -> metrics.Validation:
    """Score the current model on held-out frames, draw its pictures, and save the run."""
    learner, run, config, held_out = training.learner, training.run, training.config, training.held_out
    vae = training.as_saved(learner.vae)
    eps = noise(VAL_NOISE_SEED, 0, len(held_out), config.vae.noise_dim)
    scores = metrics.validate(vae, held_out, eps)
    _check_finite(scores.loss_nats, frames_seen, config.out)
    warm = frames_seen >= min(config.num_frames, max(config.beta_warmup_frames, config.lr_warmup_frames))
    is_best = warm and scores.loss_nats < learner.best_loss_nats
    if is_best:
        learner.best_loss_nats = scores.loss_nats
    position = training.position(frames_seen)
    if run:
        if is_best:
            run.save_best(learner, vae)
        if warm and scores.dims_used == 0:
            run.warn(COLLAPSED.format(frames_seen=frames_seen))
        run.log(position, "val", scores.known())
    _check_weights(training, vae)
    if run:  # before the state is saved, so that a run that is killed in between draws these pictures again
        finished = frames_seen >= config.num_frames
        run.draw(KINDS[config.dataset].draw(vae, held_out, position, finished), frames_seen)
    _save(training, vae)
    return scores


def _check_weights(training: Training, vae: VAE) -> None:
    if not (training.learner.vae.is_finite and vae.is_finite):
        out = training.config.out
        raise Stopped(f"some weights are not finite any more; {out} keeps its last checkpoint: lower --lr")


def _save(training: Training, vae: VAE) -> None:
    _check_weights(training, vae)
    training.learner.gather_sums()
    if training.run:
        training.run.save(training.learner, vae)
