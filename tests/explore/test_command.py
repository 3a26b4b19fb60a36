"""The command: what is on the page, and what is refused in one line."""

import base64
import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from world_models import explore
from world_models.data.rollouts import Rollouts
from world_models.explore import command
from world_models.explore.config import ExploreConfig
from world_models.runs import description, tracking
from world_models.runs.checkpoints import load_vae, save_weights
from world_models.runs.tracking import Outcome
from world_models.runtime import files

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Runs the command on what has to be refused, checks that it wrote nothing, and returns the line that says why."""

    def run(*argv: str | Path) -> str:
        words = [str(word) for word in argv]
        with pytest.raises((ValueError, OSError)) as refusal:
            explore.main(words if "--out" in words else [*words, "--out", str(tmp_path / "explorer.html")])
        assert not list(tmp_path.glob("**/*.html"))
        return str(refusal.value)

    return run


def _contents(page: Path) -> dict[str, Any]:
    found = re.search(r'id="explorer-contents">(.*?)</script>', page.read_text(), re.S)
    assert found
    return json.loads(found.group(1))


def _array(page: Path, name: str) -> np.ndarray:
    """A uint8 or float32 array of a page."""
    found, head = re.search(rf'id="blob-{name}">(.*?)<', page.read_text()), _contents(page)["blobs"][name]
    assert found
    planes = np.frombuffer(gzip.decompress(base64.b64decode(found.group(1))), np.uint8)
    dtype = np.dtype(head["type"])
    return planes.reshape(dtype.itemsize, -1).T.copy().view(dtype).reshape(head["shape"])


# what is on the page


def test_a_page_has_the_episodes_and_their_z(car_page: Path, run_dir: Path, heldout_dir: Path):
    found, data = _contents(car_page), Rollouts(heldout_dir)
    assert [episode["name"] for episode in found["episodes"]] == [
        f"seed {episode.seed}, {episode.policy}" for episode in data
    ]
    for index, episode in enumerate(data):
        head = found["episodes"][index]
        assert head["num_frames"] == 41
        assert np.array_equal(_array(car_page, head["frames"]), episode.frames)
        assert np.array_equal(_array(car_page, head["rewards"]), [*episode.rewards, 0])
        assert np.array_equal(_array(car_page, head["actions"])[:-1], episode.actions)
        assert np.array_equal(_array(car_page, head["telemetry"]), episode.telemetry)
        mu = load_vae(run_dir).encode(episode.frames).mu
        assert all(np.allclose(_array(car_page, name), mu, atol=1e-4) for name in head["mu"])
        assert head["action_names"] == ["steering", "gas", "brake"]
        assert "velocity along [m/s]" in head["telemetry_names"]


def test_a_page_has_every_model(car_page: Path, run_dir: Path):
    found = _contents(car_page)
    assert [model["z_dim"] for model in found["models"]] == [32, 32]
    assert len({model["name"] for model in found["models"]}) == 2
    assert sorted(found["models"][0]["order"]) == list(range(32))
    assert found["models"][0]["scores"] is None
    assert (found["digits"], found["image"]) == (None, {"height": 64, "width": 64, "channels": 3})
    assert np.shape(found["map"]["components"]) == (2, 32)


def test_a_page_of_digits_has_test_images_and_their_labels(digits_page: Path):
    found = _contents(digits_page)
    (images,) = found["episodes"]
    assert found["digits"]["num_classes"] == found["models"][0]["num_classes"] == 10
    assert images["num_frames"] == 60
    assert _array(digits_page, images["labels"]).tolist() == [number % 10 for number in range(60)]
    assert (images["rewards"], images["telemetry"], found["directions"]) == (None, None, [])


def test_the_scores_of_an_evaluation_of_these_weights_are_shown(run_dir: Path, heldout_dir: Path, tmp_path: Path):
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    save_weights(run / "model.safetensors", {name: 2 * weight for name, weight in load_vae(run).state_dict().items()})
    sha256 = files.file_sha256(run / "best.safetensors")
    (run / "eval.json").write_text(json.dumps({"sse": 8.5, "vae_sha256": sha256}))
    for weights, shown in (("best", 8.5), ("last", None)):
        explore.main(
            f"--vae {run} --data {heldout_dir} --out {tmp_path / 'x.html'} --weights {weights} --max_frames 5".split()
        )
        scores = _contents(tmp_path / "x.html")["models"][0]["scores"]
        assert (scores and scores["sse"]) == shown


def _job(run: Path, data: Path, tmp_path: Path, **settings: Any) -> command.Job:
    return command.prepare(
        ExploreConfig(vae=str(run), data=str(data), out=str(tmp_path / "x.html"), device="cpu", **settings)
    )


def _seeds(job: command.Job) -> list[int | None]:
    return [clip.seed for clip in job.shown.clips()]


def test_episodes_that_no_model_was_trained_on_are_shown(run_dir: Path, rollouts_dir: Path, tmp_path: Path):
    job = _job(run_dir, rollouts_dir, tmp_path)
    held_out = set(range(6)) - set(description.load(run_dir).trained_on.train_seeds or [])
    assert set(_seeds(job)) == held_out
    assert job.notes == []


def test_chosen_episodes_are_shown_and_training_episodes_are_warned_of(
    run_dir: Path, rollouts_dir: Path, tmp_path: Path
):
    seen = sorted(description.load(run_dir).trained_on.train_seeds or [])
    job = _job(run_dir, rollouts_dir, tmp_path, episodes=(seen[1], seen[0]), max_frames=7)
    assert _seeds(job) == [seen[1], seen[0]]
    assert job.num_frames == 14
    assert f"a model was trained on episode {seen[1]}, {seen[0]} of " in job.notes[0]


def test_the_page_is_logged_to_wandb(run_dir: Path, heldout_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    logged: list[tuple[str, Outcome]] = []
    monkeypatch.setattr(tracking, "record", lambda run, config, wandb, kind, outcome: logged.append((kind, outcome)))
    explore.main(f"--vae {run_dir} --data {heldout_dir} --out {tmp_path / 'x.html'} --max_frames 5".split())
    ((kind, outcome),) = logged
    assert (kind, outcome.pages) == ("explore", {"explorer": tmp_path / "x.html"})
    assert [product.kind for product in outcome.inputs] == ["dataset", "model"]


def test_the_line_at_the_end_says_what_was_written(
    run_dir: Path, heldout_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    explore.main(f"--vae {run_dir} --data {heldout_dir} --out {tmp_path / 'new/x.html'} --max_frames 5".split())
    assert re.search(r"new/x.html: \d+\.\d MB, 1 model, 10 frames$", capsys.readouterr().out.strip())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.html"]


# what is refused


def test_a_missing_run_is_refused(refused: Refused, tmp_path: Path):
    assert "no trained model in it (no model.json)" in refused("--vae", tmp_path / "nothing")


def test_missing_data_are_refused(refused: Refused, run_dir: Path, tmp_path: Path):
    assert "no such file or folder" in refused("--vae", run_dir, "--data", tmp_path / "nothing")


def test_a_model_of_another_network_is_refused(refused: Refused, run_dir: Path, heldout_dir: Path, tmp_path: Path):
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    (run / "model.json").write_text((run / "model.json").read_text().replace('"conv_vae"', '"transformer"'))
    assert "'transformer', wanted" in refused("--vae", run, "--data", heldout_dir)


def test_weights_that_are_not_finite_are_refused(refused: Refused, run_dir: Path, heldout_dir: Path, tmp_path: Path):
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    vae = load_vae(run)
    with torch.no_grad():
        vae.decoder.linear.bias[3] = torch.nan
    save_weights(run / "best.safetensors", vae.state_dict())
    assert "decoder.linear.bias holds numbers that are not finite" in refused("--vae", run, "--data", heldout_dir)


def test_data_of_another_preprocess_are_refused(refused: Refused, run_dir: Path, make_rollouts: Callable[..., Path]):
    data = make_rollouts([5, 5], preprocess={"crop": None, "size": 64, "interpolation": "INTER_AREA"})
    assert "collect with the same --crop" in refused("--vae", run_dir, "--data", data)


def test_a_model_with_too_many_dimensions_is_refused(refused: Refused, digits_run: Callable[..., Path]):
    assert "z has 1,025 dimensions" in refused("--vae", digits_run("--vae.z_dim", "1025"))


def test_an_episode_that_does_not_exist_is_refused(refused: Refused, run_dir: Path, heldout_dir: Path):
    line = refused("--vae", run_dir, "--data", heldout_dir, "--episodes", "[0,2]")
    assert line.endswith("has no episode 2; its 2 episodes are 0 to 1")


def test_a_folder_that_cannot_be_written_is_refused(refused: Refused, run_dir: Path, heldout_dir: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "explorer.html"
    assert "file is a file, not a folder" in refused("--vae", run_dir, "--data", heldout_dir, "--out", out)


def test_a_page_with_the_name_of_a_folder_is_refused(refused: Refused, run_dir: Path, heldout_dir: Path):
    folder = heldout_dir.parent / "page.html"
    folder.mkdir()
    assert "a folder, wanted a file" in refused("--vae", run_dir, "--data", heldout_dir, "--out", folder)


def test_models_of_other_data_are_refused(
    refused: Refused, run_dir: Path, heldout_dir: Path, digits_run: Callable[..., Path], mnist_dir: Path
):
    digits = digits_run("--vae.z_dim", "2")
    assert "trained on mnist" in refused("--vae", run_dir, "--data", heldout_dir, "--compare_with", f"[{digits}]")
    assert "which have no episodes" in refused("--vae", digits, "--episodes", "[1]")
    assert "no MNIST there" in refused("--vae", digits, "--data", heldout_dir)


def test_a_model_of_digits_that_does_not_name_its_data_is_refused(
    refused: Refused, digits_run: Callable[..., Path], tmp_path: Path
):
    run = Path(shutil.copytree(digits_run("--vae.z_dim", "2"), tmp_path / "run"))
    described = json.loads((run / "model.json").read_text())
    del described["data"]
    (run / "model.json").write_text(json.dumps(described))
    assert "lacks data" in refused("--vae", run)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("--out explorer.txt", "give a name that ends with .html"),
        ("--compare_with [a,b,c,d]", "compare_with names 4 runs; give 3 at most"),
        ("--episodes [1,1]", "episodes names 1 twice"),
        ("--episodes [-1]", "give 0 or more"),
        ("--max_frames 1", "max_frames is 1; give 2 or more"),
    ],
)
def test_bad_settings_are_refused(argv: str, line: str):
    with pytest.raises(ValueError, match=re.escape(line)):
        explore.main(argv.split())


def test_a_folder_of_too_many_other_runs_is_refused(refused: Refused, run_dir: Path, heldout_dir: Path, tmp_path: Path):
    for name in "abcd":
        shutil.copytree(run_dir, tmp_path / "runs" / name)
    line = refused("--vae", run_dir, "--data", heldout_dir, "--compare_with", f"[{tmp_path / 'runs'}]")
    assert "compare_with holds 4 runs; name 3 at most" in line
