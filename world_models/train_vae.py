"""Train the V model on rollouts: runs/<name>/ with weights, metrics and pictures.

Examples:
  python -m world_models.train_vae                                       the quick scale, minutes on a laptop
  python -m world_models.train_vae --data rollouts/carracing --out runs/beta4 --vae.beta 4 --num_frames 400000
  python -m world_models.train_vae --config configs/paper/train_vae.yaml --data rollouts/paper
  python -m world_models.train_vae --resume true                         go on after Ctrl-C, a crash, a preemption

Validation is on episodes that are never trained on. Ctrl-C saves the state and stops; resumed training gives the
weights that unbroken training gives. `metrics.jsonl` has every number; W&B (offline without a key) has them too.
"""

import contextlib
import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float, UInt8
from torch import Tensor

from world_models import checkpoints, figures, files, metrics, tracking
from world_models.config import Stopped, require, run_command, to_yaml
from world_models.frames import Batches, Device, FrameSet, Split, noise, split_episodes, torch_device
from world_models.rollouts import Rollouts
from world_models.vae import VAE, VAEConfig, to_images

FREE_ON_RESUME = ("out", "data", "device", "memory_gb", "resume", "wandb", "tensorboard", "log_every_steps")
VAL_NOISE_SEED = 0x7A1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What to train on, how, and where the run goes.

    Attributes:
        data: folder of rollouts.
        out: folder of the run.
        num_frames: frames to see in all; each epoch sees every training frame once.
        batch_size: frames of a step.
        lr: highest learning rate of Adam.
        schedule: how it falls after its warm-up: cosine (to zero at the end) or constant.
        lr_warmup_frames: frames over which it rises from zero.
        beta_warmup_frames: frames over which vae.beta rises from zero.
        grad_clip: largest norm of the gradient in all, 0 for no clipping.
        seed: of weights, order and noise.
        split_seed: decides which episodes are held out.
        shuffle_frames: size of the shuffle buffer.
        val_every_frames: frames between validations, each of which saves the run.
        num_val_frames: held-out frames that a validation scores, spread evenly.
        log_every_steps: steps between lines of training metrics.
        device: auto takes a GPU if there is one.
        precision: auto is bfloat16 autocast on a GPU, float32 on a CPU.
        memory_gb: memory that frames may take on the host; a larger data set is streamed.
        resume: go on with the run in out, or start it if there is none.
        tensorboard: write TensorBoard's files too (needs the extra tensorboard).
        vae: the model and its objective.
        wandb: Weights & Biases.
    """

    data: str = "rollouts/carracing"
    out: str = "runs/vae"
    num_frames: int = 150_000
    batch_size: int = 128
    lr: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    lr_warmup_frames: int = 10_000
    beta_warmup_frames: int = 0
    grad_clip: float = 100.0
    seed: int = 0
    split_seed: int = 0
    shuffle_frames: int = 16_384
    val_every_frames: int = 25_000
    num_val_frames: int = 2048
    log_every_steps: int = 20
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_gb: float = 4.0
    resume: bool = False
    tensorboard: bool = False
    vae: VAEConfig = dataclasses.field(default_factory=VAEConfig)
    wandb: tracking.WandbConfig = dataclasses.field(default_factory=tracking.WandbConfig)

    def __post_init__(self):
        at_least_1 = ("num_frames", "batch_size", "shuffle_frames", "val_every_frames", "num_val_frames", "log_every_steps")
        for name in at_least_1:
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("lr_warmup_frames", "beta_warmup_frames", "seed", "split_seed", "grad_clip"):
            require(0 <= getattr(self, name) < math.inf, f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("lr", "memory_gb"):
            require(0 < getattr(self, name) < math.inf, f"{name} is {getattr(self, name)}; give a number above 0")

    def lr_at(self, frames_seen: int) -> float:
        """Linear warm-up, then a cosine to zero or a constant."""
        warm = min(1.0, (frames_seen + 1) / (self.lr_warmup_frames + 1))
        share = min(1.0, max(0, frames_seen - self.lr_warmup_frames) / max(1, self.num_frames - self.lr_warmup_frames))
        return self.lr * warm * (1.0 if self.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * share)))

    def beta_share_at(self, frames_seen: int) -> float:
        """Share of beta that applies."""
        return min(1.0, (frames_seen + 1) / (self.beta_warmup_frames + 1))


@dataclasses.dataclass
class State:
    """All that changes while training goes on, and all that a resume needs."""

    vae: VAE
    optimizer: torch.optim.Adam
    step: int = 0
    best_loss_nats: float = math.inf
    since_log: Float[Tensor, " 4"] = dataclasses.field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    wandb_id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        plain = {name: getattr(self, name) for name in ("step", "best_loss_nats", "since_log", "wandb_id")}
        return plain | {"vae": self.vae.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        """The state that `as_dict` gave."""
        self.vae.load_state_dict(saved["vae"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in ("step", "best_loss_nats", "since_log", "wandb_id"):
            setattr(self, name, saved[name])


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked training run."""

    config: TrainConfig
    device: torch.device
    data: Rollouts
    split: Split
    batches: Batches
    saved: dict[str, Any] | None


def prepare(config: TrainConfig) -> Job:
    """Check everything that can be wrong before the first step."""
    device, data = torch_device(config.device), Rollouts(config.data)
    split = split_episodes(data.seeds, config.split_seed)
    batches = Batches(FrameSet(data, split.train), config.batch_size, config.seed, config.shuffle_frames, config.memory_gb * 1e9)
    saved = _load_run(config, data)
    files.check_room(Path(config.out), 2e8)
    return Job(config, device, data, split, batches, saved)


def _load_run(config: TrainConfig, data: Rollouts) -> dict[str, Any] | None:
    """The saved state to go on from, None for a new run.

    Raises:
        ValueError: the folder holds a run that this is no resumption of.
    """
    out = Path(config.out)
    if not (out / "config.yaml").exists():
        return None
    if not config.resume:
        raise ValueError(f"{out} holds a run already; give --resume true to go on with it, or choose another --out")
    before, now = (_comparable(text) for text in ((out / "config.yaml").read_text(encoding="utf-8"), to_yaml(config)))
    changed = [f"{name} {before.get(name)}, not {value}" for name, value in now.items() if before.get(name) != value]
    if changed:
        raise ValueError(f"{out} is a run with {'; '.join(changed)}: resume it with its own config, or choose another --out")
    if not (out / "state.pt").exists():
        return None
    if checkpoints.load_description(out)["data_digest"] != data.digest():
        raise ValueError(f"{out} was trained on other data than {config.data}; resume it on its own, or choose another --out")
    return checkpoints.load_state(out)


def _comparable(text: str) -> dict[str, Any]:
    return {name: value for name, value in (yaml.safe_load(text) or {}).items() if name not in FREE_ON_RESUME}


def train(job: Job) -> None:
    """Train to the end, or to the first request to stop."""
    config, out = job.config, Path(job.config.out)
    out.mkdir(parents=True, exist_ok=True)
    with _one_line_errors(), files.only_writer(out):
        files.remove_partials(out)
        state = _start(job)
        val_frames = FrameSet(job.data, job.split.val).read_spread(config.num_val_frames)
        tracker = tracking.Tracker(out, yaml.safe_load(to_yaml(config)), config.wandb, "train", config.tensorboard, state.wandb_id)
        state.wandb_id = tracker.run_id
        try:
            _loop(job, state, val_frames, tracker)
        finally:
            tracker.finish()


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Stopped(str(error)) from error


def _start(job: Job) -> State:
    """A new run's files and state, or a saved one's."""
    config, out = job.config, Path(job.config.out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        vae = VAE(config.vae, job.data.preprocess).to(job.device)
    state = State(vae, torch.optim.Adam(vae.parameters(), lr=config.lr))
    if job.saved:
        state.restore(job.saved)
        print(f"{out}: going on from step {state.step:,}, {job.batches.frames_at(state.step):,} frames seen")
    else:
        files.write_text(out / "config.yaml", to_yaml(config))
        baselines = metrics.fit_baselines(job.batches.frames.read_spread(metrics.PCA_MAX_FRAMES), config.vae.z_dim)
        checkpoints.save_weights(out / "baselines.safetensors", {"mean": baselines.mean, "components": baselines.components})
    tracking.truncate_metrics(out, state.step)
    return state


def _loop(job: Job, state: State, val_frames: UInt8[np.ndarray, "frames 64 64 3"], tracker: tracking.Tracker) -> None:
    """The training loop: batches from where the state stands, until enough frames were seen."""
    config = job.config
    seen = job.batches.frames_at(state.step)
    due, clock, logged = _next_multiple(seen, config.val_every_frames), time.perf_counter(), seen
    stream = job.batches(job.device, state.step)
    with tracking.progress(config.num_frames, "frames", "train") as bar, _stop_requests() as stop, contextlib.closing(stream):
        bar.update(min(seen, config.num_frames))
        while seen < config.num_frames:
            batch = next(stream)[: config.num_frames - seen]
            _learn(config, state, batch, seen)
            seen += len(batch)
            bar.update(len(batch))
            last = seen >= config.num_frames
            if state.step % config.log_every_steps == 0 or last:
                line = _train_line(job, state, seen, (seen - logged) / (time.perf_counter() - clock))
                tracker.log(line)
                bar.set_postfix(sse=f"{line['train/sse']:.1f}", kl=f"{line['train/kl_nats']:.1f}", refresh=False)
                clock, logged = time.perf_counter(), seen
            if seen >= due or last:
                _validate_and_save(job, state, seen, val_frames, tracker)
                due, clock, logged = _next_multiple(seen, config.val_every_frames), time.perf_counter(), seen
            if stop.is_set() and not last:
                _save(job, state)
                raise Stopped(f"stopped at {seen:,} frames; the same command with --resume true goes on")


def _next_multiple(value: int, period: int) -> int:
    return (value // period + 1) * period


def _learn(config: TrainConfig, state: State, batch: UInt8[Tensor, "batch 64 64 3"], seen: int) -> None:
    """One step of Adam; the losses stay on the device."""
    bf16 = config.precision == "bfloat16" or (config.precision == "auto" and batch.is_cuda)
    eps = noise(config.seed, state.step, len(batch), config.vae.z_dim).to(batch.device)
    state.optimizer.param_groups[0]["lr"] = config.lr_at(seen)
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
        terms = state.vae.objective(to_images(batch), eps, config.beta_share_at(seen))
    state.optimizer.zero_grad(set_to_none=True)
    terms.loss_nats.mean().backward()
    if config.grad_clip:
        torch.nn.utils.clip_grad_norm_(state.vae.parameters(), config.grad_clip)
    state.optimizer.step()
    state.step += 1
    with torch.no_grad():
        sums = torch.stack([terms.loss_nats.sum(), terms.sse.sum(), terms.kl_nats.sum(), terms.sse.new_tensor(len(batch))])
        state.since_log = state.since_log.to(sums.device) + sums.double()


def _train_line(job: Job, state: State, seen: int, frames_per_s: float) -> dict[str, float | int]:
    """A line of training metrics: means since the last one."""
    loss, sse, kl, frames = state.since_log.tolist()
    state.since_log = torch.zeros_like(state.since_log)
    _check_finite(loss, seen, Path(job.config.out))
    return {
        "step": state.step,
        "frames_seen": seen,
        "epoch": seen / len(job.batches.frames),
        "train/loss_nats": loss / frames,
        "train/sse": sse / frames,
        "train/kl_nats": kl / frames,
        "train/frames_per_s": frames_per_s,
        "train/lr": job.config.lr_at(seen),
    }


def _check_finite(loss: float, seen: int, out: Path) -> None:
    if not math.isfinite(loss):
        raise Stopped(f"the loss is {loss} after {seen:,} frames; the last checkpoint in {out} is good: lower --lr or --grad_clip")


def _validate_and_save(
    job: Job, state: State, seen: int, frames: UInt8[np.ndarray, "frames 64 64 3"], tracker: tracking.Tracker
) -> None:
    """Score held-out frames, draw them, and save the run."""
    config, out = job.config, Path(job.config.out)
    state.vae.eval()
    eps = noise(VAL_NOISE_SEED, 0, len(frames), config.vae.z_dim)
    scores = metrics.validate(state.vae, frames, eps)
    _check_finite(scores["loss_nats"], seen, out)
    pictures = draw(state.vae, frames)
    state.vae.train()
    for name, picture in pictures.items():
        figures.save(out / "figures" / f"{name}_{seen:09d}.png", picture)
    warm = seen >= max(config.beta_warmup_frames, config.lr_warmup_frames)
    if warm and scores["loss_nats"] < state.best_loss_nats:
        state.best_loss_nats = scores["loss_nats"]
        checkpoints.save_weights(out / checkpoints.WEIGHT_FILES["best"], state.vae.state_dict())
    if warm and scores["dims_used"] == 0:
        print(
            f"posterior collapse after {seen:,} frames: no latent dimension holds {metrics.USED_KL_NATS} nats, so z says "
            "nothing about the frame; lower --vae.beta or give --beta_warmup_frames",
            file=sys.stderr,
        )
    tracker.log({"step": state.step, "frames_seen": seen, "epoch": seen / len(job.batches.frames)} | {f"val/{k}": v for k, v in scores.items()})
    tracker.images(pictures, seen)
    _save(job, state)


def draw(vae: VAE, frames: UInt8[np.ndarray, "frames 64 64 3"]) -> dict[str, figures.Picture]:
    """Held-out frames over their reconstructions, samples from the prior, and an interpolation between two frames."""
    chosen = torch.from_numpy(frames[np.linspace(0, len(frames) - 1, 16).astype(int)])
    mu = vae.encode(chosen).mu
    decoded = vae.decode(mu).cpu().numpy()
    shown = chosen.numpy()
    prior = torch.randn(64, vae.config.z_dim, generator=torch.Generator().manual_seed(0))
    weights = torch.linspace(0, 1, 12, device=mu.device)[:, None]
    return {
        "reconstructions": figures.grid([shown[:8], decoded[:8], shown[8:], decoded[8:]]),
        "samples": figures.sheet(vae.decode(prior).cpu().numpy(), columns=8),
        "interpolation": figures.grid([vae.decode(mu[1] + weights * (mu[-2] - mu[1])).cpu().numpy()]),
    }


def _save(job: Job, state: State) -> None:
    """Save the last weights, what describes them, and the state, which alone is what a resume reads."""
    out = Path(job.config.out)
    checkpoints.save_weights(out / checkpoints.WEIGHT_FILES["last"], state.vae.state_dict())
    checkpoints.save_description(
        out, state.vae, data=job.config.data, data_digest=job.data.digest(), split_seed=job.config.split_seed, step=state.step
    )
    checkpoints.save_state(out, state.as_dict())


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, or a scheduler's SIGTERM, into a request; a second one ends the process as always."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, before[number])

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    run_command(__doc__, TrainConfig, prepare, train, argv)


if __name__ == "__main__":
    main()
