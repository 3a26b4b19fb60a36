import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from world_models.data.latent_summary import SUMMARY_FILE
from world_models.data.latents import Latents, write_latents
from world_models.data.rollouts import FORMAT as ROLLOUTS
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.data.shards.episodes import open_shards
from world_models.data.shards.reader import Shard
from world_models.runtime import files

Make = Callable[..., Path]
Z_DIM = 2
SPREAD = -40.0  # a logvar so small that z is mu
ATTRIBUTES = {"vae_sha256": "ab" * 32, "config": "dtype: float32\n"}


def encode(source: Shard, path: Path, dtype: str = "float32", logvar: float = SPREAD, block: int = 5) -> None:
    """Latents whose mu is (row, -row)."""
    with write_latents(path, source, Z_DIM, dtype, ATTRIBUTES) as latents:
        for start in range(0, source.num_rows, block):
            rows = np.arange(start, min(start + block, source.num_rows))
            mu = np.stack([rows, -rows], 1).astype(dtype)
            latents.append(mu, np.full_like(mu, logvar))


@pytest.fixture
def make_latents(make_rollouts: Make, tmp_path: Path) -> Make:
    """Writes latents of synthetic rollouts: one list of episode lengths (in steps) for each shard."""

    def make(*shards: list[int], **options: Any) -> Path:
        folder = tmp_path / "latents"
        folder.mkdir()
        for source in open_shards(make_rollouts(*shards), ROLLOUTS):
            encode(source, folder / source.path.name, **options)
        return folder

    return make


# the file


def columns_of(path: Path) -> dict[str, Any]:
    with h5py.File(io.BytesIO(path.read_bytes())) as file:
        return {name: dataset[:] for name, dataset in file.items()}  # type: ignore[index]


def attributes_of(path: Path) -> dict[str, Any]:
    with h5py.File(io.BytesIO(path.read_bytes())) as file:
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in file.attrs.items()}


def test_latents_mirror_the_rollouts_row_by_row(make_latents: Make, tmp_path: Path):
    found = columns_of(shard_path(make_latents([3, 4]), 0))
    wanted = columns_of(shard_path(tmp_path / "rollouts", 0))
    for name in {*wanted} - {"frames", "telemetry"}:
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_latent_columns_have_the_documented_dtypes_and_shapes(make_latents: Make, dtype: str):
    with h5py.File(shard_path(make_latents([3, 4], dtype=dtype), 0)) as file:
        assert set(file) == {
            *("mu", "logvar", "actions", "rewards", "terminated", "truncated"),
            *("episode_start", "episode_length", "episode_seed", "episode_policy"),
        }
        for name in ("mu", "logvar"):
            column: Any = file[name]
            assert (str(column.dtype), column.shape) == (dtype, (9, Z_DIM))


def test_attributes_are_the_documented_ones(make_latents: Make, tmp_path: Path):
    found = attributes_of(shard_path(make_latents([3, 4]), 0))
    source = attributes_of(shard_path(tmp_path / "rollouts", 0))
    assert set(found) == {
        *("format", "format_version", "vae_sha256", "rollouts_digest", "preprocess", "action_space"),
        *("config", "versions", "complete", "digests"),
    }
    assert (found["format"], found["format_version"]) == ("world_models.latents", 1)
    assert found["complete"]
    assert {name: found[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert all(found[name] == source[name] for name in ("preprocess", "action_space"))
    digests = json.dumps(json.loads(source["digests"]), sort_keys=True)
    assert found["rollouts_digest"] == hashlib.sha256(digests.encode()).hexdigest()
    assert json.loads(found["versions"]) == files.versions()


def test_digests_are_the_sha256_of_the_raw_little_endian_bytes(make_latents: Make):
    path = shard_path(make_latents([3, 4], dtype="float16"), 0)
    digests, columns = json.loads(attributes_of(path)["digests"]), columns_of(path)
    policies = columns.pop("episode_policy")
    wanted = {
        name: hashlib.sha256(column.astype(column.dtype.newbyteorder("<")).tobytes()).hexdigest()
        for name, column in columns.items()
    }
    assert digests == wanted | {"episode_policy": hashlib.sha256(b"\0".join(policies)).hexdigest()}


@pytest.mark.parametrize("block", [1, 4, 100])
def test_the_columns_do_not_depend_on_the_size_of_blocks(make_latents: Make, tmp_path: Path, block: int):
    folder = make_latents([3, 4])
    encode(open_shards(tmp_path / "rollouts", ROLLOUTS)[0], tmp_path / "other.h5", block=block)
    assert Latents(folder).digest() == Latents(tmp_path / "other.h5", verify=True).digest()


def test_an_exception_in_the_block_leaves_no_file(make_rollouts: Make, tmp_path: Path):
    (source,) = open_shards(make_rollouts([3]), ROLLOUTS)
    rows = np.zeros((2, Z_DIM), np.float32)
    path = tmp_path / "latents.h5"
    with pytest.raises(KeyboardInterrupt), write_latents(path, source, Z_DIM, "float32", ATTRIBUTES) as latents:
        latents.append(rows, rows)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts"]


def test_fewer_latents_than_frames_are_an_error_and_leave_no_file(make_rollouts: Make, tmp_path: Path):
    (source,) = open_shards(make_rollouts([3, 4]), ROLLOUTS)
    rows = np.zeros((8, Z_DIM), np.float32)
    path = tmp_path / "latents.h5"
    with pytest.raises(AssertionError), write_latents(path, source, Z_DIM, "float32", ATTRIBUTES) as latents:
        latents.append(rows, rows)
    assert not path.exists()


# the reader


def test_an_episode_has_t_transitions_and_t_plus_1_latents(make_latents: Make, tmp_path: Path):
    latents, rollouts = Latents(make_latents([3, 4], [2]), verify=True), Rollouts(tmp_path / "rollouts")
    assert len(latents) == len(rollouts) == 3
    for latent, rollout in zip(latents, rollouts, strict=True):
        assert len(latent) == len(rollout)
        assert len(latent.mu) == len(latent.logvar) == len(rollout) + 1
        for name in ("actions", "rewards", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(latent, name), getattr(rollout, name))
        assert (latent.seed, latent.policy) == (rollout.seed, rollout.policy)


def test_an_episodes_latents_are_those_of_its_rows(make_latents: Make):
    latents = Latents(make_latents([3, 4], [2]))
    assert [episode.mu[:, 0].tolist() for episode in latents] == [[0, 1, 2, 3], [4, 5, 6, 7, 8], [0, 1, 2]]
    assert [episode.mu[0, 0] for episode in latents[1:]] == [4, 0]
    assert latents[-1].mu[:, 1].tolist() == [0, -1, -2]


def test_a_missing_episode_is_an_index_error(make_latents: Make):
    with pytest.raises(IndexError):
        Latents(make_latents([3]))[1]


def test_the_reader_gives_the_facts_about_the_data_set(make_latents: Make):
    latents = Latents(make_latents([3, 4], [2]))
    assert (latents.z_dim, latents.num_actions, latents.num_rows) == (Z_DIM, 3, 12)
    assert latents.preprocess == {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}
    assert latents.action_space == {"type": "Box", "shape": [3]}
    assert latents.vae_sha256 == "ab" * 32


def test_a_repr_shows_shapes_and_no_arrays(make_latents: Make):
    folder = make_latents([3, 4], [2])
    latents = Latents(folder)
    assert repr(latents) == f"Latents({folder}: 3 episodes, 12 rows, z_dim 2)"
    assert repr(latents[1]) == "LatentEpisode(steps=4, z_dim=2, seed=1, policy='driver')"


def test_rollouts_are_refused_as_latents_and_the_other_way_round(make_latents: Make, tmp_path: Path):
    folder = make_latents([3])
    with pytest.raises(ValueError, match=r"holds world_models\.rollouts, not world_models\.latents"):
        Latents(tmp_path / "rollouts")
    with pytest.raises(ValueError, match=r"holds world_models\.latents, not world_models\.rollouts"):
        Rollouts(folder)


@pytest.mark.parametrize("name", ["vae_sha256", "preprocess"])
def test_shards_of_two_models_or_two_preprocessings_are_refused_by_name(make_latents: Make, name: str):
    folder = make_latents([3], [3])
    with h5py.File(shard_path(folder, 1), "r+") as file:
        file.attrs[name] = '"other"'
    with pytest.raises(ValueError, match=f"^{shard_path(folder, 1)}: its {name} is "):
        Latents(folder)


def test_shards_of_two_action_spaces_are_refused_by_name(make_latents: Make):
    folder = make_latents([3], [3])
    with h5py.File(shard_path(folder, 1), "r+") as file:
        file.attrs["action_space"] = '{"type": "Discrete"}'
    with pytest.raises(ValueError, match=f"^{shard_path(folder, 1)}: its action_space is .*Discrete"):
        Latents(folder)


@pytest.mark.parametrize(("older", "known"), [([0], True), ([0, 1], False)])
def test_shards_of_older_versions_have_no_action_space(make_latents: Make, older: list[int], known: bool):
    folder = make_latents([3], [3])
    for index in older:
        with h5py.File(shard_path(folder, index), "r+") as file:
            del file.attrs["action_space"]
    assert Latents(folder).action_space == ({"type": "Box", "shape": [3]} if known else {})


def test_mu_and_logvar_of_different_widths_are_refused_by_name(make_latents: Make):
    path = shard_path(make_latents([3]), 0)
    with h5py.File(path, "r+") as file:
        del file["logvar"]
        file["logvar"] = np.zeros((4, 1), np.float32)
    with pytest.raises(ValueError, match=f"^{path}: .*logvar"):
        Latents(path)


# the moments of z


def write_summary(folder: Path, **changes: Any) -> Path:
    """A latents.json as `encode` writes it, with changes; a value of None leaves the name out."""
    latents = Latents(folder)
    digests = (str(shard.attributes["rollouts_digest"]).encode() for shard in latents.shards)
    summary = {
        "episodes": len(latents),
        "rows": latents.num_rows,
        "z_dim": latents.z_dim,
        "vae_sha256": latents.vae_sha256,
        "rollouts_digest": files.sha256(*digests),
        "z_mean": [1.0, -2.0],
        "z_variance": [4.0, 0.25],
        **changes,
    }
    path = folder / SUMMARY_FILE
    path.write_text(json.dumps({name: value for name, value in summary.items() if value is not None}))
    return path


def test_the_moments_of_z_are_read_from_the_summary(make_latents: Make):
    folder = make_latents([3, 4], [2])
    write_summary(folder)
    mean, variance = Latents(folder).z_moments()
    assert (mean.tolist(), variance.tolist()) == ([1.0, -2.0], [4.0, 0.25])


def test_encode_writes_a_summary_that_its_latents_accept(latents_dir: Path):
    mean, variance = Latents(latents_dir).z_moments()
    summary = json.loads((latents_dir / SUMMARY_FILE).read_text())
    assert (mean.tolist(), variance.tolist()) == (summary["z_mean"], summary["z_variance"])


def test_a_missing_summary_is_reported_with_what_to_do(make_latents: Make):
    folder = make_latents([3])
    with pytest.raises(ValueError, match=rf"^{folder}/latents\.json: no such file.*; run encode again[^\n]*$"):
        Latents(folder).z_moments()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"rows": 8}, "it sums up other shards (rows is 8, here 9)"),
        ({"episodes": 3}, "it sums up other shards (episodes is 3, here 2)"),
        ({"vae_sha256": "cd" * 32}, "it sums up other shards (vae_sha256 is " + "cd" * 32),
        ({"rollouts_digest": None}, "it sums up other shards (rollouts_digest is None"),
        ({"z_mean": None}, "z_mean is not 2 finite numbers"),
        ({"z_mean": [0.0]}, "z_mean is not 2 finite numbers"),
        ({"z_variance": [1.0, [1.0]]}, "damaged, or z_mean and z_variance are no lists of numbers"),
        ({"z_variance": ["a", "b"]}, "damaged, or z_mean and z_variance are no lists of numbers"),
        ({"z_variance": [1.0, float("nan")]}, "z_variance is not 2 finite numbers"),
        ({"z_mean": [1e300, 0.0]}, "z_mean is not 2 finite numbers"),
        ({"z_mean": [10**400, 0.0]}, "damaged, or z_mean and z_variance are no lists of numbers"),
        ({"rows": "\x1b[31m"}, "it sums up other shards (rows is \\x1b[31m, here 9)"),
        ({"z_variance": [1.0, 0.0]}, "z never varies in dimension 1"),
        ({"z_variance": [-1.0, 1.0]}, "z never varies in dimension 0"),
    ],
    ids=str,
)
def test_a_summary_of_other_shards_or_without_usable_moments_is_refused(
    make_latents: Make, changes: dict[str, Any], found: str
):
    folder = make_latents([3, 4])
    path = write_summary(folder, **changes)
    with pytest.raises(ValueError) as caught:
        Latents(folder).z_moments()
    assert str(caught.value).startswith(f"{path}: {found}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"rows": ' + b"9" * 5000 + b"}"],
    ids=lambda text: text[:9],
)
def test_a_damaged_summary_is_refused_in_one_line(make_latents: Make, text: bytes):
    folder = make_latents([3])
    (folder / SUMMARY_FILE).write_bytes(text)
    with pytest.raises(ValueError, match=rf"^{folder}/latents\.json: damaged[^\n]*$"):
        Latents(folder).z_moments()


def test_a_pipe_is_refused_as_a_summary_without_waiting(make_latents: Make):
    folder = make_latents([3])
    os.mkfifo(folder / SUMMARY_FILE)
    with pytest.raises(ValueError, match=rf"^{folder}/latents\.json: a named pipe, wanted a file"):
        Latents(folder).z_moments()
