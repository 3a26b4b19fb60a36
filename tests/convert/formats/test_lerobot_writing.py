"""Rollouts as LeRobot data sets: read back bit for bit, and by LeRobot itself if it is installed."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from conftest import largest_file
from PIL import Image

pytest.importorskip("pyarrow")

from pyarrow import parquet

from world_models import convert
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.runtime.errors import Stopped

Make = Callable[..., Path]
COLUMNS = ("frames", "actions", "rewards", "terminated", "truncated", "telemetry")
NUMBERS = [
    *("observation.state", "action", "next.reward", "next.done", "next.terminated", "next.truncated", "timestamp"),
    *("frame_index", "episode_index", "index", "task_index"),
]


def export(data: Path, out: Path, more: str = "", executor: str = "serial") -> Path:
    convert.main(f"--data {data} --out {out} --format lerobot --executor {executor} {more}".split())
    return out


@pytest.fixture
def data(make_rollouts: Make) -> Path:
    return make_rollouts([9, 1], [6])


def assert_same(back: Rollouts, data: Rollouts) -> None:
    for again, episode in zip(back, data, strict=True):
        for column in COLUMNS:
            np.testing.assert_array_equal(getattr(again, column), getattr(episode, column))
    assert (back.env, back.telemetry_names) == (data.env, data.telemetry_names)


def test_rollouts_come_back_bit_for_bit(data: Path, tmp_path: Path):
    export(data, tmp_path / "out")
    convert.main(f"--data {tmp_path}/out --out {tmp_path}/back --executor serial".split())
    assert_same(Rollouts(tmp_path / "back"), Rollouts(data))


def test_long_episodes_are_written_in_groups(make_rollouts: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("world_models.convert.formats.lerobot_writing.BLOCK_ROWS", 8)
    data = make_rollouts([15, 7, 8])
    file = parquet.ParquetFile(export(data, tmp_path / "out") / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [8, 8, 8, 8, 1]
    convert.main(f"--data {tmp_path}/out --out {tmp_path}/back --executor serial".split())
    assert_same(Rollouts(tmp_path / "back"), Rollouts(data))


def rows(out: Path) -> dict[str, np.ndarray]:
    """All rows, by column."""
    table = parquet.read_table(sorted((out / "data").glob("*/*.parquet")))
    found = {name: np.array(table[name].to_pylist()) for name in table.column_names if name != "observation.image"}
    pictures = (Image.open(io.BytesIO(each["bytes"])) for each in table["observation.image"].to_pylist())
    return {**found, "observation.image": np.stack([np.asarray(picture) for picture in pictures])}


def test_rows_are_numbered_and_the_last_row_repeats_the_one_before(data: Path, tmp_path: Path):
    found = rows(export(data, tmp_path / "out", "--lerobot.fps 20"))
    np.testing.assert_array_equal(found["frame_index"], [*range(10), *range(2), *range(7)])
    np.testing.assert_array_equal(found["episode_index"], [0] * 10 + [1] * 2 + [2] * 7)
    np.testing.assert_array_equal(found["index"], range(19))
    np.testing.assert_allclose(found["timestamp"], found["frame_index"] / 20, rtol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(found["next.done"]), [8, 9, 10, 11, 17, 18])
    for last in (9, 11, 18):
        for name in ("action", "next.reward", "next.terminated", "next.truncated"):
            np.testing.assert_array_equal(found[name][last], found[name][last - 1])


def stats_of(values: np.ndarray) -> dict[str, Any]:
    """As LeRobot's `compute_stats` defines them, over all rows."""
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "count": [len(values)],
    }


def test_statistics_are_those_of_the_rows(data: Path, tmp_path: Path):
    out = export(data, tmp_path / "out")
    told, found = json.loads((out / "meta/stats.json").read_text()), rows(out)
    assert sorted(told) == sorted([*NUMBERS, "observation.image"])
    for name in NUMBERS:
        for key, wanted in stats_of(found[name].reshape(19, -1).astype(np.float64)).items():
            np.testing.assert_allclose(told[name][key], wanted, rtol=1e-6, atol=1e-9, err_msg=f"{name} {key}")
    pixels = found["observation.image"].reshape(-1, 3) / 255
    for key, wanted in stats_of(pixels).items():
        shaped = [19] if key == "count" else np.reshape(wanted, (3, 1, 1))
        np.testing.assert_allclose(told["observation.image"][key], shaped, rtol=1e-6)


def test_quantiles_of_one_episode_are_exact(make_rollouts: Make, tmp_path: Path):
    out = export(make_rollouts([40]), tmp_path / "out")
    told, found = json.loads((out / "meta/stats.json").read_text()), rows(out)
    np.testing.assert_allclose(
        told["action"]["q10"], np.quantile(found["action"].astype(float), 0.1, axis=0), rtol=1e-6
    )
    wanted = np.quantile(found["observation.image"].reshape(-1, 3) / 255, 0.9, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(np.ravel(told["observation.image"]["q90"]), wanted, rtol=1e-6)


def test_metadata_name_the_features_and_the_places_of_episodes(data: Path, tmp_path: Path):
    out = export(data, tmp_path / "out", "--lerobot.fps 20")
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 20, {"train": "0:3"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 19, 1)
    assert list(info["features"]) == ["observation.image", *NUMBERS]
    assert info["features"]["observation.state"]["names"] == ["speed_m_per_s", "heading_rad"]
    episodes = parquet.read_table(sorted((out / "meta/episodes").glob("*/*.parquet"))).to_pylist()
    places = ("data/file_index", "dataset_from_index", "dataset_to_index", "length")
    assert [tuple(episode[name] for name in places) for episode in episodes] == [
        (0, 0, 10, 10),
        (0, 10, 12, 2),
        (1, 12, 19, 7),
    ]
    assert episodes[0]["tasks"] == ["drive"]


def test_pandas_reads_the_task_as_an_index(data: Path, tmp_path: Path):
    pd = pytest.importorskip("pandas")
    tasks = pd.read_parquet(export(data, tmp_path / "out", "--lerobot.task steer") / "meta/tasks.parquet")
    assert (tasks.index.tolist(), tasks.task_index.tolist()) == (["steer"], [0])


def test_the_card_has_the_header_of_lerobots_data_sets(data: Path, tmp_path: Path):
    card = (export(data, tmp_path / "out") / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["tags"][0] == "LeRobot"
    assert header["configs"] == [{"config_name": "default", "data_files": "data/*/*.parquet"}]
    assert "| environment | Synthetic-v0 |" in card


def test_data_without_actions_and_telemetry_come_back(data: Path, tmp_path: Path):
    from world_models.data.rollouts import write_rollouts

    attributes = {name: Rollouts(data).shards[0].attributes[name] for name in ("env", "preprocess", "action_space")}
    bare, nothing = tmp_path / "bare" / "shard-00000.h5", np.zeros(0, np.float32)
    bare.parent.mkdir()
    frame = np.zeros((64, 64, 3), np.uint8)
    with write_rollouts(bare, 0, (), {**attributes, "warmup_steps": 0, "config": ""}) as rollouts:  # type: ignore[arg-type]
        rollouts.step(frame, nothing, nothing, 0.0, False, True)
        rollouts.end_episode(frame, nothing, 3, "npz")
    export(bare.parent, tmp_path / "out")
    convert.main(f"--data {tmp_path}/out --out {tmp_path}/back --executor serial".split())
    assert_same(Rollouts(tmp_path / "back"), Rollouts(bare))


def test_processes_write_the_same_bytes(data: Path, tmp_path: Path):
    one, two = export(data, tmp_path / "one"), export(data, tmp_path / "two", "--num_workers 2", "processes")
    names = [path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "export.json"]
    assert len(names) == 8
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


# again, and refused


def test_only_missing_files_are_written(data: Path, tmp_path: Path, capsys):
    out = export(data, tmp_path / "out")
    first, second = (out / f"data/chunk-000/file-00{number}.parquet" for number in range(2))
    written = first.stat().st_mtime_ns
    second.unlink()
    export(data, out)
    assert second.exists()
    (out / "meta/episodes/chunk-000/file-001.parquet").unlink()
    second.unlink()
    (out / "meta/info.json").unlink()
    export(data, out)
    assert first.stat().st_mtime_ns == written and second.exists() and (out / "meta/info.json").exists()
    (out / "meta/info.json").unlink()
    export(data, out)
    assert (out / "meta/info.json").exists()
    export(data, out)
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{out}: 3 episodes, 19 frames; LeRobotDataset('out', root='{out}') reads it, finished before"
    )


def test_a_data_set_that_has_grown_is_added_to(make_rollouts: Make, tmp_path: Path):
    """The last shard has got an episode, and there is a new one."""
    out = export(make_rollouts([9, 4], [6], name="before"), tmp_path / "out")
    first = out / "data/chunk-000/file-000.parquet"
    written = first.stat().st_mtime_ns
    data = make_rollouts([9, 4], [6, 3], [5], name="after")
    export(data, out)
    assert first.stat().st_mtime_ns == written
    convert.main(f"--data {out} --out {tmp_path}/back --executor serial".split())
    assert_same(Rollouts(tmp_path / "back"), Rollouts(data))
    fresh = export(data, tmp_path / "fresh")
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file() and path.name != "export.json"]
    for name in names:
        assert (fresh / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.parametrize(
    ("flag", "said"), [("--lerobot.fps 30", "fps is 50"), ("--lerobot.task steer", "task is drive")]
)
def test_other_settings_in_the_same_folder_are_refused(data: Path, tmp_path: Path, flag: str, said: str):
    export(data, tmp_path / "out")
    with pytest.raises(ValueError, match=f"holds an export whose {said}, wanted"):
        export(data, tmp_path / "out", flag)


def test_a_data_set_that_lerobot_has_added_to_is_refused(data: Path, tmp_path: Path):
    out = export(data, tmp_path / "out")
    info = json.loads((out / "meta/info.json").read_text())
    (out / "meta/info.json").write_text(json.dumps(info | {"total_episodes": 4}))
    with pytest.raises(ValueError, match="holds 4 episodes, and convert has written 3 of them; choose another --out"):
        export(data, out)


def test_latents_are_refused(make_latents: Make, tmp_path: Path):
    with pytest.raises(ValueError, match="holds latents, and lerobot takes rollouts"):
        export(make_latents([3]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_telemetry_that_is_not_finite_is_refused_before_anything_is_written(data: Path, tmp_path: Path):
    with h5py.File(shard_path(data, 0), "r+") as file:
        file["telemetry"][2, 1] = np.nan  # type: ignore[index]
    with pytest.raises(
        ValueError, match=r"the telemetry column .* holds numbers that are not finite, .* choose another"
    ):
        export(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_an_earlier_export_ends_the_work_with_its_name(data: Path, tmp_path: Path):
    out = export(data, tmp_path / "out")
    path = next((out / "meta/episodes").rglob("*.parquet"))
    path.write_bytes(b"no Parquet")
    (out / "meta/info.json").unlink()
    with pytest.raises(Stopped, match=r"\.parquet: cannot be read as Parquet; delete it"):
        export(data, tmp_path / "out")


def test_a_full_disk_leaves_no_data_set(make_rollouts: Make, tmp_path: Path):
    data, out = make_rollouts([300]), tmp_path / "out"
    with largest_file(50_000), pytest.raises(Stopped, match=r"file-000\.parquet: [^\n]*ulimit"):
        export(data, out)
    assert not [path for path in out.rglob("*") if path.suffix in (".parquet", ".partial")]
    assert not (out / "meta/info.json").exists()


# by LeRobot itself


def test_lerobot_reads_it(data: Path, tmp_path: Path):
    datasets = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    out = export(data, tmp_path / "out")
    found = datasets.LeRobotDataset("out", root=out, delta_timestamps={"action": [0.0, 1 / 50]})
    assert (len(found), found.num_episodes, found[0]["task"]) == (19, 3, "drive")
    frames = np.concatenate([episode.frames for episode in Rollouts(data)])
    for index, frame in enumerate(frames):
        image = found[index]["observation.image"].numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(np.round(image * 255).astype(np.uint8), frame)
    actions = Rollouts(data)[0].actions
    np.testing.assert_array_equal(found[3]["action"].numpy(), actions[3:5])
