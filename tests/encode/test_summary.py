"""latents.json describes the shards correctly, and a data set that does not decode is found."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from world_models import encode
from world_models.data.latents import Latents, write_latents
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.data.shards.reader import Shard
from world_models.encode import summary as latent_summary
from world_models.runs import checkpoints, layout
from world_models.runs.description import TrainedOn
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE
from world_models.vae.noise import noise
from world_models.vae.posterior import Posterior

PREPROCESS = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model whose latents vary and decode to different frames."""
    torch.manual_seed(0)
    vae, run = VAE(VAEConfig(z_dim=4), PREPROCESS), tmp_path_factory.mktemp("run")
    torch.nn.init.normal_(vae.encoder.mu.weight)
    for layer in vae.decoder.children():
        torch.nn.init.xavier_normal_(layer.weight, gain=4)  # type: ignore[arg-type]
    checkpoints.save_vae(layout.weights_path(run), vae)
    checkpoints.save_description(run, vae, TrainedOn(), 0)
    return run


@pytest.fixture
def data(make_rollouts: Callable[..., Path]) -> Path:
    return make_rollouts([9, 5], [6])


@pytest.fixture
def latents(data: Path, run: Path, tmp_path: Path) -> Path:
    return _encode(data, run, tmp_path / "latents")


def _encode(data: Path, run: Path, out: Path) -> Path:
    encode.main(f"--data {data} --vae {run} --out {out}".split())
    return out


def _summary(out: Path) -> dict[str, Any]:
    return json.loads((out / "latents.json").read_text())


def _columns(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mu and logvar of all rows, in double precision."""
    mu, logvar = zip(*((shard.read("mu"), shard.read("logvar")) for shard in Latents(out).shards), strict=True)
    return np.concatenate(mu).astype(np.float64), np.concatenate(logvar).astype(np.float64)


def _change(path: Path, column: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Damage a column of a shard. The file is replaced by a copy, because readers keep files open."""
    damaged = Path(shutil.copy(path, path.with_suffix(".damaged")))
    with h5py.File(damaged, "r+") as file:
        dataset = file[column]
        assert isinstance(dataset, h5py.Dataset)
        dataset[:] = change(dataset[:])
    damaged.replace(path)


# moments


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mu_mean", lambda mu, logvar: mu.mean(0)),
        ("mu_std", lambda mu, logvar: mu.std(0)),
        ("mu_variance", lambda mu, logvar: mu.var(0)),
        ("sigma_mean", lambda mu, logvar: np.exp(logvar / 2).mean(0)),
        ("sigma_squared_mean", lambda mu, logvar: np.exp(logvar).mean(0)),
        ("z_mean", lambda mu, logvar: mu.mean(0)),
        ("z_variance", lambda mu, logvar: mu.var(0) + np.exp(logvar).mean(0)),
    ],
)
def test_moments_equal_those_of_numpy(latents: Path, name: str, expected: Callable[..., np.ndarray]):
    np.testing.assert_allclose(_summary(latents)[name], expected(*_columns(latents)), rtol=1e-9)


def test_the_moments_of_z_are_those_of_sampled_z(latents: Path):
    mu, logvar = _columns(latents)
    z = mu + np.exp(logvar / 2) * np.random.default_rng(0).standard_normal((20_000, *mu.shape))
    np.testing.assert_allclose(_summary(latents)["z_mean"], z.mean((0, 1)), atol=0.02)
    np.testing.assert_allclose(_summary(latents)["z_variance"], z.var((0, 1)), rtol=0.02)


def test_kl_equals_that_of_torch(latents: Path):
    mu, logvar = map(torch.from_numpy, _columns(latents))
    posterior, prior = torch.distributions.Normal(mu, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(posterior, prior).mean(0)
    np.testing.assert_allclose(_summary(latents)["kl_nats_per_dim"], kl, rtol=1e-9)
    assert _summary(latents)["kl_nats"] == pytest.approx(float(kl.sum()))


def test_moments_are_computed_from_the_files(latents: Path):
    _change(latents / "shard-00000.h5", "mu", lambda mu: mu + 1)
    np.testing.assert_allclose(
        np.array(latent_summary.summarise(Latents(latents)).mu_mean, float), _columns(latents)[0].mean(0)
    )


def test_shards_are_read_one_after_the_other(latents: Path, monkeypatch: pytest.MonkeyPatch):
    reads, read = [], Shard.read

    def noted(shard: Shard, column: str, *rows: int) -> np.ndarray:
        found = read(shard, column, *rows)
        if not rows:  # a whole shard; the type checker of the tests reads single episodes
            reads.append((column, len(found)))
        return found

    monkeypatch.setattr(Shard, "read", noted)
    latent_summary.summarise(Latents(latents))
    assert [read for read in reads if read[0] in ("mu", "logvar")] == [
        ("mu", 16),
        ("logvar", 16),
        ("mu", 7),
        ("logvar", 7),
    ]


# rows that cannot be sampled from


def _written(data: Path, folder: Path, mu: Any, logvar: Any) -> Latents:
    """Latents of one dimension: the first row is given, and the other rows are standard normal."""
    source, folder = Rollouts(data).shards[0], folder / "made"
    folder.mkdir()
    columns = [np.zeros((source.num_rows, 1), np.float32) for _ in range(2)]
    columns[0][0], columns[1][0] = mu, logvar
    with write_latents(shard_path(folder, 0), source, 1, "float32", {"vae_sha256": "0", "config": ""}) as writer:
        writer.append(*columns)
    return Latents(folder)


@pytest.mark.parametrize(("mu", "logvar"), [(np.inf, 0), (np.nan, 0), (0, np.nan), (0, 90), (0, -90), (0, np.inf)])
def test_rows_that_no_z_can_be_sampled_from_are_counted_and_left_out(data: Path, tmp_path: Path, mu: Any, logvar: Any):
    summary = latent_summary.summarise(_written(data, tmp_path, mu, logvar))
    assert summary.unusable_share == pytest.approx(1 / 16)
    assert (summary.mu_mean, summary.sigma_mean) == ([0], [1])


@pytest.mark.parametrize(("mu", "logvar"), [(60_000, 0), (0, 80), (0, -80)])
def test_extreme_rows_that_can_be_sampled_from_are_used(data: Path, tmp_path: Path, mu: Any, logvar: Any):
    assert latent_summary.summarise(_written(data, tmp_path, mu, logvar)).unusable_share == 0


def test_a_data_set_without_a_usable_row_has_no_moments(make_rollouts: Callable[..., Path], tmp_path: Path):
    latents = _written(make_rollouts([1]), tmp_path, np.nan, 0)
    _change(latents.shards[0].path, "logvar", lambda logvar: logvar + np.inf)
    summary = latent_summary.summarise(latents)
    assert (summary.unusable_share, summary.mu_mean, summary.kl_nats) == (1, [None], None)


def test_a_warning_counts_unusable_rows(data: Path, run: Path, latents: Path, capsys: pytest.CaptureFixture[str]):
    _change(latents / "shard-00001.h5", "logvar", lambda logvar: np.full_like(logvar, np.inf))
    capsys.readouterr()
    _encode(data, run, latents)
    assert "30.43% of the rows" in capsys.readouterr().err
    assert _summary(latents)["check"]["z_sse"] is None


def test_summary_counts_the_episodes_that_terminated(data: Path, run: Path, latents: Path):
    terminated = sum(int(shard.read("terminated").sum()) for shard in Rollouts(data).shards)
    assert _summary(latents)["terminated_episodes"] == terminated > 0


def test_a_warning_names_latents_without_a_terminated_episode(latents: Path):
    check = latent_summary.Check(1, 1.0, 1.0, 1.0, 1.0)
    summary = dataclasses.replace(latent_summary.summarise(Latents(latents)), episodes=6, terminated_episodes=0)
    (line,) = latent_summary.warnings(summary, check)
    assert line.startswith("none of the 6 episodes terminated") and "configs/laps/collect.yaml" in line
    assert latent_summary.warnings(dataclasses.replace(summary, terminated_episodes=1), check) == []


# does it decode?


def _check(latents: Path, data: Path, run: Path, num_rows: int = 512) -> latent_summary.Check:
    return latent_summary.check(Latents(latents), Rollouts(data), checkpoints.load_vae(run), num_rows)


def test_the_checked_error_is_that_of_the_decoded_rows(latents: Path, data: Path, run: Path):
    vae, frames = checkpoints.load_vae(run), np.concatenate([episode.frames for episode in Rollouts(data)])
    mu, logvar = (torch.from_numpy(column).float() for column in _columns(latents))
    z = Posterior(mu, logvar).sample(noise(latent_summary.CHECK_SEED, 0, len(mu), 4))
    check = _check(latents, data, run)
    for found, latent in ((check.mu_sse, mu), (check.z_sse, z)):
        away = frames / 255 - vae.logits(latent).sigmoid().permute(0, 2, 3, 1).detach().numpy()
        assert found == pytest.approx(np.square(away).sum((1, 2, 3)).mean(), rel=1e-4)


def test_only_some_rows_of_a_large_data_set_are_checked(latents: Path, data: Path, run: Path):
    check = _check(latents, data, run, 10)
    assert check.rows == 10
    assert check.mu_sse != _check(latents, data, run).mu_sse


def test_the_same_rows_are_checked_each_time(latents: Path, data: Path, run: Path):
    assert _check(latents, data, run, 10) == _check(latents, data, run, 10)


def test_an_undamaged_data_set_passes_the_check(latents: Path):
    assert _summary(latents)["check"]["passed"]


DAMAGE: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
    ("mu", lambda mu: mu[::-1]),
    ("mu", lambda mu: np.roll(mu, 1, axis=0)),
    ("mu", lambda mu: np.full_like(mu, np.nan)),
    ("logvar", lambda logvar: logvar + 1),
    ("logvar", lambda logvar: np.full_like(logvar, np.inf)),
]
NAMES = ["reversed", "a_row_late", "no_number", "wide", "infinite"]


@pytest.mark.parametrize(("column", "damage"), DAMAGE, ids=NAMES)
def test_damage_is_reported_in_one_line(
    data: Path, run: Path, latents: Path, column: str, damage: Any, capsys: pytest.CaptureFixture[str]
):
    _change(latents / "shard-00000.h5", column, damage)
    capsys.readouterr()
    _encode(data, run, latents)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "decode with SSE" in line]
    assert line.startswith(f"{latents}: 23 stored latents")
    assert not _summary(latents)["check"]["passed"]


def test_an_undamaged_data_set_gives_no_warning(
    data: Path, run: Path, latents: Path, capsys: pytest.CaptureFixture[str]
):
    capsys.readouterr()
    _encode(data, run, latents)
    assert capsys.readouterr().err == ""


def test_rounding_to_float16_does_not_count_as_damage(data: Path, run: Path, tmp_path: Path):
    encode.main(f"--data {data} --vae {run} --out {tmp_path / 'half'} --dtype float16".split())
    assert _summary(tmp_path / "half")["check"]["passed"]


def test_the_summary_has_the_validation_error_of_the_run(run_dir: Path, latents_dir: Path):
    sse = checkpoints.validation_metrics(run_dir, "best")["val/sse"]
    assert _summary(latents_dir)["check"]["run_val_sse"] == sse
