"""Weights are prepared once for a network, and again after every kind of change."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from world_models.vae.config import VAEConfig
from world_models.vae.fast.prepared import PreparedOnce
from world_models.vae.model import VAE

pytestmark = pytest.mark.usefixtures("one_thread")


class Counted:
    """Prepares the sum of a layer's weights, and counts how often."""

    def __init__(self):
        self.count = 0
        self.once = PreparedOnce(self.prepare, lambda layer: [layer.weight, layer.bias])

    def prepare(self, layer: nn.Linear) -> Tensor:
        self.count += 1
        return layer.weight.sum() + layer.bias.sum()

    def __call__(self, layer: nn.Linear) -> float:
        return float(self.once(layer))


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(5, 7)


def _sum(layer: nn.Linear) -> float:
    with torch.no_grad():
        return float(layer.weight.sum() + layer.bias.sum())


def test_weights_that_do_not_change_are_prepared_once(counted: Counted, layer: nn.Linear):
    assert {counted(layer) for _ in range(5)} == {_sum(layer)}
    assert counted.count == 1


def test_each_network_has_its_own_prepared_weights(counted: Counted, layer: nn.Linear):
    other = nn.Linear(5, 7)
    assert [counted(one) for one in (layer, other, layer, other)] == [_sum(layer), _sum(other)] * 2
    assert counted.count == 2


def _optimizer_step(optimizer: type[torch.optim.Optimizer], **options: Any) -> Callable[[nn.Linear], None]:
    def step(layer: nn.Linear) -> None:
        layer(torch.ones(1, 5)).sum().backward()
        optimizer(layer.parameters(), **options).step()

    return step


def _in_place(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight[3, 2] += 1


def _in_inference_mode(layer: nn.Linear) -> None:
    with torch.inference_mode():
        layer.weight.mul_(2)


def _new_parameter(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() * 2)


def _numpy(layer: nn.Linear) -> None:
    layer.weight.detach().numpy()[:] *= 2


def _swapped_data(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data * 2


def _swapped_data_there_and_back(layer: nn.Linear) -> None:
    """New memory is allocated so often that an old address is used again."""
    for _ in range(20):
        layer.weight.data = layer.weight.data * 1.1


def _transposed_data(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data[:, :4]


CHANGES = {
    "sgd": _optimizer_step(torch.optim.SGD, lr=0.1),
    "adam_foreach": _optimizer_step(torch.optim.Adam, lr=0.1, foreach=True),
    "adam_fused": _optimizer_step(torch.optim.Adam, lr=0.1, fused=True),
    "load_state_dict": lambda layer: layer.load_state_dict({"weight": torch.ones(7, 5), "bias": torch.ones(7)}),
    "load_state_dict_assign": lambda layer: layer.load_state_dict(
        {"weight": torch.ones(7, 5), "bias": torch.ones(7)}, assign=True
    ),
    "one number in place": _in_place,
    "in inference mode": _in_inference_mode,
    "a new parameter": _new_parameter,
    "another .data": _swapped_data,
    "many other .data": _swapped_data_there_and_back,
    "a view as .data": _transposed_data,
    ".data in place": lambda layer: layer.weight.data.mul_(2),
    "bias.data in place": lambda layer: layer.bias.data.add_(1),
    "by numpy": _numpy,
    "to float64": lambda layer: layer.double(),
    "to float64 and back, changed": lambda layer: layer.double().apply(_in_place).float(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_weights_are_prepared_again(counted: Counted, layer: nn.Linear, change: Callable[[nn.Linear], Any]):
    before = counted(layer)
    change(layer)
    assert counted(layer) == _sum(layer) != before


def test_weights_that_are_changed_through_shared_memory_are_prepared_again(counted: Counted, layer: nn.Linear):
    layer.share_memory()
    counted(layer)
    owner = torch.empty(0).set_(layer.weight.detach().untyped_storage(), 0, (7, 5))  # type: ignore[call-overload]
    owner.mul_(2)
    assert counted(layer) == _sum(layer)


def test_weights_that_are_moved_to_shared_memory_are_still_used_correctly(counted: Counted, layer: nn.Linear):
    before = counted(layer)
    layer.share_memory()
    assert counted(layer) == before == _sum(layer)


def test_weights_that_change_during_the_preparation_are_prepared_again(layer: nn.Linear):
    class Disturbed(Counted):
        def prepare(self, layer: nn.Linear) -> Tensor:
            prepared = super().prepare(layer)
            if self.count == 1:
                _in_place(layer)
            return prepared

    counted = Disturbed()
    counted(layer)
    assert counted(layer) == _sum(layer)


def test_weights_without_a_count_of_changes_are_prepared_each_time(counted: Counted):
    with torch.inference_mode():
        layer = nn.Linear(5, 7)
        counted(layer)
        layer.weight[3, 2] += 1
        assert counted(layer) == _sum(layer)


def test_weights_of_nan_are_prepared_once(counted: Counted, layer: nn.Linear):
    with torch.no_grad():
        layer.weight.fill_(torch.nan)
    counted(layer)
    counted(layer)
    assert counted.count == 1


def test_changes_of_a_parametrised_weight_are_noticed(counted: Counted, layer: nn.Linear):
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    before = counted(layer)
    nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    assert counted(layer) == _sum(layer) != before


def test_a_deleted_network_frees_its_prepared_weights(counted: Counted):
    layer = nn.Linear(5, 7)
    counted(layer)
    weight = weakref.ref(layer.weight)
    del layer
    gc.collect()
    assert weight() is None


def test_many_threads_can_ask_for_prepared_weights_at_the_same_time(counted: Counted, layer: nn.Linear):
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(counted, [layer] * 200)) == {_sum(layer)}


# the V model


FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(z_dim=4))
    vae.encode(FRAMES)
    vae.decode(torch.zeros(1, 4))
    return vae


def _assert_as_the_definition(vae: VAE) -> None:
    """Encode and decode give the same as the layers of the definition."""
    with torch.no_grad():
        mu, logvar = vae.paper[0](torch.from_numpy(FRAMES).permute(0, 3, 1, 2).to(vae.encoder.mu.weight.dtype) / 255)
        images = vae.paper[1](mu).sigmoid().permute(0, 2, 3, 1) * 255
    found = vae.encode(FRAMES)
    torch.testing.assert_close(found.mu, mu)
    torch.testing.assert_close(found.logvar, logvar)
    assert (vae.decode(mu) - images).abs().max() <= 0.5 + 1e-3


def test_a_trained_model_encodes_and_decodes_with_its_new_weights(vae: VAE):
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01)
    vae.objective(torch.rand(2, 3, 64, 64), torch.randn(2, 4)).loss_nats.sum().backward()
    optimizer.step()
    _assert_as_the_definition(vae)


def test_after_loading_weights_the_model_encodes_and_decodes_with_them(vae: VAE):
    vae.load_state_dict(VAE(VAEConfig(z_dim=4)).state_dict())
    _assert_as_the_definition(vae)


def test_a_model_in_double_precision_is_prepared_again(vae: VAE):
    _assert_as_the_definition(vae.double())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda vae: pickle.loads(pickle.dumps(vae))], ids=["copy", "pickle"])
def test_a_copy_uses_its_own_weights(vae: VAE, copied: Callable[[VAE], VAE]):
    other = copied(vae)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    _assert_as_the_definition(other)
    _assert_as_the_definition(vae)


def test_prepared_weights_are_not_saved_with_the_model(vae: VAE):
    fresh = VAE(VAEConfig(z_dim=4))
    assert vae.state_dict().keys() == fresh.state_dict().keys()
    assert len(pickle.dumps(vae)) == pytest.approx(len(pickle.dumps(fresh)), rel=1e-3)


def test_gradients_do_not_depend_on_earlier_encoding(vae: VAE):
    fresh = VAE(VAEConfig(z_dim=4))
    fresh.load_state_dict(vae.state_dict())
    images, noise = torch.rand(2, 3, 64, 64), torch.randn(2, 4)
    for model in (vae, fresh):
        model.objective(images, noise).loss_nats.sum().backward()
    for ours, theirs in zip(vae.parameters(), fresh.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


def test_z_can_be_the_input_of_a_model_in_training(vae: VAE):
    """It is a plain tensor, also where the weights were prepared in inference mode."""
    fresh = VAE(VAEConfig(z_dim=4))
    with torch.inference_mode():
        fresh.encode(FRAMES)
    controller = nn.Linear(4, 3)
    controller(fresh.encode(FRAMES).mu).sum().backward()
    assert controller.weight.grad is not None


def test_decoded_frames_do_not_change_later(vae: VAE):
    first = vae.logits(torch.zeros(2, 4)).detach()
    with torch.no_grad():
        kept = vae.logits(torch.zeros(2, 4))
        vae.logits(torch.ones(2, 4))
    torch.testing.assert_close(kept, first)


def test_many_threads_encode_with_the_same_prepared_weights(vae: VAE):
    expected = vae.encode(FRAMES).mu
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found.mu, expected) for found in pool.map(vae.encode, [FRAMES] * 16))
