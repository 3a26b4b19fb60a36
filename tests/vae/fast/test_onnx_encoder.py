"""The encoder by ONNX Runtime gives PyTorch's results."""

import sys

import pytest
import torch

from world_models.runtime import threads
from world_models.vae.fast import onnx_encoder
from world_models.vae.networks import Encoder

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")


def _frames(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("z_dim", [1, 32])
@pytest.mark.parametrize("batch", [1, 7])
def test_mu_and_logvar_equal_those_of_the_definition(z_dim: int, batch: int):
    torch.manual_seed(0)
    encoder, frames = Encoder(z_dim), _frames(batch)
    with torch.no_grad():
        expected = encoder(frames.permute(0, 3, 1, 2) / 255)
    for ours, theirs in zip(onnx_encoder.encoder_of_frames(encoder)(frames), expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_many_threads_can_encode_at_the_same_time():
    torch.manual_seed(0)
    encode = onnx_encoder.encoder_of_frames(Encoder(4))
    parts = _frames(24).split(8)
    alone = [encode(part)[0] for part in parts]
    with threads.pool(3) as pool:
        together = [mu for mu, _ in pool.map(encode, parts)]
    assert all(map(torch.equal, alone, together))


def test_the_graph_is_a_valid_onnx_model():
    import onnx

    onnx.checker.check_model(onnx.load_from_string(onnx_encoder.graph(Encoder(3))), full_check=True)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_reported_with_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ValueError, match=r"backend onnx needs onnx and onnxruntime; pip install 'world_models\[onnx\]'"
    ):
        onnx_encoder.check()
