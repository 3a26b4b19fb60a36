"""Scores, figures and the report page of a V model."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from world_models import collect
from world_models.data.rollouts import Rollouts
from world_models.data.split import split_episodes
from world_models.drawing import charts
from world_models.evaluate import command as evaluate
from world_models.evaluate import probes, rollout_job
from world_models.evaluate.driving import lockstep, measurement
from world_models.evaluate.foresight import study
from world_models.runs import checkpoints, layout, rate_distortion, tracking
from world_models.runs.description import TrainedOn
from world_models.runtime import files, locks
from world_models.runtime.errors import Stopped
from world_models.vae import baselines, metrics
from world_models.vae.config import VAEConfig
from world_models.vae.model import VAE, to_images

PREPROCESS = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}
SCORES = {
    "sse",
    "psnr_db",
    "ssim",
    "kl_nats",
    "kl_per_dim",
    "active_units",
    "elbo_nats",
    "iwae_nats",
    "iwae_frames",
    "pca_sse",
    "mean_sse",
    "previous_sse",
    "probe_r2",
}


def _no_constants(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


def _scores(run: Path) -> dict[str, Any]:
    return json.loads((run / "eval.json").read_text(), parse_constant=_no_constants)


@pytest.fixture(scope="module")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real CarRacing: two tracks that are not in `rollouts_dir`, of 20 steps."""
    out = tmp_path_factory.mktemp("rollouts") / "heldout"
    collect.main(f"--out {out} --seed 1000 --num_episodes 2 --max_steps 20 --executor serial".split())
    return out


@pytest.fixture(scope="module")
def run(run_dir: Path, heldout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model, evaluated."""
    run = tmp_path_factory.mktemp("evaluated") / "vae"
    shutil.copytree(run_dir, run, ignore=shutil.ignore_patterns("figures", "state.pt"))
    evaluate.main(f"--data {heldout} --vae {run}".split())
    return run


@pytest.mark.slow
def test_wandb_gets_the_scores_the_figures_and_their_sources(
    run_dir: Path, heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tracking, "record", lambda *arguments: told.append(arguments))
    run = tmp_path / "vae"
    shutil.copytree(run_dir, run, ignore=shutil.ignore_patterns("figures", "state.pt"))
    evaluate.main(f"--data {heldout} --vae {run} --max_frames 20 --wandb.mode offline".split())
    ((folder, config, options, job_type, outcome),) = told
    assert (folder, config["data"], options.mode, job_type) == (run, str(heldout), "offline", "evaluate")
    sources = [("dataset", Rollouts(heldout).digest()), ("model", files.file_sha256(run / "best.safetensors"))]
    assert [(product.kind, product.digest) for product in outcome.inputs] == sources
    assert outcome.scores == _scores(run)
    assert {path.stem for path in (run / "figures").glob("*.png")} == set(outcome.pictures)


def test_wandb_is_off_unless_asked_for():
    assert evaluate.EvaluateConfig().wandb.mode == "disabled"


# eval.json


def test_eval_json_has_the_documented_keys(run: Path):
    assert set(_scores(run)) >= SCORES


def test_the_format_page_names_every_key(run: Path):
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    assert not {key for key in _scores(run) if f"`{key}`" not in page}


@pytest.mark.parametrize("name", sorted(SCORES - {"probe_r2", "iwae_nats", "kl_per_dim"}))
def test_each_score_is_a_number(run: Path, name: str):
    assert np.isfinite(_scores(run)[name])


def _all_frames(heldout: Path) -> np.ndarray:
    return np.concatenate([episode.frames for episode in Rollouts(heldout)])


def test_sse_is_the_error_of_the_decoded_mu(run: Path, heldout: Path):
    vae, images = checkpoints.load_vae(run), to_images(torch.from_numpy(_all_frames(heldout)))
    with torch.no_grad():
        errors = (images - vae.decoder(vae.encoder(images)[0]).sigmoid()).square().sum((1, 2, 3))
    assert _scores(run)["sse"] == pytest.approx(float(errors.mean()), rel=1e-4)


def test_previous_sse_compares_the_neighbouring_frames_of_each_episode(run: Path, heldout: Path):
    steps = [
        np.square(np.diff(episode.frames.astype(np.float64) / 255, axis=0)).sum((1, 2, 3)).mean()
        for episode in Rollouts(heldout)
    ]
    assert _scores(run)["previous_sse"] == pytest.approx(np.mean(steps), rel=1e-4)


def test_mean_sse_is_the_error_of_the_mean_training_frame(run: Path, rollouts_dir: Path, heldout: Path):
    data = Rollouts(rollouts_dir)
    train = np.concatenate([data[i].frames for i in split_episodes(data.seeds, 0).train])
    away = _all_frames(heldout) / 255 - train.mean(0) / 255
    assert _scores(run)["mean_sse"] == pytest.approx(np.square(away).sum((1, 2, 3)).mean(), rel=1e-4)


def test_pca_has_as_many_components_as_the_model_has_dimensions(run: Path):
    assert _scores(run)["pca_components"] == 32


def test_bounds_are_named_by_their_number_of_samples(run: Path):
    assert list(_scores(run)["iwae_nats"]) == ["1", "10", "100"]


def test_each_telemetry_column_has_a_probe(run: Path, heldout: Path):
    probes = _scores(run)["probe_r2"]
    assert tuple(probes) == Rollouts(heldout).telemetry_names
    assert all(r2 is None or r2 <= 1 for r2 in probes.values())
    assert any(r2 is not None for r2 in probes.values())


def test_linear_probes_of_mu_are_among_all_probes(run: Path):
    scores = _scores(run)
    assert set(scores["probes"]) == {"mu_linear", "mu_mlp", "pca_linear", "pca_mlp", "pixels_linear"}
    assert scores["probe_r2"] == scores["probes"]["mu_linear"]


def test_the_errors_by_kind_average_to_the_sse(run: Path):
    scores = _scores(run)
    kinds = scores["sse_by_kind"].values()
    assert sum(kind["share"] for kind in kinds) == pytest.approx(1)
    assert sum(kind["share"] * kind["sse"] for kind in kinds) == pytest.approx(scores["sse"], rel=1e-4)


def test_error_by_telemetry_has_the_columns_that_vary(run: Path, heldout: Path):
    data = Rollouts(heldout)
    telemetry = np.concatenate([data[index].telemetry for index in range(len(data))])
    varying = {name for name, values in zip(data.telemetry_names, telemetry.T, strict=True) if np.ptp(values) > 0}
    assert set(_scores(run)["sse_by_telemetry"]) == varying


def test_latents_are_described_by_dimension(run: Path):
    scores = _scores(run)
    lengths = {len(scores["unsteadiness"]), *map(len, scores["aggregate_posterior"].values())}
    assert lengths == {32} and 0 <= scores["plausible_share"] <= 1


def test_the_error_of_pca_by_number_of_components_ends_with_that_of_all_components(run: Path):
    scores = _scores(run)
    assert scores["pca_sse_by_components"]["32"] == pytest.approx(scores["pca_sse"], rel=1e-3)


def test_drive_is_null_unless_asked_for(run: Path):
    assert _scores(run)["drive"] is None


@pytest.mark.slow
def test_driving_is_scored_and_drawn_if_asked_for(
    quick: None, run_dir: Path, heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    outline = np.array([[0.0, 0.0], [90.0, 0.0], [0.0, 90.0]])
    driven = lockstep.DriveResult(np.array([800.0]), np.array([True]), [np.zeros((2, 2))], [outline])
    scores = measurement.scores(driven, driven, driven)
    asked: list[tuple[Any, ...]] = []
    told: list[tracking.Outcome] = []
    monkeypatch.setattr(measurement, "measure", lambda *args: asked.append(args) or (scores, driven))
    monkeypatch.setattr(tracking, "record", lambda *args: told.append(args[-1]))
    run = tmp_path / "vae"
    shutil.copytree(run_dir, run, ignore=shutil.ignore_patterns("figures", "state.pt"))
    found = _evaluate(heldout, run, "--max_frames 20 --drive true --drive_seed 7")
    assert found["drive"] == vars(scores)
    ((place, *_, seed),) = asked
    assert (place.env, place.crop, seed) == ("CarRacing-v3", "0:84", 7)
    assert "What a controller does with mu" in (run / "report.html").read_text()
    assert (run / "figures" / "drive.png").exists()
    assert told[0].scores["drive"] == vars(scores) and "drive" in told[0].pictures


def test_driving_another_environment_is_refused_before_work_begins(small: Path, test: Path):
    before = sorted(small.iterdir())
    assert "--drive cannot drive Synthetic-v0" in _refused(test, small, "--drive true")
    assert sorted(small.iterdir()) == before


def test_foresight_is_null_unless_asked_for(run: Path):
    assert _scores(run)["foresight"] is None


def test_kl_per_dim_sums_to_the_kl(run: Path):
    scores = _scores(run)
    assert len(scores["kl_per_dim"]) == 32
    assert sum(scores["kl_per_dim"]) == pytest.approx(scores["kl_nats"], rel=1e-6)


def test_scores_name_what_was_scored(run: Path, heldout: Path):
    scores, data = _scores(run), Rollouts(heldout)
    assert (scores["frames"], scores["episodes"]) == (data.num_rows, 2)
    assert scores["data_digest"] == data.digest()
    assert scores["vae_sha256"] == files.file_sha256(run / "best.safetensors")


# the report


def test_the_report_loads_nothing_from_other_files(run: Path):
    page = (run / "report.html").read_text()
    references = re.findall(r"""(?:src|href|srcset|url|data-src)\s*[=(]\s*["']?([^"')\s>]*)""", page)
    assert len(references) == page.count("<img") > 0
    assert all(re.match(r"data:image/(png|gif);base64,", reference) for reference in references)


PICTURES = (  # "dream" and "drive" are drawn only where they are asked for
    *("reconstructions", "comparison", "clip", "samples", "traversal", "interpolation", "arithmetic", "worst"),
    *("error_map", "telemetry", "rate_distortion", "kl_per_dim", "curves"),
)


def test_report_shows_every_figure(run: Path):
    assert re.findall(r'<figure id="(\w+)"', (run / "report.html").read_text()) == [*PICTURES]


@pytest.mark.parametrize("name", sorted({*PICTURES} - {"clip"}))
def test_each_figure_is_a_png_of_a_sane_size(run: Path, name: str):
    with Image.open(run / "figures" / f"{name}.png") as picture:
        assert picture.format == "PNG"
        assert 100 < picture.width < 3000
        assert 100 < picture.height < 3000
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 10


def test_clip_is_a_moving_gif(run: Path):
    with Image.open(io.BytesIO((run / "figures" / "clip.gif").read_bytes())) as gif:
        assert gif.format == "GIF"
        assert getattr(gif, "n_frames", 1) == 11


# small synthetic evaluations


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the bounds, which decode every frame a hundred times."""
    monkeypatch.setattr(metrics, "iwae_nats", lambda *_args: {"1": -1.0, "10": -0.5, "100": -0.25})


@pytest.fixture
def undrawn(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the bounds and the figures of the model and the breakdown."""
    monkeypatch.setattr("world_models.evaluate.page.draw", lambda *_args: {})
    monkeypatch.setattr("world_models.evaluate.page.draw_breakdown", lambda *_args: {})


def _make_run(run: Path, train: Path, **facts: Any) -> Path:
    """An untrained model that says it was trained on `train`."""
    torch.manual_seed(0)
    vae, data = VAE(VAEConfig(z_dim=4), PREPROCESS), Rollouts(train)
    run.mkdir()
    for weights in ("best", "last"):
        checkpoints.save_vae(layout.weights_path(run, weights), vae)
    recorded = {
        "data": str(train),
        "data_digest": data.digest(),
        "split_seed": 0,
        "env": data.env,
        "train_seeds": data.seeds[list(split_episodes(data.seeds, 0).train)].tolist(),
    }
    checkpoints.save_description(run, vae, TrainedOn(), 0)
    files.write_json(run / "model.json", json.loads((run / "model.json").read_text()) | recorded | facts)
    fitted = baselines.fit_baselines(data[0].frames, 4)
    checkpoints.save_weights(run / "baselines.safetensors", {"mean": fitted.mean, "components": fitted.components})
    return run


@pytest.fixture
def train(make_rollouts: Callable[..., Path]) -> Path:
    return make_rollouts([6, 6, 6], name="train")


@pytest.fixture
def test(make_rollouts: Callable[..., Path]) -> Path:
    return make_rollouts([5, 4], name="test", seed=1000)


@pytest.fixture
def small(train: Path, tmp_path: Path) -> Path:
    return _make_run(tmp_path / "run", train)


def _evaluate(data: Path, run: Path, more: str = "") -> dict[str, Any]:
    evaluate.main(f"--data {data} --vae {run} {more}".split())
    return _scores(run)


def _refused(data: Path, run: Path, more: str = "") -> str:
    """The line of the error."""
    with pytest.raises((ValueError, OSError)) as refusal:
        _evaluate(data, run, more)
    return str(refusal.value)


def test_probes_are_fitted_on_the_recorded_training_data(quick: None, small: Path, test: Path):
    assert set(_evaluate(test, small)["probe_r2"]) == {"speed_m_per_s", "heading_rad"}


def test_probes_are_null_if_the_training_data_is_missing(
    quick: None, small: Path, train: Path, test: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(train)
    assert _evaluate(test, small)["probe_r2"] is None
    assert (
        f"{train} does not exist any more; name training data with --train_data. So no probes are fitted"
        in capsys.readouterr().err
    )


def test_probes_are_null_if_the_training_data_has_changed(
    undrawn: None,
    small: Path,
    train: Path,
    test: Path,
    make_rollouts: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
):
    shutil.rmtree(train)
    make_rollouts([6, 6, 5], name="train")
    assert _evaluate(test, small)["probe_r2"] is None
    assert f"{train} has changed since the training" in capsys.readouterr().err


def test_an_empty_folder_of_training_data_does_not_stop_the_evaluation(
    quick: None, small: Path, train: Path, test: Path, capsys: pytest.CaptureFixture[str]
):
    for shard in train.glob("*.h5"):
        shard.unlink()
    scores = _evaluate(test, small)
    assert (scores["probe_r2"], scores["plausible_share"]) == (None, None)
    assert "So no probes are fitted" in capsys.readouterr().err


def test_probes_are_not_fitted_on_scored_tracks(small: Path, train: Path, make_rollouts: Callable[..., Path]):
    data = Rollouts(train)
    first, second = (int(data.seeds[index]) for index in split_episodes(data.seeds, 0).train)
    again = make_rollouts([6], name="again", seed=first)
    job = rollout_job.prepare(evaluate.EvaluateConfig(data=str(again), vae=str(small)))
    assert job.probe_data is not None
    assert [episode.seed for episode in job.probe_data.episodes()] == [second]
    line = _refused(train, small, f"--train_data {train}")
    assert f"all training episodes of {train} are on tracks that are scored" in line


def test_probes_can_be_fitted_on_named_data(
    undrawn: None, small: Path, train: Path, test: Path, make_rollouts: Callable[..., Path]
):
    shutil.rmtree(train)
    other = make_rollouts([6, 6], name="other", seed=50)
    assert set(_evaluate(test, small, f"--train_data {other}")["probe_r2"]) == {"speed_m_per_s", "heading_rad"}


def test_named_training_data_that_is_missing_is_refused(small: Path, test: Path, tmp_path: Path):
    line = _refused(test, small, f"--train_data {tmp_path / 'nowhere'}")
    assert "nowhere: no such file or folder" in line


def test_evaluating_on_training_episodes_is_reported(
    quick: None, small: Path, train: Path, capsys: pytest.CaptureFixture[str]
):
    assert _evaluate(train, small)["probe_r2"] is None
    said = capsys.readouterr().err
    assert f"the model was trained on 2 episodes of {train}, so its scores are too good" in said
    assert "are on tracks that are scored; name other --train_data. So no probes are fitted" in said


@pytest.mark.parametrize("env", ["world_models/Synthetic-v0", "world_models:world_models/Synthetic-v0"])
def test_training_episodes_are_recognised_under_another_id_of_the_environment(
    undrawn: None, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], env: str
):
    run = _make_run(tmp_path / "run", train, env=env)
    assert _evaluate(train, run)["trained_on_episodes"] == 2
    assert f"the model was trained on 2 episodes of {train}, so its scores are too good" in capsys.readouterr().err


@pytest.mark.parametrize(
    "facts",
    [
        {"train_seeds": 5},
        {"train_seeds": [[1]]},
        {"train_seeds": [True]},
        {"split_seed": None},
        {"env": []},
        {"data": 5},
        {"data_digest": None},
    ],
    ids=str,
)
def test_a_model_that_does_not_say_what_it_was_trained_on_is_refused(
    train: Path, test: Path, tmp_path: Path, facts: dict[str, Any]
):
    said = _refused(test, _make_run(tmp_path / "run", train, **facts))
    assert f"model.json: lacks {next(iter(facts))}, or it has another type; train the model again" in said


def test_named_training_data_of_another_environment_is_refused(
    small: Path, test: Path, tmp_path: Path, make_rollouts: Callable[..., Path]
):
    other = make_rollouts([6, 6], name="other", seed=50, env="Other-v0")
    said = _refused(test, small, f"--train_data {other}")
    assert f"{other} is of Other-v0 and {test} of Synthetic-v0, or their telemetry differs" in said


def test_evaluating_on_other_tracks_gives_no_warning(
    undrawn: None, small: Path, test: Path, capsys: pytest.CaptureFixture[str]
):
    _evaluate(test, small)
    assert "trained on" not in capsys.readouterr().err


def test_evaluating_on_the_held_out_episode_gives_no_warning(
    undrawn: None, small: Path, train: Path, make_rollouts: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    data = Rollouts(train)
    (held_out,) = split_episodes(data.seeds, 0).val
    alone = make_rollouts([6], name="alone", seed=int(data.seeds[held_out]))
    _evaluate(alone, small)
    assert "trained on" not in capsys.readouterr().err


def test_named_training_data_of_other_telemetry_is_refused(
    small: Path, train: Path, heldout: Path, capsys: pytest.CaptureFixture[str]
):
    assert "or their telemetry differs; name other --train_data" in _refused(heldout, small, f"--train_data {train}")


def test_recorded_training_data_of_other_telemetry_gives_no_probes(
    quick: None, small: Path, heldout: Path, capsys: pytest.CaptureFixture[str]
):
    assert _evaluate(heldout, small, "--max_frames 9")["probe_r2"] is None
    assert "or their telemetry differs; name other --train_data. So no probes are fitted" in capsys.readouterr().err


def test_a_telemetry_column_that_never_varies_has_no_probe(
    quick: None, small: Path, test: Path, monkeypatch: pytest.MonkeyPatch
):
    probe = probes.linear_r2

    def constant(
        train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
    ) -> list[float | None]:
        return probe(train_x, train_y, test_x, test_y * np.array([0, 1], np.float32))

    monkeypatch.setitem(probes.PROBES, "mu_linear", (constant, "mu"))  # type: ignore[arg-type]
    found = _evaluate(test, small)["probe_r2"]
    assert found["speed_m_per_s"] is None
    assert found["heading_rad"] is not None


def test_foresight_is_scored_if_asked_for(quick: None, small: Path, test: Path, monkeypatch: pytest.MonkeyPatch):
    train, trained = study.train, []

    def briefly(recordings: dict[str, list[Any]], num_steps: int) -> list[study.TrainedMemory]:
        trained.append({code: len(of) for code, of in recordings.items()})
        return train(recordings, num_steps=1)

    monkeypatch.setattr(study, "train", briefly)
    monkeypatch.setattr(study, "WARM_UP", 1)
    monkeypatch.setattr(study, "STEPS_AHEAD", (1, 2))
    scores = _evaluate(test, small, "--foresight true")
    assert trained == [{"vae": 2, "pca": 2}]  # of three episodes, one is held out
    assert set(scores["foresight"]) == {"predicts_z", "predicts_change"}
    assert set(scores["foresight"]["predicts_z"]) == {"1", "2"}
    page = (small / "report.html").read_text()
    assert "What a memory model foresees" in page
    assert 'id="dream"' in page


def test_foresight_of_episodes_that_are_too_short_is_refused_before_work_begins(small: Path, test: Path):
    before = sorted(small.iterdir())
    said = _refused(test, small, "--foresight true")
    assert "foresight wants one of 70; collect longer ones" in said
    assert sorted(small.iterdir()) == before


def test_foresight_without_training_data_is_refused(small: Path, train: Path, test: Path):
    shutil.rmtree(train)
    assert "--train_data" in _refused(test, small, "--foresight true")


def test_other_runs_are_drawn_for_comparison(
    undrawn: None, small: Path, train: Path, test: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine").mkdir()
    other = _make_run(tmp_path / "mine" / "run", train)  # both have the same name
    (other / "config.yaml").write_text("lr: 0.001\n")
    (other / "eval.json").write_text(json.dumps({"kl_nats": 12.0, "sse": 34.0}))
    drawn: list[Any] = []
    draw = charts.rate_distortion
    monkeypatch.setattr(charts, "rate_distortion", lambda points, pca: drawn.extend(points) or draw(points, pca))
    scores = _evaluate(test, small, f"--compare_with [{other}]")
    assert [(point.label, point.kl_nats, point.sse) for point in drawn] == [
        (f"{tmp_path.name}/run", scores["kl_nats"], scores["sse"]),
        ("mine/run", 12.0, 34.0),
    ]


def test_scores_of_other_data_are_not_drawn_for_comparison(
    undrawn: None,
    small: Path,
    train: Path,
    test: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    other = _make_run(tmp_path / "other", train)
    (other / "eval.json").write_text(json.dumps({"kl_nats": 12.0, "sse": 34.0, "data_digest": "of other data"}))
    (other / "metrics.jsonl").write_text('{"step": 1, "frames_seen": 9, "val/sse": 56.0, "val/kl_nats": 7.0}\n')
    drawn: list[Any] = []
    draw = charts.rate_distortion
    monkeypatch.setattr(charts, "rate_distortion", lambda points, pca: drawn.extend(points) or draw(points, pca))
    _evaluate(test, small, f"--compare_with [{other}]")
    assert drawn[1] == rate_distortion.RatePoint("other", 7.0, 56.0, evaluated=False)
    assert f"{other} was evaluated on other data, so its last validation is drawn" in capsys.readouterr().err


def test_evaluating_again_replaces_a_damaged_evaluation(undrawn: None, small: Path, test: Path):
    (small / "eval.json").write_text('{"sse": 3')
    assert _evaluate(test, small)["sse"] > 0


def test_a_run_is_not_compared_with_itself(undrawn: None, small: Path, test: Path, monkeypatch: pytest.MonkeyPatch):
    drawn: list[Any] = []
    draw = charts.rate_distortion
    monkeypatch.setattr(charts, "rate_distortion", lambda points, pca: drawn.extend(points) or draw(points, pca))
    _evaluate(test, small)
    drawn.clear()
    _evaluate(test, small, f"--compare_with [{small},{small}]")
    assert [point.label for point in drawn] == ["run"]


def test_a_missing_run_for_comparison_is_refused(small: Path, test: Path, tmp_path: Path):
    assert "no such folder" in _refused(test, small, f"--compare_with [{tmp_path / 'none'}]")


def test_at_most_the_requested_number_of_frames_is_scored(undrawn: None, small: Path, test: Path):
    assert _evaluate(test, small, "--max_frames 7")["frames"] == 7


def test_the_last_weights_are_scored_if_asked_for(undrawn: None, small: Path, test: Path):
    best = _evaluate(test, small)["sse"]
    torch.manual_seed(9)
    checkpoints.save_vae(small / "model.safetensors", VAE(VAEConfig(z_dim=4)))
    scores = _evaluate(test, small, "--weights last")
    assert scores["weights"] == "last"
    assert scores["vae_sha256"] == files.file_sha256(small / "model.safetensors")
    assert scores["sse"] != best


@pytest.mark.slow
def test_evaluation_is_the_same_every_time(small: Path, test: Path, make_rollouts: Callable[..., Path]):
    tiny = make_rollouts([2], name="tiny", seed=2000)
    assert _evaluate(tiny, small) == _evaluate(tiny, small)


def test_report_without_metrics_has_no_curves(quick: None, small: Path, test: Path):
    _evaluate(test, small)
    assert 'id="curves"' not in (small / "report.html").read_text()


def test_the_result_is_printed_in_one_line(undrawn: None, small: Path, test: Path, capsys: pytest.CaptureFixture[str]):
    scores = _evaluate(test, small)
    assert f"SSE {scores['sse']:.2f} per frame" in capsys.readouterr().out


def test_evaluation_leaves_no_unfinished_files(
    quick: None, small: Path, test: Path, leave_partial: Callable[[Path], Path]
):
    (small / "figures").mkdir(exist_ok=True)
    leave_partial(small / "eval.json")
    leave_partial(small / "figures" / "loss.png")
    _evaluate(test, small)
    assert not list(small.rglob("*.partial"))


# what is refused


def test_frames_of_another_preprocessing_are_refused(small: Path, make_rollouts: Callable[..., Path]):
    other = make_rollouts([5], name="other", preprocess=PREPROCESS | {"crop": None})
    assert '"crop": null' in _refused(other, small)


def test_missing_baselines_are_refused(small: Path, test: Path):
    (small / "baselines.safetensors").unlink()
    assert "baselines.safetensors: no such file" in _refused(test, small)


def test_baselines_of_another_kind_are_refused(small: Path, test: Path):
    checkpoints.save_weights(small / "baselines.safetensors", {"average": torch.zeros(3)})
    assert "baselines.safetensors" in _refused(test, small)


@pytest.mark.parametrize("missing", ["data", "data_digest", "split_seed", "env", "train_seeds"])
def test_a_description_without_its_training_data_is_refused(small: Path, test: Path, missing: str):
    described = json.loads((small / "model.json").read_text())
    del described[missing]
    files.write_json(small / "model.json", described)
    assert "model.json" in _refused(test, small)


def test_a_missing_run_is_refused(test: Path, tmp_path: Path):
    assert "no trained model" in _refused(test, tmp_path / "nowhere")


def test_fewer_than_two_frames_are_refused():
    with pytest.raises(ValueError, match="max_frames is 1; give 2 or more"):
        evaluate.EvaluateConfig(max_frames=1)


def test_a_run_that_another_process_writes_is_refused(quick: None, small: Path, test: Path):
    with locks.only_writer(small), pytest.raises(Stopped, match="being written by another process"):
        _evaluate(test, small)


def test_training_episodes_are_recognised_without_the_training_data(
    undrawn: None, small: Path, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    moved = train.rename(tmp_path / "moved")
    _evaluate(moved, small)
    assert f"the model was trained on 2 episodes of {moved}" in capsys.readouterr().err
    assert json.loads((small / "eval.json").read_text())["trained_on_episodes"] == 2


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_a_telemetry_column_that_is_not_finite_in_a_frame_is_left_out(
    undrawn: None, small: Path, test: Path, value: float, capsys: pytest.CaptureFixture[str]
):
    with h5py.File(test / "shard-00000.h5", "r+") as file:
        file["telemetry"][2, 1] = value  # type: ignore[index]
    scores = _evaluate(test, small)
    assert [*scores["probe_r2"]] == ["speed_m_per_s"]
    assert "telemetry left out, because it is not finite in some frames: heading_rad" in capsys.readouterr().err
