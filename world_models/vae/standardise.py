"""A change of variables after which z has, over the data, the prior's mean 0 and variance 1 in each dimension.

z' = (z - shift) * scale goes into the encoder's heads and is taken back in the decoder's first layer, so that every
reconstruction stays what it was. Only the KL from the prior changes. Averaged over the data, that of one dimension is

    0.5 * (scale^2 * (Var[mu] + E[sigma^2]) + (scale * (E[mu] - shift))^2 - E[log sigma^2] - 2 log scale - 1),

lowest at shift = E[mu] and scale^2 = 1 / (Var[mu] + E[sigma^2]): where the aggregate posterior has the prior's moments.
Gradient descent leaves z far from there where an error is worth thousands of nats and the scale some ten. An objective
with a floor under each frame's KL, as the paper's, gains nothing by it.
"""

import copy

import torch

from world_models.vae.metrics import Frames, Labels, Moments, batches, label_batches
from world_models.vae.model import VAE

MIN_VARIANCE = 1e-12


@torch.no_grad()
def standardised(vae: VAE, frames: Frames, labels: Labels | None = None) -> VAE:
    """A copy of the model with other z and the same reconstructions, of the lowest mean KL that this can give.

    Args:
        vae: the model; one whose posterior is a point has no KL, and is copied as it is.
        frames: of the training data, as many as tell its moments.
        labels: their classes, for a conditional VAE.
    """
    vae = copy.deepcopy(vae)
    if vae.encoder.logvar is None:
        return vae
    mus, variances = Moments(), Moments()
    for batch, label in zip(batches(frames), label_batches(labels), strict=False):
        posterior = vae.encode(batch, label)
        mus.add(posterior.mu)
        variances.add(posterior.logvar.double().exp())
    shift = mus.mean.to(vae.device)
    scale = (mus.variance + variances.mean).clamp(min=MIN_VARIANCE).rsqrt().to(vae.device)
    mu, logvar, first = vae.encoder.mu, vae.encoder.logvar, vae.decoder.linear
    columns = first.weight[:, : len(scale)]  # of a conditional decoder's, those that take z
    first.bias.copy_(first.bias + columns.double() @ shift)
    columns.copy_(columns / scale)
    mu.weight.copy_(mu.weight * scale[:, None])
    mu.bias.copy_((mu.bias - shift) * scale)
    logvar.bias.copy_(logvar.bias + 2 * scale.log())
    return vae
