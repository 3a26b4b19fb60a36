"""The evaluation of a model of digits: what eval.json, the figures and the report hold."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from world_models import (
    checkpoints,
    compare,
    digit_evaluation,
    digit_report,
    digit_scores,
    evaluate,
    files,
    mnist,
    run_records,
    train_vae,
)

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
    """A run of one's own to write into."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(runs[name], tmp_path / name))

    return copied


def _evaluate(run: Path, *more: str) -> dict[str, Any]:
    evaluate.main(["--vae", str(run), *more])
    return json.loads((run / "eval.json").read_text())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["vae", "ae", "cvae", "beta", "gauss"])
def test_every_kind_of_model_is_scored_and_shown(run: Callable[[str], Path], name: str):
    folder = run(name)
    scores = _evaluate(folder)
    assert scores["sse"] > 0 and scores["pca_sse"] > 0 and 0 <= scores["knn_accuracy"] <= 1
    assert (scores["elbo_grey_nats"] is None) == (name == "ae")
    assert (scores["elbo_binarised_nats"] is None) == (name in ("ae", "gauss"))
    assert (scores["asked_share"] is None) == (name != "cvae")
    assert "elbo_nats" not in scores and "iwae_nats" not in scores  # of which pixels, they would not say
    page = (folder / "report.html").read_text()
    assert page.count("<figure>") == page.count("data:image/png") >= 5
    assert "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.usefixtures("quick")
def test_scores_say_what_was_scored(run: Callable[[str], Path], mnist_dir: Path):
    folder = run("vae")
    scores = _evaluate(folder, "--num_iwae_frames", "7", "--weights", "last")
    assert (scores["images"], scores["iwae_images"], scores["weights"]) == (60, 7, "last")
    assert scores["data_digest"] == mnist.load(mnist_dir).digest
    assert scores["vae_sha256"] == files.file_sha256(checkpoints.weights_path(folder, "last"))


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
def test_other_models_are_shown_beside(run: Callable[[str], Path], runs: dict[str, Path]):
    folder = run("vae")
    _evaluate(folder, "--compare_with", f"[{runs['ae']},{runs['beta']}]")
    names = {path.name for path in (folder / "figures").glob("*.png")}
    assert {"holes.png", "trade_off.png"} <= names


@pytest.mark.usefixtures("quick")
def test_runs_on_rollouts_are_not_shown_beside_digits(run: Callable[[str], Path], run_dir: Path):
    folder = run("vae")
    _evaluate(folder, "--compare_with", f"[{run_dir}]")
    assert not (folder / "figures" / "holes.png").exists()


def test_a_model_is_not_shown_beside_itself(runs: dict[str, Path]):
    import torch

    job = digit_evaluation.prepare(runs["vae"], "last", None, [runs["vae"], runs["ae"]], 1, torch.device("cpu"))
    assert [other.name for other in job.others] == ["ae"] and list(job.models) == ["ae"]


def test_data_that_is_gone_is_refused(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from torchvision.datasets import MNIST

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(MNIST, "download", lambda self: (_ for _ in ()).throw(RuntimeError("no network")))
        evaluate.main(["--vae", str(runs["vae"]), "--data", str(tmp_path / "nowhere")])
    assert stop.value.code == 2 and "no MNIST there" in capsys.readouterr().err


# beta


def _points(make_run: Callable[..., Path], **config: Any) -> digit_report.BetaPoint | None:
    lines = [{"step": 1, "frames_seen": 10, "val/sse": 1.0, "val/kl_nats": 5.0, "val/loss_nats": 120.0}]
    return digit_report.beta_point(run_records.read_run(make_run("a", {"vae": {"beta": 4.0, **config}}, lines)))


def test_what_beta_trades_is_the_loss_without_its_kl(make_run: Callable[..., Path]):
    assert _points(make_run) == digit_report.BetaPoint(4.0, 5.0, 100.0)


@pytest.mark.parametrize("config", [{"posterior": "point"}, {"beta": "much"}])
def test_runs_without_such_a_point_are_left_out(make_run: Callable[..., Path], config: dict[str, Any]):
    assert _points(make_run, **config) is None


def test_a_run_before_its_first_validation_has_no_point(make_run: Callable[..., Path]):
    assert digit_report.beta_point(run_records.read_run(make_run("a", {"vae": {"beta": 1.0}}))) is None


@pytest.mark.parametrize("betas", [(0.25, 1.0, 8.0), (0.0, 1.0)])
def test_the_trade_off_is_drawn(betas: tuple[float, ...]):
    picture = digit_report.trade_off([digit_report.BetaPoint(beta, 20 / (1 + beta), 80 + beta) for beta in betas])
    assert picture.shape == (400, 700, 3) and len(np.unique(picture)) > 10


# comparing


def test_digits_are_compared_side_by_side(runs: dict[str, Path], tmp_path: Path):
    compare.main([str(runs["vae"]), str(runs["cvae"]), str(runs["ae"]), "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "compare.html").read_text()
    assert page.count('<img class="frames"') == 4  # the images, and what three models make of them


def test_comparing_says_so_where_mnist_is_gone(
    run: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = run("vae")
    description = json.loads((folder / "model.json").read_text()) | {"data": str(tmp_path / "gone")}
    (folder / "model.json").write_text(json.dumps(description))
    compare.main([str(folder), "--out", str(tmp_path / "page")])
    page = (tmp_path / "page" / "compare.html").read_text()
    assert "holds no MNIST any more" in page + capsys.readouterr().out
