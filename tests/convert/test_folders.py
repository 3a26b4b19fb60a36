"""An export grows with its data set: what is finished stays, and only what is new is written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from world_models import convert
from world_models.convert import folders
from world_models.convert.config import ConvertConfig
from world_models.convert.formats import npz_writing
from world_models.data.rollouts import Rollouts

Make = Callable[..., Path]


def export(data: Path, out: Path, format: str = "npz") -> Path:
    convert.main(f"--data {data} --out {out} --format {format} --executor serial".split())
    return out


def contents(out: Path) -> dict[str, bytes]:
    paths = [path for path in out.rglob("*") if path.is_file() and path.name != folders.RECORD_FILE]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix in (".npz", ".parquet")}


@pytest.fixture
def before(make_rollouts: Make) -> Path:
    """Four episodes in two shards, of which the second one may get more."""
    return make_rollouts([9, 4], [6, 2], name="before")


@pytest.fixture
def after(make_rollouts: Make) -> Path:
    """The same, with an episode more in the second shard, and a third shard."""
    return make_rollouts([9, 4], [6, 2, 3], [5], name="after")


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_episodes_that_were_collected_since_are_added(before: Path, after: Path, tmp_path: Path, format: str):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    out = export(before, tmp_path / "out", format)
    written = times(out)
    export(after, out, format)
    assert contents(out) == {**contents(export(after, tmp_path / "fresh", format))}
    kept = "episode-000000.npz" if format == "npz" else "shard-00000.parquet"
    assert times(out)[kept] == written[kept]


def test_an_export_of_new_shards_alone_keeps_all_files(before: Path, make_rollouts: Make, tmp_path: Path):
    out = export(before, tmp_path / "out")
    written = times(out)
    export(make_rollouts([9, 4], [6, 2], [5], name="after"), out)
    assert written.items() <= times(out).items()
    assert len(times(out)) == 5


def test_an_interrupted_addition_continues(before: Path, after: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The work ends after the second shard has been begun, and its old files are not taken for new ones."""
    out = export(before, tmp_path / "out")
    real = npz_writing.write_npz

    def fails(path: Path, *rest):
        if path.name == "episode-000003.npz":
            raise KeyboardInterrupt
        return real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(npz_writing, "write_npz", fails)
        with pytest.raises(KeyboardInterrupt):
            export(after, out)
    assert not (out / "shard-00001/episode-000003.npz").exists()
    export(after, out)
    assert contents(out) == contents(export(after, tmp_path / "fresh"))


def test_the_card_is_written_again_unless_somebody_has_edited_it(before: Path, after: Path, tmp_path: Path, capsys):
    pytest.importorskip("pyarrow")
    one, two = (export(before, tmp_path / name, "parquet") for name in ("one", "two"))
    (two / "README.md").write_text("edited")
    for out in (one, two):
        export(after, out, "parquet")
    assert "| episodes | 6 |" in (one / "README.md").read_text()
    assert (two / "README.md").read_text() == "edited"
    assert capsys.readouterr().err.count("README.md: was edited, so it stays, and describes the smaller data set") == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"shards": {}},
        {"shards": None},
        {"shards": {"shard-00001.h5": "ab"}},
        {"last_episodes": "2"},
        {"last_episodes": 9},
        {"last_digest": "ab"},
    ],
)
def test_a_record_that_does_not_fit_the_data_is_refused(before: Path, after: Path, tmp_path: Path, changed: dict):
    out = export(before, tmp_path / "out")
    record = json.loads((out / folders.RECORD_FILE).read_text())
    (out / folders.RECORD_FILE).write_text(json.dumps(record | changed))
    with pytest.raises(ValueError, match=r"holds an export whose digest is .*; delete the folder or choose another"):
        export(after, out)


@pytest.mark.parametrize("lengths", [([9, 4],), ([9, 4], [6]), ([9, 5], [6, 2], [3]), ([9, 4], [7, 2, 3])])
def test_data_that_do_not_begin_with_the_export_are_refused(before: Path, make_rollouts: Make, tmp_path: Path, lengths):
    out = export(before, tmp_path / "out")
    found = contents(out)
    with pytest.raises(ValueError, match="holds an export whose digest is"):
        export(make_rollouts(*lengths, name="other"), out)
    assert contents(out) == found


def test_a_record_cannot_have_files_elsewhere_deleted(before: Path, after: Path, tmp_path: Path):
    out = export(before, tmp_path / "out")
    precious = tmp_path / "precious.txt"
    precious.write_text("")
    record = json.loads((out / folders.RECORD_FILE).read_text())
    record["pages"] = {"../precious.txt": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    (out / folders.RECORD_FILE).write_text(json.dumps(record))
    export(after, out)
    assert precious.exists()


def test_tasks_know_the_first_episode_and_the_first_row(before: Path):
    tasks = folders.shard_tasks(Rollouts(before), lambda shard: Path(shard.path.stem))
    assert [(task.first_episode, task.first_row) for task in tasks] == [(0, 0), (2, 15)]
    np.testing.assert_array_equal([task.target.name for task in tasks], ["shard-00000", "shard-00001"])


def test_a_job_counts_the_rows_of_what_is_new(before: Path, after: Path, tmp_path: Path):
    from world_models.convert import exporting

    out = export(before, tmp_path / "out")
    job = exporting.prepare(ConvertConfig(str(after), str(out), "npz", executor="serial"), has_latents=False)
    assert (job.num_frames, job.is_finished) == (7 + 3 + 4 + 6, False)
