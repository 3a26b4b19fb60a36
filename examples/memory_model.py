"""Train the memory model of World Models on latents, and let it dream (Ha & Schmidhuber 2018, appendix A.2).

The memory model M is an MDN-RNN: an LSTM reads z_t and the action a_t, and gives the distribution of z_{t+1}, a mixture
of five normal distributions for each dimension. Discrete actions are one-hot columns. Run it after the pipeline:

    python -m world_models.encode --data rollouts/carracing --vae runs/vae --out latents/carracing
    python -m world_models.collect --out rollouts/heldout --seed 1000000 --num_episodes 8
    python -m world_models.encode --data rollouts/heldout --vae runs/vae --out latents/heldout
    python examples/memory_model.py --latents latents/carracing --heldout latents/heldout --rollouts rollouts/heldout

It prints the likelihood of held-out latents and writes `memory.safetensors` and `dream.gif` into `--out`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.utils.data import DataLoader

from world_models import Latents, LatentSequences, Rollouts, load_vae

SEEN = 50  # number of frames that the model reads before it dreams


class MDNRNN(nn.Module):
    """The paper's memory model: an LSTM with a mixture density output."""

    def __init__(self, z_dim: int, num_actions: int, hidden: int = 256, num_mixtures: int = 5):
        super().__init__()
        self.num_mixtures = num_mixtures
        self.lstm = nn.LSTM(z_dim + num_actions, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 3 * num_mixtures * z_dim)

    def forward(self, z: Tensor, actions: Tensor, state: tuple[Tensor, Tensor] | None = None):
        """The distribution of the next z, and the state, for z (batch, steps, z_dim) and actions (batch, steps, A)."""
        hidden, state = self.lstm(torch.cat([z, actions], 2), state)
        parts = self.head(hidden).unflatten(2, (z.shape[2], self.num_mixtures, 3))
        logits, means, log_stds = parts.unbind(4)
        normals = Normal(means, log_stds.clamp(-7, 7).exp(), validate_args=False)
        return MixtureSameFamily(Categorical(logits=logits), normals, validate_args=False), state


def nll(model: MDNRNN, batch: dict[str, Tensor]) -> Tensor:
    """Negative log-likelihood of the next z in nats per step, summed over its dimensions; eq. of appendix A.2."""
    mixture, _ = model(batch["z"], batch["actions"])
    return -mixture.log_prob(batch["next_z"]).sum(2).mean()


def train(sequences: LatentSequences, epochs: int, seed: int) -> MDNRNN:
    """Train M. Each epoch samples new z, so M cannot memorise the noise."""
    torch.manual_seed(seed)
    first = sequences[0]
    model = MDNRNN(first["z"].shape[1], first["actions"].shape[1])
    loader = DataLoader(sequences, batch_size=32, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(2, epochs * len(loader)))
    for epoch in range(epochs):
        sequences.set_epoch(epoch)
        losses = []
        for batch in loader:
            optimizer.zero_grad()
            loss = nll(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: {np.mean(losses):.2f} nats per step")
    return model.eval()


@torch.inference_mode()
def score(model: MDNRNN, sequences: LatentSequences, heldout: LatentSequences) -> dict[str, float]:
    """Nats per step on held-out latents (lower is better), of M and of two baselines without recurrence."""
    z, next_z = (torch.cat([sequences[i][name] for i in range(len(sequences))]) for name in ("z", "next_z"))
    anything = Normal(z.mean(0), z.std(0))
    change = Normal((next_z - z).mean(0), (next_z - z).std(0))
    batches = list(DataLoader(heldout, batch_size=32))
    return {
        "memory model": np.mean([nll(model, batch) for batch in batches]),
        "z stays, with normal noise": np.mean(
            [-change.log_prob(batch["next_z"] - batch["z"]).sum(2).mean() for batch in batches]
        ),
        "z is anything that occurs": np.mean([-anything.log_prob(batch["next_z"]).sum(2).mean() for batch in batches]),
    }


@torch.inference_mode()
def dream(model: MDNRNN, mu: Tensor, actions: Tensor, num_frames: int) -> Tensor:
    """Z of the frames SEEN .. SEEN + num_frames - 1. M reads the first SEEN frames, then only its own predictions."""
    mixture, state = model(mu[None, :SEEN], actions[None, :SEEN])
    path = [mixture.mean[:, -1:]]
    for step in range(SEEN, SEEN + num_frames - 1):
        mixture, state = model(path[-1], actions[None, step : step + 1], state)
        path.append(mixture.mean)
    return torch.cat(path, 1)[0]


def write_gif(path: Path, *clips: np.ndarray) -> None:
    """Write clips (frames, 64, 64, 3) side by side, enlarged four times."""
    size = (256 * len(clips), 256)
    images = [
        Image.fromarray(np.concatenate(row, 1)).resize(size, Image.Resampling.NEAREST)
        for row in zip(*clips, strict=True)
    ]
    images[0].save(path, save_all=True, append_images=images[1:], duration=40, loop=0)


def main(argv: list[str] | None = None) -> None:
    """Train a memory model, score it, and write its dream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", default="latents/carracing", help="latents to train on")
    parser.add_argument("--heldout", default="latents/heldout", help="latents of other tracks, to score on")
    parser.add_argument("--rollouts", default="rollouts/heldout", help="frames of the held-out latents")
    parser.add_argument("--vae", default="runs/vae", help="the V model that made the latents")
    parser.add_argument("--out", default="runs/memory", help="folder for the model and the dream")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--length", type=int, default=50, help="steps of a training sequence")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    try:
        one_hot = Latents(args.latents).action_space.get("type") == "Discrete"
        sequences = LatentSequences(args.latents, args.length, seed=args.seed, one_hot=one_hot)
        heldout = LatentSequences(args.heldout, args.length, one_hot=one_hot)
        latents, real, vae = Latents(args.heldout)[0], Rollouts(args.rollouts)[0].frames, load_vae(args.vae)
        num_frames = min(100, len(latents) - SEEN)
        if num_frames < 1:
            raise ValueError(f"{args.heldout}: its first episode has {len(latents)} steps, a dream begins after {SEEN}")
        dreamt_window = LatentSequences(args.heldout, SEEN + num_frames, one_hot=one_hot)[0]  # of the first episode
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(sequences)
    model = train(sequences, args.epochs, args.seed)
    for name, nats in score(model, sequences, heldout).items():
        print(f"{name}: {nats:.2f} nats per step, on held-out latents")

    save_file(model.state_dict(), out / "memory.safetensors")
    mu = torch.from_numpy(latents.mu).float()
    shown = slice(SEEN, SEEN + num_frames)
    dreamt = vae.decode(dream(model, mu, dreamt_window["actions"], num_frames))
    write_gif(out / "dream.gif", real[shown], vae.decode(mu[shown]).numpy(), dreamt.numpy())
    print(f"{out / 'dream.gif'} shows a held-out episode: real, reconstructed, dreamt from its frame {SEEN} on")


if __name__ == "__main__":
    main()
