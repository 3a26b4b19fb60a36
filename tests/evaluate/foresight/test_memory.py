"""A memory model: its likelihood, what it learns from, and that it learns."""

from collections.abc import Iterator

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from world_models.evaluate.foresight import memory
from world_models.evaluate.foresight.memory import FORMS, EncodedEpisode, Form, Memory, Mixture, Sequences


@pytest.fixture(autouse=True, scope="module")
def small(one_thread: None) -> Iterator[None]:
    """Memories that train in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "HIDDEN", 32)
        yield


def _pushed(steps: int = 60, count: int = 20, sigma: float = 0.05) -> list[EncodedEpisode]:
    """Latents that change only by actions: z_{t+1} = z_t + 0.3 a_t."""
    generator = torch.Generator().manual_seed(0)
    recordings = []
    for _ in range(count):
        actions = torch.rand(steps, 2, generator=generator) * 2 - 1
        mu = torch.cat([torch.zeros(1, 2), 0.3 * actions]).cumsum(0)
        recordings.append(EncodedEpisode(mu, torch.full_like(mu, sigma), actions))
    return recordings


def _fitted(recordings: list[EncodedEpisode], form: Form = "predicts_change", num_steps: int = 300) -> Memory:
    return memory.fit(memory.untrained(2, 2, form, seed=0), recordings, seed=0, num_steps=num_steps)


def _mixture() -> Mixture:
    logits, means, log_stds = torch.randn(3, 2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    return Mixture(logits.log_softmax(2), means, log_stds)


def _torchs(mixture: Mixture) -> MixtureSameFamily:
    normals = Normal(mixture.means.transpose(2, 3), mixture.log_stds.exp().transpose(2, 3))
    return MixtureSameFamily(Categorical(logits=mixture.log_weights.transpose(2, 3)), normals)


def test_the_likelihood_equals_torchs():
    mixture, z = _mixture(), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixture.nll(z), -_torchs(mixture).log_prob(z).sum(2))


def test_the_mean_equals_torchs():
    torch.testing.assert_close(_mixture().mean, _torchs(_mixture()).mean)


def test_samples_have_the_mean_and_the_variance_of_the_mixture():
    mixture, draws = _mixture(), torch.Generator().manual_seed(0)
    samples = torch.stack([mixture.sample(draws) for _ in range(20_000)])
    expected = _torchs(mixture)
    torch.testing.assert_close(samples.mean(0), expected.mean, atol=0.1, rtol=0)
    torch.testing.assert_close(samples.var(0), expected.variance, atol=0.1, rtol=0.1)


def test_an_untrained_memory_of_changes_predicts_far_values_of_z_and_one_of_z_does_not():
    z, actions = torch.full((1, 1, 2), 100.0), torch.zeros(1, 1, 2)
    at = {form: memory.untrained(2, 2, form, seed=0)(z, actions)[0].mean for form in FORMS}
    assert (at["predicts_change"] - 100).abs().max() < 1
    assert at["predicts_z"].abs().max() < 10  # the LSTM's tanh bounds it


@pytest.mark.parametrize("form", FORMS)
def test_an_untrained_memory_predicts_that_z_stays(form: Form):
    z = 2 * torch.rand(1, 30, 2, generator=torch.Generator().manual_seed(0)) - 1
    model = memory.untrained(2, 2, form, seed=0)
    model.change_std.fill_(0.1)
    with torch.inference_mode():
        error = (model(z, torch.zeros(1, 30, 2))[0].mean - z).abs().max()
    assert error < 0.15


def test_more_latent_dimensions_than_units_are_carried_as_far_as_they_go():
    z = torch.full((1, 1, 40), 0.5)  # 32 units
    model = memory.untrained(40, 1, "predicts_z", seed=0)
    model.change_std.fill_(0.01)
    with torch.inference_mode():
        mean = model(z, torch.zeros(1, 1, 1))[0].mean[0, 0]
    torch.testing.assert_close(mean, torch.cat([z[0, 0, :32], torch.zeros(8)]), atol=0.05, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_memory_model_learns_the_effect_of_actions(form: Form):
    (unseen,) = _pushed(count=21)[20:]
    model = _fitted(_pushed(), form)
    with torch.inference_mode():
        foreseen = model(unseen.mu[None, :-1], unseen.actions[None])[0].mean[0]
    error, stays = (foreseen - unseen.mu[1:]).square().mean(), (unseen.mu[:-1] - unseen.mu[1:]).square().mean()
    assert error < 0.3 * stays


def test_fitting_is_the_same_every_time():
    first, second = (_fitted(_pushed(count=2), num_steps=2).head.weight for _ in range(2))
    assert torch.equal(first, second)


def test_fitting_does_not_change_the_global_generator():
    state = torch.get_rng_state()
    _fitted(_pushed(count=2), num_steps=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_short_episodes_are_used_for_training_too():
    model, (unseen,) = _fitted(_pushed(steps=7)), _pushed(count=21)[20:]
    with torch.inference_mode():
        foreseen = model(unseen.mu[None, :7], unseen.actions[None, :7])[0].mean[0]
    assert (foreseen - unseen.mu[1:8]).square().mean() < 0.5 * (unseen.mu[:7] - unseen.mu[1:8]).square().mean()


def _numbered(*steps: int) -> list[EncodedEpisode]:
    """Episodes whose z counts up from 1,000 times their number, and whose actions do, too."""
    recordings = []
    for number, length in enumerate(steps, 1):
        rows = 1000.0 * number + torch.arange(length + 1)[:, None]
        recordings.append(EncodedEpisode(rows, torch.zeros_like(rows), rows[:-1]))
    return recordings


def test_a_sequence_is_a_part_of_one_episode_with_the_actions_of_its_steps():
    z, actions, within = Sequences(_numbered(60, 80, 55), torch.Generator().manual_seed(0)).batch()
    assert z.shape == (16, 51, 1) and actions.shape == (16, 50, 1) and within.all()
    assert torch.equal(z.diff(dim=1), torch.ones(16, 50, 1))
    assert torch.equal(z[:, :-1], actions)


def test_sequences_start_at_every_row_where_they_fit():
    sequences = Sequences(_numbered(53), torch.Generator().manual_seed(0))
    starts = {int(start) for _ in range(20) for start in sequences.batch()[0][:, 0, 0]}
    assert starts == {1000, 1001, 1002, 1003}


def test_the_padding_of_short_episodes_is_not_used_for_training():
    z, _, within = Sequences(_numbered(7, 60), torch.Generator().manual_seed(0)).batch()
    short = z[:, 0, 0] < 2000
    assert within[~short].all()
    assert set(within[short].sum(1).tolist()) == {7}
    assert torch.equal(z[short][:, :8, 0], 1000.0 + torch.arange(8).expand(int(short.sum()), 8))


def test_latents_are_sampled_again_each_time():
    recordings = [EncodedEpisode(torch.zeros(4, 1), torch.ones(4, 1), torch.zeros(3, 1))]
    sequences = Sequences(recordings, torch.Generator().manual_seed(0))
    drawn = torch.cat([sequences.batch()[0].flatten() for _ in range(20)])
    assert drawn.std() == pytest.approx(1, abs=0.05)
    assert len(drawn.unique()) > 0.99 * len(drawn)


@pytest.mark.parametrize("form", FORMS)
def test_predictions_scale_with_the_unit_of_z(form: Form):
    """If latents are shifted and scaled by a thousand, their predictions are shifted and scaled in the same way."""
    episodes = _pushed(count=3)
    large = [EncodedEpisode(1000 * mu + 5, 1000 * std, actions) for mu, std, actions in episodes]
    foreseen = []
    for recordings in (episodes, large):
        model = _fitted(recordings, form, num_steps=3)
        with torch.inference_mode():
            foreseen.append(model(recordings[0].mu[None, :-1], recordings[0].actions[None])[0].mean)
    torch.testing.assert_close(foreseen[1], 1000 * foreseen[0] + 5, rtol=1e-3, atol=1)


def test_constant_latents_and_actions_are_predicted_well():
    still = [EncodedEpisode(torch.ones(31, 2), torch.zeros(31, 2), torch.ones(30, 2))]
    for form in FORMS:
        model = _fitted(still, form, num_steps=20)
        foreseen = model(still[0].mu[None, :-1], still[0].actions[None])[0].mean
        assert (foreseen - 1).abs().max() < 1


def test_the_standard_deviations_of_latents_and_changes_are_those_of_samples():
    """A V model that does not use a dimension has a mu there that stays near 0, and a z that is noise."""
    noise = EncodedEpisode(torch.zeros(101, 2), torch.ones(101, 2), torch.zeros(100, 2))
    model = memory.untrained(2, 2, "predicts_z", seed=0)
    model.standardise([noise])
    torch.testing.assert_close(model.std, torch.ones(4))
    torch.testing.assert_close(model.change_std, torch.full((2,), 2**0.5))


@pytest.mark.parametrize("z_dim", [2, 32, 40])
def test_an_untrained_memory_that_predicts_z_keeps_z(z_dim: int):
    generator = torch.Generator().manual_seed(0)
    z, actions = torch.randn(20, 1, z_dim, generator=generator), torch.zeros(20, 10, 3)
    predicted = memory.untrained(z_dim, 3, "predicts_z", seed=0)(z.expand(-1, 10, -1), actions)[0].mean[:, -1]
    carried = min(z_dim, memory.HIDDEN)  # each dimension needs a unit
    assert (predicted - z[:, 0])[:, :carried].std() < 0.25


def test_an_untrained_memory_that_predicts_z_has_random_weights_except_for_those_that_keep_z():
    first, other = (memory.untrained(2, 3, "predicts_z", seed).state_dict()["lstm.weight_hh_l0"] for seed in (0, 1))
    differs = (first != other).view(4, -1, memory.HIDDEN)  # by gate, unit and input
    assert not differs[:, :2].any()
    assert differs[:, 2:].float().mean() > 0.99
