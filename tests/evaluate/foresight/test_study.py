"""The predictions of memory models, and their errors in frames."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from world_models.data.episode import Episode
from world_models.data.rollouts import Rollouts
from world_models.evaluate.foresight import codes, memory
from world_models.evaluate.foresight import study as foresight
from world_models.evaluate.foresight.memory import FORMS, EncodedEpisode, Memory
from world_models.evaluate.foresight.study import Study, TrainedMemory
from world_models.vae.baselines import Baselines, fit_baselines
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE, to_images

AHEAD = (1, 3)


@pytest.fixture(autouse=True, scope="module")
def small(one_thread: None) -> Iterator[None]:
    """Small memory models that predict a few frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "HIDDEN", 8)
        patch.setattr(foresight, "WARM_UP", 2)
        patch.setattr(foresight, "STEPS_AHEAD", AHEAD)
        patch.setattr(foresight, "START_EVERY", 1)
        yield


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=2)).eval()


@pytest.fixture(scope="module")
def episode(rollouts_dir: Path) -> Episode:
    return Rollouts(rollouts_dir)[0]


@pytest.fixture(scope="module")
def baselines(episode: Episode) -> Baselines:
    return fit_baselines(episode.frames, 3)


@pytest.fixture(scope="module")
def study(vae: VAE, baselines: Baselines, episode: Episode) -> Study:
    """Memory models that were trained for one step."""
    return foresight.train_study(vae, baselines, [episode], episode.frames, num_steps=1)


def _recording(rows: int = 40) -> EncodedEpisode:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(rows, 2, generator=generator)
    return EncodedEpisode(mu, torch.zeros_like(mu), torch.randn(rows - 1, 3, generator=generator))


def _still(num_actions: int) -> Memory:
    """A memory model that predicts no change."""
    model = memory.untrained(2, num_actions, "predicts_change", seed=0)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    return model


def test_predictions_from_a_start_do_not_depend_on_the_other_starts():
    model = memory.untrained(2, 3, "predicts_z", seed=0)
    alone, among = (foresight.predict(model, _recording(), starts, AHEAD) for starts in ([20], [3, 20, 31]))
    torch.testing.assert_close(alone[:, 0, 0], among[:, 0, 1])


def test_predictions_use_no_frame_after_their_start():
    model, seen = memory.untrained(2, 3, "predicts_z", seed=0), _recording()
    mu = seen.mu.clone()
    mu[21:] = 9.0
    assert torch.equal(*(foresight.predict(model, each, [20], AHEAD) for each in (seen, seen._replace(mu=mu))))


def test_predictions_use_the_actions_up_to_each_step_and_no_later_ones():
    model, seen = memory.untrained(2, 3, "predicts_z", seed=0), _recording()
    before, changed = foresight.predict(model, seen, [20], range(1, 6)), seen.actions.clone()
    changed[22] = 9.0  # the action two steps after the start
    after = foresight.predict(model, seen._replace(actions=changed), [20], range(1, 6))
    assert [bool(torch.equal(a, b)) for a, b in zip(before, after, strict=True)] == [True, True, False, False, False]


def test_sampled_futures_differ_from_each_other_and_repeat_every_time():
    model = memory.untrained(2, 3, "predicts_z", seed=0)
    first, again = (foresight.predict(model, _recording(), [3, 20], AHEAD, num_draws=4) for _ in range(2))
    assert first.shape == (2, 4, 2, 2)
    assert torch.equal(first, again)
    assert len(first[0, :, 0, 0].unique()) == 4


def test_sampled_futures_belong_to_their_start():
    model = _still(3)
    model.head.bias.data.view(3, 5, 2)[2] = -7  # almost no noise
    drawn = foresight.predict(model, _recording(), [3, 20], AHEAD, num_draws=4)
    expected = _recording().mu[[3, 20]].expand(2, 4, 2, 2)
    torch.testing.assert_close(drawn, expected, atol=0.02, rtol=0)


def test_episodes_are_recorded_as_the_model_encodes_them(vae: VAE, episode: Episode):
    recorded, posterior = codes.encode_episode(codes.code_of_vae(vae), episode), vae.encode(episode.frames)
    torch.testing.assert_close(recorded.mu, posterior.mu)
    torch.testing.assert_close(recorded.std, (posterior.logvar / 2).exp())
    np.testing.assert_array_equal(recorded.actions, episode.actions)


def test_the_code_of_principal_components_decodes_to_their_reconstructions(baselines: Baselines, episode: Episode):
    frames = torch.from_numpy(episode.frames)
    code = codes.code_of_pca(baselines, frames)
    z, std = code.encode(frames)
    torch.testing.assert_close(z.std(0), torch.ones(3))
    assert not std.any()
    torch.testing.assert_close(code.decode(z), baselines.reconstruct(frames), atol=1e-4, rtol=1e-4)


def test_scores_of_a_memory_that_predicts_no_change_equal_those_computed_by_hand(
    vae: VAE, baselines: Baselines, episode: Episode
):
    num_actions, frames = episode.actions.shape[1], torch.from_numpy(episode.frames)
    both = {"vae": codes.code_of_vae(vae), "pca": codes.code_of_pca(baselines, frames)}
    pca = memory.untrained(3, num_actions, "predicts_z", seed=0)
    memories = [TrainedMemory("vae", form, seed, _still(num_actions)) for form in FORMS for seed in foresight.SEEDS]
    memories += [TrainedMemory("pca", form, 0, pca) for form in FORMS]
    decoded = vae.logits(vae.encode(frames).mu).sigmoid().detach()
    starts = torch.arange(2, len(episode) - 2)
    scores = Study(both, memories).score([episode])
    assert list(scores) == ["predicts_z", "predicts_change"]
    for ahead, of in scores["predicts_z"].items():
        came = to_images(frames)[starts + int(ahead)]
        foreseen = float((decoded[starts] - came).square().sum((1, 2, 3)).mean())
        by_hand = {
            "foreseen": foreseen,
            "z_stays": foreseen,
            "stays": float((to_images(frames)[starts] - came).square().sum((1, 2, 3)).mean()),
            "reconstructed": float((decoded[starts + int(ahead)] - came).square().sum((1, 2, 3)).mean()),
        }
        assert {name: getattr(of, name) for name in by_hand} == pytest.approx(by_hand, rel=1e-4)
        assert of.foreseen_by_seed == pytest.approx([foreseen] * 2, rel=1e-4)


@pytest.mark.slow
def test_sampled_error_is_that_of_the_expected_image(episode: Episode):
    """A linear code decodes the expected z to the expected image, so both errors agree, except for chance."""
    rows = np.random.default_rng(0).integers(len(episode.frames), size=600)  # shuffled, so errors are large
    shuffled = dataclasses.replace(
        episode,
        frames=episode.frames[rows],
        telemetry=episode.telemetry[rows],
        actions=np.zeros((599, 3), np.float32),
        rewards=np.zeros(599, np.float32),
        terminated=np.zeros(599, bool),
        truncated=np.zeros(599, bool),
    )
    code = codes.code_of_pca(fit_baselines(episode.frames, 2), torch.from_numpy(shuffled.frames))
    memories = [TrainedMemory("vae", form, seed, _still(3)) for form in FORMS for seed in foresight.SEEDS]
    memories += [TrainedMemory("pca", form, 0, _still(3)) for form in FORMS]
    scores = Study({"vae": code, "pca": code}, memories).score([shuffled])
    for bounds in (bounds for of in scores.values() for bounds in of.values()):
        assert bounds.sampled == pytest.approx(bounds.foreseen, rel=0.15)


def test_scores_have_each_form_each_number_of_steps_and_each_baseline(study: Study, episode: Episode):
    scores = study.score([episode])
    assert {form: set(of) for form, of in scores.items()} == {form: {"1", "3"} for form in FORMS}
    assert all(None not in vars(bounds).values() for of in scores.values() for bounds in of.values())


def test_the_memory_models_of_a_study_are_the_same_every_time(
    study: Study, vae: VAE, baselines: Baselines, episode: Episode
):
    again = foresight.train_study(vae, baselines, [episode], episode.frames, num_steps=1)
    for first, second in zip(study.memories, again.memories, strict=True):
        assert first[:3] == second[:3]
        assert torch.equal(first.model.head.weight, second.model.head.weight)


def test_a_study_does_not_change_the_number_of_threads(study: Study):
    assert torch.get_num_threads() == 1


def test_a_dream_is_shown_next_to_the_true_frames(study: Study, vae: VAE, episode: Episode):
    shown = study.dream(episode, start=5, num_frames=7)
    assert list(shown) == ["true_frames", "reconstructed", *FORMS]
    np.testing.assert_array_equal(shown["true_frames"], episode.frames[6:13])
    np.testing.assert_array_equal(shown["reconstructed"], vae.decode(vae.encode(episode.frames[6:13]).mu))
    assert {frames.shape for frames in shown.values()} == {(7, 64, 64, 3)}


def test_an_episode_of_the_smallest_length_is_predicted_from_one_frame(
    study: Study, episode: Episode, monkeypatch: pytest.MonkeyPatch
):
    starts: set[tuple[int, ...]] = set()
    predict = foresight.predict
    monkeypatch.setattr(foresight, "predict", lambda *args, **more: starts.add((*args[2],)) or predict(*args, **more))
    few = foresight.min_steps()
    columns = {name: getattr(episode, name)[:few] for name in ("actions", "rewards", "terminated", "truncated")}
    frames, telemetry = episode.frames[: few + 1], episode.telemetry[: few + 1]
    study.score([dataclasses.replace(episode, frames=frames, telemetry=telemetry, **columns)])
    assert starts == {(2,)}


def test_all_memory_models_stop_training_once_one_has_failed(monkeypatch: pytest.MonkeyPatch):
    fit, failed = memory.fit, []

    def fit_or_fail(*args: Any) -> Memory:
        if not failed:
            failed.append(True)
            raise MemoryError("no room")
        return fit(*args)

    monkeypatch.setattr(memory, "fit", fit_or_fail)
    with pytest.raises(MemoryError, match="no room"):
        foresight.train({"vae": [_recording()], "pca": [_recording()]}, 10**9)
