"""eval.json: it is read from files by anybody, and its written form does not change."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from world_models.runs import scores
from world_models.runs.scores import DigitScores, RolloutScores, Scores, from_json, read_scores

DRIVE = {"mean": 700.0, "std": 1.0, "median": 710.0, "laps": 3, "tracks": 100, "pca_mean": 600.0, "expert_mean": 900.0}
FORESEEN = {
    **{"foreseen": 4.5, "foreseen_by_seed": [4.0, 5.0], "sampled": 4.25, "stays": 9.5, "z_stays": 9.75},
    **{"reconstructed": 2.5, "pca": 5.5},
}
ROLLOUTS: dict[str, Any] = {
    **{"sse": 40.5, "psnr_db": 24.5, "ssim": 0.75, "kl_nats": 30.5, "kl_per_dim": [20.0, 10.5], "active_units": 2},
    **{"dims_used": 2, "elbo_nats": -7.5, "iwae_nats": {"1": -7.5, "10": -7.25}, "iwae_frames": 10, "mean_sse": 300.0},
    **{"pca_sse": 50.5, "pca_sse_by_components": {"1": 99.5, "2": 50.5}, "previous_sse": 25.0},
    **{"probe_r2": {"speed": 0.5, "still": None}, "probes": {"mu_linear": {"speed": 0.5, "still": None}}},
    **{"probes_on_road": None, "sse_by_kind": {"on the grass": {"share": 0.5, "sse": 41.0}}},
    **{"sse_by_telemetry": {"speed": {"edges": [0.0, 1.0], "sse": [40.5]}}},
    **{"aggregate_posterior": {"mean": [0.0, 0.25], "std": [1.0, 0.5]}, "unsteadiness": [0.5, 0.25]},
    **{"plausible_share": 0.5, "pca_components": 2, "frames": 100, "episodes": 4, "trained_on_episodes": 0},
    **{"data": "rollouts/a", "data_digest": "d", "weights": "best", "vae_sha256": "w", "variance": 0.5},
    **{"versions": {"python": "3.11"}, "foresight": {"predicts_z": {"10": FORESEEN}}},
    "drive": DRIVE,
}
SAMPLES = {"confident_share": 0.5, "class_entropy_nats": 2.25, "digit_shares": [0.5, 0.5]}
DIGITS: dict[str, Any] = {
    **{"sse": 40.5, "psnr_db": 24.5, "ssim": 0.75, "kl_nats": 30.5, "kl_per_dim": [20.0, 10.5], "active_units": 2},
    **{"dims_used": 2, "elbo_grey_nats": -7.5, "mean_sse": 300.0, "pca_sse": 50.5},
    **{"pca_sse_by_components": {"1": 99.5}, "iwae_grey_nats": {"1": -7.5}, "elbo_binarised_nats": None},
    **{"iwae_binarised_nats": None, "knn_accuracy": 0.5, "linear_accuracy": 0.5, "classifier_accuracy": 0.75},
    **{"prior_samples": SAMPLES, "fitted_samples": SAMPLES, "asked_share": None, "pca_components": 2, "images": 100},
    **{"iwae_images": 10, "data": "data", "data_digest": "d", "weights": "last", "vae_sha256": "w", "variance": None},
    "versions": {"python": "3.11"},
}


OF_SET = {
    **{"sse": 40.5, "psnr_db": 24.5, "ssim": 0.75, "kl_nats": 30.5, "active_units": 2, "elbo_nats": -7.5},
    **{"mean_sse": 300.0, "pca_sse": 50.5, "frames": 60, "episodes": 2, "trained_on_episodes": 0},
    **{"data": "rollouts/a", "data_digest": "d1"},
}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (ROLLOUTS, RolloutScores),
        (ROLLOUTS | {"by_data": {"a": OF_SET, "b": OF_SET}}, RolloutScores),
        (DIGITS, DigitScores),
    ],
)
def test_scores_are_written_as_they_were_read_in_the_same_order(value: dict[str, Any], kind: type[Scores]):
    found = from_json(value)
    assert type(found) is kind
    assert json.dumps(found.plain()) == json.dumps(value)


def test_saved_scores_are_in_the_file(tmp_path: Path):
    found = from_json(ROLLOUTS)
    found.save(tmp_path)
    assert read_scores(tmp_path) == (found, "")


@pytest.mark.parametrize("kind", [RolloutScores, DigitScores])
def test_every_score_must_be_given_and_may_be_none(kind: type[Any]):
    names = [field.name for field in dataclasses.fields(kind)]
    assert None in vars(kind(**dict.fromkeys(names))).values()
    with pytest.raises(TypeError):
        kind(**dict.fromkeys(names[1:]))


@pytest.mark.parametrize("value", ["x", True, [], {"a": []}, float("inf")])
@pytest.mark.parametrize("name", [*ROLLOUTS])
def test_a_wrong_value_is_read_as_none_or_as_an_empty_value(name: str, value: Any):
    found = from_json(ROLLOUTS | {name: value}).plain()
    is_text = isinstance(value, str) and name in ("data", "data_digest", "weights", "vae_sha256")
    is_list = value == [] and name in ("kl_per_dim", "unsteadiness")
    expected = value if is_text or is_list else None
    assert found == ROLLOUTS | {name: found[name]}
    assert found[name] == expected or not any(_leaves(found[name]))


def _leaves(value: Any) -> list[Any]:
    return [leaf for each in value.values() for leaf in _leaves(each)] if isinstance(value, dict) else [value]


def test_scores_that_an_older_file_lacks_are_none():
    found = from_json({"sse": 3, "foresight": {"predicts_z": {"10": {"foreseen": 40.25}}}})
    assert (found.sse, found.kl_nats, found.drive) == (3.0, None, None)
    assert (found.foresight or {})["predicts_z"]["10"].foreseen == 40.25


def test_scores_that_only_rollouts_have_are_none_for_digits():
    found = from_json(DIGITS)
    assert (found.frames, found.trained_on_episodes, found.foresight, found.drive) == (None, None, None, None)


# the line


def test_the_summary_line_has_the_main_numbers():
    line = "SSE 40.50 per frame (PCA-2 50.50, mean frame 300.00), KL 30.5 nats, 2 active units of 2"
    assert from_json(ROLLOUTS).summary() == f"{line}, drives to 700"
    assert from_json(ROLLOUTS | {"drive": None}).summary() == line
    assert from_json(ROLLOUTS | {"drive": {}}).summary() == line


def test_the_summary_line_of_digits_names_the_kind_of_pixels():
    line = "SSE 40.50 per image (PCA-2 50.50), 50% of prior samples confidently a digit"
    assert from_json(DIGITS).summary() == f"-ELBO 7.50 nats on grey images, KL 30.5, {line}"
    assert from_json(DIGITS | {"elbo_grey_nats": None, "kl_nats": None}).summary() == line


@pytest.mark.parametrize(
    "name", ["sse", "pca_components", "pca_sse", "mean_sse", "kl_nats", "active_units", "kl_per_dim"]
)
def test_without_one_of_its_numbers_there_is_no_summary_line(name: str):
    assert from_json(ROLLOUTS | {name: None}).summary() is None


@pytest.mark.parametrize("name", ["sse", "pca_components", "pca_sse", "kl_nats", "prior_samples"])
def test_without_one_of_its_numbers_there_is_no_summary_line_of_digits(name: str):
    assert from_json(DIGITS | {name: None}).summary() is None


def test_a_class_of_scores_must_have_a_summary_line():
    with pytest.raises(TypeError, match="summary"):
        Scores()  # pyright: ignore[reportAbstractUsage]


# the file


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "eval.json").write_text("{}" + " " * 100)
    monkeypatch.setattr(scores, "MAX_BYTES", 50)
    found, why = read_scores(tmp_path)
    assert found is None and "102 bytes, wanted 50 at most" in why


def test_without_a_file_there_are_no_scores_and_no_message(tmp_path: Path):
    assert read_scores(tmp_path) == (None, "")
