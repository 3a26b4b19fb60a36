"""The table of several runs: their numbers, their settings, and conflicts between them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from world_models.compare import table
from world_models.runs import rate_distortion
from world_models.runs.description import Description
from world_models.runs.records import RunRecord
from world_models.runs.scores import from_json


def _run(
    name: str,
    lines: Sequence[Mapping[str, float]] = (),
    scores: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    description: Mapping[str, Any] | None = None,
) -> RunRecord:
    found = None if scores is None else from_json(scores)
    described = None if description is None else Description.from_json(description)
    return RunRecord(Path("runs") / name, name, config or {}, tuple(lines), found, described)


def _validated(name: str, sse: float, kl_nats: float = 5.0, **more: Any) -> RunRecord:
    return _run(name, [{"frames_seen": 100.0, "val/sse": sse, "val/kl_nats": kl_nats}], **more)


SCORES = {
    "sse": 18.0,
    "kl_nats": 15.5,
    "psnr_db": 28.25,
    "active_units": 21,
    "dims_used": 8,
    "pca_sse": 20.0,
    "pca_components": 32,
    "data_digest": "held",
}


def _cells(run: RunRecord) -> dict[str, str]:
    head, row = table.table([run])
    return dict(zip(head, row, strict=True))


# the table


def test_runs_are_sorted_by_their_best_validation_and_those_without_come_last():
    runs = [_run("new"), _validated("b", 30.0), _validated("a", 20.0)]
    assert [run.name for run in table.by_val_sse(runs)] == ["a", "b", "new"]


def test_the_table_shows_training_and_evaluation():
    lines = [
        {"frames_seen": 1000.0, "train/frames_per_s": 100.0},
        {"frames_seen": 2000.0, "train/frames_per_s": 900.0},
        {"frames_seen": 3000.0, "train/frames_per_s": 300.0},
        {"frames_seen": 3000.0, "val/sse": 25.125, "val/kl_nats": 16.0},
    ]
    assert _cells(_run("a", lines, SCORES, {"num_frames": 3000})) == {
        "run": "a",
        "frames": "3,000",
        "done": "yes",
        "frames/s": "300",
        "val SSE": "25.12",
        "val KL": "16.0",
        "SSE": "18.00",
        "SSE/PCA": "0.900",
        "PSNR dB": "28.25",
        "KL": "15.5",
        "active": "21",
        "used": "8",
    }


@pytest.mark.parametrize(("seen", "shown"), [(0, "0 %"), (580, "58 %"), (999, "99 %"), (1000, "yes"), (1040, "yes")])
def test_the_table_says_how_much_of_the_training_is_done(seen: int, shown: str):
    assert _cells(_run("a", [{"frames_seen": float(seen)}], config={"num_frames": 1000}))["done"] == shown


def test_a_value_that_a_run_lacks_is_shown_as_a_dash():
    head, full, empty = table.table([_validated("a", 20.0, scores=SCORES), _run("b")])
    assert len(head) == len(full) == len(empty)
    assert set(empty[2:]) == {"-"}


def test_a_column_without_values_is_left_out():
    assert table.table([_run("a")]) == [["run", "frames"], ["a", "0"]]


@pytest.mark.parametrize("pca", [None, 0, "20", float("nan")])
def test_there_is_no_ratio_to_a_missing_baseline(pca: Any):
    assert "SSE/PCA" not in _cells(_run("a", scores=SCORES | {"pca_sse": pca}))


def test_lines_are_aligned():
    assert table.aligned([["run", "SSE"], ["long name", "3"]]) == "run        SSE\nlong name    3"


@pytest.mark.parametrize(("room", "columns"), [(0, 2), (8, 2), (11, 3), (100, 4)])
def test_only_columns_that_fit_are_shown(room: int, columns: int):
    assert table.fitting([["a", "b", "cc", "d"]], room) == [["a", "b", "cc", "d"][:columns]]


# settings


def test_only_settings_that_differ_are_listed():
    one = _run("a", config={"lr": 0.1, "seed": 0, "vae": {"z_dim": 32, "beta": 1.0}})
    two = _run("b", config={"lr": 0.1, "seed": 1, "vae": {"z_dim": 8, "beta": 1.0}})
    assert table.differences([one, two]) == [["seed", "0", "1"], ["vae.z_dim", "32", "8"]]


def test_a_setting_that_a_run_lacks_is_shown_as_a_dash():
    assert table.differences([_run("a", config={"new": None}), _run("b")]) == [["new", "null", "-"]]


def test_output_folder_tracking_and_resuming_do_not_count_as_differences():
    runs = [_run(name, config={"out": name, "wandb": {"mode": name}, "resume": name == "a"}) for name in "ab"]
    assert table.differences(runs) == []


@pytest.mark.parametrize("value", ["a\nb", "\x1b[31m", "\x07"])
def test_a_setting_cannot_send_control_characters_to_the_terminal(value: str):
    (row,) = table.differences([_run("a", config={"data": value}), _run("b")])
    assert row[1].isprintable()


# whether they compare


ALIKE = {"data_digest": "d", "preprocess": {"size": 64}, "split_seed": 0}


def test_runs_on_the_same_data_can_be_compared():
    runs = [_run(name, description=ALIKE, scores=SCORES) for name in "ab"]
    assert table.conflicts(runs) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_digest": "e"}, "trained on different data"),
        ({"preprocess": {"size": 32}}, "made in different ways"),
        ({"split_seed": 1}, "different held-out episodes"),
    ],
)
def test_a_line_groups_the_runs_that_cannot_be_compared_and_says_why(change: dict[str, Any], said: str):
    runs = [_run("a", description=ALIKE), _run("b", description=ALIKE | change), _run("c", description=ALIKE)]
    (line,) = table.conflicts(runs)
    assert said in line
    assert "a, c | b" in line


def test_evaluations_on_different_data_cannot_be_compared():
    runs = [_run("a", scores=SCORES), _run("b", scores=SCORES | {"data_digest": "other"}), _run("c")]
    (line,) = table.conflicts(runs)
    assert "evaluated on different data: a | b" in line


def test_evaluations_of_different_numbers_of_frames_cannot_be_compared():
    runs = [_run("a", scores=SCORES | {"frames": 50}), _run("b", scores=SCORES | {"frames": 8016}), _run("c")]
    (line,) = table.conflicts(runs)
    assert "evaluated on different numbers of frames: a | b" in line


def test_prediction_errors_of_each_form_of_memory_model_are_shown():
    foreseen = {form: {"10": {"foreseen": sse}} for form, sse in (("predicts_z", 40.25), ("predicts_change", 38.5))}
    cells = _cells(_run("a", scores=SCORES | {"foresight": foreseen}))
    assert (cells["10 ahead, z"], cells["10 ahead, change"]) == ("40.25", "38.50")


@pytest.mark.parametrize("foreseen", [None, 40.25, {}, {"predicts_z": None}, {"predicts_z": {"10": {"foreseen": "x"}}}])
def test_scores_without_foresight_have_no_column_for_it(foreseen: Any):
    assert "10 ahead, z" not in _cells(_run("a", scores=SCORES | {"foresight": foreseen}))


def test_scores_on_training_episodes_are_reported_as_too_good():
    trained_on = {"trained_on_episodes": 3}
    runs = [_run("a", scores=SCORES | trained_on), _run("b", scores=SCORES | {"trained_on_episodes": 0}), _run("c")]
    (line,) = table.conflicts(runs)
    assert line == "Some runs were evaluated on episodes that they were trained on, so their scores are too good: a."
    here, notes = rate_distortion.comparable_runs("held", runs)
    assert [run.scores is None for run in here] == [True, False, True]
    (note,) = notes
    assert "a was evaluated on data that it was trained on, so its last validation is drawn" in note


def test_a_run_with_unknown_training_episodes_is_not_reported_as_too_good():
    assert table.conflicts([_run("a", description=ALIKE), _run("b")]) == []


def test_the_line_about_many_runs_that_cannot_be_compared_is_short():
    runs = [_run(str(i), description={"data_digest": str(i % 6)}) for i in range(60)]
    (line,) = table.conflicts(runs)
    assert "0, 6, 12, 18 and 6 more | 1, 7" in line
    assert "| 3, 9, 15, 21 and 6 more and 2 more" in line


# rate and distortion


def test_the_rate_distortion_point_of_a_run_comes_from_its_evaluation():
    assert rate_distortion.rate_points([_validated("a", 20.0, scores=SCORES)]) == [("a", 15.5, 18.0, True)]


@pytest.mark.parametrize("scores", [None, {}, {"sse": None, "kl_nats": 3.0}, {"sse": 3.0}])
def test_without_an_evaluation_the_point_comes_from_the_last_validation(scores: dict[str, Any] | None):
    assert rate_distortion.rate_points([_validated("a", 20.0, 5.0, scores=scores)]) == [("a", 5.0, 20.0, False)]


def test_a_run_without_evaluation_and_validation_has_no_point():
    assert rate_distortion.rate_points([_run("a"), _run("b", [{"frames_seen": 1.0, "val/sse": 3.0}])]) == []


def test_the_errors_of_pca_come_from_the_evaluations():
    scores = SCORES | {"pca_sse_by_components": {"4": 60.0, "8": 44.0}}
    assert rate_distortion.pca_levels([_run("new"), _run("a", scores=scores)]) == {4: 60.0, 8: 44.0, 32: 20.0}


def test_the_error_of_pca_with_z_dim_components_is_shown_for_any_z_dim():
    scores = SCORES | {
        "pca_components": 2,
        "pca_sse": 81.0,
        "pca_sse_by_components": {"1": 99.0, "2": 81.0, "20": 25.0},
    }
    assert rate_distortion.pca_of(from_json(scores)) == {2: 81.0, 20: 25.0}


def test_pca_of_other_components_comes_from_other_runs_on_the_same_data():
    other = SCORES | {"pca_components": 8, "pca_sse": 44.0}
    assert rate_distortion.pca_levels([_run("a", scores=SCORES), _run("b", scores=other)]) == {8: 44.0, 32: 20.0}


@pytest.mark.parametrize("change", ["data_digest", "frames", "description"])
def test_pca_of_other_data_is_left_out(change: str):
    scores = (
        SCORES
        | {"pca_components": 8}
        | ({} if change == "description" else {change: "other" if change == "data_digest" else 50})
    )
    description = {"data_digest": "other"} if change == "description" else None
    runs = [_run("a", scores=SCORES), _run("b", scores=scores, description=description)]
    assert rate_distortion.pca_levels(runs) == {32: 20.0}


@pytest.mark.parametrize(
    "by_components",
    [None, 3, [1], {"k": 1.0}, {"4": "x"}, {"4": None}, {"2": 81.0}, {"-4": 3.0}, {"4": 0}, {"9999999": 1.0}],
)
def test_missing_errors_of_pca_are_left_out(by_components: Any):
    scores = SCORES | {"pca_sse_by_components": by_components}
    assert rate_distortion.pca_levels([_run("a", scores=scores)]) == {32: 20.0}


def test_without_evaluations_no_error_of_pca_is_shown():
    assert rate_distortion.pca_levels([_run("a")]) == {}


# where they come from


def test_provenance_lists_all_known_facts():
    versions = {"git_commit": "abc", "python": "3.11", "torch": "2.9"}
    described = {"versions": versions, "env": "CarRacing-v3", "data_digest": "d1"}
    facts = dict(table.provenance(_run("a", scores=SCORES, description=described)))
    assert facts == {
        "folder": "runs/a",
        "git commit": "abc",
        "versions": "python 3.11, torch 2.9",
        "environment": "CarRacing-v3",
        "data digest": "d1",
        "digest of that": "held",
    }


def test_provenance_says_what_differs_between_data_sets():
    sets = [{"data": name, "env": "A-v0", "env_args": {}} for name in ("rollouts/a", "rollouts/b")]
    facts = dict(table.provenance(_run("a", description={"data_sets": sets})))
    assert (facts["data"], facts["environment"]) == ('["rollouts/a", "rollouts/b"]', "A-v0")


@pytest.mark.parametrize("versions", [None, 3, "x", []])
def test_provenance_leaves_out_invalid_versions(versions: Any):
    assert table.provenance(_run("a", description={"versions": versions})) == [("folder", "runs/a")]


def test_provenance_is_cut_to_a_readable_length():
    facts = dict(table.provenance(_run("a", description={"env": "x" * 10**6})))
    assert len(facts["environment"]) == 1000


def test_the_column_drive_shows_the_controllers_mean_score():
    driven = SCORES | {"drive": {"mean": 812.4, "laps": 17}}
    assert _cells(_run("a", scores=driven))["drive"] == "812"


@pytest.mark.parametrize("drive", [None, 812.4, {"mean": "fast"}])
def test_runs_that_did_not_drive_have_no_column_drive(drive: object):
    assert "drive" not in _cells(_run("a", scores=SCORES | {"drive": drive}))
