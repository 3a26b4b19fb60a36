"""One step of training, and all that it takes to go on."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from world_models.frames import noise
from world_models.learner import Learner
from world_models.vae import VAE, VAEConfig, to_images


def _learner(seed: int = 0, grad_clip: float = 0.0, bf16: bool = False, beta: float = 1.0) -> Learner:
    torch.manual_seed(0)
    return Learner(VAE(VAEConfig(z_dim=3, beta=beta, kl_tolerance=0.0)), seed, grad_clip, bf16)


def _batch(seed: int = 0, size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size, 64, 64, 3), dtype=torch.uint8, generator=generator)


def _weights(learner: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.vae.parameters()])


def test_steps_are_those_of_adam_on_the_objective():
    learner, reference = _learner(), _learner().vae
    adam = torch.optim.Adam(reference.parameters(), lr=1e-3)
    for step in range(3):
        learner.learn(_batch(step), 1e-3, 0.5)
        adam.zero_grad()
        reference.objective(to_images(_batch(step)), noise(0, step, 5, 3), 0.5).loss_nats.mean().backward()
        adam.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in reference.parameters()])
    assert torch.equal(_weights(learner), expected)


def test_training_on_a_batch_lowers_its_loss():
    learner = _learner()
    learner.learn(_batch(), 1e-3, 1.0)
    first = learner.means()["loss_nats"]
    for _ in range(12):
        learner.learn(_batch(), 1e-3, 1.0)
    learner.means()
    learner.learn(_batch(), 0.0, 1.0)
    assert learner.means()["loss_nats"] < 0.995 * first


def test_a_learning_rate_of_zero_changes_nothing():
    learner = _learner()
    before = _weights(learner)
    learner.learn(_batch(), 0.0, 1.0)
    assert torch.equal(_weights(learner), before)


@pytest.mark.parametrize("change", [{"seed": 1}, {"beta": 5.0}])
def test_seed_and_objective_change_the_step(change: dict[str, Any]):
    one, other = _learner(), _learner(**change)
    for learner in (one, other):
        learner.learn(_batch(), 1e-3, 1.0)
    assert not torch.equal(_weights(one), _weights(other))


def _gradient_norm(learner: Learner) -> float:
    gradients = [parameter.grad for parameter in learner.vae.parameters()]
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None))


def test_gradient_is_clipped_in_all():
    learner = _learner(grad_clip=0.5)
    learner.learn(_batch(), 1e-3, 1.0)
    assert _gradient_norm(learner) == pytest.approx(0.5, rel=1e-3)


def test_zero_means_no_clipping():
    learner = _learner(grad_clip=0.0)
    learner.learn(_batch(), 1e-3, 1.0)
    assert _gradient_norm(learner) > 0.5


def test_bfloat16_keeps_weights_and_losses_in_float32():
    learner = _learner(bf16=True)
    learner.learn(_batch(), 1e-3, 1.0)
    assert {parameter.dtype for parameter in learner.vae.parameters()} == {torch.float32}
    assert math.isfinite(learner.means()["loss_nats"])


def test_bfloat16_is_used_where_it_is_asked_for():
    exact, rounded = _learner(), _learner(bf16=True)
    for learner in (exact, rounded):
        learner.learn(_batch(), 1e-3, 1.0)
    ours, theirs = exact.means()["kl_nats"], rounded.means()["kl_nats"]
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05)


def test_means_are_over_frames_not_over_batches():
    learner = _learner()
    terms = [
        learner.vae.objective(to_images(_batch(0, 6)), noise(0, 0, 6, 3)),
        learner.vae.objective(to_images(_batch(1, 2)), noise(0, 1, 2, 3)),
    ]
    learner.learn(_batch(0, 6), 0.0, 1.0)
    learner.learn(_batch(1, 2), 0.0, 1.0)
    expected = {
        name: float(torch.cat([getattr(term, name).detach() for term in terms]).mean())
        for name in ("loss_nats", "sse", "kl_nats")
    }
    assert learner.means() == pytest.approx(expected, rel=1e-5)


def test_means_begin_anew_after_each_call():
    learner = _learner()
    learner.learn(_batch(0), 0.0, 1.0)
    first = learner.means()
    learner.learn(_batch(1), 0.0, 1.0)
    assert learner.means()["sse"] != pytest.approx(first["sse"], rel=1e-4)


def test_steps_are_counted():
    learner = _learner()
    for _ in range(3):
        learner.learn(_batch(), 0.0, 1.0)
    assert learner.step == 3


def test_restored_learner_goes_on_bit_for_bit():
    learner, restored = _learner(), _learner(seed=0, beta=1.0)
    for step in range(2):
        learner.learn(_batch(step), 1e-3, 1.0)
    learner.best_loss_nats, learner.wandb_id = 3.5, "abc"
    restored.restore(copy.deepcopy(learner.state()))
    for one in (learner, restored):
        one.learn(_batch(2), 1e-3, 1.0)
    assert torch.equal(_weights(learner), _weights(restored))
    assert (restored.step, restored.best_loss_nats, restored.wandb_id) == (3, 3.5, "abc")
    assert learner.means() == restored.means()
