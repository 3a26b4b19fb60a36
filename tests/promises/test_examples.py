"""The examples run as described, at a small scale."""

import argparse
import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from world_models.runtime import workers

EXAMPLES = Path(__file__).parents[2] / "examples"


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
    """The files after two epochs of training."""
    out = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_model, "SEEN", 5)
        memory_model.main(
            f"--latents {latents_dir} --heldout {latents_dir} --rollouts {rollouts_dir} --vae {run_dir} --out {out} "
            "--epochs 2 --length 10".split()
        )
    return out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--latents", "missing: no such file or folder"),
        ("--heldout", "missing: no such file or folder"),
        ("--rollouts", "missing: no such file or folder"),
        ("--vae", "missing: no trained model in it"),
    ],
)
def test_bad_input_to_a_memory_model_ends_in_a_line_and_status_2_before_work(
    memory_model: ModuleType,
    latents_dir: Path,
    rollouts_dir: Path,
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    message: str,
):
    monkeypatch.setattr(memory_model, "SEEN", 5)
    given = {"--latents": latents_dir, "--heldout": latents_dir, "--rollouts": rollouts_dir, "--vae": run_dir}
    given |= {option: tmp_path / "missing", "--out": tmp_path / "out", "--length": 10}
    with pytest.raises(SystemExit) as ended:
        memory_model.main([str(word) for pair in given.items() for word in pair])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()


def test_a_held_out_episode_too_short_to_dream_is_refused_before_work(
    memory_model: ModuleType, latents_dir: Path, rollouts_dir: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        memory_model.main(
            f"--latents {latents_dir} --heldout {latents_dir} --rollouts {rollouts_dir} --vae {run_dir} "
            "--length 10".split()
        )
    assert "has 40 steps, a dream begins after 50" in capsys.readouterr().err


def test_the_memory_model_is_saved_with_the_papers_256_units(written: Path):
    assert load_file(written / "memory.safetensors")["lstm.weight_hh_l0"].shape == (4 * 256, 256)


def test_a_dream_is_shown_next_to_the_real_and_the_reconstructed_frames(written: Path, rollouts_dir: Path):
    from world_models import Rollouts

    with Image.open(written / "dream.gif") as gif:
        assert gif.size == (3 * 256, 256)
        assert gif.n_frames == 35  # pyright: ignore[reportAttributeAccessIssue]
        first = np.asarray(gif.convert("RGB"), np.int64)[::4, :256:4]
    assert np.abs(first - Rollouts(rollouts_dir)[0].frames[5]).mean() < 8  # of 255; a GIF has 256 colours


def test_likelihoods_of_a_memory_model_and_its_baselines_are_finite(memory_model: ModuleType, latents_dir: Path):
    from world_models import LatentSequences

    sequences = LatentSequences(latents_dir, 10)
    torch.manual_seed(0)
    found = memory_model.score(memory_model.MDNRNN(32, 3), sequences, sequences)
    assert list(found) == ["memory model", "z stays, with normal noise", "z is anything that occurs"]
    assert all(np.isfinite(nats) for nats in found.values())


def test_a_memory_model_reads_discrete_actions_as_one_hot_columns(
    memory_model: ModuleType,
    latents_dir: Path,
    rollouts_dir: Path,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(memory_model, "SEEN", 5)
    shutil.copytree(latents_dir, tmp_path / "latents")
    for path in (tmp_path / "latents").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            rows = len(file["rewards"])  # type: ignore[arg-type]
            del file["actions"]
            file.create_dataset("actions", data=np.arange(rows, dtype=np.float32)[:, None] % 4)
            file.attrs["action_space"] = '{"type": "Discrete", "n": 4, "start": 0}'
    latents, out = tmp_path / "latents", tmp_path / "out"
    memory_model.main(
        f"--latents {latents} --heldout {latents} --rollouts {rollouts_dir} --vae {run_dir} --out {out} "
        "--epochs 1 --length 10".split()
    )
    assert load_file(out / "memory.safetensors")["lstm.weight_ih_l0"].shape == (4 * 256, 32 + 4)


def test_a_dream_depends_on_the_actions_and_on_no_frame_after_its_start(memory_model: ModuleType):
    torch.manual_seed(0)
    model, mu, actions = memory_model.MDNRNN(4, 2), torch.randn(80, 4), torch.randn(80, 2)
    hidden = torch.cat([mu[: memory_model.SEEN], torch.full((30, 4), 9.0)])
    first, again = (memory_model.dream(model, seen, actions, 20) for seen in (mu, hidden))
    assert torch.equal(first, again)
    assert not torch.equal(first, memory_model.dream(model, mu, -actions, 20))


@pytest.fixture(scope="module")
def controller() -> Iterator[ModuleType]:
    """The example, with episodes and tracks that take a second. Its processes import it by name."""
    pytest.importorskip("cma", reason="CMA-ES is not installed; pip install cma")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)  # it imports memory_model
        module = _load("controller")
        patch.setitem(sys.modules, "controller", module)
        patch.setattr(module, "MAX_STEPS", 6)
        patch.setattr(module, "CHOICE", range(20_000_000, 20_000_001))
        patch.setattr(module, "TEST", range(30_000_000, 30_000_002))
        threads = torch.get_num_threads()
        yield module
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def search(
    controller: ModuleType, written: Path, run_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Runs the example for so many generations."""

    def run(generations: int, out: Path | None = None, more: str = "") -> Path:
        out = out or tmp_path_factory.mktemp("controller")
        controller.main(
            f"--vae {run_dir} --memory {written / 'memory.safetensors'} --out {out} --generations {generations} "
            f"--population 4 --tracks 1 --processes 1 {more}".split()
        )
        return out

    return run


@pytest.fixture(scope="module")
def found(search: Callable[..., Path]) -> Path:
    """The files after two generations of a search."""
    return search(2)


@pytest.mark.slow
def test_a_controller_is_linear_on_z_and_h(found: Path):
    controller = load_file(found / "controller.safetensors")
    assert {name: tensor.shape for name, tensor in controller.items()} == {"weight": (3, 32 + 256), "bias": (3,)}


@pytest.mark.slow
def test_a_search_that_continues_with_more_processes_finds_the_same_as_an_uninterrupted_one(
    search: Callable[..., Path], found: Path, capsys: pytest.CaptureFixture[str]
):
    resumed = search(2, search(1), "--processes 2")
    for name in ("search.json", "controller.safetensors"):
        assert (resumed / name).read_bytes() == (found / name).read_bytes()
    assert re.search(r"on 2 new tracks: return -?\d+\.\d, std \d+\.\d\n$", capsys.readouterr().out)


def _evolved(controller: ModuleType, out: Path, generations: int, score: Callable[..., np.ndarray]) -> dict[str, Any]:
    """A search for three weights, whose returns are given."""
    args = argparse.Namespace(out=out, generations=generations, population=4, tracks=1, seed=0)
    search = {"settings": {}, "generations": []}
    controller.evolve(args, 3, search, score)
    return search


@pytest.mark.parametrize(("second", "kept"), [(4.0, True), (6.0, False)])
def test_the_best_centre_of_a_search_is_kept(controller: ModuleType, tmp_path: Path, second: float, kept: bool):
    def scores(centres: list[float]) -> Callable[..., np.ndarray]:
        remaining = iter(centres)
        return lambda controllers, tracks: np.arange(4.0) if len(controllers) == 4 else np.array([next(remaining)])

    _evolved(controller, tmp_path, 1, scores([5.0]))
    first = (tmp_path / "controller.safetensors").read_bytes()
    _evolved(controller, tmp_path, 2, scores([5.0, second]))
    assert ((tmp_path / "controller.safetensors").read_bytes() == first) == kept


def test_a_search_finds_higher_returns(controller: ModuleType, tmp_path: Path):
    def score(controllers: list[np.ndarray], tracks: object) -> np.ndarray:
        return np.array([-((parameters - 0.1) ** 2).sum() for parameters in controllers])

    generations = _evolved(controller, tmp_path, 30, score)["generations"]
    assert generations[-1]["centre"] > generations[0]["centre"]


def test_a_controller_reads_the_memory_models_state_after_the_previous_steps(
    controller: ModuleType, written: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    car = controller.Car(str(run_dir), str(written / "memory.safetensors"), 5)
    z, actions, step = [], [], car.env.step

    def recorded(action: np.ndarray) -> Any:
        result = step(action)
        z.append(result[0])
        actions.append(action)
        return result

    monkeypatch.setattr(car.env, "step", recorded)
    weights = np.zeros((3, 32 + 256 + 1))
    weights[0, 32] = 1  # steering is tanh of the first number of h
    car.drive(weights.ravel(), 0)
    first, _ = car.env.reset(seed=0)
    inputs = np.concatenate([np.stack([first, *z[:-1]]), np.stack(actions)], 1)
    h, _ = car.memory.lstm(torch.from_numpy(inputs))
    steering = np.stack(actions)[:, 0]
    assert steering[0] == 0
    np.testing.assert_allclose(steering[1:], h[:-1, 0].tanh().detach().numpy(), rtol=1e-4)


def test_without_a_memory_model_a_controller_reads_only_z(controller: ModuleType, run_dir: Path):
    car = controller.Car(str(run_dir), None, 5)
    assert car.num_parameters == 3 * 33
    assert np.isfinite(car.drive(np.zeros(car.num_parameters), 0))


def test_a_car_that_reaches_no_tile_is_stopped_and_loses_the_reward_of_the_remaining_time(
    controller: ModuleType, run_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    car = controller.Car(str(run_dir), None, 60)
    still = np.zeros((3, 33))
    still[:, -1] = 0, -9, 9  # no gas, full brake
    whole = car.drive(still.ravel(), 0)
    steps, step = [], car.env.step
    monkeypatch.setattr(car.env, "step", lambda action: steps.append(action) or step(action))
    monkeypatch.setattr(controller, "PATIENCE", 4)
    assert car.drive(still.ravel(), 0) == pytest.approx(whole)
    assert len(steps) < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--seed 1", "search.json has the settings .*'seed': 0.*; give the same, or choose another --out"),
        ("--vae missing", "missing: no trained model in it"),
        ("--memory missing", "No such file or directory"),
        ("--population 3", "population must be 4 or more"),
    ],
)
def test_bad_input_to_a_search_ends_in_a_line_and_status_2(
    search: Callable[..., Path],
    found: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: str,
    message: str,
):
    before = (found / "search.json").read_bytes()
    with pytest.raises(SystemExit) as ended:
        search(3, found if "seed" in options else tmp_path / "new", options)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert (found / "search.json").read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_ctrl_c_ends_a_search_in_a_line_that_says_how_to_continue(
    controller: ModuleType,
    search: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(controller, "evolve", interrupted)
    with pytest.raises(SystemExit) as ended:
        search(1)
    assert ended.value.code == 130
    assert capsys.readouterr().err.endswith(": stopped; the same command continues\n")


@pytest.mark.slow
def test_the_driver_of_a_cluster_is_measured(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(workers, "TASKS_OF_A_WORKER", workers.TASKS_OF_A_WORKER)  # restored after the example
    _load("ray_driver").main(["--items", "20", "--in_flight", "4", "--shards", "2", "--megabytes", "1"])
    items, shards = capsys.readouterr().out.splitlines()
    assert float(items.split(" ms ")[0]) > 0 and items.endswith("for each item without work")
    assert float(shards.split(" ms ")[0]) > 0 and shards.endswith("for each shard of 1 MB")
