"""Several runs in one table and on one page."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from world_models.compare import command

MakeRun = Callable[..., Path]
LINES = [
    {"step": 1, "frames_seen": 500, "train/sse": 90.0, "train/kl_nats": 3.0, "train/frames_per_s": 400.0},
    {"step": 2, "frames_seen": 1000, "val/sse": 40.0, "val/kl_nats": 9.0},
]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Runs the command, and returns what it printed and what it warned of."""

    def run(*argv: str | Path) -> tuple[str, str]:
        command.main([str(word) for word in argv])
        return capsys.readouterr()

    return run


@pytest.fixture
def refused() -> Callable[..., str]:
    """Runs the command on what has to be refused, and returns the line that says why."""

    def run(*argv: str | Path) -> str:
        with pytest.raises((ValueError, OSError)) as refusal:
            command.main([str(word) for word in argv])
        return str(refusal.value)

    return run


# real runs


@pytest.fixture
def two_runs(run_dir: Path, tmp_path: Path) -> Path:
    """A folder of two copies of a trained run, one of them evaluated, and changed in a setting."""
    for name in ("a", "b"):
        shutil.copytree(run_dir, tmp_path / "runs" / name)
    scores = {"sse": 50.0, "kl_nats": 4.0, "pca_sse": 60.0, "pca_components": 32, "pca_sse_by_components": {"4": 90.0}}
    (tmp_path / "runs/b/eval.json").write_text(json.dumps(scores))
    config = tmp_path / "runs/b/config.yaml"
    config.write_text(config.read_text().replace("beta: 1.0", "beta: 4.0"))
    return tmp_path / "runs"


def test_trained_runs_become_a_table_and_a_page(two_runs: Path, said: Callable[..., tuple[str, str]]):
    printed, warned = said(two_runs)
    assert re.search(r"^a +400 +yes", printed, re.M)
    assert re.search(r"^b +400 +yes .* 0\.833", printed, re.M)
    assert re.search(r"^vae\.beta +1\.0 +4\.0$", printed, re.M)
    assert warned == ""
    page = (two_runs / "compare.html").read_text()
    assert page.count("<img") == 1 + 3
    with Image.open(two_runs / "compare.png") as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10


def test_the_same_runs_give_the_same_page(two_runs: Path, tmp_path: Path, said: Callable[..., tuple[str, str]]):
    pages = []
    for out in (tmp_path / "x", tmp_path / "y"):
        said(two_runs, "--out", out)
        pages.append((out / "compare.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_requested_number_of_frames_is_shown(two_runs: Path):
    job = command.prepare(command.CompareConfig(runs=(str(two_runs),), num_frames=3))
    assert job.models is not None
    assert len(job.models.rows(job.num_frames).originals) == 3


# which runs


def test_runs_are_named_one_by_one_or_by_their_folder(make_run: MakeRun, tmp_path: Path):
    one, two = make_run("runs/a"), make_run("runs/b")
    by_folder, by_name = (
        command.prepare(command.CompareConfig(runs=tuple(map(str, named))))
        for named in ([tmp_path / "runs"], [one, two])
    )
    assert [run.name for run in by_folder.runs] == [run.name for run in by_name.runs] == ["a", "b"]


def test_a_run_that_is_named_twice_is_shown_once(make_run: MakeRun, tmp_path: Path):
    run = make_run("runs/a")
    (tmp_path / "runs/link").symlink_to(run)
    job = command.prepare(command.CompareConfig(runs=(str(run), str(tmp_path / "runs"), str(run))))
    assert [run.name for run in job.runs] == ["a"]


def test_runs_with_the_same_name_get_different_labels(
    make_run: MakeRun, said: Callable[..., tuple[str, str]], tmp_path: Path
):
    printed, _ = said(make_run("a/vae"), make_run("b/vae"))
    assert "a/vae" in printed
    assert "b/vae" in printed


def test_a_run_that_still_trains_is_shown_with_its_progress(make_run: MakeRun, said: Callable[..., tuple[str, str]]):
    folder = make_run("runs/a", lines=LINES[:1])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "frames_s')
    printed, warned = said(folder)
    assert re.search(r"^a +500 +50 % +400$", printed, re.M)
    assert "no run has saved a model yet" in warned


def test_hundreds_of_runs_are_listed(make_run: MakeRun, said: Callable[..., tuple[str, str]], tmp_path: Path):
    for i in range(150):
        make_run(f"runs/r{i:03d}", {"num_frames": 1000, "seed": i}, LINES)
    printed, _ = said(tmp_path / "runs")
    assert len(re.findall(r"^r\d+ ", printed, re.M)) == 150
    assert max(map(len, printed.splitlines())) <= 120
    assert re.search(r"^\.\.\. and \d+ more runs, on the page$", printed, re.M)


def test_the_default_folder_is_runs(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_run("runs/a", lines=LINES)
    monkeypatch.chdir(tmp_path)
    command.main([])
    assert (tmp_path / "runs/compare.html").exists()


# what is no run of ours


OTHER = {"format": "world_models.vae", "architecture": "vq_vae"}


def test_a_run_of_another_architecture_in_a_folder_is_left_out(
    make_run: MakeRun, said: Callable[..., tuple[str, str]], tmp_path: Path
):
    make_run("runs/a", lines=LINES)
    make_run("runs/other", lines=LINES, description=OTHER)
    printed, warned = said(tmp_path / "runs")
    assert not re.search(r"^other", printed, re.M)
    assert re.search(r"^left out: .*other/model\.json: .*vq_vae", warned, re.M)
    assert "left out: " in (tmp_path / "runs/compare.html").read_text()


def test_a_named_run_of_another_architecture_is_refused(make_run: MakeRun, refused: Callable[..., str]):
    assert "vq_vae" in refused(make_run("a"), make_run("other", description=OTHER))


@pytest.mark.parametrize("file", ["config.yaml", "model.json"])
def test_a_damaged_run_in_a_folder_is_left_out(
    make_run: MakeRun, said: Callable[..., tuple[str, str]], tmp_path: Path, file: str
):
    make_run("runs/a", lines=LINES)
    (make_run("runs/bad") / file).write_text("[")
    _, warned = said(tmp_path / "runs")
    assert re.search(rf"^left out: .*bad/{file}", warned, re.M)


@pytest.mark.parametrize("file", ["config.yaml", "model.json"])
def test_a_named_run_that_is_damaged_is_refused(make_run: MakeRun, refused: Callable[..., str], file: str):
    folder = make_run("bad")
    (folder / file).write_text("[")
    assert file in refused(folder)


def test_a_damaged_evaluation_is_reported_and_the_run_is_shown_without_it(
    make_run: MakeRun, said: Callable[..., tuple[str, str]], tmp_path: Path
):
    (make_run("runs/a", lines=LINES) / "eval.json").write_text("[")
    printed, warned = said(tmp_path / "runs")
    assert re.search(r"^a ", printed, re.M)
    assert "a/eval.json: not a JSON object; evaluate the run again" in warned
    assert "not a JSON object" in (tmp_path / "runs/compare.html").read_text()


def test_an_evaluation_of_other_weights_is_reported_and_not_shown(
    make_run: MakeRun, said: Callable[..., tuple[str, str]], tmp_path: Path
):
    folder = make_run("runs/a", lines=LINES, scores={"sse": 987.5, "vae_sha256": "of before the training went on"})
    (folder / "best.safetensors").write_bytes(b"trained since")
    printed, warned = said(tmp_path / "runs")
    assert "987.5" not in printed
    assert "a/eval.json: the run has other weights now; evaluate the run again" in warned


def test_a_folder_with_only_damaged_runs_is_refused(make_run: MakeRun, refused: Callable[..., str], tmp_path: Path):
    (make_run("runs/bad") / "model.json").write_text("[")
    assert "no run that can be read; left out: " in refused(tmp_path / "runs")


def test_a_folder_without_a_run_is_refused(make_run: MakeRun, refused: Callable[..., str], tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "empty: no run in it" in refused(make_run("a"), tmp_path / "empty")


def test_a_missing_folder_is_refused(refused: Callable[..., str], tmp_path: Path):
    assert "no such folder" in refused(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--num_frames", "0"], "num_frames is 0; give 1 to 100"),
        (["--runs=[]"], "runs is empty"),
        (["--data", "nowhere"], "no such file or folder"),
        (["--weights", "worst"], "give 'best', 'last'"),
        (["--out", "/proc/nothing"], "--out"),
    ],
)
def test_a_bad_flag_is_refused(make_run: MakeRun, refused: Callable[..., str], argv: list[str], said: str):
    words = [] if "--runs=[]" in argv else [make_run("a")]
    assert said in refused(*words, *argv)


# where the page goes


@pytest.mark.parametrize(
    ("named", "out"),
    [
        (["runs"], "runs"),
        (["runs/a"], "runs"),
        (["runs/a", "runs/b"], "runs"),
        (["runs/a", "runs/sweep/c"], "runs"),
        (["runs/sweep"], "runs/sweep"),
        (["runs/a", "else/d"], "."),
    ],
)
def test_the_page_is_written_into_the_common_parent_of_the_runs(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: list[str], out: str
):
    for name in ("runs/a", "runs/b", "runs/sweep/c", "else/d"):
        make_run(name)
    monkeypatch.chdir(tmp_path)
    assert command.prepare(command.CompareConfig(runs=tuple(named))).out == (tmp_path / out)


def test_the_page_of_a_run_is_written_into_its_parent_folder(make_run: MakeRun, tmp_path: Path):
    assert command.prepare(command.CompareConfig(runs=(str(make_run("runs/a")),))).out == tmp_path / "runs"


# what it says


def test_a_warning_names_runs_that_cannot_be_compared(
    make_run: MakeRun, said: Callable[..., tuple[str, str]], tmp_path: Path
):
    for name in "ab":
        make_run(f"runs/{name}", scores={"data_digest": name})
    _, warned = said(tmp_path / "runs")
    assert "the runs were evaluated on different data: a | b. These numbers cannot be compared." in warned


def test_equal_settings_are_reported_as_equal(make_run: MakeRun, said: Callable[..., tuple[str, str]]):
    printed, _ = said(make_run("a"), make_run("b"))
    assert "The settings are the same." in printed


def test_only_the_end_of_a_long_setting_is_shown(make_run: MakeRun, said: Callable[..., tuple[str, str]]):
    printed, _ = said(make_run("a", {"data": "x" * 50 + "end"}), make_run("b"))
    assert f" …{'x' * 28}end " in printed
