import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from world_models import files
from world_models.latents import Latents, LatentSequences, write_latents
from world_models.rollouts import FORMAT as ROLLOUTS
from world_models.rollouts import Rollouts
from world_models.shards import shard_path
from world_models.shards.episodes import open_shards
from world_models.shards.reader import Shard

Make = Callable[..., Path]
Z_DIM = 2
SPREAD = -40.0  # a logvar so small that z is mu
ATTRIBUTES = {"vae_sha256": "ab" * 32, "config": "dtype: float32\n"}


def encode(source: Shard, path: Path, dtype: str = "float32", logvar: float = SPREAD, block: int = 5) -> None:
    """Latents whose mu tells the row: (row, -row)."""
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


@pytest.fixture
def windows(make_latents: Make) -> LatentSequences:
    """Noisy latents: episodes of 7 and 4 steps, then one of 3; 2 + 1 + 1 windows of 3 steps."""
    return LatentSequences(make_latents([7, 4], [3], logvar=0.0), 3)


# the file


def columns_of(path: Path) -> dict[str, Any]:
    with h5py.File(io.BytesIO(path.read_bytes())) as file:
        return {name: dataset[:] for name, dataset in file.items()}  # type: ignore[index]


def attributes_of(path: Path) -> dict[str, Any]:
    with h5py.File(io.BytesIO(path.read_bytes())) as file:
        return dict(file.attrs)


def test_latents_mirror_the_rollouts_row_by_row(make_latents: Make, tmp_path: Path):
    found = columns_of(shard_path(make_latents([3, 4]), 0))
    wanted = columns_of(shard_path(tmp_path / "rollouts", 0))
    for name in {*wanted} - {"frames", "telemetry"}:
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_latent_columns_have_the_dtype_and_shape_of_the_design(make_latents: Make, dtype: str):
    with h5py.File(shard_path(make_latents([3, 4], dtype=dtype), 0)) as file:
        assert set(file) == {
            *("mu", "logvar", "actions", "rewards", "terminated", "truncated"),
            *("episode_start", "episode_length", "episode_seed", "episode_policy"),
        }
        for name in ("mu", "logvar"):
            column: Any = file[name]
            assert (str(column.dtype), column.shape) == (dtype, (9, Z_DIM))


def test_attributes_are_those_of_the_design(make_latents: Make, tmp_path: Path):
    found = attributes_of(shard_path(make_latents([3, 4]), 0))
    source = attributes_of(shard_path(tmp_path / "rollouts", 0))
    assert set(found) == {
        *("format", "format_version", "vae_sha256", "rollouts_digest", "preprocess"),
        *("config", "versions", "complete", "digests"),
    }
    assert (found["format"], found["format_version"]) == ("world_models.latents", 1)
    assert found["complete"]
    assert {name: found[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert found["preprocess"] == source["preprocess"]
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
def test_the_columns_do_not_depend_on_the_blocks(make_latents: Make, tmp_path: Path, block: int):
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


def test_an_episode_hands_out_t_transitions_and_t_plus_1_latents(make_latents: Make, tmp_path: Path):
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


def test_an_episode_that_is_not_there_is_an_index_error(make_latents: Make):
    with pytest.raises(IndexError):
        Latents(make_latents([3]))[1]


def test_the_reader_knows_what_the_data_set_holds(make_latents: Make):
    latents = Latents(make_latents([3, 4], [2]))
    assert (latents.z_dim, latents.num_actions, latents.num_rows) == (Z_DIM, 3, 12)
    assert latents.preprocess == {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}
    assert latents.vae_sha256 == "ab" * 32


def test_a_repr_tells_shapes_not_arrays(make_latents: Make):
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


def test_mu_and_logvar_of_different_widths_are_refused_by_name(make_latents: Make):
    path = shard_path(make_latents([3]), 0)
    with h5py.File(path, "r+") as file:
        del file["logvar"]
        file["logvar"] = np.zeros((4, 1), np.float32)
    with pytest.raises(ValueError, match=f"^{path}: .*logvar"):
        Latents(path)


# windows


def rows_of(item: dict[str, torch.Tensor]) -> list[int]:
    return item["z"][:, 0].round().int().tolist()


def test_windows_cover_each_episode_and_never_cross_its_end(make_latents: Make):
    # rows 0..7, then 8..12, then (second shard) 0..3
    windows = LatentSequences(make_latents([7, 4], [3]), 3)
    assert [rows_of(item) for item in map(windows.__getitem__, range(len(windows)))] == [
        [0, 1, 2],
        [3, 4, 5],
        [8, 9, 10],
        [0, 1, 2],
    ]


@pytest.mark.parametrize(
    ("stride", "starts"),
    [(1, [0, 1, 2, 3, 4, 8, 9, 0]), (2, [0, 2, 4, 8, 0]), (4, [0, 4, 8, 0]), (5, [0, 8, 0]), (100, [0, 8, 0])],
)
def test_windows_begin_a_stride_apart(make_latents: Make, stride: int, starts: list[int]):
    windows = LatentSequences(make_latents([7, 4], [3]), 3, stride=stride)
    assert [rows_of(windows[index])[0] for index in range(len(windows))] == starts


def test_every_transition_is_in_one_window_of_length_1(make_latents: Make, tmp_path: Path):
    windows = LatentSequences(make_latents([7, 4], [3]), 1)
    rewards = torch.cat([windows[index]["rewards"] for index in range(len(windows))])
    wanted = np.concatenate([episode.rewards for episode in Rollouts(tmp_path / "rollouts")])
    np.testing.assert_array_equal(rewards.numpy(), wanted)


def test_a_window_may_be_as_long_as_an_episode(make_latents: Make):
    windows = LatentSequences(make_latents([7, 4], [3]), 7)
    assert len(windows) == 1
    assert rows_of(windows[0]) == [0, 1, 2, 3, 4, 5, 6]
    assert windows[0]["next_z"][:, 0].round().int().tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_an_item_has_the_shapes_and_dtypes_of_the_design(windows: LatentSequences):
    assert {name: (tuple(value.shape), value.dtype) for name, value in windows[0].items()} == {
        "z": ((3, Z_DIM), torch.float32),
        "next_z": ((3, Z_DIM), torch.float32),
        "actions": ((3, 3), torch.float32),
        "rewards": ((3,), torch.float32),
        "terminated": ((3,), torch.bool),
        "truncated": ((3,), torch.bool),
    }


def test_one_sample_supplies_z_and_next_z(windows: LatentSequences):
    for index in range(len(windows)):
        item = windows[index]
        assert torch.equal(item["next_z"][:-1], item["z"][1:])


def test_actions_rewards_and_ends_are_those_of_z(make_latents: Make, tmp_path: Path):
    windows = LatentSequences(make_latents([7, 4], [3]), 2, stride=1)
    episode = Rollouts(tmp_path / "rollouts")[0]
    for t in range(6):
        item = windows[t]
        assert rows_of(item) == [t, t + 1]
        for name in ("actions", "rewards", "terminated", "truncated"):
            np.testing.assert_array_equal(item[name].numpy(), getattr(episode, name)[t : t + 2])


def test_the_last_transition_carries_the_end_and_the_final_rows_action_is_never_handed_out(make_latents: Make):
    windows = LatentSequences(make_latents([7, 4], [3]), 1)
    items = [windows[index] for index in range(len(windows))]
    ends = [bool(item["terminated"] | item["truncated"]) for item in items]
    assert ends == [t == steps - 1 for steps in (7, 4, 3) for t in range(steps)]
    assert all(item["actions"].any() for item in items)


def test_negative_indices_count_from_the_end(windows: LatentSequences):
    assert torch.equal(windows[-1]["z"], windows[len(windows) - 1]["z"])


def test_an_index_beyond_the_last_window_is_an_index_error(windows: LatentSequences):
    with pytest.raises(IndexError):
        windows[len(windows)]


# noise


def test_z_is_mu_plus_noise_scaled_by_the_standard_deviation(make_latents: Make):
    windows = LatentSequences(make_latents([400], logvar=float(np.log(0.25))), 400)
    rows = torch.arange(400.0)
    noise = windows[0]["z"] - torch.stack([rows, -rows], 1)
    assert noise.std().item() == pytest.approx(0.5, rel=0.1)
    assert noise.mean().item() == pytest.approx(0, abs=0.06)


def test_the_same_seed_epoch_and_index_give_the_same_z(make_latents: Make):
    folder = make_latents([7, 4], logvar=0.0)
    one, two = (LatentSequences(folder, 3, seed=4) for _ in range(2))
    one[1]
    assert all(torch.equal(one[index]["z"], two[index]["z"]) for index in range(len(one)))


def test_another_seed_gives_another_z(make_latents: Make):
    folder = make_latents([7], logvar=0.0)
    assert not torch.equal(LatentSequences(folder, 3, seed=0)[0]["z"], LatentSequences(folder, 3, seed=1)[0]["z"])


def test_every_index_has_noise_of_its_own(make_latents: Make):
    windows = LatentSequences(make_latents([7], logvar=0.0), 3)
    noise = [windows[index]["z"][:, 0] - torch.arange(start, start + 3) for index, start in ((0, 0), (1, 3))]
    assert not torch.allclose(noise[0], noise[1], atol=1e-3)


def test_set_epoch_moves_the_noise_on_and_back(windows: LatentSequences):
    first = windows[0]
    windows.set_epoch(1)
    second = windows[0]
    windows.set_epoch(0)
    assert not torch.equal(first["z"], second["z"])
    assert torch.equal(first["actions"], second["actions"])
    assert torch.equal(first["z"], windows[0]["z"])


def test_float16_latents_give_float32_windows(make_latents: Make):
    windows = LatentSequences(make_latents([7, 4], dtype="float16", logvar=-20.0), 3)
    assert windows[0]["z"].dtype == torch.float32
    assert rows_of(windows[2]) == [8, 9, 10]


# bounds


def test_a_length_beyond_every_episode_names_the_longest(make_latents: Make):
    folder = make_latents([7, 4], [3])
    with pytest.raises(ValueError) as caught:
        LatentSequences(folder, 8)
    assert str(caught.value) == f"{folder}: no episode has 8 steps, the longest has 7; give a smaller length"


@pytest.mark.parametrize("bounds", [{"length": 0}, {"length": -1}, {"length": 3, "stride": 0}])
def test_a_length_or_stride_below_1_is_refused(make_latents: Make, bounds: dict[str, int]):
    with pytest.raises(ValueError, match="give 1 or more"):
        LatentSequences(make_latents([7]), **bounds)


# DataLoader


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_loader_processes_give_the_items_of_this_process(windows: LatentSequences, start_method: str):
    items = [windows[index] for index in range(len(windows))]  # so that the files are open before a fork
    loader = DataLoader(windows, batch_size=2, num_workers=2, multiprocessing_context=start_method)
    batches = list(loader)
    for name in items[0]:
        assert torch.equal(torch.cat([batch[name] for batch in batches]), torch.stack([item[name] for item in items]))


@pytest.mark.parametrize("persistent", [False, True])
def test_set_epoch_reaches_loader_processes(windows: LatentSequences, persistent: bool):
    loader = DataLoader(
        windows, batch_size=4, num_workers=1, multiprocessing_context="fork", persistent_workers=persistent
    )
    for epoch in (0, 1):
        windows.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch["z"], torch.stack([windows[index]["z"] for index in range(len(windows))]))
