"""Rollouts as ctallec's program reads them. His loading lines are written here anew, from what they mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models import convert
from world_models.convert.config import ConvertConfig
from world_models.convert.formats import npz_writing
from world_models.data.rollouts import Rollouts

Make = Callable[..., Path]


def export(data: Path, out: Path, more: str = "--executor serial") -> Path:
    convert.main(f"--data {data} --out {out} --format npz {more}".split())
    return out


class SequenceDataset:
    """What RolloutSequenceDataset of data/loaders.py does: a sample for each start of `steps` steps in each file.

    The files are those in the folders of the root. All are in its buffer, and none is held out.
    """

    def __init__(self, root: Path, steps: int):
        self.files = sorted(file for folder in root.iterdir() if folder.is_dir() for file in folder.iterdir())
        self.steps = steps
        self.buffer = [dict(np.load(file)) for file in self.files]  # NumPy refuses pickles by default
        self.ends = np.cumsum([len(arrays["rewards"]) - steps for arrays in self.buffer])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        """Observations, actions, rewards, terminals, and the next observations."""
        file = int(np.searchsorted(self.ends, number, side="right"))
        arrays, start = self.buffer[file], number - int(self.ends[file - 1] if file else 0)
        seen = arrays["observations"][start : start + self.steps + 1].astype(np.float32)
        caused = slice(start + 1, start + self.steps + 1)
        columns = (arrays[name][caused].astype(np.float32) for name in ("actions", "rewards", "terminals"))
        return seen[:-1], *columns, seen[1:]


@pytest.fixture
def data(make_rollouts: Make) -> Path:
    return make_rollouts([9, 5], [300])


def test_the_original_counts_a_sequence_for_each_start(data: Path, tmp_path: Path):
    read = SequenceDataset(export(data, tmp_path / "out"), steps=4)
    assert len(read.files) == 3
    assert len(read) == sum(len(episode) + 1 - 4 for episode in Rollouts(data))


def test_the_original_reads_each_action_with_the_frames_before_and_after_it(data: Path, tmp_path: Path):
    read, number = SequenceDataset(export(data, tmp_path / "out"), steps=4), 0
    for episode in Rollouts(data):
        for start in range(len(episode) + 1 - 4):
            steps = slice(start, start + 4)
            wanted = (
                episode.frames[steps],
                episode.actions[steps],
                episode.rewards[steps],
                episode.terminated[steps],
                episode.frames[start + 1 : start + 5],
            )
            for found, array in zip(read[number], wanted, strict=True):
                np.testing.assert_array_equal(found, array)
            number += 1
    assert number == len(read)


def test_actions_rewards_and_terminals_begin_with_zeros(data: Path, tmp_path: Path):
    for arrays in SequenceDataset(export(data, tmp_path / "out"), steps=4).buffer:
        assert not (arrays["actions"][0].any() or arrays["rewards"][0] or arrays["terminals"][0])


def test_the_arrays_have_the_dtypes_of_the_format(data: Path, tmp_path: Path):
    (first, *_) = SequenceDataset(export(data, tmp_path / "out"), steps=4).buffer
    found = {name: (str(array.dtype), array.shape) for name, array in first.items()}
    assert found == {
        "observations": ("uint8", (10, 64, 64, 3)),
        "actions": ("float32", (10, 3)),
        "rewards": ("float32", (10,)),
        "terminals": ("bool", (10,)),
    }


@pytest.mark.parametrize("column", ["frames", "actions", "rewards", "terminated", "truncated"])
def test_rollouts_come_back_with_the_same_columns(data: Path, tmp_path: Path, column: str):
    back = tmp_path / "back"
    convert.main(f"--data {export(data, tmp_path / 'out')} --out {back} --executor serial".split())
    for episode, again in zip(Rollouts(data), Rollouts(back, verify=True), strict=True):
        np.testing.assert_array_equal(getattr(again, column), getattr(episode, column))


def test_real_rollouts_come_back_bit_for_bit(rollouts_dir: Path, tmp_path: Path):
    back = tmp_path / "back"
    options = "--executor serial --episodes_per_shard 2"
    convert.main(f"--data {export(rollouts_dir, tmp_path / 'out')} --out {back} {options}".split())
    for shard, again in zip(Rollouts(rollouts_dir).shards, Rollouts(back).shards, strict=True):
        for column in ("frames", "actions", "rewards", "terminated", "truncated", "episode_start", "episode_length"):
            assert again.digests[column] == shard.digests[column]


def test_processes_write_the_same_bytes(data: Path, tmp_path: Path):
    one, two = export(data, tmp_path / "one"), export(data, tmp_path / "two", "--num_workers 2")
    names = sorted(path.relative_to(one) for path in one.rglob("*.npz"))
    assert names == sorted(path.relative_to(two) for path in two.rglob("*.npz"))
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_it_warns_if_the_originals_loader_has_too_few_files(data: Path, tmp_path: Path, capsys):
    export(data, tmp_path / "out")
    warned = capsys.readouterr().err
    assert "holds out the last 600 files, so 3 files give no training data" in warned
    assert "2 of 3 episodes have 32 rows or fewer" in warned


def test_it_warns_of_nothing_if_the_original_reads_all(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rollouts, out = Rollouts(data), tmp_path / "out"
    num_files, shortest = len(rollouts), int(rollouts.lengths.min())
    monkeypatch.setattr(npz_writing, "HELD_OUT_FILES", num_files - 1)
    monkeypatch.setattr(npz_writing, "SEQUENCE_STEPS", shortest - 1)
    config = ConvertConfig(str(data), str(out), format="npz")
    assert npz_writing.plan(rollouts, out, config).warnings == ()
    monkeypatch.setattr(npz_writing, "HELD_OUT_FILES", num_files)
    monkeypatch.setattr(npz_writing, "SEQUENCE_STEPS", shortest)
    assert len(npz_writing.plan(rollouts, out, config).warnings) == 2


def test_latents_are_refused(make_latents: Make, tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds latents, and npz takes rollouts; name the folder of rollouts"):
        export(make_latents([3]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# again


def changed(folder: Path) -> dict[str, Any]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_only_missing_episodes_are_written(data: Path, tmp_path: Path, capsys):
    out = export(data, tmp_path / "out")
    missing = out / "shard-00000" / "episode-000001.npz"
    content, before = missing.read_bytes(), changed(out)
    missing.unlink()
    export(data, out)
    assert missing.read_bytes() == content
    after = changed(out)
    assert {path for path in after if after[path] != before[path]} == {str(missing)}
    export(data, out)
    assert changed(out) == after
    assert capsys.readouterr().out.endswith(f"{out}: 3 npz files, 317 frames, finished before\n")


def test_the_unfinished_files_of_a_killed_process_are_deleted(data: Path, tmp_path: Path, leave_partial):
    out = export(data, tmp_path / "out")
    missing = out / "shard-00000" / "episode-000001.npz"
    missing.unlink()
    partial = leave_partial(missing)
    export(data, out)
    assert not partial.exists()
