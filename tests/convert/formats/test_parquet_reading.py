"""Rollouts that were written as Parquet become rollouts again, bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from pyarrow import parquet

from world_models import convert
from world_models.data.rollouts import Rollouts
from world_models.runtime.errors import Stopped

Make = Callable[..., Path]
COLUMNS = ("frames", "actions", "rewards", "terminated", "truncated", "telemetry")


@pytest.fixture
def written(make_rollouts: Make, tmp_path: Path) -> Path:
    """Three episodes in two files."""
    convert.main(f"--data {make_rollouts([9, 1], [6])} --out {tmp_path}/in --format parquet --executor serial".split())
    return tmp_path / "in"


def read(tmp_path: Path, more: str = "") -> Rollouts:
    convert.main(f"--data {tmp_path}/in --out {tmp_path}/back --executor serial {more}".split())
    return Rollouts(tmp_path / "back", verify=True)


def test_all_columns_come_back_bit_for_bit(written: Path, tmp_path: Path):
    back, data = read(tmp_path), Rollouts(tmp_path / "rollouts")
    for again, episode in zip(back, data, strict=True):
        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(again, column), getattr(episode, column))
    assert (back.env, back.action_space, back.telemetry_names) == (data.env, data.action_space, data.telemetry_names)


def test_one_file_is_read_alone(written: Path, tmp_path: Path):
    convert.main(f"--data {written}/data/shard-00001.parquet --out {tmp_path}/one --executor serial".split())
    assert [len(episode) for episode in Rollouts(tmp_path / "one")] == [6]


def test_latents_are_refused(make_latents: Make, tmp_path: Path):
    convert.main(f"--data {make_latents([3])} --out {tmp_path}/in --format parquet --executor serial".split())
    with pytest.raises(ValueError, match=r"shard-00000.parquet: holds no rollouts of convert; convert reads Parquet"):
        read(tmp_path)
    assert not (tmp_path / "back").exists()


def change(path: Path, **told: Any) -> None:
    """Change the metadata of a file."""
    table = parquet.read_table(path)
    found = json.loads(table.schema.metadata[b"world_models"]) | told
    parquet.write_table(table.replace_schema_metadata({"world_models": json.dumps(found)}), path)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"format": "other"}, "holds no rollouts of convert"),
        ({"attributes": []}, "has damaged metadata"),
        ({"telemetry_names": None}, "has damaged metadata"),
        ({"telemetry_names": ["speed"]}, "holds other data than data/shard-00000.parquet"),
    ],
)
def test_other_metadata_are_refused(written: Path, tmp_path: Path, told: dict[str, Any], said: str):
    change(written / "data/shard-00001.parquet", **told)
    with pytest.raises(ValueError, match=f"data/shard-00001.parquet: {said}"):
        read(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"world_models": "{"}, {"world_models": "[]"}])
def test_files_of_other_programs_are_refused(written: Path, tmp_path: Path, metadata: dict[str, str] | None):
    path = written / "data/shard-00000.parquet"
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(metadata), path)
    with pytest.raises(ValueError, match="holds no rollouts of convert"):
        read(tmp_path)


def test_damage_inside_a_file_is_named(written: Path, tmp_path: Path):
    path = written / "data/shard-00001.parquet"
    data = bytearray(path.read_bytes())
    start = parquet.read_metadata(path).row_group(0).column(9).data_page_offset
    data[start : start + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises((ValueError, Stopped), match=r"shard-00001.parquet(/episode_000002)?: "):
        read(tmp_path)


def test_a_shard_without_episodes_is_passed_over(written: Path, tmp_path: Path):
    path = written / "data/shard-00001.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, 0), path)
    assert len(read(tmp_path)) == 2
