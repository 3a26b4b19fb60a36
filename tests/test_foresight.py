"""A small memory model: what it learns, and how its foresight is scored."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from world_models import foresight
from world_models.foresight import Memories, Mixture
from world_models.rollouts import Episode, Rollouts
from world_models.vae import VAE, Posterior, VAEConfig, to_images


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=2)).eval()


@pytest.fixture(scope="module")
def episode(rollouts_dir: Path) -> Episode:
    return Rollouts(rollouts_dir)[0]


def _pushed(steps: int = 60, count: int = 20, sigma: float = 0.05) -> list[Memories]:
    """Latents that each action moves by itself: z_{t+1} = z_t + 0.3 a_t."""
    generator = torch.Generator().manual_seed(0)
    remembered = []
    for _ in range(count):
        actions = torch.rand(steps, 2, generator=generator) * 2 - 1
        mu = torch.cat([torch.zeros(1, 2), 0.3 * actions]).cumsum(0)
        remembered.append(Memories(Posterior(mu, torch.full_like(mu, 2 * math.log(sigma))), actions))
    return remembered


@pytest.fixture(scope="module")
def memory(one_thread: None) -> foresight.Memory:
    """Trained on latents that actions push."""
    return foresight.fit(_pushed(), steps=400)


def _mixture() -> Mixture:
    generator = torch.Generator().manual_seed(0)
    logits, means, log_stds = torch.randn(3, 2, 3, 5, 4, generator=generator)
    return Mixture(logits.log_softmax(2), means, log_stds)


def test_likelihood_is_that_of_torch_distributions():
    mixture, z = _mixture(), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    normals = Normal(mixture.means.transpose(2, 3), mixture.log_stds.exp().transpose(2, 3))
    expected = MixtureSameFamily(Categorical(logits=mixture.log_weights.transpose(2, 3)), normals)
    torch.testing.assert_close(mixture.nll(z), -expected.log_prob(z).sum(2))


def test_mean_is_that_of_torch_distributions():
    mixture = _mixture()
    normals = Normal(mixture.means.transpose(2, 3), mixture.log_stds.exp().transpose(2, 3))
    expected = MixtureSameFamily(Categorical(logits=mixture.log_weights.transpose(2, 3)), normals)
    torch.testing.assert_close(mixture.mean, expected.mean)


def test_memory_learns_what_actions_do(memory: foresight.Memory):
    (unseen,) = _pushed(count=21)[20:]
    starts = list(range(5, 50, 5))
    path = foresight.predict(memory, unseen, starts)
    for ahead in (1, 10):
        came, was = (unseen.posterior.mu[torch.tensor(starts) + step] for step in (ahead, 0))
        assert (path[ahead - 1] - came).square().mean() < 0.2 * (was - came).square().mean()


def test_predictions_from_a_start_do_not_depend_on_the_other_starts(memory: foresight.Memory):
    remembered = _pushed(count=1)[0]
    alone, among = foresight.predict(memory, remembered, [20]), foresight.predict(memory, remembered, [3, 20, 31])
    torch.testing.assert_close(alone[:, 0], among[:, 1])


def test_predictions_see_nothing_that_comes_after_their_start(memory: foresight.Memory):
    remembered = _pushed(count=1)[0]
    mu = remembered.posterior.mu.clone()
    mu[21:] = 9.0
    changed = remembered._replace(posterior=Posterior(mu, remembered.posterior.logvar))
    assert torch.equal(*(foresight.predict(memory, seen, [20]) for seen in (remembered, changed)))


def test_fitting_is_the_same_every_time():
    first, second = (foresight.fit(_pushed(count=2), steps=2).head.weight for _ in range(2))
    assert torch.equal(first, second)


def test_fitting_leaves_the_random_numbers_of_others_alone():
    state = torch.get_rng_state()
    foresight.fit(_pushed(count=2), steps=1)
    assert torch.equal(torch.get_rng_state(), state)


def _error(memory: foresight.Memory) -> float:
    """Of what it foresees five frames ahead on an episode that it has not seen, over standing still."""
    (unseen,) = _pushed(count=21)[20:]
    starts = torch.arange(20, 50, 5)
    foreseen = foresight.predict(memory, unseen, starts.tolist())[4]
    came, was = (unseen.posterior.mu[starts + step] for step in (5, 0))
    return float((foreseen - came).square().mean() / (was - came).square().mean())


def test_short_episodes_are_learned_from_too():
    short = foresight.fit(_pushed(steps=7), steps=200)
    assert _error(short) < 0.5


def test_a_short_episode_among_long_ones_harms_nothing(memory: foresight.Memory):
    mixed = foresight.fit([*_pushed(), *_pushed(steps=3, count=1)], steps=400)
    assert _error(mixed) < 2 * _error(memory)


def test_what_lies_behind_a_short_episode_is_not_learned_from():
    generator = torch.Generator().manual_seed(0)
    z, actions, lengths = foresight._stretches([*_pushed(steps=7, count=1), *_pushed(count=1)], generator)
    assert set(lengths.tolist()) == {7, 50}
    assert z.shape[:2] == (32, 51) and actions.shape[:2] == (32, 50)
    assert not z[lengths == 7, 8:].any() and not actions[lengths == 7, 7:].any()
    assert z[lengths == 7, 7].all()


def test_episodes_are_remembered_as_the_model_encodes_them(vae: VAE, episode: Episode):
    remembered = foresight.remember(vae, episode)
    torch.testing.assert_close(remembered.posterior.mu, vae.encode(episode.frames).mu)
    np.testing.assert_array_equal(remembered.actions, episode.actions)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores episodes of a few frames."""
    monkeypatch.setattr(foresight, "WARM_UP", 2)
    monkeypatch.setattr(foresight, "STEPS_AHEAD", (1, 3))
    monkeypatch.setattr(foresight, "START_EVERY", 1)


def test_a_memory_that_foresees_no_change_is_scored_by_its_own_reconstruction(soon: None, vae: VAE, episode: Episode):
    memory = foresight.Memory(2, episode.actions.shape[1])
    torch.nn.init.zeros_(memory.head.weight)
    torch.nn.init.zeros_(memory.head.bias)
    frames = torch.from_numpy(episode.frames)
    decoded = vae.logits(vae.encode(frames).mu).sigmoid().detach()
    starts = torch.arange(2, len(episode) - 2)
    for ahead, of in foresight.score(vae, memory, [episode]).items():
        came = to_images(frames)[starts + int(ahead)]
        by_hand = {
            "foreseen": (decoded[starts] - came).square().sum((1, 2, 3)).mean(),
            "stays": (to_images(frames)[starts] - came).square().sum((1, 2, 3)).mean(),
            "reconstructed": (decoded[starts + int(ahead)] - came).square().sum((1, 2, 3)).mean(),
        }
        assert of == pytest.approx({name: float(value) for name, value in by_hand.items()}, rel=1e-4)


def test_an_episode_of_the_fewest_steps_is_foreseen_from_one_frame(
    soon: None, vae: VAE, episode: Episode, monkeypatch: pytest.MonkeyPatch
):
    starts: list[list[int]] = []
    predict = foresight.predict
    monkeypatch.setattr(foresight, "predict", lambda *args: starts.append(args[2]) or predict(*args))
    few = foresight.min_steps()
    columns = {name: getattr(episode, name)[:few] for name in ("actions", "rewards", "terminated", "truncated")}
    frames, telemetry = episode.frames[: few + 1], episode.telemetry[: few + 1]
    cut = dataclasses.replace(episode, frames=frames, telemetry=telemetry, **columns)
    foresight.score(vae, foresight.Memory(2, episode.actions.shape[1]), [cut])
    assert starts == [[2]]
