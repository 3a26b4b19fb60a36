"""An import continues after an interruption, leaves out broken episodes only if asked, and never mixes data sets."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import largest_file
from PIL import Image

from world_models.convert import command, importing
from world_models.convert.config import ConvertConfig
from world_models.convert.formats import npz
from world_models.data.rollouts import Rollouts
from world_models.data.shards import SKIPPED_SEEDS, strings
from world_models.runtime.errors import Stopped


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """Five files of hardmaru's layout, of 3 to 7 frames."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(5):
        write(folder / f"{index}.npz", index, 3 + index)
    return folder


def write(path: Path, seed: int, num_frames: int) -> None:
    rng = np.random.default_rng(seed)
    obs = rng.integers(0, 256, (num_frames, 32, 32, 3), np.uint8)
    np.savez_compressed(path, obs=obs, action=rng.normal(size=(num_frames, 2)))


def damage(path: Path) -> None:
    """Change a byte in the middle of the frames, which shows only when they are unpacked."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def cut_end_of_frames(path: Path) -> None:
    """Change the last packed bytes of the frames, which shows only when the last frames are unpacked."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("obs.npy")
    end = info.header_offset + 30 + len("obs.npy") + info.compress_size
    data[end - 40 : end] = bytes(40)
    path.write_bytes(data)


@pytest.fixture
def convert(episodes: Path, tmp_path: Path) -> Callable[..., Rollouts]:
    def run(*flags: str, data: Path = episodes) -> Rollouts:
        usual = f"--data {data} --out {tmp_path}/out --episodes_per_shard 2 --executor serial"
        command.main([*usual.split(), *flags])
        return Rollouts(tmp_path / "out", verify=True)

    return run


def prepared(episodes: Path, tmp_path: Path, **settings) -> importing.ImportJob:
    config = ConvertConfig(str(episodes), str(tmp_path / "out"), episodes_per_shard=2, executor="serial", **settings)
    job = command.prepare(config)
    assert isinstance(job, importing.ImportJob)
    return job


def shard_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5")}


# --- seeds


def test_a_seed_depends_on_the_contents_only(convert, episodes, tmp_path):
    seeds = convert().seeds
    (episodes / "0.npz").rename(episodes / "9.npz")
    command.main(f"--data {episodes} --out {tmp_path}/other --executor serial".split())
    assert Rollouts(tmp_path / "other").seeds.tolist() == [*seeds[1:], seeds[0]]
    assert len(set(seeds)) == 5
    assert (seeds >= 0).all()


@pytest.mark.parametrize("column", ["obs", "action"])
def test_other_contents_have_another_seed(convert, episodes, tmp_path, column):
    before = convert().seeds[0]
    with np.load(episodes / "0.npz") as arrays:
        changed = dict(arrays)
    changed[column][0] += 1
    np.savez(episodes / "0.npz", **changed)
    command.main(f"--data {episodes} --out {tmp_path}/other --executor serial".split())
    assert Rollouts(tmp_path / "other").seeds[0] != before


def test_equal_episodes_have_equal_seeds_and_a_warning(convert, episodes, capsys):
    write(episodes / "5.npz", 0, 3)
    seeds = convert().seeds
    assert seeds[5] == seeds[0]
    assert "1 of 6 episodes equal another one" in capsys.readouterr().err


# --- continuing


def test_an_interrupted_import_continues_with_the_missing_shards(convert, episodes, tmp_path, leave_partial):
    whole = convert()
    (tmp_path / "out/shard-00001.h5").unlink()
    partial = leave_partial(tmp_path / "out/shard-00001.h5")
    before = shard_times(tmp_path / "out")
    job = prepared(episodes, tmp_path)
    assert [task.path.name for task in job.tasks] == ["shard-00001.h5"]
    assert job.num_frames == 5 + 6
    job.run()
    assert Rollouts(tmp_path / "out", verify=True).digest() == whole.digest()
    assert before.items() <= shard_times(tmp_path / "out").items()
    assert not partial.exists()


def test_a_finished_import_is_not_repeated(convert, episodes, tmp_path, capsys):
    convert()
    before = shard_times(tmp_path / "out")
    assert prepared(episodes, tmp_path).is_finished
    capsys.readouterr()
    convert()
    assert shard_times(tmp_path / "out") == before
    assert capsys.readouterr().out == f"{tmp_path}/out: 5 episodes, 25 frames in 3 shards, all finished before\n"


def test_new_episodes_are_added(convert, episodes):
    before = convert().seeds
    write(episodes / "5.npz", 5, 4)
    write(episodes / "6.npz", 6, 4)
    after = convert().seeds
    assert len(after) == 7
    np.testing.assert_array_equal(after[:5], before)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--crop", "0:20"], "holds an import of preprocess"),
        (["--env", "Other-v0"], "holds an import of env npz, not Other-v0: give the same settings"),
        (["--episodes_per_shard", "3"], "holds an import of episodes_per_shard 2, not 3"),
        (["--keys.frames", "obs"], "holds an import of"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(convert, flags, said):
    convert()
    with pytest.raises(ValueError) as refused:
        convert(*flags)
    assert said in str(refused.value)


def test_other_episodes_in_the_same_folder_are_refused(convert, episodes):
    convert()
    (episodes / "0.npz").unlink()
    with pytest.raises(ValueError, match=r"shard-00000.h5: holds other episodes than .*; choose another --out"):
        convert()


def test_fewer_episodes_than_the_folder_holds_are_refused(convert, episodes):
    convert()
    (episodes / "4.npz").unlink()
    with pytest.raises(ValueError, match=r"shard-00002.h5: holds other episodes"):
        convert()


def test_collected_rollouts_are_not_extended(convert, make_rollouts):
    make_rollouts([3], name="out")
    with pytest.raises(ValueError, match="rollouts that were not imported; choose another --out"):
        convert()


def test_a_shard_whose_config_is_no_yaml_is_not_extended(convert, tmp_path):
    convert()
    with h5py.File(tmp_path / "out/shard-00000.h5", "r+") as file:
        file.attrs["config"] = np.bytes_("[")
    with pytest.raises(ValueError, match="holds an import of every null, not 1"):
        convert()


# --- broken episodes


def test_a_broken_episode_ends_the_work_and_is_named(convert, episodes, tmp_path):
    damage(episodes / "3.npz")
    with pytest.raises(Stopped, match=r"in/3.npz: cannot be read as npz .*; mend it, or leave such episodes out"):
        convert()
    assert [path.name for path in (tmp_path / "out").glob("*.h5*")] == ["shard-00000.h5"]


def test_skip_broken_leaves_out_the_whole_broken_episode(convert, episodes, capsys):
    damage(episodes / "2.npz")
    data = convert("--skip_broken", "true")
    assert data.lengths.tolist() == [3, 4, 6, 7]
    shard = data.shards[1]
    assert json.loads(str(shard.attributes["sources"])) == ["3.npz"]
    assert json.loads(str(shard.attributes["skipped_sources"])) == ["2.npz"]
    assert len(json.loads(str(shard.attributes[SKIPPED_SEEDS]))) == 1
    assert "skipped_sources" not in data.shards[0].attributes
    assert f"left out: {episodes}/2.npz: cannot be read as npz" in capsys.readouterr().err


def test_a_shard_of_broken_episodes_is_empty(convert, episodes):
    damage(episodes / "2.npz")
    damage(episodes / "3.npz")
    assert convert("--skip_broken", "true").lengths.tolist() == [3, 4, 7]


def test_a_data_set_without_a_readable_episode_is_refused(convert, episodes):
    for index in range(5):
        (episodes / f"{index}.npz").write_bytes(b"broken")
    with pytest.raises(
        ValueError, match=r"none of its npz files can be read, .*0.npz: cannot .*; choose another --data"
    ):
        convert("--skip_broken", "true")


def test_episodes_that_all_break_off_stop_the_work(convert, episodes, monkeypatch):
    monkeypatch.setattr(importing, "NUM_FIRST_FRAMES", 2)  # of the files, so much is looked at before the work
    monkeypatch.setattr(npz, "BLOCK_BYTES", 1)
    for index in range(5):
        rows = 50 + index
        write(episodes / f"{index}.npz", index, rows)
        cut_end_of_frames(episodes / f"{index}.npz")
    with pytest.raises(Stopped, match="none of the 5 episodes could be read"):
        convert("--skip_broken", "true")


def test_a_file_with_a_broken_header_counts_no_frames(convert, episodes, tmp_path):
    (episodes / "3.npz").write_bytes(b"broken")
    assert prepared(episodes, tmp_path, skip_broken=True).num_frames == 3 + 4 + 5 + 7
    with pytest.raises(ValueError, match=r"3.npz: cannot be read as npz"):
        convert()
    assert not (tmp_path / "out").exists()


def test_episodes_that_were_left_out_are_tried_again_without_the_flag(convert, episodes):
    whole = (episodes / "2.npz").read_bytes()
    damage(episodes / "2.npz")
    convert("--skip_broken", "true")
    assert len(convert("--skip_broken", "true")) == 4  # nothing to do
    (episodes / "2.npz").write_bytes(whole)
    assert convert().lengths.tolist() == [3, 4, 5, 6, 7]


def test_many_broken_episodes_are_listed_in_part(convert, episodes, monkeypatch, capsys):
    monkeypatch.setattr(importing, "MAX_WARNINGS", 1)
    for index in (1, 2, 3):
        damage(episodes / f"{index}.npz")
    convert("--skip_broken", "true")
    said = capsys.readouterr().err
    assert "left out: 2 more, see the attribute skipped_sources of the shards" in said


# --- before the work


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--every", "2"], "every is given, but it is for videos, and this is npz; leave --every out"),
        (["--drop", "seed=1"], "drop is given, but conditions choose among rollouts; import first"),
        (["--crop", "0:50"], "crop keeps rows to 50, the picture has 32"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(convert, tmp_path, flags, said):
    with pytest.raises(ValueError) as refused:
        convert(*flags)
    assert said in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_keys_are_for_npz_files_and_minari_only(convert, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").touch()
    with pytest.raises(ValueError, match="keys is given, but it is for npz files and Minari, and this is video"):
        convert("--keys.frames", "obs", data=tmp_path / "clips")


def test_names_that_are_too_long_for_a_shard_are_refused(convert, monkeypatch, tmp_path):
    monkeypatch.setattr(strings, "MAX_ATTRIBUTE_BYTES", 500)
    monkeypatch.setattr(strings, "check_size", lambda *_: None)  # of the config
    with pytest.raises(
        ValueError, match=r"the names of the 5 episodes of a shard take .* give fewer --episodes_per_shard"
    ):
        monkeypatch.setattr(strings, "MAX_ATTRIBUTE_BYTES", 10)
        convert("--episodes_per_shard", "5")
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_found_before_anything_is_written(convert, monkeypatch, tmp_path):
    monkeypatch.setattr(importing, "BYTES_PER_SHARD", 10**18)
    with pytest.raises(ValueError, match="GB are needed"):
        convert()
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_work_and_leaves_no_incomplete_file(convert, tmp_path):
    with largest_file(20_000), pytest.raises(Stopped, match="what is finished stays"):
        convert()
    assert not list((tmp_path / "out").glob("*.h5*"))


def test_the_first_frames_are_drawn(convert, tmp_path):
    convert()
    with Image.open(tmp_path / "out/first_frames.png") as picture:
        assert picture.size == (3 * 130 + 2, 132)
