"""A step with its inputs in fixed memory is the step of the learner, on a CPU and as a CUDA graph."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from recording import Recorded
from torch import Tensor

from world_models.data.batch import AnyBatch, Batch
from world_models.data.batches import Batches
from world_models.data.frames import ImageSet
from world_models.train_vae import fixed_step
from world_models.train_vae.learner import Learner
from world_models.vae.config import VAEConfig
from world_models.vae.fast import forms, winograd
from world_models.vae.model import VAE
from world_models.vae.noise import Generator

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZE = 4
NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
DIGITS = VAEConfig(2, network="mlp", hidden=(5,), likelihood="bernoulli", num_classes=10, variance=None)
FRAMES = VAEConfig(3, variance=None, kl_tolerance=0.0)


def _learner(config: VAEConfig, device: torch.device = CPU, dtype: torch.dtype = torch.float32, **more: Any) -> Learner:
    torch.manual_seed(0)
    return Learner(VAE(config).to(device, dtype), 0, 100.0, False, **more)


def _images(shape: tuple[int, int, int], count: int = 10) -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, 10, count))


def _stream(learner: Learner, is_held: bool) -> Any:
    """Batches of 4, 4 and 2 frames, epoch after epoch: by position, or as frames."""
    images = _images(learner.vae.frame_shape)
    batches = Batches(images, SIZE, 0, 6, images.num_bytes)(learner.vae.device)
    return batches if is_held else (Batch(each.frames, each.rows, each.size, each.labels) for each in batches)


def _losses(learner: Learner, num_steps: int, is_held: bool = True) -> Tensor:
    """The mean loss of each step. The rates differ from step to step, and float32 holds them exactly."""
    losses = []
    for step, batch in enumerate(itertools.islice(_stream(learner, is_held), num_steps)):
        learner.learn(batch, (step % 7 + 1) / 8192, min(1.0, step / 16))
        losses.append(learner.means()["loss_nats"])
    return torch.tensor(losses, dtype=torch.float64)


def _weights(learner: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.vae.parameters()])


@pytest.mark.parametrize("generator", ["mersenne", "philox"])
@pytest.mark.parametrize("is_held", [True, False], ids=["by_position", "as_frames"])
def test_steps_with_fixed_inputs_give_the_same_losses_and_weights(generator: Generator, is_held: bool):
    more: dict[str, Any] = {"generator": generator, "binarise": True}
    plain, fixed = _learner(DIGITS, **more), _learner(DIGITS, **more, fixed_size=SIZE)
    torch.testing.assert_close(_losses(fixed, 20, is_held), _losses(plain, 20), rtol=1e-5, atol=0)
    torch.testing.assert_close(_weights(fixed), _weights(plain), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fixed.vae.variance, plain.vae.variance)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The form of the networks that a GPU computes, and steps that are recorded once and then repeated."""
    monkeypatch.setattr(forms, "choose", lambda device: "rewritten")
    monkeypatch.setattr(fixed_step, "Captured", Recorded)
    return monkeypatch


@pytest.mark.parametrize("is_held", [True, False], ids=["by_position", "as_frames"])
def test_a_recorded_step_that_is_repeated_gives_the_losses_of_plain_steps(
    as_on_a_gpu: pytest.MonkeyPatch, is_held: bool
):
    more: dict[str, Any] = {"generator": "philox", "binarise": True, "dtype": torch.float64}
    fixed = _losses(_learner(DIGITS, **more, fixed_size=SIZE), 60, is_held)
    torch.testing.assert_close(fixed, _losses(_learner(DIGITS, **more), 60), rtol=1e-9, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "form", "tolerance"),
    [(torch.float64, "winograd", 1e-9), (torch.float32, "rewritten", 1e-4)],
)
def test_a_hundred_repeated_steps_give_the_losses_of_a_hundred_plain_steps(
    as_on_a_gpu: pytest.MonkeyPatch, dtype: torch.dtype, form: str, tolerance: float
):
    if form == "winograd" and not winograd.is_available():
        pytest.skip("the C convolutions were not built")
    fixed = _losses(_learner(FRAMES, dtype=dtype, generator="philox", fixed_size=SIZE), 100)
    as_on_a_gpu.setattr(forms, "choose", lambda device: form)
    plain = _losses(_learner(FRAMES, dtype=dtype, generator="philox"), 100)
    torch.testing.assert_close(fixed, plain, rtol=tolerance, atol=0)
    assert plain[-9:].mean() < 0.9 * plain[:9].mean()


def test_fixed_inputs_do_not_change_the_means_of_several_steps():
    plain, fixed = _learner(DIGITS), _learner(DIGITS, fixed_size=SIZE)
    for learner in (plain, fixed):
        for batch in itertools.islice(_stream(learner, True), 7):
            learner.learn(batch, 1e-3, 1.0)
    assert fixed.means() == pytest.approx(plain.means(), rel=1e-5)


def test_a_restored_learner_goes_on_with_its_own_fixed_inputs():
    whole, restored = (_learner(DIGITS, fixed_size=SIZE) for _ in range(2))
    stream = list(itertools.islice(_stream(whole, True), 9))
    for batch in stream[:5]:
        whole.learn(batch, 1e-3, 1.0)
    restored.learn(stream[0], 1e-3, 1.0)  # has fixed inputs before it is restored
    restored.restore(copy.deepcopy(whole.state()))
    for learner in (whole, restored):
        for batch in stream[5:]:
            learner.learn(batch, 1e-3, 1.0)
    assert torch.equal(_weights(whole), _weights(restored))
    assert whole.means() == restored.means()


def test_the_saved_state_is_that_of_plain_steps():
    plain, fixed = _learner(DIGITS), _learner(DIGITS, fixed_size=SIZE)
    for learner in (plain, fixed):
        learner.learn(next(_stream(learner, True)), 1e-3, 1.0)
    plain_group, group = (learner.state().optimizer["param_groups"][0] for learner in (plain, fixed))
    assert group.keys() == plain_group.keys() and group["lr"] == pytest.approx(plain_group["lr"])
    assert type(group["lr"]) is float


def test_batches_that_are_held_elsewhere_get_fixed_inputs_of_their_own():
    plain, fixed = _learner(DIGITS), _learner(DIGITS, fixed_size=SIZE)
    for learner in (plain, fixed):
        for batch in (next(_stream(learner, is_held)) for is_held in (True, True, False, False, True)):
            learner.learn(batch, 1e-3, 1.0)
    torch.testing.assert_close(_weights(fixed), _weights(plain), rtol=1e-4, atol=1e-6)


# on a GPU


def _random_batches(device: torch.device, size: int, count: int) -> list[AnyBatch]:
    images = _images((64, 64, 3), 3 * size)
    return [*itertools.islice(Batches(images, size, 0, 6, images.num_bytes)(device), count)]


@pytest.mark.parametrize("is_held", [True, False], ids=["by_position", "as_frames"])
@pytest.mark.parametrize("config", [FRAMES, DIGITS], ids=["frames", "digits"])
@pytest.mark.parametrize("device", [pytest.param(GPU, marks=NEEDS_GPU)], ids=["gpu"])
def test_a_graph_gives_the_losses_of_plain_steps_on_the_same_gpu(
    device: torch.device, config: VAEConfig, is_held: bool
):
    more: dict[str, Any] = {"generator": "philox", "binarise": config is DIGITS, "device": device}
    plain, fixed = _learner(config, **more), _learner(config, **more, fixed_size=SIZE)
    torch.testing.assert_close(_losses(fixed, 100, is_held), _losses(plain, 100), rtol=1e-4, atol=0)


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=NEEDS_GPU)], ids=["gpu"])
def test_a_gpu_gives_the_losses_of_the_cpu(device: torch.device):
    ours = _losses(_learner(FRAMES, device, generator="philox", fixed_size=SIZE), 20)
    torch.testing.assert_close(ours, _losses(_learner(FRAMES, generator="philox"), 20), rtol=1e-3, atol=0)


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=NEEDS_GPU)], ids=["gpu"])
def test_a_graph_in_bfloat16_trains_like_plain_steps(device: torch.device):
    losses = []
    for fixed_size in (0, 64):
        torch.manual_seed(0)
        learner = Learner(VAE(FRAMES).to(device), 0, 100.0, True, generator="philox", fixed_size=fixed_size)
        for batch in _random_batches(device, 64, 100):
            learner.learn(batch, 1e-3, 1.0)
        losses.append(learner.means()["loss_nats"])
    assert math.isfinite(losses[0]) and losses[1] == pytest.approx(losses[0], rel=0.01)


@pytest.mark.parametrize("device", [pytest.param(GPU, marks=NEEDS_GPU)], ids=["gpu"])
def test_after_the_capture_steps_do_not_wait_for_the_gpu(device: torch.device):
    learner = _learner(FRAMES, device, generator="philox", fixed_size=SIZE)
    stream = (batch for batch in _stream(learner, True) if batch.size == SIZE)
    for batch in itertools.islice(stream, 8):
        learner.learn(batch, 1e-3, 1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in itertools.islice(stream, 100):
            learner.learn(batch, 1e-3, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(learner.means()["loss_nats"])
