"""The learner: a V model, its optimizer, and one step of training. All that changes can be saved and restored."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from world_models.frames import noise
from world_models.vae import VAE, to_images

NAMES = ("loss_nats", "sse", "kl_nats")


class Learner:
    """Fits a V model by Adam, a batch of frames at a time.

    Args:
        vae: the model, on its device.
        seed: of the noise that z is sampled with.
        grad_clip: largest norm of the gradient in all, 0 for no clipping.
        bf16: whether to compute in bfloat16; weights and losses stay float32.

    Attributes:
        step: steps taken.
        best_loss_nats: lowest validation loss so far.
        wandb_id: id of the W&B run that the training is logged to.
    """

    def __init__(self, vae: VAE, seed: int, grad_clip: float, bf16: bool):
        self.vae, self._seed, self._grad_clip, self._bf16 = vae, seed, grad_clip, bf16
        self._optimizer = torch.optim.Adam(vae.parameters())
        self._sums = torch.zeros(len(NAMES) + 1, dtype=torch.float64, device=vae.device)
        self.step, self.best_loss_nats, self.wandb_id = 0, math.inf, None

    def learn(self, batch: UInt8[Tensor, "batch 64 64 3"], lr: float, beta_share: float) -> None:
        """Take one step; the losses stay on the device until `means` asks for them."""
        eps = noise(self._seed, self.step, len(batch), self.vae.config.z_dim).to(batch.device)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self._bf16):
            terms = self.vae.objective(to_images(batch), eps, beta_share)
        self._optimizer.zero_grad(set_to_none=True)
        terms.loss_nats.mean().backward()
        if self._grad_clip:
            torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self._grad_clip)
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()
        self.step += 1
        sums = [getattr(terms, name).detach().sum() for name in NAMES]
        self._sums += torch.stack([*sums, sums[0].new_tensor(len(batch))]).double()

    def means(self) -> dict[str, float]:
        """The mean loss and its parts, per frame, since the last call."""
        *sums, frames = self._sums.tolist()
        self._sums.zero_()
        return {name: value / frames for name, value in zip(NAMES, sums, strict=True)}

    def is_finite(self) -> bool:
        """Whether every weight is a number."""
        return all(bool(weight.isfinite().all()) for weight in self.vae.parameters())

    def state(self) -> dict[str, Any]:
        """All that a resume needs: tensors and plain values."""
        return {
            "step": self.step,
            "best_loss_nats": self.best_loss_nats,
            "wandb_id": self.wandb_id,
            "sums": self._sums,
            "vae": self.vae.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the state that `state` gave."""
        self.step, self.best_loss_nats, self.wandb_id = state["step"], state["best_loss_nats"], state["wandb_id"]
        self._sums.copy_(state["sums"])
        self.vae.load_state_dict(state["vae"])
        self._optimizer.load_state_dict(state["optimizer"])
