"""The settings of a training run: data, length, schedule, model and objective."""

import dataclasses
import math
from typing import Literal

import torch

from world_models.runs import tracking
from world_models.runtime.cli import ONLY_IF_SET
from world_models.runtime.distributed import Device
from world_models.runtime.errors import require, require_bounds
from world_models.runtime.paths import PATH, one_or_several, resolve_fields
from world_models.train_vae.data import DEFAULT_FOLDER, KINDS, Dataset
from world_models.vae.config import VAEConfig
from world_models.vae.networks import IMAGE_SHAPES
from world_models.vae.noise import Generator

MAX_FRAMES, MAX_BATCH, MAX_WEIGHT = 1_000_000_000_000, 1_048_576, 1_000_000_000_000


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What to train on, how, and where the run goes.

    Attributes:
        dataset: rollouts or mnist. Some episodes of rollouts are held out; of mnist the test images are held out.
        data: folder of rollouts; several data sets of rollouts as '[a,b]' are trained on together. For mnist the folder
            that holds MNIST/raw, which is downloaded if it is missing.
        data_weights: share of each data set in the frames of an epoch, as '[1,3]'; empty mixes them by their numbers of
            frames.
        out: folder of the run; in a W&B sweep, {wandb_run_id} in it gives each run its own folder.
        num_frames: number of frames to see in all; an epoch sees every training frame once, unless data_weights is
            given.
        batch_size: number of frames of a step.
        lr: highest learning rate of Adam.
        schedule: learning rate after the warm-up: cosine (falls to zero at the end) or constant.
        lr_warmup_frames: number of frames over which the learning rate rises from zero.
        beta_warmup_frames: number of frames over which vae.beta rises from zero.
        init: first weights: he (convolutions by He et al. 2015, biases 0) or torch (PyTorch's own).
        grad_clip: largest norm of the whole gradient; 0 for no clipping.
        seed: seed of weights, order and noise.
        noise: generator of the noise: mersenne (PyTorch's on the CPU) or philox (computed on the device); auto takes
            philox on a GPU, mersenne on a CPU, and a resumed run's own.
        split_seed: seed of the split into training and held-out episodes; MNIST has its own test images.
        shuffle_frames: size of the shuffle buffer, in frames.
        binarise: train on black and white pixels, drawn anew in each step with the grey value as probability; only for
            mnist.
        val_every_frames: number of frames between validations; each validation saves the run.
        num_val_frames: number of held-out frames that a validation scores, evenly spread.
        standardise: score and save the model with z shifted and scaled to mean 0 and variance 1 over training frames.
            Reconstructions stay the same and the KL is lower. Training itself continues without it, so train/kl_nats
            stays higher.
        log_every_steps: number of steps between lines of training metrics.
        device: auto takes a GPU if there is one.
        precision: auto is bfloat16 autocast on a GPU that has bfloat16 in hardware, else float32.
        cuda_graph: on a GPU, repeat the step as a CUDA graph; false starts its operations one by one.
        compile: on a GPU, compile loss and gradient instead; it takes a minute.
        deterministic: on a GPU, compute so that the same run gives the same weights bit for bit; slower.
        memory_gb: memory for frames on the host, in 10^9 bytes; a larger data set is streamed.
        resume: continue the run in out, or start it if there is none.
        tensorboard: write TensorBoard's files too (needs the extra tensorboard).
        vae: the model and its objective.
        wandb: Weights & Biases.
    """

    dataset: Dataset = "rollouts"
    data: tuple[str, ...] | str = dataclasses.field(default=DEFAULT_FOLDER, metadata=PATH)
    data_weights: tuple[float | int, ...] = dataclasses.field(default=(), metadata=ONLY_IF_SET)
    out: str = dataclasses.field(default="runs/vae", metadata=PATH)
    num_frames: int = 120_000
    batch_size: int = 64
    lr: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    lr_warmup_frames: int = 10_000
    beta_warmup_frames: int = 0
    init: Literal["he", "torch"] = "he"
    grad_clip: float = 100.0
    seed: int = 0
    noise: Literal["auto", Generator] = "auto"
    split_seed: int = 0
    shuffle_frames: int = 16_384
    binarise: bool = False
    val_every_frames: int = 25_000
    num_val_frames: int = 2048
    standardise: bool = True
    log_every_steps: int = 50
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cuda_graph: bool = True
    compile: bool = False
    deterministic: bool = False
    memory_gb: float = 4.0
    resume: bool = False
    tensorboard: bool = False
    vae: VAEConfig = dataclasses.field(default_factory=VAEConfig)
    wandb: tracking.WandbConfig = dataclasses.field(default_factory=tracking.WandbConfig)

    def __post_init__(self):
        resolve_fields(self)
        object.__setattr__(self, "data", one_or_several(self.data, "data"))
        require_bounds(
            self,
            num_frames=(1, MAX_FRAMES),
            batch_size=(1, MAX_BATCH),
            shuffle_frames=(1, MAX_FRAMES),
            val_every_frames=(1, MAX_FRAMES),
            num_val_frames=(1, MAX_FRAMES),
            log_every_steps=(1, MAX_FRAMES),
            lr_warmup_frames=(0, MAX_FRAMES),
            beta_warmup_frames=(0, MAX_FRAMES),
            split_seed=(0, 2**63 - 1),
        )
        require(0 <= self.grad_clip < math.inf, f"grad_clip is {self.grad_clip}; give 0 or more")
        require(self.seed >= 0, f"seed is {self.seed}; give 0 or more")
        require(self.seed < 2**63, f"seed is {self.seed}; give one below 2^63")
        for name in ("lr", "memory_gb"):
            require(0 < getattr(self, name) < math.inf, f"{name} is {getattr(self, name)}; give a number above 0")
        require(self.memory_gb <= MAX_FRAMES, f"memory_gb is {self.memory_gb}; give {MAX_FRAMES:,} at most")
        require(self.out not in self.folders, f"out is {self.out}, the folder of the data; give the run another --out")
        self._check_weights()
        self._check_model_fits_data()

    @property
    def folders(self) -> tuple[str, ...]:
        """The folder of each data set."""
        return (self.data,) if isinstance(self.data, str) else self.data

    def _check_weights(self) -> None:
        """Check `data_weights`, and make it a tuple of floats, so that 1 and 1.0 are the same setting."""
        weights = tuple(map(float, self.data_weights))
        object.__setattr__(self, "data_weights", weights)
        found = f"data_weights is {list(self.data_weights)}"
        require(not weights or len(self.folders) > 1, f"{found}, but data is one data set; leave data_weights out")
        require(
            len(weights) in (0, len(self.folders)), f"{found}; give {len(self.folders)} numbers, one for each data set"
        )
        require(all(0 < weight <= MAX_WEIGHT for weight in weights), f"{found}; give numbers above 0")

    def _check_model_fits_data(self) -> None:
        kind, network = KINDS[self.dataset], self.vae.network
        height, width, channels = kind.frame_shape
        suitable = [name for name, shape in IMAGE_SHAPES.items() if shape == (channels, height, width)]
        require(
            network in suitable,
            f"vae.network {network} does not take {self.dataset}'s frames, {height}x{width}x{channels}; give "
            f"{' or '.join(suitable)}{kind.advice}, or another --dataset",
        )
        kind.check(self.folders, self.vae, self.binarise)

    def lr_at(self, frames_seen: int) -> float:
        """The learning rate after `frames_seen` frames: linear warm-up, then a cosine to zero or a constant."""
        warm = min(1.0, (frames_seen + 1) / (self.lr_warmup_frames + 1))
        share = min(1.0, max(0, frames_seen - self.lr_warmup_frames) / max(1, self.num_frames - self.lr_warmup_frames))
        return self.lr * warm * (1.0 if self.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * share)))

    def beta_share_at(self, frames_seen: int) -> float:
        """The factor of beta after `frames_seen` frames: below 1 during the warm-up of beta, then 1."""
        return min(1.0, (frames_seen + 1) / (self.beta_warmup_frames + 1))

    def bf16_on(self, device: torch.device) -> bool:
        """Whether to compute in bfloat16 on this device. `auto` does so on a GPU that has bfloat16 in hardware.

        Raises:
            ValueError: the config wants bfloat16, but the GPU only emulates it.
        """
        if device.type != "cuda" or self.precision == "float32":
            return self.precision == "bfloat16"
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        require(
            native or self.precision == "auto",
            f"precision is bfloat16, which {torch.cuda.get_device_name(device)} only emulates; give auto or float32",
        )
        return native
