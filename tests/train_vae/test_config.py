"""A training run's settings: bounds, schedules, precision."""

import contextlib
import dataclasses
import math
from typing import Any

import pytest
import torch

from world_models.train_vae.config import TrainConfig
from world_models.vae.config import VAEConfig


def _config(**changes: Any) -> TrainConfig:
    return TrainConfig(**({"num_frames": 1100, "lr": 0.5, "lr_warmup_frames": 100} | changes))


@pytest.mark.parametrize(
    ("schedule", "seen", "lr"),
    [
        ("cosine", 0, 0.5 / 101),
        ("cosine", 50, 0.5 * 51 / 101),
        ("cosine", 100, 0.5),
        ("cosine", 350, 0.25 * (1 + math.cos(math.pi / 4))),
        ("cosine", 600, 0.25),
        ("cosine", 1100, 0.0),
        ("constant", 50, 0.5 * 51 / 101),
        ("constant", 100, 0.5),
        ("constant", 1100, 0.5),
    ],
)
def test_learning_rate_warms_up_and_then_follows_its_schedule(schedule: Any, seen: int, lr: float):
    assert _config(schedule=schedule).lr_at(seen) == pytest.approx(lr, abs=1e-12)


@pytest.mark.parametrize("seen", [0, 5, 10])
def test_without_a_warm_up_the_learning_rate_starts_at_its_maximum(seen: int):
    assert _config(lr_warmup_frames=0, schedule="constant").lr_at(seen) == 0.5


@pytest.mark.parametrize(
    ("warmup", "seen", "share"), [(0, 0, 1.0), (99, 0, 0.01), (99, 49, 0.5), (99, 99, 1.0), (99, 500, 1.0)]
)
def test_beta_rises_linearly_over_its_warm_up(warmup: int, seen: int, share: float):
    assert _config(beta_warmup_frames=warmup).beta_share_at(seen) == pytest.approx(share)


class StandInGpu:
    """Answers for a GPU as PyTorch does."""

    def __init__(self, native: bool):
        self.native = native

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return self.native or including_emulation

    def device(self, device: torch.device) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def get_device_name(self, device: torch.device) -> str:
        return "Tesla T4"


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU, with bfloat16 in hardware or not."""
    stand_in = StandInGpu(request.param)
    for name in ("is_bf16_supported", "device", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, getattr(stand_in, name))
    return torch.device("cuda")


@pytest.mark.parametrize(
    ("precision", "gpu", "on"),
    [("auto", True, True), ("bfloat16", True, True), ("float32", True, False), ("auto", False, False)],
    indirect=["gpu"],
)
def test_a_gpu_with_bfloat16_uses_it_by_default(precision: Any, gpu: torch.device, on: bool):
    assert _config(precision=precision).bf16_on(gpu) is on


@pytest.mark.parametrize("gpu", [False], indirect=True)
def test_bfloat16_on_a_gpu_that_only_emulates_it_is_refused(gpu: torch.device):
    with pytest.raises(ValueError, match="precision is bfloat16, which Tesla T4 only emulates; give auto or float32"):
        _config(precision="bfloat16").bf16_on(gpu)


@pytest.mark.parametrize(("precision", "on"), [("auto", False), ("bfloat16", True), ("float32", False)])
def test_a_cpu_uses_bfloat16_only_if_asked_for(precision: Any, on: bool):
    assert _config(precision=precision).bf16_on(torch.device("cpu")) is on


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_frames", 0),
        ("batch_size", 0),
        ("shuffle_frames", 0),
        ("val_every_frames", -1),
        ("num_val_frames", 0),
        ("log_every_steps", 0),
        ("lr_warmup_frames", -1),
        ("beta_warmup_frames", -1),
        ("seed", -1),
        ("seed", 2**63),
        ("split_seed", -1),
        ("grad_clip", -0.5),
        ("grad_clip", math.nan),
        ("lr", 0.0),
        ("lr", math.inf),
        ("memory_gb", 0.0),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_fields_name(field: str, value: Any):
    with pytest.raises(ValueError, match=f"^{field} is {value}; give"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    "name",
    [
        *("num_frames", "batch_size", "shuffle_frames", "val_every_frames", "num_val_frames", "log_every_steps"),
        *("lr_warmup_frames", "beta_warmup_frames", "split_seed", "seed"),
    ],
)
def test_an_absurdly_large_number_is_refused(name: str):
    with pytest.raises(ValueError, match=f"^{name} is 1{'0' * 30}; give "):
        dataclasses.replace(TrainConfig(), **{name: 10**30})


def test_an_absurdly_large_memory_is_refused():
    with pytest.raises(ValueError, match=r"^memory_gb is 1e\+300; give 1,000,000,000,000 at most$"):
        TrainConfig(memory_gb=1e300)


def test_an_absurdly_large_number_of_samples_is_refused():
    with pytest.raises(ValueError, match=r"^vae\.num_samples is 1000000; give 1,000 at most$"):
        VAEConfig(num_samples=10**6)
