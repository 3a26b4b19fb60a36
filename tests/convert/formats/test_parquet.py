"""Rollouts and latents as Parquet: read by pandas and `datasets`, and back again bit for bit."""

import builtins
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import largest_file
from PIL import Image

from world_models import convert
from world_models.convert import dataset_card
from world_models.convert.formats.parquet import schema
from world_models.data.latents import FORMAT as LATENTS
from world_models.data.latents import Latents
from world_models.data.rollouts import FORMAT as ROLLOUTS
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.data.shards.writer import write_shard
from world_models.runtime.errors import Stopped

pytest.importorskip("pyarrow")

import pandas as pd
from pyarrow import parquet

Make = Callable[..., Path]
ROW_COLUMNS = {"rewards": "reward", "terminated": "terminated", "truncated": "truncated"}
OF_FILE = ("format", "format_version", "complete", "digests")
"""Attributes that the writer of a shard sets itself."""


def export(data: Path, out: Path, more: str = "--executor serial") -> Path:
    convert.main(f"--data {data} --out {out} --format parquet {more}".split())
    return out


def read_back(source: Path, target: Path) -> None:
    """Write a shard from a Parquet file alone."""
    table = parquet.read_table(source)
    told = json.loads(table.schema.metadata[b"world_models"])
    fmt = {"world_models.rollouts": ROLLOUTS, "world_models.latents": LATENTS}[told["format"]]
    columns: dict[str, np.ndarray] = {ours: table[name].to_numpy() for ours, name in ROW_COLUMNS.items()}
    for ours, name in {"actions": "action", "mu": "mu", "logvar": "logvar"}.items():
        if name in table.column_names:
            columns[ours] = np.stack(table[name].to_numpy()).astype(told["dtypes"][ours])
        elif ours == "actions":
            columns[ours] = np.zeros((len(table), 0), np.float32)
    if fmt is ROLLOUTS:
        pictures = (Image.open(io.BytesIO(frame["bytes"])) for frame in table["frame"].to_pylist())
        columns["frames"] = np.stack([np.asarray(picture) for picture in pictures])
        telemetry = [table[f"telemetry_{name}"].to_numpy() for name in told["telemetry_names"]]
        columns["telemetry"] = np.stack(telemetry, 1) if telemetry else np.zeros((len(table), 0), np.float32)
    dtypes = {name: str(values.dtype) for name, values in columns.items()}
    finals = np.flatnonzero(table["is_final"].to_numpy())
    with write_shard(target, fmt, {name: values.shape[1:] for name, values in columns.items()}, dtypes) as shard:
        shard.attributes.update({name: each for name, each in told["attributes"].items() if name not in OF_FILE})
        if fmt is ROLLOUTS:
            shard.column_attributes["telemetry"] = {"names": told["telemetry_names"]}
        shard.append(**columns)
        lengths = np.diff(finals, prepend=-1).tolist()
        seeds, policies = (table[name].to_numpy()[finals].tolist() for name in ("seed", "policy"))
        shard.set_episodes(lengths, seeds, policies)


@pytest.fixture
def data(make_rollouts: Make) -> Path:
    return make_rollouts([9, 5], [6])


def test_rollouts_come_back_bit_for_bit(data: Path, tmp_path: Path):
    back = tmp_path / "back"
    back.mkdir()
    for file in sorted((export(data, tmp_path / "out") / "data").iterdir()):
        read_back(file, back / f"{file.stem}.h5")
    assert [shard.digests for shard in Rollouts(back, verify=True).shards] == [
        shard.digests for shard in Rollouts(data).shards
    ]
    for shard, again in zip(Rollouts(data).shards, Rollouts(back).shards, strict=True):
        assert again.attributes == shard.attributes


def test_real_rollouts_come_back_bit_for_bit(rollouts_dir: Path, tmp_path: Path):
    read_back(export(rollouts_dir, tmp_path / "out") / "data" / "shard-00001.parquet", tmp_path / "back.h5")
    assert Rollouts(tmp_path / "back.h5", verify=True).digest() == Rollouts(shard_path(rollouts_dir, 1)).digest()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_latents_come_back_bit_for_bit(make_latents: Make, tmp_path: Path, dtype: str):
    data = make_latents([9, 5], dtype=dtype)
    read_back(export(data, tmp_path / "out") / "data" / "shard-00000.parquet", tmp_path / "back.h5")
    assert Latents(tmp_path / "back.h5", verify=True).digest() == Latents(data).digest()


def test_numbers_that_are_not_finite_stay_in_latents(make_latents: Make, tmp_path: Path):
    data = make_latents([9], dtype="float16", scale=1e5)
    assert not np.isfinite(Latents(data)[0].mu).all()
    read_back(export(data, tmp_path / "out") / "data" / "shard-00000.parquet", tmp_path / "back.h5")
    assert Latents(tmp_path / "back.h5", verify=True).digest() == Latents(data).digest()


def test_data_without_actions_and_telemetry_come_back(data: Path, tmp_path: Path):
    from world_models.data.rollouts import write_rollouts

    attributes = {name: Rollouts(data).shards[0].attributes[name] for name in ("env", "preprocess", "action_space")}
    bare, nothing = tmp_path / "bare" / "shard-00000.h5", np.zeros(0, np.float32)
    bare.parent.mkdir()
    frame = np.zeros((64, 64, 3), np.uint8)
    with write_rollouts(bare, 0, (), {**attributes, "warmup_steps": 0, "config": ""}) as rollouts:  # type: ignore[arg-type]
        rollouts.step(frame, nothing, nothing, 0.0, False, True)
        rollouts.end_episode(frame, nothing, 3, "npz")
    read_back(export(bare.parent, tmp_path / "out") / "data" / "shard-00000.parquet", tmp_path / "back.h5")
    assert Rollouts(tmp_path / "back.h5", verify=True).digest() == Rollouts(bare).digest()


def test_pandas_reads_a_line_for_each_row(make_latents: Make, tmp_path: Path):
    data = make_latents([9, 5], [6])
    lines = pd.read_parquet(export(data, tmp_path / "out") / "data")
    assert list(lines) == [
        *("episode", "step", "is_final", "seed", "policy", "reward", "terminated", "truncated"),
        *("action", "mu", "logvar"),
    ]
    assert lines.episode.tolist() == [0] * 10 + [1] * 6 + [2] * 7
    for number, episode in enumerate(Latents(data)):
        of_episode = lines[lines.episode == number]
        assert of_episode.step.tolist() == list(range(len(episode) + 1))
        assert of_episode.is_final.tolist() == [False] * len(episode) + [True]
        assert set(of_episode.seed) == {episode.seed}
        assert set(of_episode.policy) == {episode.policy}
        steps = of_episode.query("not is_final")
        np.testing.assert_array_equal(np.stack(of_episode.mu.to_list()), episode.mu)
        np.testing.assert_array_equal(np.stack(steps.action.to_list()), episode.actions)
        for ours, name in ROW_COLUMNS.items():
            np.testing.assert_array_equal(steps[name], getattr(episode, ours))


def test_mu_and_logvar_are_lists_of_fixed_size(make_latents: Make, tmp_path: Path):
    file = export(make_latents([9], z_dim=7), tmp_path / "out") / "data" / "shard-00000.parquet"
    kinds = {name: str(parquet.read_schema(file).field(name).type) for name in ("mu", "logvar", "action")}
    assert kinds == {
        "mu": "fixed_size_list<element: float>[7]",
        "logvar": "fixed_size_list<element: float>[7]",
        "action": "fixed_size_list<element: float>[3]",
    }


def test_datasets_decodes_the_frames(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    out = export(data, tmp_path / "out")
    cache = str(tmp_path / "cache")
    lines = datasets.load_dataset("parquet", data_files=f"{out}/data/*.parquet", split="train", cache_dir=cache)
    assert isinstance(lines.features["frame"], datasets.Image)
    frames = np.concatenate([episode.frames for episode in Rollouts(data)])
    assert len(lines) == len(frames)
    for line, frame in zip(lines, frames, strict=True):
        np.testing.assert_array_equal(np.asarray(line["frame"]), frame)


def test_datasets_reads_latents_by_the_card(make_latents: Make, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    data = make_latents([9, 5], [6])
    lines = datasets.load_dataset(str(export(data, tmp_path / "out")), split="train", cache_dir=str(tmp_path / "cache"))
    assert lines.features["mu"].length == 4
    np.testing.assert_array_equal(
        np.array(lines["mu"][:], np.float32), np.concatenate([episode.mu for episode in Latents(data)])
    )


def test_large_shards_are_written_in_groups(make_rollouts: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = make_rollouts([30, 20, 3])
    monkeypatch.setattr("world_models.convert.formats.parquet.FRAMES_OF_GROUP", 40)
    file = parquet.ParquetFile(export(data, tmp_path / "out") / "data" / "shard-00000.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [40, 16]
    steps = file.read(["step"])["step"].to_numpy()
    np.testing.assert_array_equal(steps, np.concatenate([np.arange(31), np.arange(21), np.arange(4)]))


def test_processes_write_the_same_bytes(data: Path, tmp_path: Path):
    one, two = export(data, tmp_path / "one"), export(data, tmp_path / "two", "--num_workers 2")
    for name in ("shard-00000.parquet", "shard-00001.parquet"):
        assert (one / "data" / name).read_bytes() == (two / "data" / name).read_bytes()


# the card


def header_of(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)---\n", card, re.S)
    assert found
    return yaml.safe_load(found[1])


def test_the_card_has_a_header_that_names_the_files(data: Path, tmp_path: Path):
    header = header_of((export(data, tmp_path / "out") / "README.md").read_text())
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}
    ]
    assert (header["pretty_name"], header["size_categories"]) == ("rollouts", ["n<1K"])


@pytest.mark.parametrize("kind", ["rollouts", "latents"])
def test_the_card_explains_every_column(make_latents: Make, tmp_path: Path, kind: str):
    make_latents([9, 5])
    out = export(tmp_path / kind, tmp_path / "out")
    card = (out / "README.md").read_text()
    for name in parquet.read_schema(out / "data" / "shard-00000.parquet").names:
        assert f"| `{name}` |" in card
    assert "brownian (1), driver (1)" in card


@pytest.mark.parametrize(("lines", "name"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**9, "n>1B")])
def test_the_card_names_the_size_as_the_hub_does(data: Path, monkeypatch: pytest.MonkeyPatch, lines: int, name: str):
    rollouts = Rollouts(data)
    monkeypatch.setattr(Rollouts, "num_rows", lines)
    card = dataset_card.text(rollouts, schema(rollouts.shards[0]))
    assert f"| lines | {lines:,} |" in card
    assert header_of(card)["size_categories"] == [name]


def test_text_of_the_data_does_not_leave_its_place_in_the_card(make_rollouts: Make, tmp_path: Path):
    data = make_rollouts([3], env="a|b\n---\n# c")
    card = (export(data, tmp_path / "out") / "README.md").read_text()
    assert "| environment | a\\|b\\n---\\n# c |" in card


# again, and refused


def test_only_missing_files_are_written(data: Path, tmp_path: Path, capsys):
    out = export(data, tmp_path / "out")
    first, second = (out / "data" / f"shard-0000{number}.parquet" for number in range(2))
    written, content = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    (out / "README.md").write_text("edited")
    export(data, out)
    assert (out / "README.md").read_text() == "edited"
    (out / "README.md").unlink()
    export(data, out)
    assert (first.stat().st_mtime_ns, second.read_bytes()) == (written, content)
    assert (out / "README.md").exists()
    export(data, out)
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"{out}: 3 episodes, 23 lines in 2 Parquet files, finished before"


def test_a_full_disk_ends_with_one_line_and_leaves_no_incomplete_file(make_rollouts: Make, tmp_path: Path):
    data, out = make_rollouts([300]), tmp_path / "out"
    with largest_file(50_000), pytest.raises(Stopped, match=rf"^{out}/data/shard-00000\.parquet: [^\n]*ulimit"):
        export(data, out)
    assert not list((out / "data").iterdir())


def test_without_pyarrow_the_error_names_the_package_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"^format parquet needs pyarrow; pip install 'world_models\[parquet\]'$"):
        export(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
