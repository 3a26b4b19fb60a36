"""An episode that ends during its warm-up is left out and reported. The data set without it is complete."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces

from world_models.collect import command as collect
from world_models.collect.command import CollectConfig, Job
from world_models.data.frames import FrameSet
from world_models.data.latent_summary import SUMMARY_FILE
from world_models.data.latents import FORMAT as LATENTS
from world_models.data.latents import Latents
from world_models.data.rollouts import FORMAT, Rollouts
from world_models.data.sequences import LatentSequences
from world_models.data.shards import shard_path
from world_models.data.shards.reader import Shard
from world_models.encode import command as encode
from world_models.runtime.errors import Stopped
from world_models.train_vae.data import KINDS

BRIEF = {0, 2, 3, 8, 9}
"""Seeds whose episodes end in step 3. With two episodes per shard, the first shard has one left, the second none."""
KEPT = [1, 4, 5, 6, 7]
WARMUP = 5


class Lived(gymnasium.Env):
    """Shows the seed and the step; some seeds end soon."""

    observation_space = spaces.Box(0, 255, (96, 96, 3), np.uint8)
    action_space = spaces.Box(-1.0, 1.0, (3,))
    brief = BRIEF

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.now = (seed or 0, 0)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.now = self.now[0], self.now[1] + 1
        return self.observe(), 1.0, self.now[0] in self.brief and self.now[1] >= 3, False, {}

    def observe(self) -> np.ndarray:
        return np.random.default_rng(self.now).integers(0, 256, (96, 96, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    kind: Any = Lived
    gymnasium.register("Lived-v0", kind)
    yield
    del gymnasium.registry["Lived-v0"]


def config_of(out: Path, num_episodes: int = 10, **settings: Any) -> CollectConfig:
    usual: dict[str, Any] = {"policy": "brownian", "warmup_steps": WARMUP, "crop": "0:84", "executor": "serial"}
    usual |= {"env": "Lived-v0", "max_steps": 6, "episodes_per_shard": 2}
    return CollectConfig(str(out), num_episodes, **{**usual, **settings})


def gather(out: Path, num_episodes: int = 10, **settings: Any) -> Rollouts:
    collect.collect(collect.prepare(config_of(out, num_episodes, **settings)))
    return Rollouts(out, verify=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten episodes of which five ended during their warm-up, in five shards: of 1, 0, 2, 2 and 0 episodes."""
    out = tmp_path_factory.mktemp("made") / "data"
    gather(out)
    return out


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "data")


def skipped(data: Rollouts | Latents) -> list[list[int]]:
    return [list(shard.skipped_seeds) for shard in data.shards]


# --- collecting


def test_episodes_that_end_in_their_warm_up_are_left_out_and_their_seeds_are_stored(made: Path):
    data = Rollouts(made, verify=True)
    assert data.seeds.tolist() == KEPT and data.skipped_seeds == tuple(sorted(BRIEF))
    assert skipped(data) == [[0], [2, 3], [], [], [8, 9]]


def test_skipped_episodes_do_not_change_the_other_episodes(made: Path, tmp_path: Path):
    alone = gather(tmp_path / "alone", 1, seed=4)[0]
    np.testing.assert_array_equal(Rollouts(made)[1].frames, alone.frames)
    np.testing.assert_array_equal(Rollouts(made)[1].actions, alone.actions)


def test_only_shards_with_skipped_seeds_have_the_attribute(made: Path):
    found = []
    for index in range(5):
        with h5py.File(shard_path(made, index)) as file:
            found.append(file.attrs.get("skipped_seeds"))
    assert found == [b"[0]", b"[2, 3]", None, None, b"[8, 9]"]


def test_the_last_line_counts_the_skipped_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    gather(tmp_path / "out")
    assert "5 of 10 episodes ended during their warm-up and were left out" in capsys.readouterr().out


def test_a_mixture_is_distributed_over_all_planned_episodes(tmp_path: Path):
    data = gather(tmp_path / "out", policy="mixture", mixture={"brownian": 1.0, "random": 1.0})
    assert data.policies == tuple("random" if seed % 2 else "brownian" for seed in KEPT)


def test_a_collection_that_would_skip_all_episodes_is_refused_before_work(tmp_path: Path):
    said = r"^each of the 2 episodes \(seeds 2 to 3\) ended within 5 warm-up steps; give fewer --warmup_steps"
    with pytest.raises(ValueError, match=said):
        collect.prepare(config_of(tmp_path / "out", 2, seed=2))
    assert not (tmp_path / "out").exists()


def test_a_collection_that_skipped_all_episodes_ends_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = collect.prepare(config_of(tmp_path / "out", 4))
    monkeypatch.setattr(Lived, "brief", range(100))  # the seeds do not determine this one
    with pytest.raises(Stopped, match="holds no episode, each ended in its warm-up; collect with fewer --warmup_steps"):
        collect.collect(job)


def test_whether_an_episode_is_skipped_depends_only_on_its_seed(tmp_path: Path):
    orders = [gather(tmp_path / f"{size}", 10, episodes_per_shard=size) for size in (1, 5)]
    for one, other in itertools.pairwise(orders):
        assert one.skipped_seeds == other.skipped_seeds and one.seeds.tolist() == other.seeds.tolist() == KEPT


# --- going on


def test_a_data_set_with_skipped_seeds_is_finished(made: Path):
    job = collect.prepare(config_of(made))
    assert isinstance(job, Job) and job.tasks == () and job.is_finished


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_missing_shard_is_collected_again_with_the_same_columns(copied: Path, made: Path, index: int):
    shard_path(copied, index).unlink()
    job = collect.prepare(config_of(copied))
    assert isinstance(job, Job) and [task.path for task in job.tasks] == [shard_path(copied, index)]
    collect.collect(job)
    assert Rollouts(copied).digest() == Rollouts(made).digest() and skipped(Rollouts(copied)) == skipped(Rollouts(made))


@pytest.mark.parametrize("before", [2, 3, 5, 9])
def test_an_extended_data_set_equals_one_that_was_collected_at_once(tmp_path: Path, made: Path, before: int):
    gather(tmp_path / "out", before)
    data = gather(tmp_path / "out", 10)
    assert data.digest() == Rollouts(made).digest() and skipped(data) == skipped(Rollouts(made))


def test_fewer_episodes_than_were_planned_are_refused(made: Path):
    with pytest.raises(ValueError, match="holds more than 9 episodes"):
        collect.prepare(config_of(made, 9))


# --- reading


def test_verify_counts_the_skipped_episodes(made: Path, capsys: pytest.CaptureFixture[str]):
    collect.collect(collect.prepare(CollectConfig(verify=str(made))))
    shown = capsys.readouterr().out
    assert (
        "complete, every digest correct" in shown and "left out   5 episodes, which ended during their warm-up" in shown
    )


def test_episodes_are_found_across_an_empty_shard(made: Path):
    data = Rollouts(made)
    assert [episode.seed for episode in data] == KEPT and data.returns().tolist() == [6.0] * 5


def test_an_empty_shard_alone_is_refused_by_name(made: Path):
    with pytest.raises(ValueError, match=r"shard-00001.h5: holds no episode, each ended in its warm-up"):
        Rollouts(shard_path(made, 1))


def test_an_empty_shard_without_skipped_seeds_is_refused(copied: Path):
    with h5py.File(shard_path(copied, 1), "r+") as file:
        del file.attrs["skipped_seeds"]
    with pytest.raises(ValueError, match=r"shard-00001.h5: episode columns of different lengths, or none; delete"):
        Rollouts(copied)


@pytest.mark.parametrize("wrong", ["", "{}", "2", '["2"]', "[2.5]", "[-1]", "[true]", "[[2]]", f"[{2**63}]", "[2"])
def test_a_wrong_list_of_skipped_seeds_is_refused(copied: Path, wrong: str):
    with h5py.File(shard_path(copied, 1), "r+") as file:
        file.attrs["skipped_seeds"] = wrong
    with pytest.raises(ValueError, match=r"shard-00001.h5: attribute skipped_seeds is n"):
        Rollouts(copied)


def test_training_uses_the_frames_of_all_stored_episodes(made: Path):
    data = KINDS["rollouts"].read([str(made)], 0, ())
    assert len(data.train) + len(data.held_out) == 5 * 7
    assert len(FrameSet(Rollouts(made), range(5)).read_all()) == 5 * 7


# --- encoding


@pytest.fixture(scope="module")
def encoded(made: Path, run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoded") / "latents"
    encode.encode(encode.prepare(encode.EncodeConfig(str(made), str(run_dir), str(out))))
    return out


def test_latents_have_the_shards_and_the_skipped_seeds_of_their_rollouts(made: Path, encoded: Path):
    rollouts, latents = Rollouts(made), Latents(encoded, verify=True)
    assert skipped(latents) == skipped(rollouts) and latents.seeds.tolist() == KEPT
    assert [shard.num_rows for shard in latents.shards] == [7, 0, 14, 14, 0]


def test_the_summary_of_latents_counts_the_stored_episodes(encoded: Path):
    summary = json.loads((encoded / SUMMARY_FILE).read_text())
    assert (summary["episodes"], summary["rows"], summary["check"]["passed"]) == (5, 35, True)
    assert np.isfinite(summary["mu_mean"]).all()


def test_encoding_is_finished_after_one_run(made: Path, run_dir: Path, encoded: Path):
    job = encode.prepare(encode.EncodeConfig(str(made), str(run_dir), str(encoded)))
    assert job.missing_shards == () and job.is_finished


@pytest.mark.parametrize("before", [3])
def test_latents_follow_an_extended_data_set(tmp_path: Path, run_dir: Path, encoded: Path, before: int):
    config = encode.EncodeConfig(str(tmp_path / "out"), str(run_dir), str(tmp_path / "latents"))
    for num_episodes in (before, 10):
        gather(tmp_path / "out", num_episodes)
        encode.encode(encode.prepare(config))
    latents = Latents(tmp_path / "latents", verify=True)
    assert skipped(latents) == skipped(Latents(encoded)) and latents.digest() == Latents(encoded).digest()


def test_sequences_are_read_across_an_empty_shard(encoded: Path):
    sequences = LatentSequences(encoded, 6)
    assert [item["rewards"].tolist() for item in (sequences[i] for i in range(len(sequences)))] == [[1.0] * 6] * 5


def test_an_empty_shard_of_rollouts_becomes_an_empty_shard_of_latents(made: Path, encoded: Path):
    rollouts, latents = Shard(shard_path(made, 1), FORMAT), Shard(shard_path(encoded, 1), LATENTS)
    assert latents.attributes["rollouts_digest"] == rollouts.digest() and len(latents.starts) == 0
