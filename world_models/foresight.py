"""Foresight: what a memory model can make of latents, measured in frames.

A small recurrent network with a mixture density output, the paper's memory model (Ha & Schmidhuber 2018, appendix A.2)
at half the size, learns (z_t, a_t) -> z_{t+1} on training episodes. On held-out ones its predictions are decoded and
compared with the frames that came. So V models are compared by what they are for: latents that are sharp but hard to
predict lose, and so do those that are easy to predict because little is in them.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from world_models.metrics import batches
from world_models.rollouts import Episode
from world_models.vae import VAE, Posterior, to_images

STEPS_AHEAD = (1, 10)
WARM_UP = 20  # frames that the memory has seen before its predictions count
START_EVERY = 10  # frames between those that predictions start from
HIDDEN = 128
MIXTURES = 5
LENGTH = 50
BATCH = 32
TRAINING_STEPS = 2000


class Memories(NamedTuple):
    """An episode as a memory model sees it.

    Attributes:
        posterior: of each frame.
        actions: taken after each frame but the last.
    """

    posterior: Posterior
    actions: Float[Tensor, "steps actions"]


def remember(vae: VAE, episode: Episode) -> Memories:
    """Encode an episode."""
    read = [vae.encode(batch) for batch in batches(episode.frames)]
    mu, logvar = (torch.cat([getattr(part, name).cpu() for part in read]) for name in ("mu", "logvar"))
    return Memories(Posterior(mu, logvar), torch.from_numpy(episode.actions))


class Mixture(NamedTuple):
    """A mixture of normal distributions for each latent dimension."""

    log_weights: Float[Tensor, "batch steps mixtures z"]
    means: Float[Tensor, "batch steps mixtures z"]
    log_stds: Float[Tensor, "batch steps mixtures z"]

    def nll(self, z: Float[Tensor, "batch steps z"]) -> Float[Tensor, "batch steps"]:
        """Negative log-likelihood in nats, summed over dimensions."""
        away = (z[:, :, None] - self.means) * torch.exp(-self.log_stds)
        log_probs = -0.5 * away.square() - self.log_stds - 0.5 * math.log(2 * math.pi)
        return -torch.logsumexp(self.log_weights + log_probs, 2).sum(2)

    @property
    def mean(self) -> Float[Tensor, "batch steps z"]:
        """What is to be expected."""
        return (self.log_weights.exp() * self.means).sum(2)


class Memory(nn.Module):
    """An LSTM whose output is, for each latent dimension, a mixture of five normal distributions of its change."""

    def __init__(self, z_dim: int, num_actions: int):
        super().__init__()
        self.lstm = nn.LSTM(z_dim + num_actions, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 3 * MIXTURES * z_dim)

    def forward(
        self,
        z: Float[Tensor, "batch steps z"],
        actions: Float[Tensor, "batch steps actions"],
        state: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Mixture, tuple[Tensor, Tensor]]:
        """The next z at each step, and the state after the steps."""
        hidden, after = self.lstm(torch.cat([z, actions], 2), state)
        logits, means, log_stds = self.head(hidden).unflatten(2, (3, MIXTURES, -1)).unbind(2)
        return Mixture(logits.log_softmax(2), z[:, :, None] + means, log_stds.clamp(-7, 7)), after


def fit(remembered: Sequence[Memories], steps: int = TRAINING_STEPS, seed: int = 0) -> Memory:
    """Train a memory on random stretches of the episodes, with z sampled anew each time, as the paper does."""
    z_dim, num_actions = remembered[0].posterior.mu.shape[1], remembered[0].actions.shape[1]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = Memory(z_dim, num_actions)
    optimizer = torch.optim.Adam(memory.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(2, steps))
    for _ in range(steps):
        z, actions, lengths = _stretches(remembered, generator)
        there = torch.arange(actions.shape[1]) < lengths[:, None]
        optimizer.zero_grad()
        memory(z[:, :-1], actions)[0].nll(z[:, 1:])[there].mean().backward()
        nn.utils.clip_grad_norm_(memory.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return memory


def _stretches(remembered: Sequence[Memories], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of z (batch, length + 1, z), actions (batch, length, actions), and how many of them there are (batch,).

    A stretch is 50 steps, or a whole episode that is shorter, with zeros behind it.
    """
    zs, actions = [], []
    for index in torch.randint(len(remembered), (BATCH,), generator=generator).tolist():
        episode = remembered[index]
        length = min(LENGTH, len(episode.actions))
        start = int(torch.randint(len(episode.actions) - length + 1, (), generator=generator))
        part = Posterior(*(x[start : start + length + 1] for x in (episode.posterior.mu, episode.posterior.logvar)))
        zs.append(part.sample(torch.randn(part.mu.shape, generator=generator)))
        actions.append(episode.actions[start : start + length])
    lengths = torch.tensor([len(taken) for taken in actions])
    pad = functools.partial(nn.utils.rnn.pad_sequence, batch_first=True)
    return pad(zs), pad(actions), lengths


@torch.inference_mode()
def predict(memory: Memory, episode: Memories, starts: Sequence[int]) -> Float[Tensor, "ahead starts z"]:
    """Expected z one to ten steps after each start; the memory has seen all before it, and is told the actions.

    Starts are ascending, from 1 on.
    """
    mu, actions = episode.posterior.mu, episode.actions
    states, state, done = [], None, 0
    for start in starts:
        _, state = memory(mu[None, done:start], actions[None, done:start], state)
        states.append(state)
        done = start
    current = tuple(torch.cat(part, 1) for part in zip(*states, strict=True))
    at = torch.tensor(starts)
    z, path = mu[at], []
    for ahead in range(max(STEPS_AHEAD)):
        mixture, current = memory(z[:, None], actions[at + ahead][:, None], current)
        z = mixture.mean[:, 0]
        path.append(z)
    return torch.stack(path)


def min_steps() -> int:
    """Steps of an episode in which anything can be foreseen."""
    return WARM_UP + max(STEPS_AHEAD)


def score(vae: VAE, memory: Memory, episodes: Iterable[Episode]) -> dict[str, dict[str, float]]:
    """SSE of what was foreseen against what came, by steps ahead; beside it the bounds that tell what it is worth.

    Args:
        vae: what the memory's latents were made by, and are decoded by.
        memory: foresees them.
        episodes: held-out ones, of which those shorter than `min_steps` are left out; there has to be a longer one.

    Returns:
        By steps ahead: `foreseen`; `stays`, the frame predicted to stay as it is; `reconstructed`, the V model's own
        reconstruction of what came, which no prediction of its latents is likely to beat.
    """
    sums = {ahead: torch.zeros(3, dtype=torch.float64) for ahead in STEPS_AHEAD}
    count = 0
    for episode in episodes:
        starts = list(range(WARM_UP, len(episode) - max(STEPS_AHEAD) + 1, START_EVERY))
        if not starts:
            continue
        remembered, frames, at = remember(vae, episode), torch.from_numpy(episode.frames), torch.tensor(starts)
        path = predict(memory, remembered, starts)
        count += len(starts)
        for ahead, total in sums.items():
            came = to_images(frames[at + ahead])
            foreseen, reconstructed = (_images(vae, z) for z in (path[ahead - 1], remembered.posterior.mu[at + ahead]))
            for index, images in enumerate((foreseen, to_images(frames[at]), reconstructed)):
                total[index] += (images - came).square().sum(dtype=torch.float64)
    names = ("foreseen", "stays", "reconstructed")
    return {str(ahead): dict(zip(names, (total / count).tolist(), strict=True)) for ahead, total in sums.items()}


@torch.inference_mode()
def _images(vae: VAE, z: Float[Tensor, "batch z"]) -> Float[Tensor, "batch 3 64 64"]:
    return vae.logits(z.to(vae.device)).sigmoid().cpu()
