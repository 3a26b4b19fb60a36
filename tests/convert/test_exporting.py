"""What every export does: it refuses bad input before it writes, says what it wrote, and continues."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from world_models import convert
from world_models.convert import exporting, folders
from world_models.convert.config import ConvertConfig
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path

Make = Callable[..., Path]


def export(data: Path | str, out: Path, format: str = "npz", more: str = "") -> Path:
    convert.main(f"--data {data} --out {out} --format {format} --executor serial {more}".split())
    return out


def refusal(data: Path | str, out: Path, format: str = "npz", more: str = "") -> str:
    """The line that says why an export is refused."""
    with pytest.raises((ValueError, OSError)) as refused:
        export(data, out, format, more)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_bad_input_ends_the_command_with_one_line_and_status_2(make_rollouts: Make, tmp_path: Path):
    command = [sys.executable, "-m", "world_models.convert", "--format", "series", "--out", f"{tmp_path}/s.npz"]
    ended = subprocess.run([*command, "--data", make_rollouts([3])], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"python -m world_models.convert: error: {tmp_path}/rollouts: holds rollouts, and series takes latents; "
        "run encode first, and name its --out\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts"]


def test_latents_without_a_format_are_refused(make_latents: Make, tmp_path: Path):
    assert refusal(make_latents([3]), tmp_path / "out", "auto").endswith(
        "holds our own data; give one of series, npz, parquet, minari, lerobot"
    )
    assert not (tmp_path / "out").exists()


def test_several_data_sets_are_refused(make_rollouts: Make, tmp_path: Path):
    a, b = make_rollouts([3], name="a"), make_rollouts([3], name="b")
    assert refusal(f"[{a},{b}]", tmp_path / "out").endswith(
        "data names 2 sources, and format npz takes one data set of ours; merge rollouts first with --format rollouts"
    )


@pytest.mark.parametrize("option", ["--keep", "--drop"])
def test_conditions_are_refused(make_rollouts: Make, tmp_path: Path, option: str):
    assert "an export takes all episodes; choose them first with --format rollouts" in refusal(
        make_rollouts([3]), tmp_path / "out", more=f"{option} seed=0"
    )


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_a_number_of_rows_is_for_series_alone(make_rollouts: Make, tmp_path: Path, format: str):
    found = refusal(make_rollouts([3]), tmp_path / "out", format, "--rows 3")
    assert found == "rows is given, but whole episodes are written; leave --rows out"


def test_a_folder_inside_the_data_is_refused(make_rollouts: Make, tmp_path: Path):
    data = make_rollouts([3])
    assert refusal(data, data / "out").endswith("which is in data; give an --out elsewhere")
    assert refusal(shard_path(data, 0), data).endswith("which no export has written; choose another --out")


def test_one_shard_is_exported_alone(make_rollouts: Make, tmp_path: Path):
    out = export(shard_path(make_rollouts([3], [4, 5]), 1), tmp_path / "out")
    assert [path.name for path in sorted(out.rglob("*.npz"))] == ["episode-000000.npz", "episode-000001.npz"]


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_numbers_that_are_not_finite_are_refused(make_rollouts: Make, tmp_path: Path, format: str):
    data = make_rollouts([3])
    with h5py.File(shard_path(data, 0), "r+") as file:
        rewards = file["rewards"]
        assert isinstance(rewards, h5py.Dataset)
        rewards[1] = np.nan
    assert "rewards holds numbers that are not finite" in refusal(data, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_a_damaged_shard_is_refused(make_rollouts: Make, tmp_path: Path):
    data = make_rollouts([3])
    shard_path(data, 0).write_bytes(b"damaged")
    assert refusal(data, tmp_path / "out").startswith(f"{shard_path(data, 0)}: damaged or no HDF5 file")


def test_a_full_disk_is_refused(make_rollouts: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("world_models.convert.formats.npz_writing.ROW_BYTES", 10**18)
    assert "GB are needed" in refusal(make_rollouts([3]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_a_folder_with_other_files_is_refused(make_rollouts: Make, tmp_path: Path, format: str):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    found = refusal(make_rollouts([3]), out, format)
    assert found.endswith(f"{out}: holds mine.txt, which no export has written; choose another --out")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken(make_rollouts: Make, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".writer.lock.0123").write_text("left by a killed process")
    assert (export(make_rollouts([3]), tmp_path / "out") / "shard-00000").is_dir()


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_an_export_of_other_data_is_refused(make_rollouts: Make, tmp_path: Path, format: str):
    out = export(make_rollouts([3], name="a"), tmp_path / "out", format)
    before = sorted(path.name for path in out.rglob("*"))
    other = make_rollouts([3], name="b", seed=9)
    assert f"{out}: holds an export whose digest is " in refusal(other, out, format)
    assert sorted(path.name for path in out.rglob("*")) == before


def test_an_export_in_another_format_is_refused(make_rollouts: Make, tmp_path: Path):
    data = make_rollouts([3])
    out = export(data, tmp_path / "out")
    assert refusal(data, out, "parquet").startswith(f"{out}: holds an export whose format is npz, wanted parquet")


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_record_is_refused(make_rollouts: Make, tmp_path: Path, text: str):
    data = make_rollouts([3])
    out = export(data, tmp_path / "out")
    (out / folders.RECORD_FILE).write_text(text)
    assert refusal(data, out).startswith(f"{out}: holds an export whose format is None, wanted npz")


def test_the_record_names_the_data_and_its_digest(make_rollouts: Make, tmp_path: Path):
    data = make_rollouts([3])
    record = json.loads((export(data, tmp_path / "out") / folders.RECORD_FILE).read_text())
    assert (record["format"], record["data"], record["digest"]) == ("npz", "rollouts", Rollouts(data).digest())


def test_a_job_says_how_many_frames_it_will_write(make_rollouts: Make, tmp_path: Path):
    data, out = make_rollouts([3, 4], [5]), tmp_path / "out"
    config = ConvertConfig(data=(str(data),), out=str(out), format="npz", executor="serial")
    job = exporting.prepare(config, has_latents=False)
    assert (job.num_frames, job.is_finished) == (15, False)
    job.run()
    done = exporting.prepare(config, has_latents=False)
    assert (done.num_frames, done.is_finished) == (0, True)
