"""Several data sets of rollouts, opened together: one sequence, one split in each, no episode twice."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from world_models.data.frames import FrameSet
from world_models.data.rollouts import Rollouts
from world_models.data.several import open_rollouts, set_of_episodes, split_sets, together
from world_models.data.split import split_episodes

MakeRollouts = Callable[..., Path]


@pytest.fixture
def folders(make_rollouts: MakeRollouts) -> list[Path]:
    return [make_rollouts([10, 3], [7], name="a"), make_rollouts([8, 4], name="b", seed=100)]


@pytest.fixture
def data(folders: list[Path]) -> Rollouts:
    return open_rollouts(folders)


# one sequence


def test_one_data_set_is_opened_as_itself(folders: list[Path]):
    for paths in (folders[0], str(folders[0]), folders[:1]):
        assert type(open_rollouts(paths)) is Rollouts


def test_the_episodes_follow_each_other_set_by_set(folders: list[Path], data: Rollouts):
    apart = [episode for folder in folders for episode in Rollouts(folder)]
    assert len(data) == len(apart) == 5
    for joined, alone in zip(data, apart, strict=True):
        assert (joined.seed, joined.policy) == (alone.seed, alone.policy)
        assert np.array_equal(joined.frames, alone.frames)
    assert data.num_rows == sum(Rollouts(folder).num_rows for folder in folders)


def test_returns_are_those_of_the_sets(folders: list[Path], data: Rollouts):
    assert np.array_equal(data.returns(), np.concatenate([Rollouts(folder).returns() for folder in folders]))


def test_frames_are_those_of_the_sets(folders: list[Path], data: Rollouts):
    apart = [Rollouts(folder) for folder in folders]
    expected = np.concatenate([FrameSet(each, range(len(each))).read_all() for each in apart])
    assert np.array_equal(FrameSet(data, range(5)).read_all(), expected)


def test_each_episode_knows_its_set(data: Rollouts):
    assert set_of_episodes(data).tolist() == [0, 0, 0, 1, 1]


def test_the_name_lists_the_folders(folders: list[Path], data: Rollouts):
    assert data.name == f"{folders[0]}, {folders[1]}"
    assert repr(data) == f"SeveralRollouts({data.name}, 5 episodes, 37 frames)"


def test_the_digest_tells_the_sets_and_their_order_apart(folders: list[Path], data: Rollouts):
    digests = {Rollouts(folder).digest() for folder in folders} | {data.digest()}
    assert len(digests | {open_rollouts(folders[::-1]).digest()}) == 4
    assert data.digest() == open_rollouts(folders).digest()


# what is refused


def test_frames_made_in_another_way_are_refused_by_name(folders: list[Path], make_rollouts: MakeRollouts):
    cropped = make_rollouts([5], name="c", seed=500, preprocess={"crop": [0, 80], "size": 64})
    with pytest.raises(ValueError, match=f"^{re.escape(str(cropped))}: frames with preprocess .*80.*, those of .*84"):
        open_rollouts([*folders, cropped])


def test_other_environments_may_be_mixed(folders: list[Path], make_rollouts: MakeRollouts):
    data = open_rollouts([folders[0], make_rollouts([5], name="c", env="Other-v0")])
    assert [each.env for each in data.sets] == ["Synthetic-v0", "Other-v0"]


def test_an_episode_in_two_sets_is_refused_by_name(folders: list[Path], tmp_path: Path):
    shutil.copytree(folders[1], tmp_path / "copy")
    with pytest.raises(ValueError) as refusal:
        open_rollouts([*folders, tmp_path / "copy"])
    said = f"{tmp_path / 'copy'}: its episode of seed 100 is also in {folders[1]}; leave one of the sets out"
    assert str(refusal.value).startswith(said)


def test_the_same_track_driven_otherwise_is_another_episode(folders: list[Path], make_rollouts: MakeRollouts):
    assert len(open_rollouts([folders[0], make_rollouts([11, 4], name="c")])) == 5


def test_episodes_that_differ_in_their_last_frame_alone_are_two(make_rollouts: MakeRollouts, tmp_path: Path):
    first = make_rollouts([70], [3], name="a")
    same, other = (shutil.copytree(first, tmp_path / name) for name in ("same", "other"))
    (other / "shard-00001.h5").unlink()
    with h5py.File(other / "shard-00000.h5", "r+") as file:
        frames = file["frames"]
        assert isinstance(frames, h5py.Dataset)
        frames[70] = 255 - frames[70]
    with pytest.raises(ValueError, match="its episode of seed 0 is also in"):
        together([Rollouts(first), Rollouts(same)])
    assert len(together([Rollouts(first), Rollouts(other)])) == 3


# the split


def test_one_set_is_split_by_the_rule(folders: list[Path]):
    data = Rollouts(folders[0])
    assert split_sets(data, 3) == split_episodes(data.seeds, 3)


def test_each_set_is_split_by_the_rule(folders: list[Path], data: Rollouts):
    split = split_sets(data, 0)
    first, second = (split_episodes(Rollouts(folder).seeds, 0) for folder in folders)
    assert split.val == (*first.val, *(3 + episode for episode in second.val))
    assert split.train == (*first.train, *(3 + episode for episode in second.train))


def _tracks(data: Rollouts, episodes: tuple[int, ...]) -> set[int]:
    return {int(data.seeds[episode]) for episode in episodes}


@pytest.mark.parametrize("split_seed", [3, 4])  # the few hold out one of the many's training tracks, or the reverse
def test_a_track_held_out_in_one_set_is_trained_on_in_none(make_rollouts: MakeRollouts, split_seed: int):
    few, many = make_rollouts([3] * 12, name="few"), make_rollouts([4] * 30, name="many", seed=0)
    data = open_rollouts([few, many])
    split = split_sets(data, split_seed)
    assert not _tracks(data, split.train) & _tracks(data, split.val)
    alone = [split_episodes(each.seeds, split_seed) for each in data.sets]
    assert split.val == (*alone[0].val, *(12 + episode for episode in alone[1].val))
    assert len(split.train) + len(split.val) == 41  # such an episode is in neither part


def test_seeds_of_another_environment_are_other_tracks(make_rollouts: MakeRollouts):
    data = open_rollouts([make_rollouts([3] * 12, name="a"), make_rollouts([4] * 30, name="b", env="Other-v0")])
    split = split_sets(data, 3)
    assert len(split.train) + len(split.val) == 42


def test_a_set_of_one_episode_is_refused_by_name(folders: list[Path], make_rollouts: MakeRollouts):
    single = make_rollouts([5], name="single", seed=500)
    with pytest.raises(ValueError, match=f"^{re.escape(str(single))}: 1 episode cannot be split"):
        split_sets(open_rollouts([*folders, single]), 0)


def test_a_set_whose_tracks_are_all_held_out_elsewhere_is_refused_by_name(make_rollouts: MakeRollouts):
    by_hash = [(seed, split_episodes([seed, seed + 1], 0)) for seed in range(50)]
    rising = [seed for seed, split in by_hash if split.val == (1,)]  # holds out its second episode
    seed = next(seed for seed in rising if seed + 1 in rising)
    first, second = make_rollouts([3, 3], name="a", seed=seed), make_rollouts([4, 4], name="b", seed=seed + 1)
    with pytest.raises(ValueError, match=f"^{re.escape(str(second))}: other sets hold out all tracks"):
        split_sets(open_rollouts([first, second]), 0)


def test_preprocess_is_that_of_all_sets(folders: list[Path], data: Rollouts):
    assert json.dumps(data.preprocess) == json.dumps(Rollouts(folders[1]).preprocess)
