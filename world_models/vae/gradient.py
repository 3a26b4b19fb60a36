"""The gradient of the training objective, for a whole batch or a part of it."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from world_models.runtime import threads
from world_models.vae.fast import forms
from world_models.vae.model import VAE, Terms, to_images
from world_models.vae.posterior import Posterior

LOSS_NAMES = ("loss_nats", "sse", "kl_nats")


def computes_in_c(device: torch.device) -> bool:
    """Whether the paper's networks are computed in C on a device. Then torch.compile is of no use."""
    return forms.choose(device) == "winograd"


def backward(  # the model, and what the loss of a batch depends on
    vae: VAE,
    frames: UInt8[Tensor, "part height width channels"],
    noise: Float[Tensor, "part noise"],
    beta_share: float | Float[Tensor, ""],
    size: int,
    labels: Int64[Tensor, " part"],
) -> Float[Tensor, " names"]:
    """Add the gradient of this part's share of a batch's mean loss to the gradients of the weights.

    Args:
        vae: the model.
        frames: the frames of a batch, or of a part of it.
        noise: standard normal, one row per frame.
        beta_share: beta is multiplied by this.
        size: number of frames of the whole batch.
        labels: the frames' classes, 0 if there are none.

    Returns:
        The values that `LOSS_NAMES` names, each summed over the frames; float64.
    """
    if vae.config.network == "paper" and computes_in_c(frames.device):
        return _backward_in_threads(vae, frames, noise, beta_share, size)
    loss, sums = mean_loss(vae, frames, noise, beta_share, size, labels)
    loss.backward()
    return sums


def mean_loss(  # as `backward`; torch.compile traces it, so it takes plain tensors
    vae: VAE,
    frames: Tensor,
    noise: Tensor,
    beta_share: float | Float[Tensor, ""],
    size: int,
    labels: Tensor,
) -> tuple[Float[Tensor, ""], Float[Tensor, " names"]]:
    """The frames' share of the mean loss of a batch, and the sums that `backward` returns."""
    terms = vae.objective(to_images(frames, vae.encoder.mu.weight.dtype), noise, beta_share, labels)
    return terms.loss_nats.sum() / size, _sums(terms)


def _sums(terms: Terms) -> Float[Tensor, " names"]:
    return torch.stack([getattr(terms, name).detach().double().sum() for name in LOSS_NAMES])


def _backward_in_threads(
    vae: VAE, frames: Tensor, noise: Tensor, beta_share: float | Float[Tensor, ""], size: int
) -> Tensor:
    """Prepare the weights once, compute the gradients of a part of the frames in each thread, and add them up."""
    encoder, decoder = forms.prepare_encoder(vae.paper[0]), forms.prepare_decoder(vae.paper[1])

    def gradients_of(part: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        pixels, eps = part
        weights = tuple(tensor.detach().requires_grad_() for tensor in (*encoder, *decoder))
        posterior = Posterior(*forms.run_encoder(weights[: len(encoder)], pixels))
        logits = forms.run_decoder(weights[len(encoder) :], vae.sampled(posterior, eps))
        terms = vae.terms(to_images(pixels, logits.dtype), posterior, logits, beta_share)
        return torch.autograd.grad(terms.loss_nats.sum() / size, weights), _sums(terms)

    parts = list(zip(forms.split(frames), forms.split(noise), strict=True))
    (total, sums), *others = threads.in_threads(gradients_of, parts)
    for gradients, part_sums in others:
        sums += part_sums
        for gradient, addend in zip(total, gradients, strict=True):
            gradient += addend
    torch.autograd.backward((*encoder, *decoder), total)
    return sums
