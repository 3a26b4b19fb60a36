"""The whole pipeline on real CarRacing, command by command."""

import json
from pathlib import Path

import pytest

from world_models import Latents, LatentSequences, Rollouts, load_vae
from world_models.__main__ import PipelineConfig, main
from world_models.encode import command
from world_models.runtime.errors import Stopped

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A pipeline at the smallest scale, run once."""
    root = tmp_path_factory.mktemp("pipeline")
    main(_argv(root))
    return root


def _argv(root) -> list[str]:
    return f"--root {root} --num_episodes 4 --max_steps 30 --num_frames 300 --num_workers 2".split()


def test_every_stage_writes_its_files(first):
    assert len(Rollouts(first / "rollouts/quick", verify=True)) == 4
    assert len(Latents(first / "latents/quick", verify=True)) == 4
    for name in ("model.safetensors", "best.safetensors", "model.json", "state.pt", "metrics.jsonl", "config.yaml"):
        assert (first / "runs/quick" / name).stat().st_size
    for name in ("eval.json", "report.html"):
        assert (first / "runs/quick" / name).stat().st_size


def test_the_held_out_tracks_are_not_training_tracks(first):
    trained, held_out = Rollouts(first / "rollouts/quick"), Rollouts(first / "rollouts/quick-heldout")
    assert not set(trained.seeds.tolist()) & set(held_out.seeds.tolist())


def test_the_latents_were_made_by_the_trained_model(first):
    episode, latents = Rollouts(first / "rollouts/quick")[2], Latents(first / "latents/quick")[2]
    assert latents.mu == pytest.approx(load_vae(first / "runs/quick").encode(episode.frames).mu.numpy(), abs=1e-5)


def test_windows_for_a_memory_model_are_aligned(first):
    windows = LatentSequences(first / "latents/quick", length=10)
    assert len(windows) == 4 * 3
    window = windows[0]
    assert window["z"].shape == window["next_z"].shape == (10, 32)
    assert window["actions"].shape == (10, 3)


def test_the_evaluation_has_scores_and_baselines(first):
    scores = json.loads((first / "runs/quick/eval.json").read_text())
    for name in ("sse", "pca_sse", "mean_sse", "previous_sse", "kl_nats", "active_units"):
        assert scores[name] >= 0
    assert len(scores["probe_r2"]) == 19


def test_running_again_repeats_no_stage_and_says_so(first, capsys):
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    main(_argv(first))
    said = capsys.readouterr().out
    assert said.count("finished before") == 5
    assert "SSE" in said
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("more", ["--num_frames 400", "--num_episodes 6"])
def test_another_size_under_the_same_name_is_refused_before_any_work(first, more):
    before = sorted(first.rglob("*"))
    with pytest.raises(ValueError, match="choose another --"):
        main([*_argv(first), *more.split()])
    assert sorted(first.rglob("*")) == before


def test_an_error_between_stages_is_reported_in_one_line(first, monkeypatch):
    monkeypatch.setattr(command, "prepare", lambda config: (_ for _ in ()).throw(ValueError("no such latents")))
    with pytest.raises(Stopped, match=r"^no such latents$"):
        main(_argv(first))


def test_a_missing_summary_of_latents_is_written_again(first):
    (first / "latents/quick/latents.json").unlink()
    main(_argv(first))
    assert (first / "latents/quick/latents.json").exists()


def test_a_missing_evaluation_is_made_again(first, capsys):
    (first / "runs/quick/eval.json").unlink()
    main(_argv(first))
    said = capsys.readouterr().out
    assert said.count("finished before") == 4
    assert (first / "runs/quick/eval.json").exists()


def test_fewer_than_two_episodes_are_refused():
    with pytest.raises(ValueError, match="num_episodes is 1; give 2 or more"):
        main(["--num_episodes", "1"])


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "..", "a\0b"])
def test_a_name_that_is_not_one_folder_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"^name is '"):
        PipelineConfig(root=str(tmp_path), name=name)
