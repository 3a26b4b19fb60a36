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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from world_models.data.batches import Batches
from world_models.runs import resume, tracking
from world_models.runs.resume import TrainingState
from world_models.runtime import distributed, files
from world_models.runtime.cli import run_command, to_yaml
from world_models.runtime.distributed import torch_device
from world_models.runtime.errors import Stopped
from world_models.train_vae import data as training_data
from world_models.train_vae.config import TrainConfig
from world_models.train_vae.data import KINDS, TrainingData
from world_models.train_vae.learner import Learner, cudnn_mode
from world_models.train_vae.loop import VAL_NOISE_SEED, Training, loop
from world_models.train_vae.run_writer import RunWriter
from world_models.vae import gradient
from world_models.vae.model import VAE
from world_models.vae.networks import initialise_he
from world_models.vae.noise import GENERATORS, Generator
from world_models.vae.standardise import standardised

FREE_ON_RESUME = (
    *("out", "data", "device", "cuda_graph", "memory_gb", "resume", "wandb", "tensorboard", "log_every_steps"),
)
NUM_STANDARDISE_FRAMES = 4096


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
        loop(Training(config, job.device, job.batches, learner, run, held_out, _as_saved(job)))


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


def _binarise_seed(config: TrainConfig) -> int | None:
    return VAL_NOISE_SEED if config.binarise else None


def _as_saved(job: Job) -> Callable[[VAE], VAE]:
    """The function that turns the learner's model into the model that is scored and saved."""
    if not job.config.standardise:
        return lambda vae: vae
    sample = training_data.sample(job.data.train, NUM_STANDARDISE_FRAMES, _binarise_seed(job.config))
    return lambda vae: standardised(vae, sample)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, TrainConfig, prepare, train, argv)
