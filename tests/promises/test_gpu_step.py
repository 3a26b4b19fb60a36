"""What can be proven of a GPU's training step without a GPU: it never waits, and it is one graph without breaks."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from no_waiting import NoWaiting, WaitingError
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from world_models.data.batch import AnyBatch
from world_models.data.batches import Batches
from world_models.data.frames import ImageSet
from world_models.runtime.gpu import GraphMemory, to_device
from world_models.train_vae import fixed_step
from world_models.train_vae.learner import Learner
from world_models.vae import gradient
from world_models.vae.config import VAEConfig
from world_models.vae.gradient import mean_loss
from world_models.vae.model import VAE
from world_models.vae.noise import Generator

GPU = torch.device("cuda")
SIZE = 8
FRAMES = VAEConfig(3, variance=None)
DIGITS = VAEConfig(2, network="mlp", hidden=(5,), likelihood="bernoulli", num_classes=10)
QUICK = (FRAMES, "philox", SIZE)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of a GPU that have a shape but no memory.

    Three things need a real GPU and are left out: streams and graphs (calls do the work), memory formats, and PyTorch's
    autograd engine, which gives each weight a gradient of zeros here.
    """
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 40, 1 << 40))
    monkeypatch.setattr(fixed_step, "GraphMemory", lambda device: GraphMemory(torch.device("cpu")))
    monkeypatch.setattr(VAE, "to", lambda self, memory_format: self)
    monkeypatch.setattr(gradient, "mean_loss", _mean_loss_without_engine)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def _mean_loss_without_engine(vae: VAE, *args: Any) -> tuple[Any, Tensor]:
    _, sums = mean_loss(vae, *args)

    class Loss:
        def backward(self) -> None:
            for weight in vae.parameters():
                weight.grad = torch.zeros_like(weight)

    return Loss(), sums


def _learner(config: VAEConfig, **more: Any) -> Learner:
    with GPU:
        return Learner(VAE(config), 0, 100.0, False, **more)


def _stream(config: VAEConfig) -> Iterator[AnyBatch]:
    """Three windows an epoch, and a last batch of 4 frames. An epoch has eight batches."""
    shape = (64, 64, 3) if config.network == "paper" else (28, 28, 1)
    rng = np.random.default_rng(0)
    images = ImageSet(rng.integers(0, 256, (60, *shape), np.uint8), rng.integers(0, 10, 60))
    return Batches(images, SIZE, 0, 20, images.num_bytes)(GPU)


CASES = [
    pytest.param(
        config, generator, fixed_size, marks=() if (config, generator, fixed_size) == QUICK else pytest.mark.slow
    )
    for config in (FRAMES, DIGITS)
    for generator in ("mersenne", "philox")
    for fixed_size in (0, SIZE)
]


@pytest.mark.parametrize(("config", "generator", "fixed_size"), CASES)
def test_a_training_step_on_a_gpu_never_waits_for_it(
    fake_gpu: None, config: VAEConfig, generator: Generator, fixed_size: int
):
    learner = _learner(config, generator=generator, binarise=config is DIGITS, fixed_size=fixed_size)
    stream = _stream(config)
    with NoWaiting() as mode:
        mode.is_strict = False
        learner.learn(next(stream), 1e-3, 1.0)  # all frames are copied to the GPU
        mode.is_strict = True
        for batch in itertools.islice(stream, 9):  # more than an epoch, and all its windows
            learner.learn(batch, 1e-3, 0.5)
        batch = next(stream)
        assert batch.frames.device.type == "cuda"
    assert mode.num_operations > 9 * 50


@pytest.mark.parametrize("config", [FRAMES, DIGITS], ids=["frames", "digits"])
def test_forward_and_backward_never_wait_for_the_device(config: VAEConfig):
    """The engine works on the device `meta`, whose tensors have no memory either."""
    meta = torch.device("meta")
    with meta:
        vae = VAE(config)
        frames = torch.empty(SIZE, *vae.frame_shape, dtype=torch.uint8)
        eps, labels, share = torch.empty(SIZE, config.noise_dim), torch.empty(SIZE, dtype=torch.int64), torch.empty(())
    with NoWaiting("meta") as mode:
        gradient.backward(vae, frames, eps, share, SIZE, labels)
    assert mode.num_operations > 50
    assert all(weight.grad is not None and weight.grad.device == meta for weight in vae.parameters())


def _on_gpu(*shape: int) -> Tensor:
    return torch.ones(*shape, device=GPU)


def _adam(lr: Tensor) -> None:
    weight = _on_gpu(3).requires_grad_()
    weight.grad = _on_gpu(3)
    adam = torch.optim.Adam([weight], fused=True, capturable=True)
    adam.param_groups[0]["lr"] = lr
    adam.step()


WAITING: dict[str, Callable[[], object]] = {
    "a number": lambda: _on_gpu(1).item(),
    "a truth value": lambda: bool(_on_gpu(1)),
    "a list": lambda: _on_gpu(3).tolist(),
    "a comparison": lambda: torch.equal(_on_gpu(3), _on_gpu(3)),
    "positions of true values": lambda: _on_gpu(3).nonzero(),
    "rows by truth values": lambda: _on_gpu(3)[_on_gpu(3) > 0],
    "different values": lambda: _on_gpu(3).unique(),
    "a copy to the host": lambda: _on_gpu(3).cpu(),
    "a copy to the host that is not waited for": lambda: _on_gpu(3).to("cpu", non_blocking=True),
    "a copy into the host": lambda: torch.ones(3).copy_(_on_gpu(3)),
    "a copy from pageable memory": lambda: torch.ones(3).to(GPU, non_blocking=True),
    "a copy from pageable memory into the device": lambda: _on_gpu(3).copy_(torch.ones(3), non_blocking=True),
    "a copy from pinned memory that is waited for": lambda: torch.ones(3).pin_memory().to(GPU),
    "a learning rate on the host": lambda: _adam(torch.ones(())),
    "a new tensor of numbers of Python": lambda: torch.tensor([1.0, 2.0], device=GPU),
}


@pytest.mark.parametrize("what", WAITING)
def test_what_makes_the_cpu_wait_is_refused(fake_gpu: None, what: str):
    with NoWaiting(), pytest.raises(WaitingError):
        WAITING[what]()


def test_what_does_not_make_the_cpu_wait_is_allowed(fake_gpu: None):
    with NoWaiting():
        values = to_device(torch.arange(6), GPU)
        (values[2:4] * 2.5).sum().sqrt_().fill_(3.0)
        values.index_select(0, to_device(torch.tensor([1, 2]), GPU))
        torch.ones(3).cpu().sum()
        torch.full((), 0.5, device=GPU)


FULL_GRAPH = """
import sys, torch
from world_models.train_vae.fixed_step import Rates
from world_models.train_vae.learner import Learner
from world_models.vae import philox
from world_models.vae.config import VAEConfig
from world_models.vae.fast import forms
from world_models.vae.model import VAE
from world_models.vae.noise import Draws

torch._dynamo.config.trace_autograd_ops = True
# PyTorch never compiles its fused Adam, and breaks the graph around the step of each optimizer on purpose.
torch._dynamo.eval_frame.TorchPatcher.patch()
adam = sys.modules["torch.optim.adam"]
adam._fused_adam = adam._fused_adam._torchdynamo_orig_callable
torch._dynamo.graph_break = lambda: None
forms.choose = lambda device: "rewritten"  # as on a GPU
held, labels = torch.randint(0, 256, (20, 64, 64, 3), dtype=torch.uint8), torch.zeros(20, dtype=torch.int64)
index, cpu, backend = torch.tensor([3, 11, 7, 0]), torch.device("cpu"), sys.argv[1]

def trained(compile):
    torch.manual_seed(0)
    learner = Learner(VAE(VAEConfig(3, variance=None)), 0, 1.0, False)
    def find_gradient(index, beta_share):
        eps = philox.normal(0, 5, 1, 4, 3, cpu)[0]
        frames = held.index_select(0, index)
        return learner.find_gradient(frames, labels.index_select(0, index), 4, Draws(eps, None), beta_share)
    def descend(error, lr, variance):
        learner.descend(error, Rates(lr, 0.0, variance))
    lr, beta_share, variance = torch.tensor(1e-3), torch.tensor(0.5), torch.tensor(0.05)
    descend(find_gradient(index, beta_share)[1], lr, variance)  # Adam makes its state
    first, second = compile(find_gradient, backend), compile(descend, "eager")
    for _ in range(3):
        sums, error = first(index, beta_share)
        second(error, lr, variance)
    return torch.cat([weight.detach().flatten() for weight in learner.vae.parameters()]), learner.vae.variance, sums

compiled = trained(lambda function, backend: torch.compile(function, fullgraph=True, backend=backend))
for ours, plain in zip(compiled, trained(lambda function, backend: function)):
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)
print("no breaks")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_gathering_noise_gradient_and_adam_are_compiled_without_breaks(backend: str):
    if not hasattr(pytest.importorskip("torch._dynamo.config"), "trace_autograd_ops"):
        pytest.skip("this PyTorch traces no backward pass")
    # In a process of its own, because the tests' checks of types and shapes would be traced, too.
    result = subprocess.run([sys.executable, "-c", FULL_GRAPH, backend], capture_output=True, text=True)
    assert result.stdout == "no breaks\n", result.stderr
