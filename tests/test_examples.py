"""The examples run as they are told to, at a small scale."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parent.parent / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def memory_model() -> ModuleType:
    return _load("memory_model")


@pytest.fixture(scope="module")
def written(
    memory_model: ModuleType,
    latents_dir: Path,
    rollouts_dir: Path,
    run_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What two epochs leave."""
    out = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_model, "SEEN", 5)
        memory_model.main(
            f"--latents {latents_dir} --heldout {latents_dir} --rollouts {rollouts_dir} --vae {run_dir} --out {out} "
            "--epochs 2 --length 10".split()
        )
    return out


def test_memory_model_is_saved_with_the_papers_256_units(written: Path):
    assert load_file(written / "memory.safetensors")["lstm.weight_hh_l0"].shape == (4 * 256, 256)


def test_a_dream_is_shown_beside_the_real_and_the_reconstructed_frames(written: Path, rollouts_dir: Path):
    from world_models import Rollouts

    with Image.open(written / "dream.gif") as gif:
        assert gif.size == (3 * 256, 256)
        assert gif.n_frames == 35  # pyright: ignore[reportAttributeAccessIssue]
        first = np.asarray(gif.convert("RGB"), np.int64)[::4, :256:4]
    assert np.abs(first - Rollouts(rollouts_dir)[0].frames[5]).mean() < 8  # of 255; a GIF has 256 colours


def test_likelihoods_are_of_a_memory_beside_baselines(memory_model: ModuleType, latents_dir: Path):
    from world_models import LatentSequences

    sequences = LatentSequences(latents_dir, 10)
    torch.manual_seed(0)
    found = memory_model.score(memory_model.MDNRNN(32, 3), sequences, sequences)
    assert list(found) == ["memory model", "z stays, with normal noise", "z is anything that occurs"]
    assert all(np.isfinite(nats) for nats in found.values())


def test_a_dream_follows_the_actions_and_no_frame_after_its_start(memory_model: ModuleType):
    torch.manual_seed(0)
    model, mu, actions = memory_model.MDNRNN(4, 2), torch.randn(80, 4), torch.randn(80, 2)
    hidden = torch.cat([mu[: memory_model.SEEN], torch.full((30, 4), 9.0)])
    first, again = (memory_model.dream(model, seen, actions, 20) for seen in (mu, hidden))
    assert torch.equal(first, again)
    assert not torch.equal(first, memory_model.dream(model, mu, -actions, 20))
