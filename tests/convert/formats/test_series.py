"""Latents as hardmaru's programs read them. Their loading lines are written here anew, from what they mean."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import largest_file

from world_models import convert
from world_models.convert.config import ConvertConfig
from world_models.convert.formats import series
from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts
from world_models.data.shards import shard_path
from world_models.runtime.errors import Stopped

Make = Callable[..., Path]


def export(data: Path, out: Path, more: str = "--rows 5") -> Path:
    convert.main(f"--data {data} --out {out} --format series {more}".split())
    return out


def refusal(data: Path, out: Path, more: str = "--rows 5") -> str:
    """The line that says why an export is refused."""
    with pytest.raises((ValueError, OSError)) as refused:
        export(data, out, more)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def data(make_latents: Make) -> Path:
    """Episodes of 5, 6 and 7 rows, and one of 4 rows, which is too short."""
    return make_latents([5, 3], [6, 4])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "series" / "series.npz"


class RnnTrain:
    """What carracing/rnn_train.py does with its files before it trains."""

    def __init__(self, path: Path):
        arrays = np.load(path)  # NumPy refuses pickles by default
        self.mu, self.logvar, self.action = arrays["mu"], arrays["logvar"], arrays["action"]

    def batch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs: z and action of all rows but the last. Outputs: z of all rows but the first."""
        chosen = rng.permutation(len(self.mu))
        sigma = np.exp(self.logvar[chosen] / 2)
        z = self.mu[chosen] + sigma * rng.standard_normal(sigma.shape)
        return np.concatenate((z[:, :-1], self.action[chosen][:, :-1]), axis=2), z[:, 1:]


def test_the_original_reads_a_sequence_for_each_episode_that_is_long_enough(data: Path, out: Path):
    read, latents = RnnTrain(export(data, out)), Latents(data)
    episodes = [episode for episode in latents if len(episode.mu) >= 5]
    assert len(read.mu) == len(episodes) == 3
    for number, episode in enumerate(episodes):
        np.testing.assert_array_equal(read.mu[number], episode.mu[:5].astype(np.float16))
        np.testing.assert_array_equal(read.logvar[number], episode.logvar[:5].astype(np.float16))
        np.testing.assert_array_equal(read.action[number, :4], episode.actions[:4].astype(np.float16))


def test_the_arrays_have_the_dtype_and_shape_of_the_originals(data: Path, out: Path):
    read = RnnTrain(export(data, out))
    assert {array.dtype for array in (read.mu, read.logvar, read.action)} == {np.dtype(np.float16)}
    assert (read.mu.shape, read.logvar.shape, read.action.shape) == ((3, 5, 4), (3, 5, 4), (3, 5, 3))
    inputs, outputs = read.batch(np.random.default_rng(0))
    assert (inputs.shape, outputs.shape) == ((3, 4, 4 + 3), (3, 4, 4))


def test_the_original_never_reads_the_action_of_a_final_frame(data: Path, out: Path):
    read = RnnTrain(export(data, out))
    assert not read.action[2, 4].any()  # an episode of 4 steps: row 4 is its final frame
    assert read.action[:2, 4].any(1).all()
    before = read.batch(np.random.default_rng(0))[0]
    read.action[:, 4] = np.nan
    np.testing.assert_array_equal(read.batch(np.random.default_rng(0))[0], before)


def test_a_sequence_has_the_originals_thousand_rows_by_default():
    assert ConvertConfig(data="latents/a", out="series.npz").rows == 1000


def test_latents_of_float16_are_kept_bit_for_bit(make_latents: Make, out: Path):
    data = make_latents([4], dtype="float16")
    assert RnnTrain(export(data, out)).mu.tobytes() == Latents(data)[0].mu.tobytes()


def test_the_initial_latents_are_those_of_the_first_frames(data: Path, out: Path):
    """As carracing/dream_env.py reads them: whole numbers, a ten-thousandth each."""
    read = RnnTrain(export(data, out))
    mu, logvar = json.loads((out.parent / "initial_z.json").read_text())
    assert all(isinstance(number, int) for moments in (mu, logvar) for frame in moments for number in frame)
    np.testing.assert_allclose(np.array(mu) / 10_000, read.mu[:, 0], atol=1e-4)
    np.testing.assert_allclose(np.array(logvar) / 10_000, read.logvar[:, 0], atol=1e-4)


def test_the_number_of_initial_latents_is_bounded(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    assert series.NUM_INITIAL == 1000
    monkeypatch.setattr(series, "NUM_INITIAL", 2)
    assert len(RnnTrain(export(data, out)).mu) == 3
    assert [len(moments) for moments in json.loads((out.parent / "initial_z.json").read_text())] == [2, 2]


def test_the_command_prints_how_many_episodes_were_left_out(data: Path, out: Path, capsys):
    export(data, out)
    said = f"{out}: 3 sequences of 5 rows, z_dim 4, 3 action columns; 1 of 4 episodes are shorter and were left out\n"
    assert capsys.readouterr().out == said


def test_real_latents_are_written(latents_dir: Path, out: Path, capsys):
    read = RnnTrain(export(latents_dir, out, "--rows 41"))
    assert read.mu.shape == (6, 41, 32)
    assert "left out" not in capsys.readouterr().out


# again


def test_a_finished_export_is_not_repeated(data: Path, out: Path, capsys):
    written = {path: path.stat().st_mtime_ns for path in export(data, out).parent.iterdir()}
    export(data, out)
    assert {path: path.stat().st_mtime_ns for path in out.parent.iterdir()} == written
    assert capsys.readouterr().out.endswith(", finished before\n")


def test_missing_initial_latents_are_written_alone(data: Path, out: Path):
    initial = export(data, out).parent / "initial_z.json"
    text, written = initial.read_text(), out.stat().st_mtime_ns
    initial.unlink()
    export(data, out)
    assert (initial.read_text(), out.stat().st_mtime_ns) == (text, written)


def test_the_unfinished_files_of_a_killed_process_are_deleted(data: Path, out: Path, leave_partial):
    out.parent.mkdir()
    partials = [leave_partial(out), leave_partial(out.parent / "initial_z.json")]
    export(data, out)
    assert not any(partial.exists() for partial in partials)


def test_a_full_disk_ends_with_one_line_and_leaves_no_series(make_latents: Make, out: Path):
    data = make_latents([99], z_dim=256)
    with largest_file(20_000), pytest.raises(Stopped, match=rf"^{out}: [^\n]*ulimit"):
        export(data, out, "--rows 100")
    assert not list(out.parent.iterdir())


# refused


def test_rollouts_are_refused(data: Path, tmp_path: Path, out: Path):
    assert refusal(tmp_path / "rollouts", out).endswith(
        "holds rollouts, and series takes latents; run encode first, and name its --out"
    )
    assert not out.parent.exists()


def test_a_folder_is_refused_as_the_file(data: Path, out: Path):
    assert "series is an npz file; give a name such as --out series/series.npz" in refusal(data, out.parent)
    (out.parent / "folder.npz").mkdir(parents=True)
    assert "series is an npz file" in refusal(data, out.parent / "folder.npz")


def test_too_long_sequences_are_refused(data: Path, out: Path):
    assert refusal(data, out, "").endswith("no episode has 1,000 rows, the longest has 7; give --rows 7 or fewer")
    assert not out.parent.exists()


@pytest.mark.parametrize("other", ["--rows 4", "another file"])
def test_another_file_of_the_same_name_is_kept(data: Path, out: Path, other: str):
    if other.startswith("--"):
        export(data, out, other)
    else:
        out.parent.mkdir()
        out.write_text(other)
    before = out.read_bytes()
    assert refusal(data, out).endswith(f"no series of 5 rows of {data}; choose another --out")
    assert out.read_bytes() == before


def test_a_series_of_fewer_episodes_says_what_to_delete(data: Path, out: Path):
    last = shard_path(data, 1)
    whole = last.read_bytes()
    last.unlink()
    export(data, out)
    last.write_bytes(whole)
    assert refusal(data, out).endswith(
        f"a series of other episodes than {data} holds now; delete it and initial_z.json to write all of them, or "
        "choose another --out"
    )


def test_other_initial_latents_are_kept(data: Path, out: Path):
    out.parent.mkdir()
    (out.parent / "initial_z.json").write_text("mine")
    assert refusal(data, out).endswith("initial_z.json: exists already; choose another folder for --out")
    assert (out.parent / "initial_z.json").read_text() == "mine"


@pytest.mark.parametrize(("column", "wrong"), [("mu", 1e5), ("logvar", np.nan), ("mu", -np.inf)])
def test_numbers_that_float16_cannot_hold_are_refused(data: Path, out: Path, column: str, wrong: float):
    with h5py.File(shard_path(data, 1), "r+") as file:
        values = file[column]
        assert isinstance(values, h5py.Dataset)
        values[2, 0] = wrong
    found = refusal(data, out)
    assert found.startswith(f"{shard_path(data, 1)}: {column} of the episode of seed 2 holds {np.float32(wrong)}")
    assert not out.parent.exists()


def test_planning_writes_nothing(data: Path, out: Path):
    config = ConvertConfig(data=str(data), out=str(out), format="series", rows=5)
    planned = series.plan(Latents(data), out, config)
    assert (planned.num_rows, planned.warnings, planned.is_finished) == (15, (), False)
    assert planned.need_bytes == 15 * 2 * (4 + 4 + 3)
    assert not out.parent.exists()
    with pytest.raises(ValueError, match="holds rollouts"):
        series.plan(Rollouts(data.parent / "rollouts"), out, config)
