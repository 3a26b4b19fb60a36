"""Latents mirror their rollouts, name their sources, and are made only once."""

import contextlib
import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.data.shards.reader import Shard
from world_models.encode import command as encode
from world_models.runs import checkpoints, layout, tracking
from world_models.runs.description import TrainedOn
from world_models.runtime import files, host, locks
from world_models.runtime.errors import Stopped
from world_models.vae.config import VAEConfig
from world_models.vae.fast import forms
from world_models.vae.model import VAE

EXACT = ("episodes", "rows", "mu_mean", "mu_variance", "sigma_squared_mean", "z_variance", "kl_nats_per_dim")
PREPROCESS = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}


def _save_vae(run: Path, seed: int = 0, preprocess: dict[str, Any] = PREPROCESS) -> Path:
    torch.manual_seed(seed)
    vae = VAE(VAEConfig(z_dim=4), preprocess)
    torch.nn.init.normal_(vae.encoder.mu.weight)  # untrained, so that dimensions vary by hand
    run.mkdir()
    for weights in ("best", "last"):
        checkpoints.save_vae(layout.weights_path(run, weights), vae)
    checkpoints.save_description(run, vae, TrainedOn(), 0)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_vae(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def data(make_rollouts: Callable[..., Path]) -> Path:
    return make_rollouts([9, 5], [6])


def _encode(data: Path, run: Path, out: Path, more: str = "") -> Path:
    encode.main(f"--data {data} --vae {run} --out {out} {more}".split())
    return out


@pytest.fixture
def latents(data: Path, run: Path, tmp_path: Path) -> Path:
    return _encode(data, run, tmp_path / "latents")


def _refused(data: Path, run: Path, out: Path, more: str = "") -> str:
    """The line of the error."""
    with pytest.raises((ValueError, OSError)) as refusal:
        _encode(data, run, out, more)
    return str(refusal.value)


def _written(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(out.glob("*.h5"))}


def _digests(out: Path) -> list[dict[str, str]]:
    return [shard.digests for shard in Latents(out).shards]


@pytest.mark.parametrize(("column", "wrong"), [("actions", np.inf), ("rewards", np.nan)])
def test_a_shard_with_numbers_that_are_not_finite_is_refused_before_work(
    data: Path, run: Path, tmp_path: Path, column: str, wrong: float
):
    shard = shard_path(data, 1)
    with h5py.File(shard, "r+") as file:
        rows: Any = file[column]
        rows[3] = wrong
    said = f"{shard}: {column} holds numbers that are not finite, the first in row 3 (step 4 of the episode of seed 2"
    assert _refused(data, run, tmp_path / "latents").startswith(said)
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_latents_are_what_the_model_encodes(data: Path, run: Path, tmp_path: Path, batch_size: int):
    latents = Latents(_encode(data, run, tmp_path / "latents", f"--batch_size {batch_size}"), verify=True)
    vae = checkpoints.load_vae(run)
    for episode, encoded in zip(Rollouts(data), latents, strict=True):
        posterior = vae.encode(episode.frames)
        np.testing.assert_allclose(encoded.mu, posterior.mu, atol=1e-5)
        np.testing.assert_allclose(encoded.logvar, posterior.logvar, atol=1e-5)


def test_latents_of_real_frames_are_what_the_trained_model_encodes(
    latents_dir: Path, run_dir: Path, rollouts_dir: Path
):
    posterior = checkpoints.load_vae(run_dir).encode(Rollouts(rollouts_dir)[3].frames)
    np.testing.assert_allclose(Latents(latents_dir)[3].mu, posterior.mu, atol=1e-5)


@pytest.mark.parametrize(
    "column",
    [
        "actions",
        "rewards",
        "terminated",
        "truncated",
        "episode_start",
        "episode_length",
        "episode_seed",
        "episode_policy",
    ],
)
def test_the_other_columns_are_copied_exactly(data: Path, latents: Path, column: str):
    for name in ("shard-00000.h5", "shard-00001.h5"):
        with h5py.File(data / name) as source, h5py.File(latents / name) as mirror:
            ours, theirs = mirror[column], source[column]
            assert isinstance(ours, h5py.Dataset)
            assert isinstance(theirs, h5py.Dataset)
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours[:], theirs[:])


def test_latents_have_no_columns_but_those_of_the_format(latents: Path):
    with h5py.File(latents / "shard-00000.h5") as file:
        columns = {"mu", "logvar", "actions", "rewards", "terminated", "truncated"}
        assert set(file) == columns | {"episode_start", "episode_length", "episode_seed", "episode_policy"}


def test_each_shard_names_the_rollouts_it_mirrors(data: Path, latents: Path):
    for shard, source in zip(Latents(latents).shards, Rollouts(data).shards, strict=True):
        with h5py.File(source.path) as file:
            held: Any = file.attrs["digests"]
        digests = json.dumps(json.loads(held), sort_keys=True)
        assert shard.attributes["rollouts_digest"] == files.sha256(digests.encode())


@pytest.mark.parametrize(("weights", "name"), [("best", "best.safetensors"), ("last", "model.safetensors")])
def test_vae_sha256_is_that_of_the_used_weights(data: Path, run: Path, tmp_path: Path, weights: str, name: str):
    both = shutil.copytree(run, tmp_path / "both")
    torch.manual_seed(5)
    checkpoints.save_vae(both / "model.safetensors", VAE(VAEConfig(z_dim=4)))
    latents = Latents(_encode(data, both, tmp_path / "latents", f"--weights {weights}"))
    assert latents.vae_sha256 == files.file_sha256(both / name)


def test_shards_say_how_their_frames_were_made(latents: Path):
    assert Latents(latents).preprocess == PREPROCESS


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_latents_have_the_requested_dtype(data: Path, run: Path, tmp_path: Path, dtype: str):
    episode = Latents(_encode(data, run, tmp_path / "latents", f"--dtype {dtype}"), verify=True)[0]
    assert episode.mu.dtype == episode.logvar.dtype == np.dtype(dtype)


def test_float16_latents_are_the_rounded_ones(data: Path, run: Path, latents: Path, tmp_path: Path):
    rounded = Latents(_encode(data, run, tmp_path / "half", "--dtype float16"))
    assert np.array_equal(rounded[0].mu, Latents(latents)[0].mu.astype(np.float16))


# latents.json


def _summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "latents.json").read_text())


def test_the_summary_counts_episodes_and_rows(latents: Path):
    counts = {"episodes": 3, "rows": 23, "transitions": 20, "z_dim": 4, "num_actions": 3}
    assert counts.items() <= _summary(latents).items()


def test_the_summary_names_model_and_data(data: Path, run: Path, latents: Path):
    summary = _summary(latents)
    assert (summary["vae"], summary["data"]) == (str(run), str(data))
    assert summary["vae_sha256"] == files.file_sha256(run / "best.safetensors")
    assert summary["rollouts_digest"] == Rollouts(data).digest()


def test_wandb_gets_the_sources_of_the_latents(data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tracking, "record", lambda *arguments: told.append(arguments))
    out = _encode(data, run, tmp_path / "latents", "--wandb.mode offline")
    ((folder, config, options, job_type, outcome),) = told
    assert (folder, config["data"], options.mode, job_type) == (out, str(data), "offline", "encode")
    digests = [(product.kind, product.digest) for product in (*outcome.inputs, outcome.output)]
    sources = [("dataset", Rollouts(data).digest()), ("model", files.file_sha256(run / "best.safetensors"))]
    assert digests == [*sources, ("latents", Latents(out).digest())]


def test_wandb_is_off_unless_asked_for():
    assert encode.EncodeConfig().wandb.mode == "disabled"


# again


def test_encoding_again_writes_no_shards(
    data: Path, run: Path, latents: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before, summary = _written(latents), _summary(latents)
    monkeypatch.setattr(encode, "write_latents", None)
    _encode(data, run, latents)
    assert _written(latents) == before
    assert _summary(latents) == summary
    assert "all finished before" in capsys.readouterr().out


@pytest.mark.parametrize("index", [0, 1])
def test_a_deleted_shard_is_encoded_again_with_the_same_digests(data: Path, run: Path, latents: Path, index: int):
    digests, before = _digests(latents), _written(latents)
    name = f"shard-{index:05d}.h5"
    (latents / name).unlink()
    _encode(data, run, latents)
    assert _digests(latents) == digests
    assert {shard for shard, written in _written(latents).items() if written != before[shard]} == {name}


def test_after_a_crash_encoding_continues_with_the_missing_shards(
    data: Path, run: Path, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    batches = 0
    run_encoder = forms.run_encoder

    def crash(weights: Any, frames: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt
        return run_encoder(weights, frames)

    out = tmp_path / "crashed"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(forms, "run_encoder", crash)
        patch.setattr(host, "available_cores", lambda: 1)  # on one core, batches are encoded in their order
        _encode(data, run, out)
    assert [path.name for path in out.iterdir()] == ["shard-00000.h5"]
    _encode(data, run, out)
    assert _digests(out) == _digests(latents)
    assert _summary(out) == _summary(latents)


def test_unfinished_files_of_a_killed_process_are_removed(
    data: Path, run: Path, tmp_path: Path, leave_partial: Callable[[Path], Path]
):
    out = tmp_path / "latents"
    out.mkdir()
    leave_partial(out / "shard-00000.h5")
    _encode(data, run, out)
    assert sorted(path.name for path in out.iterdir()) == ["latents.json", "shard-00000.h5", "shard-00001.h5"]


def test_a_new_shard_of_rollouts_is_added(make_rollouts: Callable[..., Path], run: Path, tmp_path: Path):
    out = _encode(make_rollouts([9, 5], name="few"), run, tmp_path / "latents")
    before = _written(out)
    more = make_rollouts([9, 5], [6], name="more")
    _encode(more, run, out)
    assert len(Latents(out)) == 3
    assert _written(out)["shard-00000.h5"] == before["shard-00000.h5"]


def test_a_shard_whose_rollouts_have_grown_is_encoded_again(
    make_rollouts: Callable[..., Path], run: Path, tmp_path: Path
):
    out = _encode(make_rollouts([9, 5], [6], name="few"), run, tmp_path / "latents")
    before = _written(out)
    more = make_rollouts([9, 5], [6, 4], name="more")
    _encode(more, run, out)
    assert _written(out)["shard-00000.h5"] == before["shard-00000.h5"]
    assert _digests(out) == _digests(_encode(more, run, tmp_path / "anew"))
    assert _summary(out)["episodes"] == 4


# what is refused


def test_latents_of_another_model_are_refused(data: Path, latents: Path, tmp_path: Path):
    other, before = _save_vae(tmp_path / "other", seed=1), _written(latents)
    line = _refused(data, other, latents)
    assert "shard-00000.h5" in line
    assert f"latents of {other}" in line
    assert _written(latents) == before


def test_latents_of_another_dtype_are_refused(data: Path, run: Path, latents: Path):
    assert "not float16 latents" in _refused(data, run, latents, "--dtype float16")


@pytest.mark.parametrize(
    ("shards", "seed"),
    [([[9, 5], [6]], 7), ([[9, 6], [6]], 0), ([[9, 5]], 0), ([[9], [5], [6]], 0)],
    ids=["other_seeds", "other_lengths", "fewer_shards", "shorter_shards"],
)
def test_latents_of_other_rollouts_are_refused(
    make_rollouts: Callable[..., Path],
    run: Path,
    latents: Path,
    shards: list[list[int]],
    seed: int,
):
    other = make_rollouts(*shards, name="other", seed=seed)
    assert f"latents of other rollouts than {other}" in _refused(other, run, latents)


def test_frames_of_another_preprocessing_are_refused(make_rollouts: Callable[..., Path], run: Path, tmp_path: Path):
    other = make_rollouts([5], name="other", preprocess=PREPROCESS | {"crop": None})
    line = _refused(other, run, tmp_path / "latents")
    assert '"crop": null' in line
    assert '"crop": [0, 84]' in line


def test_damaged_latents_are_refused_by_name(data: Path, run: Path, latents: Path):
    (latents / "shard-00001.h5").write_bytes(b"no HDF5")
    assert "shard-00001.h5: damaged or no HDF5 file" in _refused(data, run, latents)


def test_a_missing_run_is_refused(data: Path, tmp_path: Path):
    assert "no trained model" in _refused(data, tmp_path / "nowhere", tmp_path / "latents")


def test_missing_data_is_refused(run: Path, tmp_path: Path):
    assert "no such file or folder" in _refused(tmp_path / "nowhere", run, tmp_path / "latents")


def test_rollouts_are_not_accepted_as_latents(data: Path, run: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(data, out)
    assert "holds world_models.rollouts, not world_models.latents" in _refused(data, run, out)


def test_a_refusal_makes_no_folder(run: Path, tmp_path: Path):
    _refused(tmp_path / "nowhere", run, tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def test_backends_give_the_same_latents(data: Path, run: Path, latents: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    for ours, theirs in zip(
        Latents(_encode(data, run, tmp_path / "onnx", "--backend onnx")), Latents(latents), strict=True
    ):
        np.testing.assert_allclose(ours.mu, theirs.mu, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours.logvar, theirs.logvar, rtol=1e-5, atol=1e-5)


def test_onnx_on_a_gpu_is_refused():
    with pytest.raises(ValueError, match="backend onnx computes on the CPU; give --device cpu"):
        encode.EncodeConfig(backend="onnx", device="cuda")


def test_only_a_few_batches_are_in_memory(
    make_rollouts: Callable[..., Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host, "available_cores", lambda: 2)
    config = encode.EncodeConfig(str(make_rollouts([99])), str(run), str(tmp_path / "latents"), batch_size=1)
    job, read, begun = encode.prepare(config), Shard.read, []

    def counted(shard: Shard, column: str, *rows: int) -> np.ndarray:
        if rows and rows[1] - rows[0] == 1:  # one batch; the type checker of the tests reads whole episodes
            begun.append(column)
        return read(shard, column, *rows)

    monkeypatch.setattr(Shard, "read", counted)
    (tmp_path / "latents").mkdir()
    with contextlib.closing(encode.encode_shards(job, [0])) as batches:
        for num_written, _ in enumerate(itertools.islice(batches, 20), start=1):
            assert num_written <= begun.count("frames") <= num_written + 8


def test_a_failure_in_a_stage_leaves_no_file(data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any) -> Any:
        raise OSError("no more frames")

    monkeypatch.setattr(forms, "run_encoder", fail)
    with pytest.raises(OSError, match="no more frames"):
        _encode(data, run, tmp_path / "latents")
    assert list((tmp_path / "latents").iterdir()) == []


@pytest.mark.slow
def test_processes_split_the_shards(data: Path, run: Path, latents: Path, tmp_path: Path):
    out, script = tmp_path / "split", [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command = [*script, "-m", "world_models.encode", *f"--data {data} --vae {run} --out {out} --device cpu".split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 episodes, 23 latents") == 1
    assert _digests(out) == _digests(latents)
    assert _summary(out).keys() == _summary(latents).keys()
    assert {name: _summary(out)[name] for name in EXACT} == {name: _summary(latents)[name] for name in EXACT}
    for name in ("mu_sse", "z_sse"):  # each process has fewer threads, so sums are rounded differently
        assert _summary(out)["check"][name] == pytest.approx(_summary(latents)["check"][name], rel=1e-5)


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="batch_size is 0; give 1 or more"):
        encode.EncodeConfig(batch_size=0)


def test_a_folder_that_another_process_writes_is_refused(data: Path, run: Path, latents: Path):
    with locks.only_writer(latents), pytest.raises(Stopped, match="being written by another process"):
        _encode(data, run, latents)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_required_disk_space_is_the_size_of_the_files(
    make_rollouts: Callable[..., Path], run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
):
    asked: list[int] = []
    monkeypatch.setattr(encode.files, "check_room", lambda folder, need_bytes: asked.append(need_bytes))
    settings = {"dtype": dtype}
    config = encode.EncodeConfig(str(make_rollouts([5, 9], [3])), str(run_dir), str(tmp_path / "l"))
    job = encode.prepare(dataclasses.replace(config, **settings))
    encode.encode(job)
    held = sum(path.stat().st_size for path in (tmp_path / "l").iterdir())
    assert held <= asked[0] <= 1.4 * held


def test_executor_ray_is_refused_if_torchrun_has_started_several_processes(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    said = "executor is ray, and torchrun has started several processes; start one, or leave --executor out"
    assert _refused(data, run, tmp_path / "latents", "--executor ray") == said


def test_an_executor_that_encode_does_not_have_is_refused(data: Path, run: Path, tmp_path: Path):
    said = _refused(data, run, tmp_path / "latents", "--executor processes")
    assert "executor" in said and "ray" in said and "serial" in said


def test_a_cluster_that_cannot_be_reached_is_refused_before_work(data: Path, run: Path, tmp_path: Path):
    pytest.importorskip("ray")
    said = _refused(data, run, tmp_path / "latents", "--executor ray --ray_address 127.0.0.1:1")
    assert said.startswith("ray_address is 127.0.0.1:1, and nothing answers there")
    assert not (tmp_path / "latents").exists()
