"""A change of variables that gives each dimension of z mean 0 and variance 1 over the data, like the prior.

z' = (z - shift) * scale. The encoder's heads apply it, and the decoder's first layer undoes it, so all reconstructions
stay the same. Only the KL from the prior changes. The mean KL of one dimension over the data is

    0.5 * (scale^2 * (Var[mu] + E[sigma^2]) + (scale * (E[mu] - shift))^2 - E[log sigma^2] - 2 log scale - 1).

It is lowest at shift = E[mu] and scale^2 = 1 / (Var[mu] + E[sigma^2]). There the aggregate posterior has the prior's
mean and variance. Gradient descent does not get there if the reconstruction error is worth thousands of nats, because
the change of variables gains only about ten. An objective with a KL floor, like the paper's, gains nothing.
"""

import copy

import torch

from world_models.vae.labelled_frames import LabelledFrames
from world_models.vae.metrics import Moments
from world_models.vae.model import VAE

MIN_Z_VARIANCE = 1e-12


@torch.no_grad()
def standardised(vae: VAE, data: LabelledFrames) -> VAE:
    """A copy of the model whose z has mean 0 and variance 1. Its reconstructions are the same.

    Args:
        vae: the model. A plain autoencoder has no KL, so its copy is unchanged.
        data: training frames, enough to estimate the mean and the variance of z.
    """
    vae = copy.deepcopy(vae)
    if vae.encoder.logvar is None:
        return vae
    mus, variances = Moments(), Moments()
    for batch, labels in data.batches():
        posterior = vae.encode(batch, labels)
        mus.add(posterior.mu)
        variances.add(posterior.logvar.double().exp())
    shift = mus.mean.to(vae.device)
    scale = (mus.variance + variances.mean).clamp(min=MIN_Z_VARIANCE).rsqrt().to(vae.device)
    mu, logvar, first = vae.encoder.mu, vae.encoder.logvar, vae.decoder.linear
    columns = first.weight[:, : len(scale)]  # a conditional decoder has more columns, for the class
    first.bias.copy_(first.bias + columns.double() @ shift)
    columns.copy_(columns / scale)
    mu.weight.copy_(mu.weight * scale[:, None])
    mu.bias.copy_((mu.bias - shift) * scale)
    logvar.bias.copy_(logvar.bias + 2 * scale.log())
    return vae
