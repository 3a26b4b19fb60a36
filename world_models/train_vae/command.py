"""Train the V model on rollouts, or on MNIST: runs/<name>/ with weights, metrics and pictures.

Examples:
  python -m world_models.train_vae                                       the quick scale, minutes on a laptop
  python -m world_models.train_vae --data rollouts/carracing --out runs/beta4 --vae.beta 4 --num_frames 400000
  python -m world_models.train_vae --config configs/paper/train_vae.yaml
  python -m world_models.train_vae --data '[rollouts/a,rollouts/b]' --data_weights '[1,3]'
  python -m world_models.train_vae --config configs/mnist/vae.yaml       the tutorials' VAE of handwritten digits
  python -m world_models.train_vae --resume true                         continue after Ctrl-C, a crash, a preemption

Validation uses episodes that are never trained on. Ctrl-C saves the state and stops. A resumed training gives the same
weights as one without interruption. `metrics.jsonl` has all metrics, and so has W&B.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from world_models.data.batches import Batches
from world_models.runs import resume, tracking
from world_models.runs.resume import TrainingState
from world_models.runtime import distributed, files, progress
from world_models.runtime.cli import run_command, to_yaml
from world_models.runtime.distributed import torch_device
from world_models.runtime.errors import Stopped
from world_models.runtime.host import stop_requests
from world_models.train_vae import data as training_data
from world_models.train_vae.config import TrainConfig
from world_models.train_vae.data import KINDS, TrainingData
from world_models.train_vae.learner import Learner, cudnn_mode
from world_models.train_vae.run_writer import Position, RunWriter
from world_models.vae import gradient, metrics
from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.model import VAE
from world_models.vae.networks import initialise_he
from world_models.vae.noise import GENERATORS, Generator, noise
from world_models.vae.standardise import standardised

FREE_ON_RESUME = (
    *("out", "data", "device", "cuda_graph", "memory_gb", "resume", "wandb", "tensorboard", "log_every_steps"),
)
VAL_NOISE_SEED = 0x7A1
NUM_STANDARDISE_FRAMES = 4096
RESULT = (
    "SSE {scores.sse:.2f}, {kl}{scores.active_units} active units, loss {scores.loss_nats:,.2f} nats, on held-out "
    "frames, after {frames_seen:,} frames; pictures are in figures/"
)
COLLAPSED = (
    "posterior collapse after {frames_seen:,} frames: no latent dimension is used, so z has no information about the "
    "frame; lower --vae.beta, or give --beta_warmup_frames"
)


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked training run.

    Attributes:
        config: its settings.
        device: the device that computes.
        data: frames for training and for validation.
        batches: makes batches of the training frames.
        saved_state: the state to resume from; None for a new run.
    """

    config: TrainConfig
    device: torch.device
    data: TrainingData
    batches: Batches
    saved_state: TrainingState | None

    @property
    def is_finished(self) -> bool:
        """Whether the saved run has seen all frames."""
        return self.saved_state is not None and self.num_frames <= 0

    @property
    def num_frames(self) -> int:
        """Number of frames that training still has to see."""
        return self.config.num_frames - (self.batches.frames_at(self.saved_state.step) if self.saved_state else 0)


def prepare(config: TrainConfig) -> Job:
    """Check everything that can be wrong before the first step.

    Raises:
        ValueError, OSError: the input is bad. Nothing was written.
    """
    config = dataclasses.replace(config, out=tracking.own_folder(config.out))
    world, device = distributed.world(), distributed.own_device(torch_device(config.device))
    if config.compile and gradient.computes_in_c(device) and not config.bf16_on(device):
        raise ValueError("compile is for a GPU, but this is a CPU, whose code is compiled already; leave --compile out")
    config.bf16_on(device)  # checks that the GPU has this precision
    resume.check_new(Path(config.out), config.resume)
    config = dataclasses.replace(config, noise=_generator(config, device))
    data = KINDS[config.dataset].read(config.folders, config.split_seed, config.data_weights)
    memory_bytes = int(config.memory_gb * 1e9)
    order = (config.batch_size, config.seed, config.shuffle_frames)
    batches = Batches(data.train, *order, memory_bytes, world.rank, world.size)
    defaults = TrainConfig(data=config.data, out=config.out)
    texts = to_yaml(config, every_field=True), to_yaml(defaults, every_field=True)
    saved = resume.load_run(Path(config.out), *texts, FREE_ON_RESUME, data.trained_on)
    state = None if saved is None else resume.check_state(Path(config.out), saved, config.vae)
    files.check_room(Path(config.out), 200_000_000)
    return Job(config, device, data, batches, state)


def _generator(config: TrainConfig, device: torch.device) -> Generator:
    """The generator of the noise. A resumed run keeps its own, also on another device."""
    if config.noise != "auto":
        return config.noise
    saved = resume.saved_setting(Path(config.out), "noise")
    known: list[Generator] = [name for name in GENERATORS if name == saved]
    return known[0] if known else "philox" if device.type == "cuda" else "mersenne"


def train(job: Job) -> None:
    """Train to the end, or to the first request to stop. If there are several processes, only the first one writes.

    Raises:
        Stopped: somebody has asked to stop, the loss is not finite, or the disk is full.
    """
    config = job.config
    with (
        _with_resume_hint(config),
        distributed.connected(job.device) as world,
        cudnn_mode(job.device, config.deterministic),
        contextlib.ExitStack() as stack,
    ):
        _check_same_data(job)
        run = _open_run(job) if world.is_first else None
        if run:
            stack.callback(run.close)
        learner = _learner(job)
        if job.saved_state:
            learner.restore(job.saved_state)
        if run:
            _begin(job, learner, run)
        held_out = training_data.sample(job.data.held_out, config.num_val_frames, _binarise_seed(config))
        _loop(Training(job, learner, run, held_out, _as_saved(job)))


def _check_same_data(job: Job) -> None:
    digest = job.data.trained_on.data_digest
    if digest is not None and not distributed.is_same_everywhere(digest, job.device):
        raise Stopped("the processes have different training data; copy the same files to the disk of every machine")


@contextlib.contextmanager
def _with_resume_hint(config: TrainConfig) -> Iterator[None]:
    """Add `--resume true` to messages that ask the user to run the same command again."""
    try:
        yield
    except Stopped as stopped:
        if config.resume or not str(stopped).endswith(files.RUN_AGAIN):
            raise
        raise Stopped(f"{stopped}, with --resume true") from None


def _open_run(job: Job) -> RunWriter:
    config = job.config
    return RunWriter(Path(config.out), to_yaml(config), job.data.trained_on, config.wandb, config.tensorboard)


def _learner(job: Job) -> Learner:
    config = job.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vae = VAE(config.vae, job.data.preprocess)
        if config.init == "he":
            initialise_he(vae)
    # The parts of a batch that several processes learn from have no fixed size.
    is_fixed = config.cuda_graph and job.device.type == "cuda" and distributed.world().size == 1 and not config.compile
    assert config.noise != "auto"
    return Learner(
        vae.to(job.device),
        config.seed,
        config.grad_clip,
        config.bf16_on(job.device),
        compiled_size=config.batch_size if config.compile else 0,
        binarise=config.binarise,
        generator=config.noise,
        fixed_size=config.batch_size if is_fixed else 0,
    )


def _begin(job: Job, learner: Learner, run: RunWriter) -> None:
    """Write a new run's first files, and begin to log."""
    if job.saved_state:
        frames_seen = job.batches.frames_at(learner.step)
        run.say(f"continuing from step {learner.step:,}, {frames_seen:,} frames seen")
    else:
        run.begin(learner, job.batches.frames.read_spread)
    run.track(learner)


@dataclasses.dataclass(frozen=True)
class Training:
    """A running training.

    Attributes:
        job: the checked training run.
        learner: the model and its optimizer.
        run: the run's folder; None in all processes but the first, which alone writes.
        held_out: validation frames.
        as_saved: turns the learner's model into the model that is scored and saved.
    """

    job: Job
    learner: Learner
    run: RunWriter | None
    held_out: LabelledFrames
    as_saved: Callable[[VAE], VAE]

    def position(self, frames_seen: int) -> Position:
        """The position after `frames_seen` frames."""
        return Position(self.learner.step, frames_seen, frames_seen / len(self.job.batches.frames))


def _loop(training: Training) -> None:
    """Train batch after batch, from the learner's step on, until `num_frames` frames were seen."""
    job, learner, config = training.job, training.learner, training.job.config
    frames_seen, scores = job.batches.frames_at(learner.step), None
    meter = progress.Meter(frames_seen)
    stream = job.batches(job.device, learner.step)
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
            if distributed.is_true_anywhere(stop.is_set(), learner.step, job.device) and not is_last:
                _save(training, training.as_saved(learner.vae))
                command = "the same command" if config.resume else "the same command with --resume true"
                raise Stopped(f"stopped at {frames_seen:,} frames; {command} continues from there")
    if scores and training.run:
        training.run.log_final_model()
        kl = "" if scores.kl_nats is None else f"KL {scores.kl_nats:.1f} nats, "
        training.run.say(RESULT.format(frames_seen=frames_seen, kl=kl, scores=scores))


def _binarise_seed(config: TrainConfig) -> int | None:
    return VAL_NOISE_SEED if config.binarise else None


def _as_saved(job: Job) -> Callable[[VAE], VAE]:
    """The function that turns the learner's model into the model that is scored and saved."""
    if not job.config.standardise:
        return lambda vae: vae
    sample = training_data.sample(job.data.train, NUM_STANDARDISE_FRAMES, _binarise_seed(job.config))
    return lambda vae: standardised(vae, sample)


def _log(training: Training, frames_seen: int, meter: progress.Meter) -> None:
    """Log the mean training metrics since the last call."""
    means, config = training.learner.means(), training.job.config
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
    learner, run, config, held_out = training.learner, training.run, training.job.config, training.held_out
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
        out = training.job.config.out
        raise Stopped(f"some weights are not finite any more; {out} keeps its last checkpoint: lower --lr")


def _save(training: Training, vae: VAE) -> None:
    _check_weights(training, vae)
    training.learner.gather_sums()
    if training.run:
        training.run.save(training.learner, vae)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, TrainConfig, prepare, train, argv)
