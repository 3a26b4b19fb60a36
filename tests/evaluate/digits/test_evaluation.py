"""The evaluation of a model of digits: the contents of eval.json, of the figures and of the report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import html_faults

from world_models import compare, train_vae
from world_models.compare import frames as side_by_side
from world_models.data import mnist
from world_models.evaluate import command as evaluate
from world_models.evaluate.digits import evaluation
from world_models.evaluate.digits import page as digit_report
from world_models.evaluate.digits import scores as digit_scores
from world_models.runs import layout, rate_distortion
from world_models.runs import records as run_records
from world_models.runtime import files

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = (
    "--dataset mnist --vae.network mlp --vae.hidden [16] --vae.z_dim 3 --num_frames 400 --batch_size 50 "
    "--lr_warmup_frames 0 --val_every_frames 200 --num_val_frames 60 --lr 0.01 --vae.kl_tolerance 0 "
    "--shuffle_frames 200 --vae.likelihood bernoulli --wandb.mode disabled"
)


def _train(data: Path, out: Path, *more: str) -> Path:
    train_vae.main([*f"{SMALL} --data {data} --out {out}".split(), *more])
    return out


@pytest.fixture(scope="module")
def runs(mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    changes = {
        "vae": [],
        "ae": ["--vae.posterior", "point"],
        "cvae": ["--vae.num_classes", "10"],
        "beta": ["--vae.beta", "4"],
        "gauss": ["--vae.likelihood", "gaussian", "--binarise", "true", "--vae.num_samples", "2"],
    }
    return {name: _train(mnist_dir, folder / name, *more) for name, more in changes.items()}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digit_scores, "SAMPLES", (1, 5))
    monkeypatch.setattr(digit_scores, "NUM_SAMPLES", 50)


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run, which the test may change."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(runs[name], tmp_path / name))

    return copied


def _evaluate(run: Path, *more: str) -> dict[str, Any]:
    evaluate.main(["--vae", str(run), *more])
    return json.loads((run / "eval.json").read_text())


def _found(run: Path, *others: Path) -> evaluation.DigitJob:
    compare_with = tuple(str(other) for other in others)
    return evaluation.load_job(
        evaluate.EvaluateConfig(vae=str(run), weights="last", compare_with=compare_with, device="cpu")
    )


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["vae", "ae", "cvae", "beta", "gauss"])
def test_every_kind_of_model_is_scored_and_shown(run: Callable[[str], Path], name: str):
    folder = run(name)
    scores = _evaluate(folder)
    assert scores["sse"] > 0 and scores["pca_sse"] > 0 and 0 <= scores["knn_accuracy"] <= 1
    assert (scores["elbo_grey_nats"] is None) == (name == "ae")
    assert (scores["elbo_binarised_nats"] is None) == (name in ("ae", "gauss"))
    assert (scores["asked_share"] is None) == (name != "cvae")
    assert "elbo_nats" not in scores and "iwae_nats" not in scores  # these names would not say of which pixels they are
    page = (folder / "report.html").read_text()
    assert html_faults(page) == []
    assert page.count("<figure ") == page.count("data:image/png") >= 5
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.usefixtures("quick")
def test_scores_say_what_was_scored(run: Callable[[str], Path], mnist_dir: Path):
    folder = run("vae")
    scores = _evaluate(folder, "--num_iwae_frames", "7", "--weights", "last")
    assert (scores["images"], scores["iwae_images"], scores["weights"]) == (60, 7, "last")
    assert scores["data_digest"] == mnist.load(mnist_dir).digest
    assert scores["vae_sha256"] == files.file_sha256(layout.weights_path(folder, "last"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("weights", ["best", "last"])
def test_the_report_says_if_the_weights_were_chosen_by_the_test_images(run: Callable[[str], Path], weights: str):
    folder = run("vae")
    _evaluate(folder, "--weights", weights)
    assert ("the scores are slightly too good" in (folder / "report.html").read_text()) == (weights == "best")


@pytest.mark.usefixtures("quick")
def test_the_same_evaluation_gives_the_same_scores(run: Callable[[str], Path]):
    folder = run("vae")
    assert _evaluate(folder) == _evaluate(folder)


@pytest.mark.usefixtures("quick")
def test_other_data_can_be_named(run: Callable[[str], Path], make_mnist: Callable[..., Path]):
    data = make_mnist(100, 40, seed=5)
    scores = _evaluate(run("vae"), "--data", str(data))
    assert scores["images"] == 40 and scores["data_digest"] == mnist.load(data).digest


@pytest.mark.usefixtures("quick")
def test_other_runs_are_shown_for_comparison(run: Callable[[str], Path], runs: dict[str, Path]):
    folder = run("vae")
    _evaluate(folder, "--compare_with", f"[{runs['ae']},{runs['beta']}]")
    names = {path.name for path in (folder / "figures").glob("*.png")}
    assert {"holes.png", "trade_off.png"} <= names


def test_runs_on_another_kind_of_data_are_refused_for_comparison(
    runs: dict[str, Path], run_dir: Path, rollouts_dir: Path
):
    said = _refused("--vae", str(runs["vae"]), "--compare_with", f"[{run_dir}]")
    assert "trained on rollouts" in said and "on mnist; name runs on the same kind of data" in said
    argv = ("--vae", str(run_dir), "--data", str(rollouts_dir), "--compare_with", f"[{runs['vae']}]")
    assert "trained on mnist" in _refused(*argv)


def test_runs_on_another_kind_of_data_in_a_folder_are_left_out(runs: dict[str, Path], run_dir: Path, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    for name, source in {"car": run_dir, "ae": runs["ae"]}.items():
        (tmp_path / "runs" / name).symlink_to(source)
    _, others, _ = run_records.other_runs(runs["vae"], "mnist", [tmp_path / "runs"])
    assert [other.name for other in others] == ["ae"]


def test_a_damaged_run_in_a_folder_is_left_out_and_reported(runs: dict[str, Path], tmp_path: Path):
    (tmp_path / "runs" / "bad").mkdir(parents=True)
    (tmp_path / "runs" / "bad" / "model.json").write_text("{")
    (tmp_path / "runs" / "ae").symlink_to(runs["ae"])
    job = _found(runs["vae"], tmp_path / "runs")
    assert [other.name for other in job.others] == ["ae"]
    (note,) = job.notes
    assert "left out: " in note


@pytest.mark.usefixtures("quick")
def test_figures_of_an_earlier_comparison_are_removed(run: Callable[[str], Path], runs: dict[str, Path]):
    folder = run("vae")
    _evaluate(folder, "--compare_with", f"[{runs['ae']}]")
    assert (folder / "figures" / "holes.png").exists()
    _evaluate(folder)
    assert not (folder / "figures" / "holes.png").exists()


@pytest.mark.usefixtures("quick")
def test_an_autoencoder_has_no_kl_anywhere(run: Callable[[str], Path], tmp_path: Path):
    folder = run("ae")
    scores = _evaluate(folder)
    assert all(scores[name] is None for name in ("kl_nats", "kl_per_dim", "dims_used", "elbo_grey_nats"))
    assert "KL" not in (folder / "report.html").read_text().split("<figure ")[0]
    record = run_records.read_run(folder)
    assert rate_distortion.rate_points([record]) == [] and not record.series("val/kl_nats")


def test_a_model_is_not_compared_with_itself(runs: dict[str, Path]):
    job = _found(runs["vae"], runs["vae"], runs["ae"])
    assert [other.name for other in job.others] == ["ae"] and list(job.models) == ["ae"]


def _refused(*argv: str) -> str:
    with pytest.raises((ValueError, OSError)) as refusal:
        evaluate.main(argv)
    return str(refusal.value)


def test_missing_data_is_refused_and_not_downloaded(runs: dict[str, Path], tmp_path: Path):
    assert "no MNIST there" in _refused("--vae", str(runs["vae"]), "--data", str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("argv", ["--foresight true", "--drive true", "--train_data rollouts/a"])
def test_options_that_digits_do_not_have_are_refused(argv: str, runs: dict[str, Path]):
    assert "which have no episodes" in _refused("--vae", str(runs["vae"]), *argv.split())


def test_a_model_described_as_one_of_digits_that_takes_other_frames_is_refused(
    runs: dict[str, Path], run_dir: Path, tmp_path: Path
):
    """Frames of another shape would be read beyond their end."""
    liar = Path(shutil.copytree(run_dir, tmp_path / "liar"))
    description = json.loads((liar / "model.json").read_text()) | {"dataset": "mnist"}
    (liar / "model.json").write_text(json.dumps(description))
    assert "not a model of MNIST's digits" in _refused("--vae", str(liar))
    digits = str(Path(runs["vae"], json.loads((runs["vae"] / "model.json").read_text())["data"]))
    models, notes = side_by_side.load([run_records.read_run(liar)], digits, "last", "cpu")
    assert models is None
    assert "not a model of MNIST's digits" in notes[0]


@pytest.mark.usefixtures("quick")
def test_nearest_neighbours_use_the_labels_of_the_training_images(run: Callable[[str], Path]):
    assert _evaluate(run("vae"))["knn_accuracy"] > 0.3  # an untrained encoder nearly separates these bars


@pytest.mark.usefixtures("quick")
def test_pictures_are_left_out_if_there_are_few_digits(mnist_dir: Path, tmp_path: Path):
    for count in (1, 2, 5):
        out = _train(mnist_dir, tmp_path / str(count), "--num_val_frames", str(count))
        assert {path.stem for path in (out / "figures").iterdir() if "epoch" not in path.stem} == set()
        assert (out / "state.pt").exists()


# beta


LINES = [{"step": 1, "frames_seen": 10, "val/sse": 1.0, "val/kl_nats": 5.0, "val/loss_nats": 120.0}]
SETTINGS = {"beta": 4.0, "kl_tolerance": 0.0, "likelihood": "bernoulli"}


def _record(make_run: Callable[..., Path], name: str = "a", lines: Any = LINES, **vae: Any) -> run_records.RunRecord:
    config = {"num_frames": 10, "seed": 0, "out": name, "vae": {**SETTINGS, **vae}}
    return run_records.read_run(make_run(name, config, lines))


def test_a_point_of_the_trade_off_is_kl_and_the_loss_without_it(make_run: Callable[..., Path]):
    points = digit_report.beta_points(_record(make_run), [_record(make_run, "b", beta=2.0)])
    assert points == [digit_report.BetaPoint(4.0, 5.0, 100.0), digit_report.BetaPoint(2.0, 5.0, 110.0)]


def test_runs_that_differ_in_more_than_beta_are_left_out(make_run: Callable[..., Path]):
    others = [_record(make_run, "b", beta=2.0, likelihood="gaussian"), _record(make_run, "c", beta=2.0, z_dim=3)]
    assert len(digit_report.beta_points(_record(make_run), others)) == 1


@pytest.mark.parametrize("vae", [{"posterior": "point"}, {"beta": "much"}, {"kl_tolerance": 0.5}])
def test_runs_whose_loss_cannot_be_split_have_no_point(make_run: Callable[..., Path], vae: dict[str, Any]):
    assert digit_report.beta_points(_record(make_run, **vae), []) == []


def test_a_run_before_its_first_validation_has_no_point(make_run: Callable[..., Path]):
    assert digit_report.beta_points(_record(make_run, lines=[]), []) == []


@pytest.mark.parametrize("betas", [(0.25, 1.0, 8.0), (0.0, 1.0)])
def test_the_trade_off_is_drawn(betas: tuple[float, ...]):
    picture = digit_report.trade_off([digit_report.BetaPoint(beta, 20 / (1 + beta), 80 + beta) for beta in betas])
    assert picture.shape == (400, 700, 3) and len(np.unique(picture)) > 10


# comparing


def test_compare_shows_digits_side_by_side(runs: dict[str, Path], tmp_path: Path):
    compare.main([str(runs["vae"]), str(runs["cvae"]), str(runs["ae"]), "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "compare.html").read_text()
    assert page.count('<img class="frames"') == 4  # the images, and their reconstructions by three models


def test_the_best_run_decides_the_kind_of_data_and_the_other_runs_are_named(
    run: Callable[[str], Path], run_dir: Path, tmp_path: Path
):
    for name, source in {"digits": run("vae"), "car": run_dir}.items():
        shutil.copytree(source, tmp_path / "both" / name)
    records = [run_records.read_run(tmp_path / "both" / name) for name in ("digits", "car")]
    digits, notes = side_by_side.load(records, None, "last", "cpu")
    assert digits is not None and list(digits.by_run) == ["digits"]
    assert notes == ["frames of MNIST are shown, so none of car, trained on rollouts"]
    car, notes = side_by_side.load(records[::-1], None, "last", "cpu")
    assert car is not None and list(car.by_run) == ["car"] and "none of digits, trained on MNIST" in notes[0]


def test_named_data_decides_the_kind_of_data(
    run: Callable[[str], Path], run_dir: Path, rollouts_dir: Path, mnist_dir: Path
):
    records = [run_records.read_run(run("vae")), run_records.read_run(run_dir)]
    for data, name in ((rollouts_dir, run_dir.name), (mnist_dir, "vae")):
        shown, _ = side_by_side.load(records, str(data), "last", "cpu")
        assert shown is not None and shown.data == str(data)
        assert [vae.frame_shape[0] for vae in shown.by_run.values()] == [64 if data == rollouts_dir else 28]
        assert name in shown.by_run


def test_each_conditional_model_gets_the_labels_of_the_shown_frames(run: Callable[[str], Path]):
    shown, _ = side_by_side.load([run_records.read_run(run("cvae"))], None, "last", "cpu")
    assert shown is not None
    told: list[Any] = []
    (vae,) = shown.by_run.values()
    encode, decode = vae.encode, vae.decode
    vae.encode = lambda frames, labels=None: told.append(labels) or encode(frames, labels)
    vae.decode = lambda z, labels=None: told.append(labels) or decode(z, labels)
    rows = shown.rows(6)
    positions = [next(i for i, f in enumerate(shown.frames.read_all()) if np.array_equal(f, g)) for g in rows.originals]
    for labels in told:
        assert labels.tolist() == shown.frames.labels[positions].tolist()


def test_changed_digits_are_not_shown(run: Callable[[str], Path]):
    folder = run("vae")
    description = json.loads((folder / "model.json").read_text()) | {"data_digest": "other"}
    (folder / "model.json").write_text(json.dumps(description))
    models, notes = side_by_side.load([run_records.read_run(folder)], None, "last", "cpu")
    assert models is None
    assert "has changed since the training" in notes[0]


def test_compare_reports_that_mnist_is_missing(
    run: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = run("vae")
    description = json.loads((folder / "model.json").read_text()) | {"data": str(tmp_path / "gone")}
    (folder / "model.json").write_text(json.dumps(description))
    compare.main([str(folder), "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "compare.html").read_text()
    assert "no MNIST there" in page + capsys.readouterr().out
