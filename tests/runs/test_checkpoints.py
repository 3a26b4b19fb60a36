"""Models on disk: a loaded model equals the saved one, and everything else is refused."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch

from world_models.runs import checkpoints, description, layout, provenance
from world_models.runs.checkpoints import load_tensors, load_vae
from world_models.runs.description import TrainedOn
from world_models.runtime import files
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE

PREPROCESS = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}


def _save(run: Path, vae: VAE, step: int = 0) -> Path:
    run.mkdir(parents=True, exist_ok=True)
    for weights in ("best", "last"):
        checkpoints.save_vae(layout.weights_path(run, weights), vae)
    checkpoints.save_description(run, vae, TrainedOn("rollouts", "rollouts/x", "digest"), step)
    return run


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(z_dim=4, beta=2.0, likelihood="bernoulli"), PREPROCESS)


@pytest.fixture
def run(vae: VAE, tmp_path: Path) -> Path:
    return _save(tmp_path / "run", vae)


def _describe(run: Path, **changes: Any) -> None:
    path = run / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("weights", ["best", "last"])
def test_a_loaded_model_encodes_like_the_saved_one(vae: VAE, run: Path, weights: Any):
    saved, loaded = vae.encode(_frames()), load_vae(run, weights).encode(_frames())
    assert torch.equal(saved.mu, loaded.mu)
    assert torch.equal(saved.logvar, loaded.logvar)


def test_a_loaded_model_has_its_config_and_preprocessing(vae: VAE, run: Path):
    loaded = load_vae(run)
    assert (loaded.config, loaded.preprocess) == (vae.config, PREPROCESS)


def test_loaded_model_is_ready_to_use(run: Path):
    assert not load_vae(run).training


def test_load_vae_is_a_public_name(run: Path):
    import world_models

    assert world_models.load_vae(str(run)).config.z_dim == 4


def test_best_and_last_weights_are_separate_files(vae: VAE, run: Path):
    torch.nn.init.zeros_(vae.encoder.mu.weight)
    checkpoints.save_weights(layout.weights_path(run, "best"), vae.state_dict())
    best, last = (load_vae(run, weights).encoder.mu.weight.abs().max() for weights in ("best", "last"))
    assert best == 0
    assert last > 0


@pytest.mark.parametrize(("weights", "name"), [("best", "best.safetensors"), ("last", "model.safetensors")])
def test_weights_have_their_documented_file_names(weights: Any, name: str):
    assert layout.weights_path("runs/vae", weights) == Path("runs/vae") / name


def test_description_holds_what_the_model_was_trained_on_and_how_long(vae: VAE, tmp_path: Path):
    found = description.load(_save(tmp_path / "run", vae, step=7))
    assert (found.trained_on.data, found.step) == ("rollouts/x", 7)


def test_the_description_has_the_format_name_that_readers_expect(run: Path):
    described = json.loads((run / "model.json").read_text())
    assert (described["format"], described["architecture"]) == ("world_models.vae", "conv_vae")


def test_the_description_names_the_versions_that_made_it(run: Path):
    assert description.load(run).versions == files.versions()


def test_tensors_that_are_not_contiguous_can_be_saved(tmp_path: Path):
    tensor = torch.arange(6.0).reshape(2, 3)
    checkpoints.save_weights(tmp_path / "x.safetensors", {"x": tensor.T})
    assert torch.equal(load_tensors(tmp_path / "x.safetensors")["x"], tensor.T)


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, make: bool):
    if make:
        (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"run: no trained model in it .* name the --out of a train_vae run"):
        load_vae(tmp_path / "run")


@pytest.mark.parametrize(("weights", "name"), [("best", "best.safetensors"), ("last", "model.safetensors")])
def test_missing_weights_are_refused_by_name(run: Path, weights: Any, name: str):
    (run / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
        load_vae(run, weights)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "{}", '{"format": "world_models.vae"}', "\x00"])
def test_a_damaged_description_is_refused(run: Path, text: str):
    (run / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json: not a description of a model; name the --out"):
        load_vae(run)


def test_a_description_that_is_no_text_is_refused(run: Path):
    (run / "model.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"model\.json: not a description of a model"):
        load_vae(run)


@pytest.mark.parametrize("changes", [{"architecture": "transformer"}, {"format": "diamond.denoiser"}])
def test_another_architecture_is_refused_by_name(run: Path, changes: dict[str, str]):
    _describe(run, **changes)
    with pytest.raises(ValueError, match=rf"a model of .*{next(iter(changes.values()))}.*, wanted world_models\.vae"):
        load_vae(run)


@pytest.mark.parametrize("described", [None, 3, [], {"depth": 4}, {"z_dim": "many"}, {"z_dim": 0}])
def test_a_description_of_no_model_is_refused(run: Path, described: Any):
    _describe(run, vae=described)
    with pytest.raises(ValueError, match=r"not a description of a model|give 1 or more"):
        load_vae(run)


def test_a_description_without_preprocessing_is_refused(run: Path):
    described = json.loads((run / "model.json").read_text())
    del described["preprocess"]
    (run / "model.json").write_text(json.dumps(described))
    with pytest.raises(
        ValueError, match=r"not a description of a model \(preprocess is missing, or is not an object\)"
    ):
        load_vae(run)


def test_weights_of_another_shape_are_refused_by_the_tensors_name(run: Path):
    _describe(run, vae={"z_dim": 5})
    with pytest.raises(
        ValueError, match=r"the weights have another architecture: decoder\.linear\.weight is \(1024, 4\)"
    ):
        load_vae(run)


def test_weights_with_a_tensor_too_many_are_refused(vae: VAE, run: Path):
    tensors = vae.state_dict() | {"extra": torch.zeros(1)}
    checkpoints.save_weights(run / "best.safetensors", tensors)
    with pytest.raises(ValueError, match=r"extra is \(1,\), model\.json wants none"):
        load_vae(run)


def test_weights_with_a_tensor_too_few_are_refused(vae: VAE, run: Path):
    tensors = vae.state_dict()
    del tensors["encoder.mu.bias"]
    checkpoints.save_weights(run / "best.safetensors", tensors)
    with pytest.raises(ValueError, match=r"encoder\.mu\.bias is absent, model\.json wants \(4,\)"):
        load_vae(run)


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _scribble(path: Path) -> None:
    path.write_bytes(b"no tensors in here" * 100)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


@pytest.mark.parametrize("damage", [_halve, _empty, _scribble, _pickle])
def test_damaged_weights_are_refused(run: Path, damage: Callable[[Path], None]):
    damage(run / "best.safetensors")
    with pytest.raises(ValueError, match=r"best\.safetensors: not a safetensors file .* train the model again"):
        load_vae(run)


@pytest.mark.parametrize("damage", [_halve, _empty, _scribble, _pickle])
def test_damaged_tensors_are_refused(tmp_path: Path, damage: Callable[[Path], None]):
    path = tmp_path / "baselines.safetensors"
    path.write_bytes(safetensors.torch.save({"mean": torch.zeros(100)}))
    damage(path)
    with pytest.raises(ValueError, match=r"baselines\.safetensors: not a safetensors file"):
        load_tensors(path)


def test_missing_tensors_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"x\.safetensors: no such file; train the model first"):
        load_tensors(tmp_path / "x.safetensors")


def test_frames_with_the_models_preprocessing_are_accepted(vae: VAE):
    provenance.check_preprocess(dict(PREPROCESS), Path("rollouts/x"), vae, "runs/vae")


def test_frames_with_another_preprocessing_are_refused_and_both_are_named(vae: VAE):
    other = PREPROCESS | {"crop": None}
    with pytest.raises(
        ValueError, match=r'rollouts/x: frames with preprocess {"crop": null.*those of runs/vae have .*84'
    ):
        provenance.check_preprocess(other, Path("rollouts/x"), vae, "runs/vae")


def test_a_loaded_model_can_be_part_of_another_module(run_dir: Path):
    vae = checkpoints.load_vae(run_dir)
    head = torch.nn.Linear(vae.config.z_dim, 1)
    head(vae.encode(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).mu).sum().backward()
    assert head.weight.grad is not None


# the likelihood's variance


def _save_sharp(run: Path, variance: float) -> Path:
    torch.manual_seed(0)
    vae = VAE(VAEConfig(z_dim=4, variance=None), PREPROCESS)
    vae.variance.fill_(variance)
    _save(run, vae)
    checkpoints.save_vae(layout.weights_path(run, "best"), vae)
    return run


@pytest.mark.parametrize("variance", [1e-6, 0.00037, 0.5])
def test_a_learned_variance_is_loaded(tmp_path: Path, variance: float):
    assert torch.equal(load_vae(_save_sharp(tmp_path, variance)).variance, torch.tensor(variance))


def test_a_given_variance_is_that_of_the_config(tmp_path: Path):
    run = _save(tmp_path / "given", VAE(VAEConfig(z_dim=4, variance=0.125)))
    assert load_vae(run).variance.item() == 0.125


def test_models_without_a_stored_variance_have_the_papers(run: Path):
    description = json.loads((run / "model.json").read_text())
    del description["vae"]["variance"]
    (run / "model.json").write_text(json.dumps(description))
    assert load_vae(run).variance.item() == 0.5


def test_variance_in_the_header_of_older_weights_is_loaded(tmp_path: Path):
    run = _save_sharp(tmp_path, 0.5)
    path = layout.weights_path(run)
    path.write_bytes(safetensors.torch.save(load_tensors(path), {"variance": "0.25"}))
    assert load_vae(run).variance.item() == 0.25


@pytest.mark.parametrize("text", ["", "{", "3", "[" * 100_000])
def test_invalid_facts_in_the_header_count_as_missing(tmp_path: Path, text: str):
    run = _save_sharp(tmp_path, 0.5)
    path = layout.weights_path(run)
    path.write_bytes(safetensors.torch.save(load_tensors(path), {"facts": text}))
    with pytest.raises(ValueError, match="has no variance of the likelihood"):
        load_vae(run)


def test_equal_models_give_equal_files(tmp_path: Path):
    vae = VAE(VAEConfig(z_dim=1))
    for name in "abcdefgh":
        checkpoints.save_vae(tmp_path / name, vae, step=3)
    assert len({(tmp_path / name).read_bytes() for name in "abcdefgh"}) == 1


@pytest.mark.parametrize(
    "facts", [{}, {"variance": "nan"}, {"variance": -1}, {"variance": "much"}, {"variance": None}, {"variance": [1]}]
)
def test_weights_without_the_variance_that_they_need_are_refused(tmp_path: Path, facts: dict[str, Any]):
    run = _save_sharp(tmp_path, 0.001)
    checkpoints.save_weights(run / "best.safetensors", load_vae(run).state_dict(), facts)
    with pytest.raises(ValueError, match="variance"):
        load_vae(run)


@pytest.mark.parametrize(
    "changes",
    [{"z_dim": 10**12}, {"network": "mlp", "hidden": [8192] * 8}, {"network": "resnet"}, {"network": ["mlp"]}],
)
def test_a_description_of_a_huge_or_unknown_network_is_refused_without_using_memory(run: Path, changes: dict[str, Any]):
    """What model.json says is compared with the weights' file before anything is built."""
    path = run / "model.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | {"vae": description["vae"] | changes}))
    before = psutil.Process().memory_info().rss
    with pytest.raises(ValueError, match=r"architecture|not a description of a model"):
        checkpoints.load_vae(run)
    assert psutil.Process().memory_info().rss - before < 500e6


# what a run says of its weights


@pytest.fixture
def validated(tmp_path: Path) -> Path:
    """A run whose best weights are of step 3, and whose last weights are of step 4."""
    checkpoints.save_vae(layout.weights_path(tmp_path, "best"), VAE(VAEConfig(z_dim=1)), step=3)
    checkpoints.save_vae(layout.weights_path(tmp_path, "last"), VAE(VAEConfig(z_dim=1)), step=4)
    lines = [{"step": 3, "train/sse": 9}, *({"step": step, "val/sse": sse} for step, sse in ((1, 5), (3, 6), (4, 8)))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"frames_seen": 64} | line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize(("weights", "sse"), [("best", 6), ("last", 8)])
def test_the_validation_of_weights_is_that_of_their_step(validated: Path, weights: layout.Weights, sse: int):
    assert checkpoints.validation_metrics(validated, weights)["val/sse"] == sse


def test_weights_that_were_saved_between_validations_have_no_validation(validated: Path):
    checkpoints.save_vae(layout.weights_path(validated, "last"), VAE(VAEConfig(z_dim=1)), step=5)
    assert checkpoints.validation_metrics(validated, "last") == {}


def test_weights_that_do_not_name_their_step_have_no_validation(validated: Path):
    with (validated / "metrics.jsonl").open("a") as file:
        file.write('{"frames_seen": 1, "val/sse": 3}\n')  # without a step either
    checkpoints.save_weights(layout.weights_path(validated, "best"), {"x": torch.zeros(1)})
    assert checkpoints.validation_metrics(validated, "best") == {}


@pytest.mark.parametrize("gone", ["best.safetensors", "metrics.jsonl"])
def test_without_weights_or_metrics_there_is_no_validation(validated: Path, gone: str):
    (validated / gone).unlink()
    assert checkpoints.validation_metrics(validated, "best") == {}


# files from strangers


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(run: Path, bad: float):
    path = run / "best.safetensors"
    tensors = load_tensors(path)
    tensors["encoder.mu.weight"][0, 0] = bad
    path.write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(ValueError, match=r"best\.safetensors: encoder\.mu\.weight holds numbers that are not finite"):
        load_vae(run)


def test_weights_of_another_dtype_are_refused(run: Path):
    path = run / "best.safetensors"
    path.write_bytes(safetensors.torch.save({name: tensor.double() for name, tensor in load_tensors(path).items()}))
    with pytest.raises(ValueError, match="is F64, wanted F32"):
        load_vae(run)


@pytest.mark.parametrize(
    "change",
    [
        {"likelihood": "poisson"},
        {"z_dim": True},
        {"z_dim": 4.0},
        {"z_dim": 10**400},
        {"beta": "1"},
        {"beta": 10**400},
        {"posterior": None},
        {"hidden": ["a"]},
        {"num_samples": None},
    ],
    ids=str,
)
def test_a_description_with_values_of_other_types_is_refused(run: Path, change: dict[str, Any]):
    _describe(run, vae=json.loads((run / "model.json").read_text())["vae"] | change)
    with pytest.raises(ValueError, match=r"model\.json: not a description of a model"):
        load_vae(run)


def test_an_invalid_preprocessing_is_refused(run: Path):
    _describe(run, preprocess=5)
    with pytest.raises(
        ValueError, match=r"not a description of a model \(preprocess is missing, or is not an object\)"
    ):
        load_vae(run)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", '{"a":' * 99 + "1" + "}" * 99])
def test_a_description_that_would_crash_a_json_reader_is_refused(run: Path, text: str):
    (run / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json: not a description of a model"):
        load_vae(run)


@pytest.mark.parametrize("name", ["model.json", "best.safetensors"])
def test_a_pipe_is_refused_as_a_model_and_not_opened(run: Path, name: str):
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(ValueError, match=f"{name}: a named pipe, wanted a file"):
        load_vae(run)


@pytest.mark.parametrize(
    "tensors",
    [
        {"mean": torch.zeros(9), "components": torch.zeros(2, 9)},
        {"mean": torch.zeros(12288), "components": torch.zeros(0, 12288)},
        {"mean": torch.zeros(12288, dtype=torch.int8), "components": torch.zeros(2, 12288)},
        {"mean": torch.full((12288,), torch.nan), "components": torch.zeros(2, 12288)},
        {"mean": torch.zeros(12288)},
        {"mean": torch.zeros(12288), "components": torch.tensor(1.0)},
    ],
)
def test_baselines_that_do_not_fit_the_models_frames_are_refused(run: Path, vae: VAE, tensors: dict[str, torch.Tensor]):
    (run / "baselines.safetensors").write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(ValueError, match=r"baselines\.safetensors: "):
        checkpoints.load_baselines(run, vae)
