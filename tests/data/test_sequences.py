"""Windows of latents contain all transitions, and the same z for every way of reading and in every process."""

import copy
import doctest
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, Subset

from world_models.data import latent_rows, sequences
from world_models.data.latent_summary import SUMMARY_FILE
from world_models.data.latents import FORMAT, Latents
from world_models.data.sequences import LatentSequences
from world_models.data.shards import shard_path, writer
from world_models.data.shards.reader import Shard
from world_models.runtime import files
from world_models.runtime.errors import Stopped

Make = Callable[..., Path]
Z_DIM = 2
SPREAD = -40.0  # a logvar so small that z is mu
NAMES = {"z", "next_z", "actions", "rewards", "terminated", "truncated"}

pytestmark = pytest.mark.usefixtures("one_thread")


def write_latents(
    folder: Path, shards: Sequence[Sequence[int]], dtype: str = "float32", logvar: float = SPREAD
) -> Path:
    """Latents of episodes of so many steps, one list a shard: in all shards' row r, mu is (r, -r) and the reward r.

    The transitions of an episode end with a flag, by turns of the first kind and of the other; final rows have a reward
    that is never handed out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes, attributes = {"mu": (Z_DIM,), "logvar": (Z_DIM,), "actions": (3,)}, {"vae_sha256": "ab" * 32}
    first = episode = 0
    for index, lengths in enumerate(shards):
        with writer.write_shard(shard_path(folder, index), FORMAT, shapes, {"mu": dtype, "logvar": dtype}) as shard:
            shard.attributes.update(attributes, preprocess="{}", config="", versions="{}", rollouts_digest=str(index))
            for steps in lengths:
                rows = np.arange(first, first + steps + 1)
                rewards, ends = rows.astype(np.float32), rows == rows[-2]
                rewards[-1] = np.nan
                mu = np.stack([rows, -rows], 1).astype(dtype)
                shard.append(
                    mu=mu,
                    logvar=np.full_like(mu, logvar),
                    actions=np.repeat(rewards[:, None], 3, 1) + 1,
                    rewards=rewards,
                    terminated=ends & (episode % 2 == 0),
                    truncated=ends & (episode % 2 == 1),
                )
                shard.end_episode(episode, "driver")
                first, episode = first + steps + 1, episode + 1
    return folder


@pytest.fixture
def make_latents(tmp_path: Path) -> Make:
    """Writes latents in milliseconds: one list of episode lengths (in steps) for each shard."""
    return lambda *shards, **options: write_latents(tmp_path / "latents", shards, **options)


@pytest.fixture
def windows(make_latents: Make) -> LatentSequences:
    """Noisy latents: episodes of 7 and 4 steps, then one of 3; 3 + 2 + 1 windows of 3 steps."""
    return LatentSequences(make_latents([7, 4], [3], logvar=0.0), 3)


def all_of(windows: LatentSequences) -> list[dict[str, torch.Tensor]]:
    return [windows[index] for index in range(len(windows))]


def joined(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# which windows there are


def rows_of(item: dict[str, torch.Tensor]) -> list[int]:
    return item["z"][:, 0].round().int().tolist()


def test_windows_cover_each_episode_and_never_cross_its_end(make_latents: Make):
    # rows 0..7, then 8..12, then (second shard) 13..16
    windows = LatentSequences(make_latents([7, 4], [3]), 3)
    starts = [[0, 1, 2], [3, 4, 5], [4, 5, 6], [8, 9, 10], [9, 10, 11], [13, 14, 15]]
    assert [rows_of(item) for item in all_of(windows)] == starts


@pytest.mark.parametrize(
    ("stride", "starts"),
    [(1, [0, 1, 2, 3, 4, 8, 9, 13]), (2, [0, 2, 4, 8, 9, 13]), (4, [0, 4, 8, 9, 13]), (100, [0, 4, 8, 9, 13])],
)
def test_windows_begin_a_stride_apart_and_the_last_ends_with_its_episode(
    make_latents: Make, stride: int, starts: list[int]
):
    windows = LatentSequences(make_latents([7, 4], [3]), 3, stride=stride)
    assert [rows_of(item)[0] for item in all_of(windows)] == starts


EPISODES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(shards=EPISODES, length=st.integers(1, 12), stride=st.integers(1, 14), pad=st.booleans())
def test_a_window_as_long_as_its_episode_holds_all_transitions(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]], length: int, stride: int, pad: bool
):
    steps = np.concatenate(shards)
    ends = np.cumsum(steps + 1) - 1
    starts = ends - steps
    folder = write_latents(tmp_path_factory.mktemp("latents"), shards)
    if not pad and steps.max() < length:
        with pytest.raises(ValueError, match=f"no episode has {length} steps, the longest has {steps.max()}"):
            LatentSequences(folder, length, stride, pad=pad)
        return
    windows = LatentSequences(folder, length, stride, pad=pad)
    found = [
        item["rewards"][item.get("mask", torch.ones(length, dtype=torch.bool))].int().tolist()
        for item in all_of(windows)
    ]
    for first, stop in zip(starts, ends, strict=True):
        here = [rows for rows in found if first <= rows[0] < stop]
        if stop - first < length:
            assert here == ([[*range(first, stop)]] if pad else [])
            continue
        assert all(rows == [*range(rows[0], rows[0] + length)] and rows[-1] < stop for rows in here)
        offsets = [rows[0] - first for rows in here]
        assert offsets == sorted({*offsets}) and all(offset % stride == 0 for offset in offsets[:-1])
        assert here[-1][-1] == stop - 1  # the ends of episodes are always read
        if stride <= length:
            assert {row for rows in here for row in rows} == {*range(first, stop)}
    assert all(found)


@pytest.mark.parametrize("length", [5, 20])
def test_windows_of_60_cart_pole_episodes_hold_60_ends(make_latents: Make, length: int):
    """Random CartPoles fall after some twenty steps, so that few of them end where a window of equal steps does."""
    lengths = np.random.default_rng(0).integers(20, 70, 60).tolist()
    items = all_of(LatentSequences(make_latents(lengths[:30], lengths[30:]), length))
    ended = {int(row) for item in items for row in item["rewards"][item["terminated"] | item["truncated"]]}
    assert len(ended) == 60


def test_the_repr_counts_the_episodes_that_are_left_out(make_latents: Make):
    folder = make_latents([7, 4], [2, 1])
    assert repr(LatentSequences(folder, 3)) == (
        f"LatentSequences({folder}: 5 windows of 3, stride 3, of 2 episodes; "
        "2 shorter episodes (3 of 14 transitions) left out)"
    )


def test_the_repr_counts_the_padded_episodes(make_latents: Make):
    folder = make_latents([7, 4], [2, 1])
    assert repr(LatentSequences(folder, 3, stride=2, pad=True)) == (
        f"LatentSequences({folder}: 7 windows of 3, stride 2, of 4 episodes; "
        "2 shorter episodes (3 of 14 transitions) padded)"
    )


# an item


def test_an_item_has_the_documented_shapes_and_dtypes(windows: LatentSequences):
    assert {name: (tuple(value.shape), value.dtype) for name, value in windows[0].items()} == {
        "z": ((3, Z_DIM), torch.float32),
        "next_z": ((3, Z_DIM), torch.float32),
        "actions": ((3, 3), torch.float32),
        "rewards": ((3,), torch.float32),
        "terminated": ((3,), torch.bool),
        "truncated": ((3,), torch.bool),
    }


def test_z_and_next_z_come_from_the_same_sample(windows: LatentSequences):
    assert all(torch.equal(item["next_z"][:-1], item["z"][1:]) for item in all_of(windows))


def test_changing_z_in_place_does_not_change_next_z(windows: LatentSequences):
    item, batch = windows[0], windows[[0, 1]]
    for found in (item, batch):
        before = found["next_z"].clone()
        found["z"].fill_(7)
        assert torch.equal(found["next_z"], before)


def test_actions_rewards_and_ends_belong_to_the_rows_of_z(make_latents: Make):
    for item in all_of(LatentSequences(make_latents([7, 4], [3]), 2, stride=1)):
        rows = item["z"][:, 0].round()
        assert torch.equal(item["rewards"], rows) and torch.equal(item["actions"], rows[:, None].repeat(1, 3) + 1)
        assert torch.equal(item["next_z"][:, 0].round(), rows + 1)


def test_the_last_transition_has_the_end_and_the_final_row_is_never_given(make_latents: Make):
    items = all_of(LatentSequences(make_latents([7, 4], [3]), 1))
    ends = [(bool(item["terminated"]), bool(item["truncated"])) for item in items]
    at_end = [t == steps - 1 for steps in (7, 4, 3) for t in range(steps)]
    turns = [episode % 2 == 0 for episode, steps in enumerate((7, 4, 3)) for _ in range(steps)]
    assert ends == [(end and turn, end and not turn) for end, turn in zip(at_end, turns, strict=True)]
    assert not any(item["rewards"].isnan().any() for item in items)


def test_negative_indices_count_from_the_end(windows: LatentSequences):
    assert same_bits(windows[-1], windows[len(windows) - 1])


@pytest.mark.parametrize("index", [6, -7, [0, 6], [-7]])
def test_an_index_beyond_the_last_window_is_an_index_error(windows: LatentSequences, index: Any):
    with pytest.raises(IndexError):
        windows[index]


def test_iterating_ends_with_the_last_window(windows: LatentSequences):
    assert sum(1 for _ in windows) == len(windows) == 6  # type: ignore[attr-defined]


# one-hot actions


def make_discrete(folder: Path, start: int = 0) -> Path:
    """Discrete latents of three actions: episodes of 4, 2 and 5 steps; row r takes action (r % 3) + start."""
    write_latents(folder, [[4, 2], [5]])
    first = 0
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path, "r+") as file:
            rows = np.arange(first, first + len(file["rewards"]))  # type: ignore[arg-type]
            final = np.cumsum(file["episode_length"][:]) - 1  # type: ignore[index]
            actions = (rows % 3 + start).astype(np.float32)
            actions[final] = 0  # as the recorder leaves it
            del file["actions"]
            file.create_dataset("actions", data=actions[:, None])
            file.attrs["action_space"] = json.dumps({"type": "Discrete", "n": 3, "start": start})
            first += len(rows)
    return folder


@pytest.mark.parametrize("memory_gb", [4, 1e-9])
@pytest.mark.parametrize("start", [0, 5])
def test_discrete_actions_are_one_hot_columns(tmp_path: Path, start: int, memory_gb: float):
    windows = LatentSequences(make_discrete(tmp_path, start), 3, stride=1, pad=True, memory_gb=memory_gb, one_hot=True)
    assert len(windows) == 2 + 1 + 3
    for item in all_of(windows):
        assert item["actions"].dtype == torch.float32 and item["actions"].shape == (3, 3)
        wanted = torch.nn.functional.one_hot(item["rewards"].long() % 3, 3) * item["mask"][:, None]
        assert torch.equal(item["actions"], wanted.float())


def test_discrete_actions_are_one_column_unless_asked_otherwise(tmp_path: Path):
    windows = LatentSequences(make_discrete(tmp_path), 3)
    assert windows[0]["actions"].tolist() == [[0], [1], [2]]


def test_batches_hold_the_same_one_hot_actions(tmp_path: Path):
    windows = LatentSequences(make_discrete(tmp_path), 3, one_hot=True)
    assert same_bits(windows[range(len(windows))], joined(all_of(windows)))


def test_an_action_that_is_no_index_is_refused_by_its_shard(tmp_path: Path):
    folder = make_discrete(tmp_path)
    with h5py.File(shard_path(folder, 1), "r+") as file:
        file["actions"][4] = 3.0  # type: ignore[index]
    windows = LatentSequences(folder, 3, stride=1, one_hot=True)
    windows[0]
    with pytest.raises(Stopped, match=f"^{shard_path(folder, 1)}: actions hold a number that is no index of an action"):
        windows[len(windows) - 1]


# padding


def test_short_episodes_are_padded_with_zeros(make_latents: Make):
    folder = make_latents([2], [5], [1], logvar=0.0)
    items = all_of(LatentSequences(folder, 4, pad=True))
    assert [item["mask"].tolist() for item in items] == [[True] * n + [False] * (4 - n) for n in (2, 4, 4, 1)]
    for item in items:
        assert item["mask"].dtype == torch.bool and item.keys() == NAMES | {"mask"}
        assert all(not item[name][~item["mask"]].any() for name in NAMES)
        assert all(item[name][item["mask"]].any(-1).all() for name in ("z", "next_z", "actions"))


def test_the_last_transition_of_a_short_episode_is_in_its_window(make_latents: Make):
    """Also at the end of the data set, where no row follows."""
    item = LatentSequences(make_latents([5], [2]), 4, pad=True)[-1]
    assert item["rewards"].tolist() == [6, 7, 0, 0]
    assert (item["terminated"] | item["truncated"]).tolist() == [False, True, False, False]
    assert item["z"][:, 0].round().tolist() == [6, 7, 0, 0]
    assert item["next_z"][:, 0].round().tolist() == [7, 8, 0, 0]


def test_padding_does_not_change_windows_of_long_episodes(make_latents: Make):
    folder = make_latents([7, 4], [3], logvar=0.0)
    plain, padded = (LatentSequences(folder, 3, pad=pad) for pad in (False, True))
    assert len(plain) == len(padded)
    for one, other in zip(all_of(plain), all_of(padded), strict=True):
        assert other.pop("mask").all() and same_bits(one, other)


def test_padding_gives_all_episodes_if_every_episode_is_short(make_latents: Make):
    assert [item["mask"].sum().item() for item in all_of(LatentSequences(make_latents([2, 1]), 9, pad=True))] == [2, 1]


# noise


def test_z_is_mu_plus_noise_scaled_by_the_standard_deviation(make_latents: Make):
    windows = LatentSequences(make_latents([4000], logvar=float(np.log(0.25))), 4000)
    rows = torch.arange(4000.0)
    noise = windows[0]["z"] - torch.stack([rows, -rows], 1)
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)


def test_the_same_seed_epoch_and_index_give_the_same_z(make_latents: Make):
    folder = make_latents([7, 4], logvar=0.0)
    one, two = (LatentSequences(folder, 3, seed=4) for _ in range(2))
    one[1]
    assert all(map(same_bits, all_of(one), all_of(two)))


def test_another_seed_gives_another_z(make_latents: Make):
    folder = make_latents([7], logvar=0.0)
    assert not torch.equal(LatentSequences(folder, 3, seed=0)[0]["z"], LatentSequences(folder, 3, seed=1)[0]["z"])


def test_noise_is_uncorrelated_between_windows_epochs_and_seeds(make_latents: Make):
    folder = make_latents([2200], logvar=0.0)

    def noise(seed: int, epoch: int) -> torch.Tensor:
        windows = LatentSequences(folder, 200, seed=seed)
        windows.set_epoch(epoch)
        items = windows[range(11)]
        return (
            torch.stack([items["z"][..., 0] - items["rewards"], items["z"][..., 1] + items["rewards"]])
            .transpose(0, 1)
            .flatten(1)
        )

    streams = torch.cat([noise(0, 0), noise(0, 1), noise(1, 0)])
    correlation = torch.corrcoef(streams) - torch.eye(len(streams))
    assert correlation.abs().max() < 5 / streams.shape[1] ** 0.5


def test_set_epoch_selects_the_noise_of_a_later_or_an_earlier_epoch(windows: LatentSequences):
    first = windows[0]
    windows.set_epoch(1)
    second = windows[0]
    windows.set_epoch(0)
    assert not torch.equal(first["z"], second["z"])
    assert torch.equal(first["actions"], second["actions"])
    assert same_bits(first, windows[0])


def test_float16_latents_give_float32_windows(make_latents: Make):
    windows = LatentSequences(make_latents([7, 4], dtype="float16", logvar=-20.0), 3)
    assert windows[0]["z"].dtype == torch.float32
    assert rows_of(windows[3]) == [8, 9, 10]


# unit variance


def write_summary(folder: Path, mean: list[float], variance: list[float]) -> None:
    latents = Latents(folder)
    digests = (str(shard.attributes["rollouts_digest"]).encode() for shard in latents.shards)
    counts = {"episodes": len(latents), "rows": latents.num_rows, "z_dim": latents.z_dim}
    made_from = {"vae_sha256": latents.vae_sha256, "rollouts_digest": files.sha256(*digests)}
    moments = {"z_mean": mean, "z_variance": variance}
    (folder / SUMMARY_FILE).write_text(json.dumps(counts | made_from | moments))


def test_normalised_z_has_mean_0_and_variance_1(make_latents: Make):
    folder = make_latents([40] * 50, logvar=float(np.log(0.5)))
    rows = np.arange(50 * 41)
    write_summary(folder, [rows.mean(), -rows.mean()], [rows.var() + 0.5] * 2)
    z = LatentSequences(folder, 40, normalise=True)[range(50)]["z"].flatten(0, 1)
    assert z.mean(0).tolist() == pytest.approx([0, 0], abs=0.01)
    assert z.var(0).tolist() == pytest.approx([1, 1], abs=0.01)


def test_normalised_z_is_z_minus_its_mean_divided_by_its_standard_deviation(make_latents: Make):
    folder = make_latents([7, 2], logvar=0.0)
    write_summary(folder, [1.0, -2.0], [4.0, 0.25])
    plain, normal = (LatentSequences(folder, 3, pad=True, normalise=normalise) for normalise in (False, True))
    for one, other in zip(all_of(plain), all_of(normal), strict=True):
        for name in ("z", "next_z"):
            expected = (one[name] - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])
            assert torch.equal(other[name], expected * one["mask"][:, None])


def test_normalising_without_a_summary_is_refused(make_latents: Make):
    with pytest.raises(ValueError, match=r"latents\.json: no such file"):
        LatentSequences(make_latents([7]), 3, normalise=True)


# damaged latents


@pytest.mark.parametrize("kind", [{}, {"memory_gb": 1e-9}, {"pad": True}], ids=str)
@pytest.mark.parametrize(("column", "value"), [("mu", np.nan), ("mu", np.inf), ("logvar", 200.0), ("logvar", np.nan)])
def test_latents_whose_z_is_not_finite_are_refused_by_the_name_of_their_shard(
    make_latents: Make, column: str, value: float, kind: dict[str, Any]
):
    folder = make_latents([7], [5, 5])
    with h5py.File(shard_path(folder, 1), "r+") as file:
        file[column][8, 1] = value  # type: ignore[index]
    windows = LatentSequences(folder, 3, **kind)
    assert rows_of(windows[0]) == [0, 1, 2]
    with pytest.raises(Stopped) as caught:
        windows[list(range(len(windows)))]
    assert str(caught.value) == (
        f"{shard_path(folder, 1)}: mu and logvar give a z that is not finite: they are damaged, or too large for "
        "float16; delete the file and run encode again"
    )


# bounds


def test_the_error_for_too_large_a_length_names_the_longest_episode(make_latents: Make):
    folder = make_latents([7, 4], [3])
    with pytest.raises(ValueError) as caught:
        LatentSequences(folder, 8)
    assert (
        str(caught.value) == f"{folder}: no episode has 8 steps, the longest has 7; give a smaller length, or pad=True"
    )


@pytest.mark.parametrize(
    "bounds",
    [
        *({"length": 0}, {"length": -1}, {"stride": 0}, {"seed": -1}),
        *({"memory_gb": gb} for gb in (0, -1, float("nan"))),
    ],
    ids=str,
)
def test_values_out_of_bounds_are_refused_by_name(make_latents: Make, bounds: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(bounds))):
        LatentSequences(make_latents([7]), **{"length": 3, **bounds})


def test_a_negative_epoch_is_refused(windows: LatentSequences):
    with pytest.raises(ValueError, match="epoch is -1; give 0 or more"):
        windows.set_epoch(-1)


# batches


KINDS = {"held": {}, "blocks": {"memory_gb": 1e-9}, "padded": {"pad": True}, "normalised": {"normalise": True}}


@pytest.fixture(params=KINDS)
def any_windows(request: pytest.FixtureRequest, make_latents: Make) -> LatentSequences:
    """Latents with several blocks per shard, windows across two blocks, and short episodes."""
    folder = make_latents([1500, 4], [900, 2, 700], logvar=0.0)
    write_summary(folder, [3.0, 1.0], [2.0, 3.0])
    return LatentSequences(folder, 33, 20, **KINDS[request.param])


def test_a_batch_equals_its_items_bit_for_bit(any_windows: LatentSequences):
    chosen = np.random.default_rng(0).integers(-len(any_windows), len(any_windows), 64).tolist()
    expected = joined([any_windows[index] for index in chosen])
    assert same_bits(any_windows[chosen], expected)
    assert same_bits(any_windows[np.array(chosen)], expected)
    assert same_bits(any_windows[torch.tensor(chosen)], expected)
    assert same_bits(joined(any_windows.__getitems__(chosen)), expected)


@pytest.mark.parametrize("ready", [False, True])
def test_a_data_loader_gives_the_items(any_windows: LatentSequences, ready: bool):
    if ready:
        loader = DataLoader(any_windows, None, sampler=BatchSampler(SequentialSampler(any_windows), 32, False))
    else:
        loader = DataLoader(any_windows, 32)
    batches = list(loader)
    assert same_bits(
        {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}, joined(all_of(any_windows))
    )


def test_a_subset_gives_the_same_batches(windows: LatentSequences):
    (batch,) = DataLoader(Subset(windows, [4, 1]), 2)
    assert same_bits(batch, windows[[4, 1]])


def test_an_empty_batch_has_no_windows(windows: LatentSequences):
    assert windows.__getitems__([]) == []
    assert windows[[]]["z"].shape == (0, 3, Z_DIM)


# memory


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The column, first and last row of each read of a shard."""
    found, read = [], Shard.read

    def counted(shard: Shard, column: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        found.append((column, start, shard.num_rows if stop is None else stop))
        return read(shard, column, start, stop)

    monkeypatch.setattr(Shard, "read", counted)
    return found


def test_latents_that_fit_are_read_once(make_latents: Make, reads: list[tuple[str, int, int]]):
    windows = LatentSequences(make_latents([800, 700], [400, 300]), 30)
    for _ in range(3):
        list(DataLoader(windows, 8, shuffle=True))
    whole = sorted(
        read for read in reads if read[1] == 0 and read[2] in (1502, 702)
    )  # other reads come from the type checker
    assert whole == sorted((column, 0, rows) for column in FORMAT.columns for rows in (1502, 702))


def test_larger_latents_are_read_in_blocks_that_are_kept(make_latents: Make, reads: list[tuple[str, int, int]]):
    folder = make_latents([1500], [400, 300], logvar=0.0)
    held = LatentSequences(folder, 30)
    row_bytes = latent_rows.RowLayout.of(held.latents.shards).row_bytes
    blocks = LatentSequences(folder, 30, memory_gb=2048 * row_bytes / 1e9)  # two blocks of three
    reads.clear()
    assert all(map(same_bits, all_of(blocks), all_of(held)))
    numbers = sorted({*FORMAT.columns} - {*latent_rows.FLAGS})
    assert sorted(reads) == [(name, *rows) for name in numbers for rows in ((0, 702), (0, 1024), (1024, 1501))]
    reads.clear()
    blocks[range(len(blocks) - 1, len(blocks) - 10, -1)]  # this block was read last, so it is kept
    assert reads == []


@pytest.mark.parametrize(("gigabytes", "first_rows"), [(1.0, 1501), (0.999, 1024)])
def test_latents_are_held_in_memory_if_all_their_rows_fit_into_memory_gb(
    make_latents: Make, reads: list[tuple[str, int, int]], gigabytes: float, first_rows: int
):
    """Otherwise they are read in blocks of 1,024 rows."""
    folder = make_latents([700, 799], [400, 300])
    num_bytes = (1501 + 702) * (2 * 4 * Z_DIM + 4 * 3 + 4 + 2)
    LatentSequences(folder, 30, memory_gb=gigabytes * num_bytes / 1e9)[0]
    assert ("mu", 0, first_rows) in reads


def test_worker_processes_divide_the_memory_between_them(
    make_latents: Make, reads: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
):
    """One process can hold all rows; each of two processes has half the memory, and reads in blocks."""
    folder = make_latents([700, 799], logvar=0.0)
    row_bytes = latent_rows.RowLayout.of(LatentSequences(folder, 30).latents.shards).row_bytes
    windows = LatentSequences(folder, 30, memory_gb=1501 * row_bytes / 1e9)
    there = copy.deepcopy(windows)
    monkeypatch.setattr(sequences, "get_worker_info", lambda: type("Info", (), {"num_workers": 2}))
    reads.clear()
    assert same_bits(there[0], windows[0])
    assert ("mu", 0, 1024) in reads and ("mu", 0, 1501) not in reads


def test_a_pickle_holds_no_rows(make_latents: Make):
    few, many = (len(pickle.dumps(LatentSequences(make_latents([steps]), steps))) for steps in (10, 20_000))
    assert many - few < 1000


# processes


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_persistent_workers_give_the_items_of_every_epoch(windows: LatentSequences, start_method: str):
    loader = DataLoader(windows, 2, num_workers=1, multiprocessing_context=start_method, persistent_workers=True)
    for epoch in (0, 3):
        windows.set_epoch(epoch)
        batches = list(loader)
        assert same_bits({name: torch.cat([batch[name] for batch in batches]) for name in NAMES}, windows[range(6)])


def test_new_workers_give_the_items_of_every_epoch(windows: LatentSequences):
    loader = DataLoader(windows, 6, num_workers=2, multiprocessing_context="fork")
    for epoch in (0, 3):
        windows.set_epoch(epoch)
        (batch,) = loader
        assert same_bits(batch, windows[range(6)])


COPIES = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda windows: pickle.loads(pickle.dumps(windows))}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_a_copy_keeps_its_epoch_and_is_independent_of_the_original(windows: LatentSequences, make_copy: Any):
    windows.set_epoch(3)
    other, third = make_copy(windows), windows[0]
    windows.set_epoch(4)
    assert same_bits(other[0], third) and not torch.equal(windows[0]["z"], third["z"])
    fourth = windows[0]
    other.set_epoch(5)
    assert same_bits(windows[0], fourth)


def test_the_workers_of_a_copy_use_the_epoch_of_the_copy(windows: LatentSequences):
    other = copy.deepcopy(windows)
    loader = DataLoader(other, 6, num_workers=1, multiprocessing_context="fork", persistent_workers=True)
    for epoch in (1, 2):
        other.set_epoch(epoch)
        windows.set_epoch(9)
        (batch,) = loader
        assert same_bits(batch, other[range(6)])


# documentation


def test_the_example_runs(make_latents: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_latents([25, 40]).rename(tmp_path / "carracing")
    (tmp_path / "latents").mkdir()
    (tmp_path / "carracing").rename(tmp_path / "latents/carracing")
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestFinder(recurse=False).find(
        LatentSequences, globs={"torch": torch, "LatentSequences": LatentSequences}
    )
    assert doctest.DocTestRunner().run(example[0]).failed == 0
