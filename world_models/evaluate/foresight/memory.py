"""A memory model for the comparison of latents: the paper's LSTM with mixture density output, in two forms.

`predicts_z` predicts the next z, like the paper's memory model (Ha & Schmidhuber 2018, appendix A.2) and the public
re-implementations. `predicts_change` predicts the change of z. Latents that are easy to predict for one form may be
hard for the other, so a V model is scored by both.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Form = Literal["predicts_z", "predicts_change"]
FORMS: tuple[Form, ...] = ("predicts_z", "predicts_change")
HIDDEN = 256
MIXTURES = 5
LENGTH = 50  # steps that one training sequence has
BATCH = 16
PEAK_LR = 4e-3
CARRY_WEIGHT = 0.15  # weight of z in the units that carry it: up to three standard deviations, tanh is nearly linear
OPEN_GATE_BIAS = 3.0  # bias of an open gate, whose sigmoid is 0.95; a closed one has -3

State = tuple[Tensor, Tensor]


class EncodedEpisode(NamedTuple):
    """An episode for a memory model: T + 1 latents, T actions.

    Attributes:
        mu: mean of z for each frame.
        std: standard deviation of z for each frame; 0 if z is not random.
        actions: the action after each frame except the last.
    """

    mu: Float[Tensor, "rows z"]
    std: Float[Tensor, "rows z"]
    actions: Float[Tensor, "steps actions"]


class Mixture(NamedTuple):
    """A mixture of normal distributions for each latent dimension."""

    log_weights: Float[Tensor, "batch steps mixtures z"]
    means: Float[Tensor, "batch steps mixtures z"]
    log_stds: Float[Tensor, "batch steps mixtures z"]

    def nll(self, z: Float[Tensor, "batch steps z"]) -> Float[Tensor, "batch steps"]:
        """Negative log-likelihood in nats, summed over the latent dimensions."""
        standardised = (z[:, :, None] - self.means) * torch.exp(-self.log_stds)
        log_probs = -0.5 * standardised.square() - self.log_stds - 0.5 * math.log(2 * math.pi)
        return -torch.logsumexp(self.log_weights + log_probs, 2).sum(2)

    @property
    def mean(self) -> Float[Tensor, "batch steps z"]:
        """Expected value of each dimension."""
        return (self.log_weights.exp() * self.means).sum(2)

    def sample(self, generator: torch.Generator) -> Float[Tensor, "batch steps z"]:
        """Draw a sample: for each dimension first a component by its weight, then a value from that component."""
        cumulative = self.log_weights.exp().cumsum(2)
        uniform = torch.rand(cumulative[:, :, :1].shape, generator=generator)
        chosen = (cumulative[:, :, :-1] <= uniform).sum(2, keepdim=True)  # where the draw falls among the weights
        mean, log_std = (part.gather(2, chosen)[:, :, 0] for part in (self.means, self.log_stds))
        return mean + log_std.exp() * torch.randn(mean.shape, generator=generator)


class Memory(nn.Module):
    """An LSTM of 256 units whose output is a mixture of five normal distributions for each latent dimension.

    Inside, numbers are standardised (see `standardise`): the LSTM reads (z - mean) / std, and the mixture's means and
    standard deviations are in units of the changes' std. Inputs and outputs are in the units of z.

    Args:
        z_dim: number of latent dimensions.
        num_actions: number of values of an action.
        form: whether the mixture is that of the next z or that of its change.
    """

    mean: Tensor
    std: Tensor
    change_std: Tensor

    def __init__(self, z_dim: int, num_actions: int, form: Form):
        super().__init__()
        self.form = form
        self.register_buffer("mean", torch.zeros(z_dim + num_actions))
        self.register_buffer("std", torch.ones(z_dim + num_actions))
        self.register_buffer("change_std", torch.ones(z_dim))
        self.lstm = nn.LSTM(z_dim + num_actions, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 3 * MIXTURES * z_dim)

    @torch.no_grad()
    def carry_z(self) -> None:
        """Set some initial weights so that the LSTM passes z on, see `_carried`.

        One unit for each dimension of z reads this dimension alone. Its input and output gates are open, and its forget
        gate is closed.
        """
        count = min(len(self.change_std), HIDDEN)
        of_input, of_hidden, bias, other_bias = (
            weights.unflatten(0, (4, HIDDEN))[:, :count] for weights in self.lstm.parameters()
        )  # of the input gate, the forget gate, the cell and the output gate
        for weights in (of_input, of_hidden, other_bias):
            weights.zero_()
        of_input[2, :, :count] = CARRY_WEIGHT * torch.eye(count)
        bias.copy_(torch.tensor([OPEN_GATE_BIAS, -OPEN_GATE_BIAS, 0.0, OPEN_GATE_BIAS])[:, None])

    def _carried(self, hidden: Float[Tensor, "batch steps hidden"]) -> Float[Tensor, "batch steps z"]:
        """The z that the LSTM's units carry, before training the z that was read.

        `predicts_z` adds its output to this. So before training it predicts that z stays, and it learns in units of z's
        changes. The sum is still one linear layer on the LSTM's output, as in the paper. A model with random weights
        first has to learn that z hardly changes. After the same training its error ten frames ahead is a third higher.
        """
        z_dim = len(self.change_std)
        units = F.pad(hidden[..., : min(z_dim, HIDDEN)], (0, max(0, z_dim - HIDDEN)))
        gates = torch.tensor(OPEN_GATE_BIAS).sigmoid() ** 2  # of the input gate and of the output gate
        return self.mean[:z_dim] + self.std[:z_dim] * units / (CARRY_WEIGHT * gates)

    def standardise(self, episodes: Sequence[EncodedEpisode]) -> None:
        """Set the means and standard deviations of z, of actions and of z's changes from episodes.

        They are those of sampled z, not of mu. In a dimension that a V model does not use, mu is almost constant and z
        is noise. A constant value gets a standard deviation of 1.
        """
        mu, actions = (torch.cat([getattr(episode, of) for episode in episodes]) for of in ("mu", "actions"))
        changes = torch.cat([episode.mu.diff(dim=0) for episode in episodes])
        noise = torch.cat([episode.std for episode in episodes]).square().mean(0)
        self.mean.copy_(torch.cat([mu.mean(0), actions.mean(0)]))
        self.std.copy_(torch.cat([_std(mu, noise), _std(actions)]))
        self.change_std.copy_(_std(changes, 2 * noise))  # of a difference of two draws

    def forward(
        self,
        z: Float[Tensor, "batch steps z"],
        actions: Float[Tensor, "batch steps actions"],
        state: State | None = None,
    ) -> tuple[Mixture, State]:
        """The distribution of the next z after each step, and the LSTM's state after the last one."""
        hidden, after = self.lstm((torch.cat([z, actions], 2) - self.mean) / self.std, state)
        logits, means, log_stds = self.head(hidden).unflatten(2, (3, MIXTURES, -1)).unbind(2)
        centre = z if self.form == "predicts_change" else self._carried(hidden)
        means = centre[:, :, None] + self.change_std * means
        return Mixture(logits.log_softmax(2), means, log_stds.clamp(-7, 7) + self.change_std.log()), after


def _std(rows: Float[Tensor, "rows values"], noise: Tensor | float = 0.0) -> Float[Tensor, " values"]:
    """Standard deviation of rows plus noise of variance `noise`; 1 if the sum is constant."""
    std = (rows.var(0, correction=0) + noise).sqrt()
    return torch.where(std > 1e-6, std, 1.0)


class Sequences:
    """Random training sequences from episodes. As in the paper, z is sampled anew each time.

    A sequence has 50 steps; if the episode is shorter, it has all its steps.
    """

    def __init__(self, episodes: Sequence[EncodedEpisode], generator: torch.Generator):
        self.mu = torch.cat([episode.mu for episode in episodes])
        self.std = torch.cat([episode.std for episode in episodes])
        last = torch.zeros(1, episodes[0].actions.shape[1])  # no action follows an episode's last frame
        self.actions = torch.cat([rows for episode in episodes for rows in (episode.actions, last)])
        self.steps = torch.tensor([len(episode.actions) for episode in episodes])
        self.first_row = (self.steps + 1).cumsum(0) - self.steps - 1
        self.generator = generator

    def batch(
        self,
    ) -> tuple[Float[Tensor, "batch rows z"], Float[Tensor, "batch steps actions"], Bool[Tensor, "batch steps"]]:
        """Z of all rows, the actions between them, and whether each step is within its episode."""
        episode = torch.randint(len(self.steps), (BATCH,), generator=self.generator)
        steps = self.steps[episode]
        rows = self._rows(episode, steps)
        mu = self.mu[rows]
        z = mu + self.std[rows] * torch.randn(mu.shape, generator=self.generator)
        within = torch.arange(rows.shape[1] - 1) < steps.clamp_max(LENGTH)[:, None]
        return z, self.actions[rows[:, :-1]], within

    def _rows(self, episode: Int64[Tensor, " batch"], steps: Int64[Tensor, " batch"]) -> Int64[Tensor, "batch rows"]:
        """Rows from a random start on. After the end of a short episode its last row is repeated."""
        num_starts = (steps - LENGTH).clamp_min(0) + 1
        start = (torch.rand(BATCH, generator=self.generator) * num_starts).long()
        offset = start[:, None] + torch.arange(min(LENGTH, int(self.steps.max())) + 1)
        return self.first_row[episode][:, None] + torch.minimum(offset, steps[:, None])


def untrained(z_dim: int, num_actions: int, form: Form, seed: int) -> Memory:
    """A memory model that carries z and has random weights otherwise. The global random numbers stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = Memory(z_dim, num_actions, form)
    memory.carry_z()
    return memory


def fit(
    memory: Memory,
    episodes: Sequence[EncodedEpisode],
    seed: int,
    num_steps: int,
    before_step: Callable[[], object] = lambda: None,
) -> Memory:
    """Train a memory model on episodes, in place. The same weights, episodes and seed give the same result.

    Args:
        memory: the model.
        episodes: training episodes.
        seed: seed of the sequences and of z.
        num_steps: number of training steps.
        before_step: called before each step; an exception from it ends the training.
    """
    memory.standardise(episodes)
    sequences = Sequences(episodes, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(memory.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=max(2, num_steps), cycle_momentum=False
    )
    for _ in range(num_steps):
        before_step()
        z, actions, within = sequences.batch()
        optimizer.zero_grad()
        memory(z[:, :-1], actions)[0].nll(z[:, 1:])[within].mean().backward()
        nn.utils.clip_grad_norm_(memory.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return memory
