"""One step of training, and the state for resuming."""

import copy
import math
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from world_models.data.batches import Batch
from world_models.train_vae.learner import Learner, cudnn_mode
from world_models.vae.config import MIN_VARIANCE, VAEConfig
from world_models.vae.fast import forms, winograd
from world_models.vae.gradient import LOSS_NAMES, backward
from world_models.vae.model import VAE, to_images
from world_models.vae.noise import binarised, noise

pytestmark = pytest.mark.usefixtures("one_thread")


def _learner(seed: int = 0, grad_clip: float = 0.0, bf16: bool = False, beta: float = 1.0) -> Learner:
    torch.manual_seed(0)
    return Learner(VAE(VAEConfig(z_dim=3, beta=beta, kl_tolerance=0.0, variance=0.5)), seed, grad_clip, bf16)


def _frames(seed: int = 0, size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size, 64, 64, 3), dtype=torch.uint8, generator=generator)


def _batch(seed: int = 0, size: int = 5) -> Batch:
    return Batch.whole(_frames(seed, size))


def _weights(learner: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.vae.parameters()])


def _relative(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).norm() / expected.norm())


def test_steps_equal_those_of_adam_on_the_objective():
    learner, reference, start = _learner(), _learner().vae, _weights(_learner())
    adam = torch.optim.Adam(reference.parameters(), lr=1e-3)
    for step in range(3):
        learner.learn(_batch(step), 1e-3, 0.5)
        adam.zero_grad()
        reference.objective(to_images(_frames(step)), noise(0, step, 5, 3), 0.5).loss_nats.mean().backward()
        adam.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in reference.parameters()])
    assert _relative(_weights(learner) - start, expected - start) < 0.01


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


def test_the_norm_of_the_whole_gradient_is_clipped():
    learner = _learner(grad_clip=0.5)
    learner.learn(_batch(), 1e-3, 1.0)
    assert _gradient_norm(learner) == pytest.approx(0.5, rel=1e-3)


def test_a_clipping_of_zero_means_no_clipping():
    learner = _learner(grad_clip=0.0)
    learner.learn(_batch(), 1e-3, 1.0)
    assert _gradient_norm(learner) > 0.5


def test_bfloat16_keeps_weights_and_losses_in_float32():
    learner = _learner(bf16=True)
    learner.learn(_batch(), 1e-3, 1.0)
    assert {parameter.dtype for parameter in learner.vae.parameters()} == {torch.float32}
    assert math.isfinite(learner.means()["loss_nats"])


def test_bfloat16_is_used_if_asked_for():
    exact, rounded = _learner(), _learner(bf16=True)
    for learner in (exact, rounded):
        learner.learn(_batch(), 1e-3, 1.0)
    ours, theirs = exact.means()["kl_nats"], rounded.means()["kl_nats"]
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05)


def test_means_are_taken_over_frames_and_not_over_batches():
    learner = _learner()
    terms = [
        learner.vae.objective(to_images(_frames(0, 6)), noise(0, 0, 6, 3)),
        learner.vae.objective(to_images(_frames(1, 2)), noise(0, 1, 2, 3)),
    ]
    learner.learn(_batch(0, 6), 0.0, 1.0)
    learner.learn(_batch(1, 2), 0.0, 1.0)
    expected = {
        name: float(torch.cat([getattr(term, name).detach() for term in terms]).mean())
        for name in ("loss_nats", "sse", "kl_nats")
    }
    assert learner.means() == pytest.approx(expected, rel=1e-5)


def test_means_start_again_after_each_call():
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


def test_a_restored_learner_continues_bit_for_bit():
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


# a batch in parts


BUILT = winograd.is_available()
FORMS = [
    pytest.param("winograd", marks=pytest.mark.skipif(not BUILT, reason="the C convolutions were not built")),
    "rewritten",
]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(forms, "choose", lambda device: request.param)
    return request.param


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The number of threads between which a batch is split."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    yield request.param
    torch.set_num_threads(1)


def _kinkless(vae: VAE) -> VAE:
    """Set biases so large that rounding cannot move an output across a ReLU's kink."""
    for parameter in vae.parameters():
        is_bias = parameter.ndim == 1
        parameter.data = torch.arange(len(parameter)) % 2 * 2.0 - 1 if is_bias else parameter.data / 4
    return vae


def _vae(likelihood: Any = "gaussian") -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VAE(VAEConfig(z_dim=3, likelihood=likelihood, kl_tolerance=0.0, variance=0.5))


def _gradients(vae: VAE) -> Tensor:
    return torch.cat([p.grad.flatten() for p in vae.parameters() if p.grad is not None])


def _no_classes(frames: Tensor) -> Tensor:
    return torch.zeros(len(frames), dtype=torch.int64)


def _backward(vae: VAE, rows: slice, size: int) -> tuple[Tensor, Tensor]:
    """The gradient of some rows of a batch, and the sums over them."""
    vae.zero_grad()
    frames = _frames(0, size)[rows]
    sums = backward(vae, frames, noise(0, 0, size, 3)[rows], 0.5, size, _no_classes(frames))
    return _gradients(vae), sums


def _plainly(vae: VAE, size: int) -> tuple[Tensor, Tensor]:
    """The result of `_backward` for a whole batch, computed by the definitions of networks and objective."""
    images = _frames(0, size).permute(0, 3, 1, 2).to(vae.encoder.mu.weight.dtype) / 255
    mu, logvar = vae.encoder(images)
    logits = vae.decoder(mu + torch.exp(logvar / 2) * noise(0, 0, size, 3))
    kl = 0.5 * (mu.square() + logvar.exp() - logvar - 1).sum(1)
    sse = (images - logits.sigmoid()).square().sum((1, 2, 3))
    entropy = -(images * F.logsigmoid(logits) + (1 - images) * F.logsigmoid(-logits)).sum((1, 2, 3))
    loss = (sse if vae.config.likelihood == "gaussian" else entropy) + 0.5 * kl
    loss.mean().backward()
    return _gradients(vae), torch.stack([loss, sse, kl]).detach().double().sum(1)


@pytest.mark.parametrize("size", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_gradient_equals_that_of_the_plain_objective(form: str, threads: int, size: int, likelihood: str):
    expected, expected_sums = _plainly(_kinkless(_vae(likelihood)), size)
    gradient, sums = _backward(_kinkless(_vae(likelihood)), slice(None), size)
    assert _relative(gradient, expected) < 1e-5
    assert dict(zip(LOSS_NAMES, sums.tolist(), strict=True)) == pytest.approx(
        dict(zip(LOSS_NAMES, expected_sums.tolist(), strict=True)), rel=1e-5
    )


@pytest.mark.skipif(not BUILT, reason="the C convolutions were not built")
@pytest.mark.parametrize("size", [1, 16, 33])
def test_in_float64_the_gradient_equals_that_of_the_plain_objective_to_the_last_digits(threads: int, size: int):
    expected, expected_sums = _plainly(_vae().double(), size)
    gradient, sums = _backward(_vae().double(), slice(None), size)
    assert _relative(gradient, expected) < 1e-10
    assert _relative(sums, expected_sums) < 1e-10


def test_sums_of_losses_are_in_float64(form: str):
    assert _backward(_vae(), slice(None), 4)[1].dtype == torch.float64


def test_gradients_are_added_to_existing_ones(form: str):
    vae = _kinkless(_vae())
    once, _ = _backward(vae, slice(None), 20)
    backward(vae, _frames(0, 20), noise(0, 0, 20, 3), 0.5, 20, _no_classes(_frames(0, 20)))
    assert _relative(_gradients(vae), 2 * once) < 1e-5


@pytest.mark.parametrize("cut", [1, 7, 16])
def test_the_gradients_of_two_parts_add_up_to_that_of_the_whole_batch(form: str, cut: int):
    vae = _kinkless(_vae())
    whole, sums = _backward(vae, slice(None), 33)
    parts = [_backward(vae, rows, 33) for rows in (slice(cut), slice(cut, None))]
    assert _relative(parts[0][0] + parts[1][0], whole) < 1e-5
    torch.testing.assert_close(parts[0][1] + parts[1][1], sums, rtol=1e-5, atol=0)


def test_the_gradient_of_a_part_is_its_share_of_the_whole_batchs(form: str):
    vae = _vae()
    frames, eps = _frames(0, 6), noise(0, 0, 6, 3)
    backward(vae, frames, eps, 0.5, 6, _no_classes(frames))
    alone = _gradients(vae)
    vae.zero_grad()
    backward(vae, frames, eps, 0.5, 24, _no_classes(frames))
    assert _relative(4 * _gradients(vae), alone) < 1e-5


def test_the_same_batch_gives_the_same_bits(form: str, threads: int):
    vae = _vae()
    assert all(map(torch.equal, _backward(vae, slice(None), 24), _backward(vae, slice(None), 24)))


def test_the_returned_sums_need_no_gradient(form: str):
    assert not _backward(_vae(), slice(None), 20)[1].requires_grad


@pytest.mark.skipif(not BUILT, reason="the C convolutions were not built")
def test_a_part_without_frames_adds_no_gradient(monkeypatch: pytest.MonkeyPatch):
    vae = _vae()
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, 7.0))  # memory is rarely fresh
    gradient, sums = _backward(vae, slice(0), 5)
    assert not gradient.any() and not sums.any()


class _Summed:
    """A stand-in for `distributed.sum_up` in two processes, which gets the sums of the other part in advance."""

    def __init__(self, others: list[Tensor]):
        self.others = others

    def __call__(self, tensors: Any) -> None:
        for tensor, other in zip(tensors, self.others, strict=True):
            tensor += other


def test_two_processes_with_half_a_batch_each_make_the_step_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch):
    rows = torch.tensor([0, 3, 4, 9, 10])
    others = torch.tensor([row for row in range(12) if row not in rows])
    frames, eps = _frames(0, 12), noise(0, 0, 12, 3)
    one, whole = _learner(grad_clip=50.0), _learner(grad_clip=50.0)
    for learner in (one, whole):
        _kinkless(learner.vae)
    start = _weights(whole)
    backward(one.vae, frames[others], eps[others], 0.5, 12, _no_classes(others))
    gradients = [parameter.grad.clone() for parameter in one.vae.parameters() if parameter.grad is not None]
    with monkeypatch.context() as patch:
        patch.setattr("world_models.runtime.distributed.sum_up", _Summed([*gradients, torch.ones(1)]))
        one.learn(Batch(frames[rows], rows, 12, torch.zeros_like(rows)), 1e-3, 0.5)
    whole.learn(Batch.whole(frames), 1e-3, 0.5)
    assert _relative(_gradients(one.vae), _gradients(whole.vae)) < 1e-5
    assert _relative(_weights(one) - start, _weights(whole) - start) < 1e-3


def test_the_noise_of_a_frame_belongs_to_its_row_in_the_whole_batch():
    part, whole = _learner(), _learner()
    rows = torch.tensor([1, 4])
    part.learn(Batch(_frames()[rows], rows, 5, torch.zeros_like(rows)), 0.0, 1.0)
    terms = whole.vae.objective(to_images(_frames()), noise(0, 0, 5, 3))
    assert part.means()["sse"] == pytest.approx(float(terms.sse[rows].detach().mean()), rel=1e-5)


def test_a_process_without_a_frame_of_the_batch_takes_the_step_of_the_others(monkeypatch: pytest.MonkeyPatch):
    part, whole, none = _learner(), _learner(), torch.zeros(0, dtype=torch.int64)
    frames, eps = _frames(), noise(0, 0, 5, 3)
    backward(part.vae, frames, eps, 1.0, 5, _no_classes(frames))
    gradients = [parameter.grad.clone() for parameter in part.vae.parameters() if parameter.grad is not None]
    with monkeypatch.context() as patch:
        patch.setattr("world_models.runtime.distributed.sum_up", _Summed([*gradients, torch.ones(1)]))
        part.learn(Batch(frames[:0], none, 5, none), 1e-3, 1.0)
    whole.learn(Batch.whole(frames), 1e-3, 1.0)
    assert torch.equal(_weights(part), _weights(whole))


# the likelihood's variance


def _following(variance: float | None = None) -> Learner:
    torch.manual_seed(0)
    return Learner(VAE(VAEConfig(z_dim=3, kl_tolerance=0.0, variance=variance)), 0, 0.0, False)


def test_variance_becomes_the_mean_squared_error_of_the_first_batch():
    learner = _following()
    learner.learn(_batch(), 1e-3, 1.0)
    assert learner.vae.variance.item() == pytest.approx(learner.means()["sse"] / 12_288, rel=1e-5)


@pytest.mark.slow
def test_the_variance_follows_the_mean_squared_error():
    learner, variances = _following(), []
    for _ in range(60):
        learner.learn(_batch(), 1e-3, 0.0)
        variances.append(learner.vae.variance.item())
    learner.means()
    learner.learn(_batch(), 0.0, 0.0)
    assert variances[-1] < 0.9 * variances[0]
    assert learner.vae.variance.item() == pytest.approx(learner.means()["sse"] / 12_288, rel=0.1)


def test_a_given_variance_does_not_change():
    learner = _following(0.25)
    learner.learn(_batch(), 1e-3, 1.0)
    assert learner.vae.variance.item() == 0.25


def test_the_variance_stays_above_zero_if_there_is_no_error(monkeypatch: pytest.MonkeyPatch):
    learner = _following()
    monkeypatch.setattr("world_models.train_vae.learner.backward", lambda *_: torch.zeros(3, dtype=torch.float64))
    learner.learn(_batch(), 0.0, 1.0)
    assert learner.vae.variance.item() == pytest.approx(MIN_VARIANCE)


def test_a_restored_learner_has_its_variance():
    learner, other = _following(), _following()
    learner.learn(_batch(), 1e-3, 1.0)
    other.restore(copy.deepcopy(learner.state()))
    assert torch.equal(other.vae.variance, learner.vae.variance)


# compiled, and on a GPU

ON_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]


def _steps(device: str, compiled_size: int, bf16: bool = False, sizes: tuple[int, ...] = (5, 5, 3, 5)) -> Learner:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(z_dim=3, kl_tolerance=0.0)).to(device)
    learner = Learner(vae, 0, 100.0, bf16, compiled_size)
    for step, size in enumerate(sizes):
        batch = _batch(step, size)
        learner.learn(batch._replace(frames=batch.frames.to(device)), 1e-4, (step + 1) / len(sizes))
    return learner


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_steps_equal_plain_steps(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(winograd, "is_available", lambda: False)
    plain, compiled = _steps(device, 0), _steps(device, 5)
    assert compiled.means() == pytest.approx(plain.means(), rel=1e-4)
    start = _weights(_steps(device, 0, sizes=()))
    assert _relative(_weights(compiled) - start, _weights(plain) - start) < 0.02


def test_only_batches_of_the_requested_size_are_compiled(monkeypatch: pytest.MonkeyPatch):
    compiled: list[int] = []

    def spy(function: Any, **options: Any) -> Any:
        def call(vae: VAE, frames: Tensor, *others: Any) -> Any:
            compiled.append(len(frames))
            return function(vae, frames, *others)

        return call

    monkeypatch.setattr(torch, "compile", spy)
    _steps("cpu", 5)
    assert compiled == [5, 5, 5]


def test_nothing_is_compiled_unless_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", None)
    _steps("cpu", 0)


def test_weights_in_any_memory_format_learn_and_restore_the_same():
    plain, other = _learner(), _learner()
    other.vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: PyTorch's stub lacks it
    for learner in (plain, other):
        learner.learn(_batch(), 1e-3, 1.0)
    assert other.means() == pytest.approx(plain.means(), rel=1e-5)
    plain.restore(copy.deepcopy(other.state()))
    assert torch.equal(_weights(plain), _weights(other))


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_mode_holds_inside_the_block_and_is_restored_after_it(deterministic: bool):
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with cudnn_mode(torch.device("cuda"), deterministic):
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.benchmark != deterministic
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_deterministic_training_on_a_cpu_gives_the_usual_weights():
    with cudnn_mode(torch.device("cpu"), deterministic=True):
        asked = _steps("cpu", 0)
    assert torch.equal(_weights(asked), _weights(_steps("cpu", 0)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled_size", [0, 5])
def test_deterministic_training_on_a_gpu_repeats_the_same_weights(compiled_size: int):
    with cudnn_mode(torch.device("cuda"), deterministic=True):
        first, second = _steps("cuda", compiled_size), _steps("cuda", compiled_size)
    assert torch.equal(_weights(first), _weights(second))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bfloat16_changes_the_error_by_less_than_a_hundredth_in_a_thousand_steps():
    losses = []
    for bf16 in (False, True):
        learner = _steps("cuda", 0, bf16, sizes=(64,) * 1000)
        learner.means()
        learner.learn(_batch(0, 64)._replace(frames=_frames(0, 64).to("cuda")), 0.0, 1.0)
        losses.append(learner.means()["loss_nats"])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


# digits


def _digit_learner(binarise: bool = True, **config: Any) -> Learner:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(2, network="mlp", hidden=(5,), likelihood="bernoulli", **config))
    return Learner(vae, 7, 0.0, False, binarise=binarise)


def _digit_batch(rows: list[int], size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (size, 28, 28, 1), dtype=torch.uint8, generator=generator)
    return Batch(frames[rows], torch.tensor(rows), size, torch.arange(size)[rows])


def _seen(learner: Learner, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Records the images of which the gradient is computed."""
    from world_models.train_vae import learner as module

    seen: list[tuple[Any, ...]] = []
    backward = module.backward
    with monkeypatch.context() as patch:
        patch.setattr(module, "backward", lambda *args: seen.append(args) or backward(*args))
        learner.learn(batch, 1e-3, 1.0)
    return seen[0]


def test_binarised_training_uses_new_black_and_white_images_in_each_step(monkeypatch: pytest.MonkeyPatch):
    learner, batch = _digit_learner(), _digit_batch([0, 1, 2, 3, 4, 5])
    first, second = (_seen(learner, batch, monkeypatch)[1] for _ in range(2))
    assert torch.equal(first, binarised(batch.frames, 7, 0)) and torch.equal(second, binarised(batch.frames, 7, 1))
    assert not torch.equal(first, second) and set(first.unique().tolist()) == {0, 255}


def test_a_process_binarises_its_part_like_a_single_process(monkeypatch: pytest.MonkeyPatch):
    whole = _seen(_digit_learner(), _digit_batch([0, 1, 2, 3, 4, 5]), monkeypatch)
    part = _seen(_digit_learner(), _digit_batch([1, 4]), monkeypatch)
    assert torch.equal(part[1], whole[1][[1, 4]]) and torch.equal(part[2], whole[2][[1, 4]])


def test_training_without_binarising_uses_grey_images(monkeypatch: pytest.MonkeyPatch):
    batch = _digit_batch([0, 1, 2, 3, 4, 5])
    assert torch.equal(_seen(_digit_learner(binarise=False), batch, monkeypatch)[1], batch.frames)


def test_a_conditional_model_is_trained_with_the_labels_of_the_batch(monkeypatch: pytest.MonkeyPatch):
    batch = _digit_batch([1, 4, 5])
    seen = _seen(_digit_learner(num_classes=10), batch, monkeypatch)
    assert seen[-1].tolist() == [1, 4, 5]
