"""Reading a run's folder, whose files may be damaged or made by others."""

import hashlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from world_models.runs import records
from world_models.runs.description import Description
from world_models.runs.records import distinct_names, find_runs, number, read_run
from world_models.runs.scores import from_json

MakeRun = Callable[..., Path]
LINES = [
    {"step": 1, "frames_seen": 100, "train/sse": 90.0},
    {"step": 2, "frames_seen": 200, "val/sse": 40.0, "val/kl_nats": 9.0},
    {"step": 3, "frames_seen": 300, "val/sse": 30.0, "val/kl_nats": 10.0},
    {"step": 4, "frames_seen": 400, "val/sse": 35.0, "val/kl_nats": 11.0},
]


# a real run


def test_a_trained_run_is_read(run_dir: Path):
    run = read_run(run_dir)
    assert run.name == "vae"
    assert run.config["num_frames"] == 400
    assert run.frames_seen() == 400
    assert run.progress() == 1
    assert run.best_line()["val/sse"] > 0
    assert run.description and run.description.architecture == "conv_vae"
    assert run.scores is None


def test_reading_imports_no_torch():
    code = "import sys, world_models.runs.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# numbers


@pytest.mark.parametrize("value", [1, 0, -2.5, 1e29])
def test_a_finite_number_is_read(value: float):
    assert number({"x": value}, "x") == value


@pytest.mark.parametrize("value", [None, True, "3", [3], {}, math.nan, math.inf, -math.inf, 10**400])
def test_any_other_value_is_read_as_none(value: Any):
    assert number({"x": value}, "x") is None


def test_a_missing_number_is_none():
    assert number({}, "x") is None


# metrics


def test_series_are_the_values_over_the_frames_seen(make_run: MakeRun):
    run = read_run(make_run("a", lines=LINES))
    assert run.series("val/sse") == [(200, 40.0), (300, 30.0), (400, 35.0)]
    assert run.series("nothing") == []


def test_the_best_validation_has_the_smallest_sse(make_run: MakeRun):
    assert read_run(make_run("a", lines=LINES)).best_line()["val/kl_nats"] == 10.0


def test_the_last_validation_is_the_latest(make_run: MakeRun):
    run = read_run(make_run("a", lines=[*LINES, {"frames_seen": 500, "train/sse": 1.0}]))
    assert run.last_validation()["val/kl_nats"] == 11.0


def test_a_run_without_metrics_has_no_values(make_run: MakeRun):
    run = read_run(make_run("a"))
    assert (run.best_line(), run.last_validation(), run.frames_seen(), run.progress()) == ({}, {}, 0, 0)


@pytest.mark.parametrize("config", [{}, {"num_frames": 0}, {"num_frames": "many"}, {"num_frames": None}])
def test_progress_is_unknown_if_the_config_has_no_length_of_training(make_run: MakeRun, config: dict[str, Any]):
    assert read_run(make_run("a", config, LINES)).progress() is None


@pytest.mark.parametrize("half", ['{"step": 5, "frames_se', "{", '"', '{"frames_seen": 1e', "[" * 100_000])
def test_a_line_that_is_still_being_written_is_left_out(make_run: MakeRun, half: str):
    folder = make_run("a", lines=LINES)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(half)
    assert len(read_run(folder).lines) == len(LINES)


@pytest.mark.parametrize(
    "line",
    ["3", "null", "[1]", '{"val/sse": 3}', '{"frames_seen": -1}', '{"frames_seen": "3"}', '{"frames_seen": NaN}'],
)
def test_a_line_without_frames_seen_is_left_out(make_run: MakeRun, line: str):
    folder = make_run("a")
    (folder / "metrics.jsonl").write_text(line + "\n")
    assert read_run(folder).lines == ()


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity", '"9"', "true", "9" * 400, "9" * 9000])
def test_a_value_that_is_not_a_number_is_left_out(make_run: MakeRun, value: str):
    folder = make_run("a")
    (folder / "metrics.jsonl").write_text(f'{{"frames_seen": 1, "val/sse": {value}}}\n')
    assert read_run(folder).series("val/sse") == []


def test_metrics_that_are_not_text_have_no_lines(make_run: MakeRun):
    folder = make_run("a")
    (folder / "metrics.jsonl").write_bytes(bytes(range(256)) * 10)
    assert read_run(folder).lines == ()


# settings


def test_settings_have_dotted_names(make_run: MakeRun):
    run = read_run(make_run("a", {"lr": 0.1, "vae": {"z_dim": 4, "sizes": [1, 2]}, "empty": {}}))
    assert run.settings() == {"lr": 0.1, "vae.z_dim": 4, "vae.sizes": [1, 2], "empty": {}}


def test_a_run_without_settings_has_none(make_run: MakeRun):
    folder = make_run("a", description={})
    (folder / "config.yaml").unlink()
    assert read_run(folder).settings() == {}


@pytest.mark.parametrize(
    "text",
    ["", "3", "- a", "a: [", "a: !!python/object/apply:os.getcwd []", "\0", "[" * 5000, "a: &x [1]\nb: *x", "9" * 5000],
)
def test_invalid_settings_are_refused_by_name(make_run: MakeRun, text: str):
    folder = make_run("a")
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml: not the settings of a run; leave this run out"):
        read_run(folder)


# scores and description


DAMAGED_JSON = ["", "3", "[]", "{", "null", "[" * 100_000, "\ufffd"]


@pytest.mark.parametrize("text", DAMAGED_JSON)
def test_a_damaged_description_is_refused_by_name(make_run: MakeRun, text: str):
    folder = make_run("a")
    (folder / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json: not a JSON object"):
        read_run(folder)


@pytest.mark.parametrize("text", DAMAGED_JSON)
def test_a_damaged_evaluation_is_read_as_none_with_a_reason(make_run: MakeRun, text: str):
    folder = make_run("a")
    (folder / "eval.json").write_text(text)
    run = read_run(folder)
    assert (run.scores, run.why_ignored) == (None, f"{folder / 'eval.json'}: not a JSON object; evaluate the run again")


@pytest.mark.parametrize("file", ["best.safetensors", "model.safetensors"])
def test_an_evaluation_of_the_present_weights_is_used(make_run: MakeRun, file: str):
    folder = make_run("a", scores={"vae_sha256": hashlib.sha256(b"weights").hexdigest()})
    (folder / "other.safetensors").write_bytes(b"others")
    (folder / file).write_bytes(b"weights")
    assert read_run(folder).scores and not read_run(folder).why_ignored


def test_an_evaluation_of_replaced_weights_is_read_as_none_with_a_reason(make_run: MakeRun):
    folder = make_run("a", scores={"vae_sha256": hashlib.sha256(b"weights").hexdigest()})
    (folder / "best.safetensors").write_bytes(b"trained since")
    assert read_run(folder).scores is None
    assert "the run has other weights now; evaluate the run again" in read_run(folder).why_ignored


def test_an_evaluation_without_weights_in_its_folder_is_used(make_run: MakeRun):
    assert read_run(make_run("a", scores={"vae_sha256": "of weights that were not sent along"})).scores


def test_scores_and_description_are_read_from_the_files(make_run: MakeRun):
    run = read_run(make_run("a", scores={"sse": 3}, description={"env": "E"}))
    assert (run.scores, run.description) == (from_json({"sse": 3.0}), Description.from_json({"env": "E"}))


@pytest.mark.parametrize("file", ["model.json", "metrics.jsonl", "config.yaml"])
def test_a_file_that_is_far_too_large_is_refused_without_reading_it(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, file: str
):
    folder = make_run("a")
    (folder / file).write_text("{}" + " " * 100)
    monkeypatch.setattr(records, "MAX_BYTES", 50)
    monkeypatch.setattr("world_models.runtime.untrusted.MAX_YAML_BYTES", 50)
    with pytest.raises(ValueError, match="102 bytes, wanted 50 at most"):
        read_run(folder)


# folders


def test_the_folder_of_a_run_is_found_as_this_run(make_run: MakeRun):
    folder = make_run("runs/a")
    assert find_runs(folder) == [folder]


def test_runs_are_found_in_folders_of_folders(make_run: MakeRun, tmp_path: Path):
    wanted = [make_run("runs/a"), make_run("runs/sweep/b"), make_run("runs/sweep/more/c")]
    (tmp_path / "runs/empty").mkdir()
    (tmp_path / "runs/file").write_text("")
    assert find_runs(tmp_path / "runs") == wanted


def test_the_search_ends_if_links_form_a_circle(make_run: MakeRun, tmp_path: Path):
    run = make_run("runs/a")
    (tmp_path / "runs/z").symlink_to(tmp_path / "runs")
    assert {path.resolve() for path in find_runs(tmp_path / "runs")} == {run}


def test_a_folder_with_a_model_and_no_metrics_is_a_run(tmp_path: Path):
    (tmp_path / "model.json").write_text("{}")
    assert records.is_run(tmp_path)


def test_a_folder_with_only_settings_is_not_a_run(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert not records.is_run(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such folder; name the --out"):
        find_runs(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["a/vae", "b/vae"], ["a/vae", "b/vae"]),
        (["a/vae", "b/vae", "b/mlp"], ["a/vae", "b/vae", "mlp"]),
        (["x/1/vae", "y/1/vae", "y/2/vae"], ["x/1/vae", "y/1/vae", "2/vae"]),
        (["/vae", "/a/vae"], ["/vae", "a/vae"]),
        (["a/../b/vae"], ["vae"]),
        (["a\nb"], ["a\\nb"]),
        ([], []),
    ],
)
def test_names_are_the_shortest_endings_of_paths_that_differ(paths: list[str], names: list[str]):
    assert distinct_names([Path(path) for path in paths]) == names
