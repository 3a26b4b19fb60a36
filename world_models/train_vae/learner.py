"""The learner: a V model, its optimizer, and one step of training. Its whole state can be saved and restored."""

import contextlib
import math
import os
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from world_models.data.batch import AnyBatch
from world_models.runs.resume import TrainingState
from world_models.runtime import distributed
from world_models.train_vae.fixed_step import FixedStep, Rates
from world_models.vae import noise
from world_models.vae.config import MIN_VARIANCE
from world_models.vae.gradient import LOSS_NAMES, backward, mean_loss
from world_models.vae.model import VAE

VARIANCE_RATE = 0.05
"""Weight of a batch's mean squared error in the moving average that is the likelihood's variance."""


class Learner:
    """Trains a V model by Adam, one batch of frames per step.

    Args:
        vae: the model, on its device.
        seed: seed of the noise for sampling z.
        grad_clip: largest norm of the whole gradient; 0 for no clipping.
        bf16: whether to compute in bfloat16; weights and losses stay float32.
        compiled_size: size of the batches for which loss and gradient are compiled, on a GPU into CUDA graphs; 0 for
            no compilation. It has to be 0 if `gradient.computes_in_c`.
        binarise: whether to train on black and white pixels, drawn anew in each step with the grey as probability.
        generator: generator of the noise.
        fixed_size: size of the batches whose inputs are copied into fixed memory, so that a GPU repeats their step as a
            CUDA graph; 0 for none.

    Attributes:
        step: number of steps so far.
        best_loss_nats: lowest validation loss so far.
        wandb_id: id of the W&B run of this training; None without W&B.
    """

    def __init__(  # each is a setting of the training's config
        self,
        vae: VAE,
        seed: int,
        grad_clip: float,
        bf16: bool,
        compiled_size: int = 0,
        binarise: bool = False,
        generator: noise.Generator = "mersenne",
        fixed_size: int = 0,
    ):
        self.vae, self._grad_clip, self._bf16 = vae, grad_clip, bf16
        on_gpu = vae.device.type == "cuda"
        if on_gpu:
            vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: PyTorch's stub lacks it
        self._optimizer = torch.optim.Adam(vae.parameters(), fused=True, capturable=on_gpu)
        self._noise = noise.of_steps(
            generator, seed, vae.config.noise_dim, vae.frame_shape if binarise else None, vae.device
        )
        self._compiled_size = compiled_size
        if compiled_size:  # otherwise do not import PyTorch's compiler, which takes seconds
            self._compiled = torch.compile(mean_loss, mode="reduce-overhead", dynamic=False)
        self._fixed_size = fixed_size
        self._fixed: FixedStep | None = None
        self._sums = torch.zeros(len(LOSS_NAMES) + 1, dtype=torch.float64, device=vae.device)
        self.step, self.best_loss_nats = 0, math.inf
        self.wandb_id: str | None = None

    def learn(self, batch: AnyBatch, lr: float, beta_share: float) -> None:
        """Take one step. The losses stay on the device until `means` reads them."""
        draws = self._noise.draw(self.step, batch.rows, batch.size)
        rates = Rates(lr, beta_share, variance=max(VARIANCE_RATE, 1 / (self.step + 1)))
        if self._fixed_size and len(batch.rows) == self._fixed_size:
            if self._fixed is None or not self._fixed.suits(batch):
                self._fixed = FixedStep(self.update, batch, draws, self.vae)
            self._fixed(batch, draws, rates)
        else:
            self.update(batch.frames, batch.labels, batch.size, draws, rates)
        self.step += 1

    def update(
        self,
        frames: UInt8[Tensor, "part height width channels"],
        labels: Int64[Tensor, " part"],
        size: int,
        draws: noise.Draws,
        rates: Rates,
    ) -> None:
        """The step: one step of Adam on the objective, and the moving averages. It does not wait for the device.

        Args:
            frames: the frames of the batch, or of this process's part of it.
            labels: their classes.
            size: number of frames of the whole batch.
            draws: the step's random numbers.
            rates: the step's rates.
        """
        sums, error = self.find_gradient(frames, labels, size, draws, rates.beta_share)
        self.descend(error, rates)
        self._sums[:-1] += sums
        self._sums[-1] += len(frames)

    def find_gradient(
        self, frames: Tensor, labels: Tensor, size: int, draws: noise.Draws, beta_share: float | Float[Tensor, ""]
    ) -> tuple[Float[Tensor, " names"], Float[Tensor, ""]]:
        """Set each weight's gradient to that of the batch's mean loss, clipped. The arguments are those of `update`.

        Returns:
            The losses that `LOSS_NAMES` names, summed over these frames, and the mean squared error per value of the
            whole batch.
        """
        if draws.thresholds is not None:
            frames = noise.black_and_white(frames, draws.thresholds)
        for weight in self.vae.parameters():
            weight.grad = None
        sums = self._backward(frames, labels, size, draws.normal, beta_share)
        sse = sums[LOSS_NAMES.index("sse")].to(self.vae.variance.dtype)[None]
        distributed.sum_up([*(weight.grad for weight in self.vae.parameters() if weight.grad is not None), sse])
        if self._grad_clip:
            torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self._grad_clip)
        return sums, sse[0] / (size * self.vae.num_values)

    def descend(self, error: Float[Tensor, ""], rates: Rates) -> None:
        """Change each weight by Adam, and the variance towards the mean squared error, if it is the optimal one."""
        self._optimizer.param_groups[0]["lr"] = rates.lr
        self._optimizer.step()
        if self.vae.config.variance is None:
            self.vae.variance.lerp_(error.clamp(min=MIN_VARIANCE), rates.variance)

    def _backward(
        self, frames: Tensor, labels: Tensor, size: int, eps: Tensor, beta_share: float | Float[Tensor, ""]
    ) -> Float[Tensor, " names"]:
        """`gradient.backward`, in the precision that was asked for, compiled if that was asked for."""
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=self._bf16):
            if not self._compiled_size or len(frames) != self._compiled_size:
                return backward(self.vae, frames, eps, beta_share, size, labels)
            share = torch.full((), float(beta_share), device=frames.device)  # a float would be compiled as a constant
            loss, sums = self._compiled(self.vae, frames, eps, share, size, labels)
            loss.backward()
            return sums

    def means(self) -> dict[str, float]:
        """The mean loss and its parts per frame since the last call."""
        distributed.sum_up([self._sums])
        *sums, frames = self._sums.tolist()
        self._sums.zero_()
        return {name: value / frames for name, value in zip(LOSS_NAMES, sums, strict=True)}

    def gather_sums(self) -> None:
        """Add up the sums of all processes in the first one, which saves the state."""
        distributed.sum_up([self._sums])
        if not distributed.world().is_first:
            self._sums.zero_()

    def state(self) -> TrainingState:
        """The state for resuming."""
        group = self._optimizer.param_groups[0]
        group["lr"] = float(group["lr"])  # in a step with fixed inputs it is a tensor
        return TrainingState(
            step=self.step,
            best_loss_nats=self.best_loss_nats,
            wandb_id=self.wandb_id,
            sums=self._sums,
            vae=self.vae.state_dict(),
            variance=self.vae.variance,
            optimizer=self._optimizer.state_dict(),
        )

    def restore(self, state: TrainingState) -> None:
        """Restore a state that `state` returned."""
        self.step, self.best_loss_nats, self.wandb_id = state.step, state.best_loss_nats, state.wandb_id
        if distributed.world().is_first:
            self._sums.copy_(state.sums)
        self.vae.load_state_dict(state.vae)
        self.vae.variance.copy_(state.variance)
        self._fixed = None  # its graph knows the tensors that are replaced here
        own = {"param_groups": self._optimizer.state_dict()["param_groups"]}  # take no settings from the file
        self._optimizer.load_state_dict({"state": state.optimizer["state"], **own})


@contextlib.contextmanager
def cudnn_mode(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Set how a GPU computes in this block: deterministically, or with the algorithms that cuDNN's benchmark chooses.

    A CPU always computes deterministically.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch needs it for deterministic products
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
