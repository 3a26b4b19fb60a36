"""What limits a stage: the matrix products of its layers, and copies of its frames."""

import pytest
import torch

from world_models.bench import limits, measuring
from world_models.bench.result import GFLOP_PER_FRAME, Limit
from world_models.vae.networks import Decoder, Encoder

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("stage", ["train", "encode"])
def test_the_products_of_the_layers_are_all_multiplications_of_a_frame(stage: str):
    gflop = sum(2 * rows * inputs * outputs for rows, inputs, outputs in limits.shapes_of(stage)) / 1e9
    assert gflop == pytest.approx(GFLOP_PER_FRAME[stage], rel=0.003)


def test_the_layers_have_the_weights_of_the_networks():
    for layers, network in ((limits.ENCODER, Encoder(32)), (limits.DECODER, Decoder(32))):
        weights = sum(weight.numel() for weight in network.parameters() if weight.ndim > 1)
        assert sum(layer.inputs * layer.outputs for layer in layers) == weights


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of the next pieces of work."""
    taken: list[float] = []
    monkeypatch.setattr(limits, "seconds_of", lambda work, device: work() is None or taken.pop(0))
    monkeypatch.setattr(limits, "REPEATS", 2)
    return taken


def test_copies_are_counted_in_frames_per_second(monkeypatch: pytest.MonkeyPatch, seconds: list[float]):
    monkeypatch.setattr(limits, "COPIED_BYTES", 12_288 * 3)
    seconds += [0.5, 0.25, 2.0, 1.0]
    assert limits.memory_limit("load", CPU) == Limit("memory copy", 12)
    assert limits.pcie_limit("load", CPU) == Limit("PCIe copy", 3)


def test_the_limit_of_the_layers_is_the_sum_of_their_fastest_products(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float]
):
    monkeypatch.setattr(limits, "GEMM_FRAMES", {"encode": 2})
    seconds += [0.2, 0.1] * len(limits.ENCODER)
    assert limits.layers_limit("encode", CPU).frames_per_s == pytest.approx(2 / (0.1 * 5))


@pytest.mark.parametrize(
    ("stage", "variant", "name"),
    [
        ("load", "resident", "memory"),
        ("load", "streamed", "pcie"),
        ("train", "batch_256", "layers"),
        ("train", "batch_64_from_shards", "pcie"),
        ("encode", "resident", "layers"),
        ("encode", "h5_to_h5", "pcie"),
        ("read", "blocks", None),
    ],
)
def test_on_a_gpu_a_variant_has_its_lowest_limit(
    monkeypatch: pytest.MonkeyPatch, stage: str, variant: str, name: str | None
):
    rates = {"layers": 3.0, "memory": 2.0, "pcie": 1.0}
    measures = {key: lambda stage, device, key=key: Limit(key, rates[key]) for key in rates}
    monkeypatch.setattr(limits, "MEASURES", measures)
    found = limits.of_variant(stage, variant, GPU)
    assert (found.name if found else None) == name


def test_on_a_cpu_the_limit_is_a_large_matrix_product(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "gemm_gflop_per_s", lambda device, dtype: 10.0)
    assert limits.of_variant("encode", "resident", CPU) == Limit("GEMM", 10 / GFLOP_PER_FRAME["encode"])
    assert limits.of_variant("load", "resident", CPU) is None
    assert measuring.gemm_gflop_per_s(CPU, torch.float32, 16) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("stage", "variant"), [("load", "resident"), ("load", "streamed"), ("train", ""), ("encode", "")]
)
def test_the_limits_of_a_gpu_are_measured(stage: str, variant: str):
    found = limits.of_variant(stage, variant, GPU)
    assert found and found.frames_per_s > 1000
