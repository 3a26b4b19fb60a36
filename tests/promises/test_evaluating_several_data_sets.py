"""Scores on several data sets: of each set, and of all together."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models.data.rollouts import Rollouts
from world_models.data.several import open_rollouts
from world_models.evaluate import command as evaluate
from world_models.evaluate import rollout_job
from world_models.evaluate.config import EvaluateConfig
from world_models.runs import checkpoints, layout, tracking
from world_models.train_vae import command as train_vae
from world_models.vae import metrics
from world_models.vae.labelled_frames import LabelledFrames

pytestmark = pytest.mark.usefixtures("one_thread")

MakeRollouts = Callable[..., Path]
MEANS = ("sse", "kl_nats", "ssim", "mean_sse", "pca_sse", "elbo_nats")


@pytest.fixture
def train(make_rollouts: MakeRollouts) -> list[Path]:
    """Two data sets to train on, the second of another environment."""
    return [make_rollouts([6, 6, 6], name="train"), make_rollouts([5, 5], name="others", seed=50, env="Other-v0")]


@pytest.fixture
def run(train: list[Path], tmp_path: Path) -> Path:
    """A V model that was trained for one step on both."""
    out = tmp_path / "run"
    flags = f"--out {out} --num_frames 8 --batch_size 8 --vae.z_dim 4 --num_val_frames 4"
    train_vae.main([*flags.split(), "--data", json.dumps([*map(str, train)])])
    return out


@pytest.fixture
def tests(make_rollouts: MakeRollouts) -> list[Path]:
    return [make_rollouts([5, 4], name="first", seed=1000), make_rollouts([8], name="second", seed=2000)]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the figures, and the hundred decodings of every frame."""
    monkeypatch.setattr(metrics, "iwae_nats", lambda *_args: {"1": -1.0, "10": -0.5, "100": -0.25})
    monkeypatch.setattr("world_models.evaluate.page.draw", lambda *_args: {})
    monkeypatch.setattr("world_models.evaluate.page.draw_breakdown", lambda *_args: {})


def _evaluate(run: Path, *data: Path, more: str = "") -> dict[str, Any]:
    named = json.dumps([*map(str, data)])
    evaluate.main([*f"--vae {run} {more}".split(), "--data", named])
    return json.loads((run / "eval.json").read_text())


def _refused(run: Path, *data: Path, more: str = "") -> str:
    """The line that says why. Nothing was written."""
    with pytest.raises((ValueError, OSError)) as refusal:
        _evaluate(run, *data, more=more)
    assert not (run / "eval.json").exists()
    return str(refusal.value)


def test_each_set_has_its_scores_and_all_together_their_mean(run: Path, tests: list[Path]):
    scores = _evaluate(run, *tests)
    both, parts = open_rollouts(tests), scores["by_data"]
    assert list(parts) == ["first", "second"]
    assert (scores["frames"], scores["episodes"], scores["data_digest"]) == (both.num_rows, 3, both.digest())
    assert scores["data"] == both.name
    for folder, part in zip(tests, parts.values(), strict=True):
        data = Rollouts(folder)
        assert (part["frames"], part["episodes"], part["trained_on_episodes"]) == (data.num_rows, len(data), 0)
        assert (part["data"], part["data_digest"]) == (str(folder), data.digest())
    for name in MEANS:
        mean = sum(part["frames"] * part[name] for part in parts.values()) / scores["frames"]
        assert scores[name] == pytest.approx(mean, rel=1e-5)


def test_the_scores_of_a_set_are_those_of_its_frames(run: Path, tests: list[Path]):
    part = _evaluate(run, *tests)["by_data"]["second"]
    (episode,) = Rollouts(tests[1])
    alone = metrics.measure(checkpoints.load_vae(run), LabelledFrames.of_one_class(episode.frames))
    found = [part[name] for name in ("sse", "psnr_db", "ssim", "kl_nats")]
    assert found == pytest.approx([alone.sse, alone.psnr_db, alone.ssim, alone.kl_nats], rel=1e-4)
    assert part["active_units"] == alone.active_units


def test_the_report_shows_each_set(run: Path, tests: list[Path]):
    scores = _evaluate(run, *tests)
    page = (run / "report.html").read_text()
    _, table = page.split("Each data set")
    table = table[: table.index("</table>")]
    heads, errors = re.findall(r'<th scope="col">(.*?)</th>', table), re.findall(r"<td>(.*?)</td>", table)
    assert heads == ["", *scores["by_data"]]
    assert errors[: len(heads) - 1] == [f"{part['sse']:,.2f}" for part in scores["by_data"].values()]


def test_one_set_is_scored_as_before(run: Path, tests: list[Path]):
    scores = _evaluate(run, tests[0])
    assert "by_data" not in scores and scores["data"] == str(tests[0])
    assert "Each data set" not in (run / "report.html").read_text()


def test_scores_of_several_sets_are_not_made_again(run: Path, tests: list[Path]):
    _evaluate(run, *tests)
    config = EvaluateConfig(data=tuple(map(str, tests)), vae=str(run))
    assert evaluate.prepare(config).is_finished
    assert not evaluate.prepare(EvaluateConfig(data=str(tests[0]), vae=str(run))).is_finished


def test_wandb_is_given_every_set(run: Path, tests: list[Path], monkeypatch: pytest.MonkeyPatch):
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tracking, "record", lambda *arguments: given.append(arguments))
    _evaluate(run, *tests)
    ((_, config, _, _, outcome),) = given
    data = outcome.inputs[0]
    assert config["data"] == [str(folder) for folder in tests]
    assert data.digest == open_rollouts(tests).digest()
    assert [(part.path, part.digest) for part in data.parts] == [(str(each), Rollouts(each).digest()) for each in tests]


def test_episodes_trained_on_are_counted_in_each_set(
    run: Path, train: list[Path], tests: list[Path], capsys: pytest.CaptureFixture[str]
):
    scores = _evaluate(run, train[0], tests[0])
    assert [part["trained_on_episodes"] for part in scores["by_data"].values()] == [2, 0]
    assert scores["trained_on_episodes"] == 2
    assert f"the model was trained on 2 episodes of {train[0]}, so its scores are too good" in capsys.readouterr().err


def _probe_seeds(run: Path, data: Path, **more: Any) -> set[int]:
    job = rollout_job.prepare(EvaluateConfig(data=str(data), vae=str(run), **more))
    assert job.probe_data is not None
    return {episode.seed for episode in job.probe_data.episodes()}


def test_probes_are_fitted_on_the_training_sets_of_the_environment(run: Path, train: list[Path], tests: list[Path]):
    seeds = _probe_seeds(run, tests[0])
    assert len(seeds) == 2 and seeds < set(Rollouts(train[0]).seeds.tolist())


def test_probes_can_be_fitted_on_several_named_sets(run: Path, tests: list[Path], make_rollouts: MakeRollouts):
    named = [make_rollouts([4, 4], name=f"named-{seed}", seed=seed) for seed in (300, 400)]
    seeds = _probe_seeds(run, tests[0], train_data=tuple(map(str, named)))
    assert len(seeds) == 2 and {seed // 100 for seed in seeds} == {3, 4}


def test_probes_are_left_out_if_a_training_set_is_gone(
    run: Path, train: list[Path], tests: list[Path], capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(train[1])
    assert _evaluate(run, *tests)["probes"] is None
    assert f"{train[1]} does not exist any more; name training data with --train_data" in capsys.readouterr().err


@pytest.mark.parametrize(
    "facts", [{"data_sets": []}, {"data_sets": [5]}, {"data_sets": 5}, {"split_seed": None}], ids=str
)
def test_a_model_that_does_not_name_its_sets_is_refused(run: Path, tests: list[Path], facts: dict[str, Any]):
    path = run / layout.DESCRIPTION_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    assert "model.json: lacks " in _refused(run, *tests)


# what is refused


def test_sets_of_other_environments_are_refused_by_name(run: Path, train: list[Path], tests: list[Path]):
    said = f"{train[1]} is of Other-v0 and {tests[0]} of Synthetic-v0, or their telemetry differs; evaluate on them one"
    assert _refused(run, tests[0], train[1]).startswith(said)


def test_a_set_without_a_scored_frame_is_refused_by_name(run: Path, make_rollouts: MakeRollouts, tests: list[Path]):
    sets = (tests[0], make_rollouts([1], name="tiny", seed=3000), tests[1])
    line = _refused(run, *sets, more="--max_frames 3")
    assert line == f"max_frames is 3, and none of them is of {sets[1]}; raise --max_frames"
    assert _evaluate(run, *sets, more="--max_frames 12")["by_data"]["tiny"]["frames"] == 1


def test_a_set_that_is_named_twice_is_refused(run: Path, tests: list[Path]):
    assert f"data names {tests[0]} twice" in _refused(run, tests[0], tests[0])


def test_digits_are_scored_on_one_folder(tmp_path: Path, mnist_dir: Path):
    out = tmp_path / "digits"
    flags = f"--dataset mnist --data {mnist_dir} --out {out} --num_frames 20 --vae.network mlp --vae.z_dim 2"
    train_vae.main(flags.split())
    assert "and data is /x, /y; give MNIST's folder alone" in _refused(out, Path("/x"), Path("/y"))


def test_frames_are_spread_over_all_sets(tests: list[Path]):
    found = np.bincount(rollout_job.set_of_frames(open_rollouts(tests), 10))
    assert found.tolist() == [5, 5]  # of 11 and 9 frames
