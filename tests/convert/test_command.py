"""The command looks at the data, says what it took it for, and refuses bad input in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from world_models import convert
from world_models.convert import command, exporting, importing, merging
from world_models.convert.config import ConvertConfig
from world_models.data.rollouts import Rollouts


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four episodes of three pictures."""
    rng = np.random.default_rng(0)
    for episode in range(4):
        folder = tmp_path / f"pictures/{episode}"
        folder.mkdir(parents=True)
        for step in range(3):
            Image.fromarray(rng.integers(0, 256, (48, 80, 3), np.uint8)).save(folder / f"{step}.png")
    return tmp_path / "pictures"


def test_other_peoples_data_are_imported(pictures, tmp_path):
    job = command.prepare(ConvertConfig(str(pictures), str(tmp_path / "out")))
    assert isinstance(job, importing.ImportJob)
    assert not job.is_finished and job.num_frames == 12


def test_rollouts_are_merged(make_rollouts, tmp_path):
    sources = str(make_rollouts([3, 4])), str(make_rollouts([5], name="b", seed=100))
    job = command.prepare(ConvertConfig(sources, str(tmp_path / "out")))
    assert isinstance(job, merging.MergeJob)
    assert not job.is_finished and job.num_frames == 4 + 5 + 6


def test_a_damaged_shard_counts_as_rollouts_and_is_named(make_rollouts, tmp_path):
    folder = make_rollouts([3, 4])
    (folder / "shard-00000.h5").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"shard-00000.h5: damaged or no HDF5 file"):
        convert.main(["--data", str(folder), "--out", str(tmp_path / "out"), "--drop", "seed=0"])


def test_a_single_shard_counts_as_rollouts(make_rollouts, tmp_path):
    shard = make_rollouts([3, 4]) / "shard-00000.h5"
    convert.main(["--data", str(shard), "--out", str(tmp_path / "out"), "--drop", "seed=0", "--executor", "serial"])
    assert Rollouts(tmp_path / "out").seeds.tolist() == [1]


def test_latents_are_exported_and_never_merged(make_latents, tmp_path):
    latents, out = str(make_latents([3])), str(tmp_path / "series/series.npz")
    job = command.prepare(ConvertConfig(latents, out, format="series", rows=4))
    assert isinstance(job, exporting.ExportJob)
    assert job.num_frames == 4
    for format_name in ("auto", "rollouts"):
        with pytest.raises(ValueError, match=f"format is {format_name}, and .* holds our own data; give one of series"):
            command.prepare(ConvertConfig(latents, out, format=format_name, drop="seed=0"))


@pytest.mark.parametrize("data", ["nothing", "[nothing, pictures]"])
def test_a_missing_path_is_refused(data, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing: no such file or folder; name the data to convert"):
        convert.main(["--data", data, "--out", "out"])


def test_rollouts_and_other_data_are_not_merged(make_rollouts, pictures, tmp_path):
    with pytest.raises(ValueError, match="several sources that are not all rollouts"):
        convert.main(["--data", f"[{make_rollouts([3])}, {pictures}]", "--out", str(tmp_path / "out")])


def test_any_number_of_workers_writes_the_same_shards(pictures, tmp_path):
    flags = ["--data", str(pictures), "--episodes_per_shard", "1"]
    convert.main([*flags, "--out", str(tmp_path / "one"), "--executor", "serial"])
    convert.main([*flags, "--out", str(tmp_path / "two"), "--num_workers", "2"])
    assert Rollouts(tmp_path / "one").digest() == Rollouts(tmp_path / "two").digest()


def test_the_command_prints_the_format_that_it_found(pictures, tmp_path, capsys):
    convert.main(["--data", str(pictures), "--out", str(tmp_path / "out"), "--executor", "serial", "--crop", "8:40"])
    assert capsys.readouterr().out.splitlines() == [
        f"{pictures}: 4 episodes (folders of pictures)",
        f"frames: 48x80, rows 8:40 -> 64x64; the first ones are shown in {tmp_path}/out/first_frames.png",
        f"{tmp_path}/out: 4 episodes, 12 frames in 1 shards",
    ]


def test_bad_input_ends_the_process_with_status_2_and_one_line(pictures, tmp_path):
    (pictures / "1/1.png").write_bytes(b"broken")
    argv = [sys.executable, "-m", "world_models.convert", "--data", str(pictures), "--out", str(tmp_path / "out")]
    result = subprocess.run([*argv, "--format", "npz"], capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n"), result.stdout) == (2, 1, "")
    assert "no file of format npz" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_breaks_during_the_work_ends_the_process_with_status_1_and_its_name(pictures, tmp_path):
    (pictures / "3/1.png").write_bytes(b"broken")
    argv = [sys.executable, "-m", "world_models.convert", "--data", str(pictures), "--out", str(tmp_path / "out")]
    result = subprocess.run([*argv, "--episodes_per_shard", "2", "--num_workers", "1"], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert f"{pictures}/3/1.png: cannot be read as a picture" in last
    assert "leave such episodes out by --skip_broken true, and run the same command again" in last
    assert sorted(path.name for path in (tmp_path / "out").glob("*.h5*")) == ["shard-00000.h5"]
    shutil.copy(pictures / "3/0.png", pictures / "3/1.png")
    convert.main(["--data", str(pictures), "--out", str(tmp_path / "out"), "--episodes_per_shard", "2"])
    assert len(Rollouts(tmp_path / "out", verify=True)) == 4
