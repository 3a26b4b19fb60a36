"""The report page is self-contained, and its text agrees with the numbers."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from conftest import html_faults
from PIL import Image

from world_models.evaluate import page as report
from world_models.runs.scores import RolloutScores, from_json

READINGS = ("mu_linear", "mu_mlp", "pca_linear", "pca_mlp", "pixels_linear")
READ = {"speed_m_per_s": 0.875, "constant_m": None}
VALUES: dict[str, Any] = {
    "sse": 42.25,
    "pca_sse": 77.5,
    "mean_sse": 310.0,
    "previous_sse": 25.0,
    "psnr_db": 24.6,
    "ssim": 0.91,
    "kl_nats": 30.5,
    "kl_per_dim": [20.0, 10.5],
    "active_units": 2,
    "dims_used": 2,
    "elbo_nats": -7100.0,
    "iwae_nats": {"1": -7100.5, "10": -7090.25, "100": -7080.0},
    "iwae_frames": 1000,
    "probe_r2": READ,
    "probes": dict.fromkeys(READINGS, READ),
    "probes_on_road": None,
    "sse_by_kind": {"on a straight": {"share": 0.75, "sse": 33.5}, "on the grass": {"share": 0.25, "sse": 68.5}},
    "aggregate_posterior": {"mean": [-0.25, 0.5], "std": [0.9, 1.2]},
    "unsteadiness": [0.01, 0.03],
    "plausible_share": 0.625,
    "foresight": None,
    "drive": None,
    "pca_components": 2,
    "frames": 1234,
    "episodes": 8,
    "trained_on_episodes": 0,
    "data": "rollouts/heldout",
}


DRIVE = {
    **{"mean": 812.4, "std": 120.2, "median": 851.0, "laps": 17, "tracks": 100},
    **{"pca_mean": 790.1, "expert_mean": 915.0},
}


def _scores(**changes: Any) -> RolloutScores:
    scores = from_json(VALUES | changes)
    assert isinstance(scores, RolloutScores)
    return scores


SCORES = _scores()


def _picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)


SHOWN = {"reconstructions": _picture(), "samples": _picture(1), "clip": b"GIF89a not really"}


def _text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.replace("<wbr>", "")))


def test_page_loads_nothing_from_other_files():
    page = report.page("vae", SCORES, SHOWN)
    references = re.findall(r"""(?:src|href|srcset|url)\s*[=(]\s*["']?([^"')\s>]*)""", page)
    assert len(references) == 3
    assert all(reference.startswith("data:image/") for reference in references)


@pytest.mark.parametrize("tag", ["<script", "<link", "<iframe", "@import", "http://", "https://", "file:"])
def test_page_has_no_scripts_links_or_addresses(tag: str):
    assert tag not in report.page("vae", SCORES, SHOWN)


@pytest.mark.parametrize("changes", [{}, {"probes_on_road": dict.fromkeys(READINGS, READ)}, {"drive": DRIVE}])
def test_page_is_well_formed(changes: dict[str, Any]):
    assert html_faults(report.page("vae", _scores(**changes), SHOWN)) == []


def test_page_contains_the_pictures_themselves():
    page = report.page("vae", SCORES, {"samples": _picture()})
    (encoded,) = re.findall(r"data:image/png;base64,([^\"]*)", page)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))), _picture())


def test_page_contains_the_clip_as_a_gif():
    page = report.page("vae", SCORES, {"clip": b"GIF89a not really"})
    assert f"data:image/gif;base64,{base64.b64encode(b'GIF89a not really').decode()}" in page


def test_every_figure_says_what_it_shows():
    page = report.page("vae", SCORES, SHOWN)
    said = re.findall(r'<figure id="(\w+)">\s*<img[^>]*alt="[^"]+">\s*<figcaption>[^<]+</figcaption>\s*</figure>', page)
    assert said == ["reconstructions", "clip", "samples"]


@pytest.mark.parametrize(
    "number", ["42.25", "77.5", "310", "25", "24.6", "0.91", "30.5", "-7,100", "-7,090.2", "-7,080.0", "1,234 frames"]
)
def test_page_shows_the_numbers(number: str):
    assert number in _text(report.page("vae", SCORES, SHOWN))


@pytest.mark.parametrize(("column", "value"), [("speed_m_per_s", "0.875"), ("constant_m", "never varies")])
def test_page_shows_what_each_probe_found(column: str, value: str):
    assert f"{column} {value}" in _text(report.page("vae", SCORES, SHOWN))


def test_page_shows_what_probes_found_on_the_road():
    on_road = {key: {"speed_m_per_s": 0.4375} for key in READINGS}
    assert "0.438" in report.page("vae", _scores(probes_on_road=on_road), SHOWN)
    assert "driving along the road" not in report.page("vae", SCORES, SHOWN)


@pytest.mark.parametrize("said", ["on a straight 33.50 75%", "on the grass 68.50 25%"])
def test_page_shows_the_error_by_kind_of_frame(said: str):
    assert said in _text(report.page("vae", SCORES, SHOWN))


def test_page_of_other_telemetry_has_no_kinds():
    assert "by kind" not in report.page("vae", _scores(sse_by_kind={}), SHOWN)


@pytest.mark.parametrize(
    "said",
    ["means between -0.25 and 0.50", "deviations between 0.90 and 1.20", "changes by 0.020", "62% are plausible"],
)
def test_page_shows_the_distribution_of_latents(said: str):
    assert said in _text(report.page("vae", SCORES, SHOWN))


def test_page_of_a_collapsed_model_says_that_no_latent_varies():
    page = _text(report.page("vae", _scores(kl_per_dim=[0.0, 0.0], plausible_share=None), SHOWN))
    assert "mu changes by nothing" in page and "plausible" not in page


def test_page_shows_the_errors_of_each_form_of_memory_model():
    numbers = {"foreseen": 40.25, "foreseen_by_seed": [40.0, 40.5], "sampled": 38.0, "stays": 55.5}
    numbers |= {"z_stays": 56.75, "reconstructed": 10.75, "pca": 42.5}
    foreseen = {"predicts_z": {"10": numbers}, "predicts_change": {"10": numbers | {"foreseen": 37.5}}}
    page = _text(report.page("vae", _scores(foresight=foreseen), SHOWN))
    assert "The memory predicts z " in page
    assert "The memory predicts the change of z " in page
    for first in ("40.25", "37.50"):
        assert f" 10 {first} 40.00, 40.50 38.00 55.50 56.75 10.75 42.50 " in page


def test_page_says_why_there_are_no_probes():
    assert "No probes" in report.page("vae", _scores(probes=None), SHOWN)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("<b>&", {}), ("vae", {"data": "<b>&"}), ("vae", {"probes": {key: {"<b>&": 0.5} for key in READINGS}})],
)
def test_names_are_escaped(name: str, changes: dict[str, Any]):
    page = report.page(name, _scores(**changes), {})
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page


MAY_BE_NONE = {"foresight", "drive", "plausible_share", "probe_r2", "probes", "probes_on_road"}
IN_TEXTS = {"data", "pca_components", "sse_by_kind", "trained_on_episodes"}


@pytest.mark.parametrize("score", sorted({*VALUES} - MAY_BE_NONE - IN_TEXTS))
def test_a_missing_score_is_an_error(score: str):
    with pytest.raises((jinja2.UndefinedError, AttributeError, TypeError)):
        report.page("vae", _scores(**{score: None}), SHOWN)


def _page(run: Path, lines: list[dict[str, Any]] | None) -> str:
    run.mkdir()
    if lines is not None:
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return report.page(run.name, SCORES, {**SHOWN, **report.draw_curves(run, SCORES)})


def test_the_title_of_the_page_names_the_run(tmp_path: Path):
    assert "<title>V model my_run</title>" in _page(tmp_path / "my_run", None)


def test_validation_curves_are_drawn_if_there_are_metrics(tmp_path: Path):
    lines = [{"frames_seen": 5, "train/sse": 1.0}, {"frames_seen": 10, "val/sse": 50.0, "val/kl_nats": 3.0}]
    assert 'id="curves"' in _page(tmp_path / "run", lines)


@pytest.mark.parametrize(
    "lines",
    [None, [], [{"frames_seen": 5, "train/sse": 1.0}], [{"frames_seen": 5, "val/sse": 50.0, "val/kl_nats": None}]],
)
def test_without_validation_lines_there_are_no_curves(tmp_path: Path, lines: list[dict[str, Any]] | None):
    assert 'id="curves"' not in _page(tmp_path / "run", lines)


def test_summary_is_one_line_of_the_main_numbers():
    assert SCORES.summary() == (
        "SSE 42.25 per frame (PCA-2 77.50, mean frame 310.00), KL 30.5 nats, 2 active units of 2"
    )


def test_the_page_says_whether_the_model_was_trained_on_what_it_is_scored_on():
    assert "The model was trained on none of them" in report.page("vae", SCORES, SHOWN)
    assert "The model was trained on 3 of these episodes" in report.page("vae", _scores(trained_on_episodes=3), SHOWN)


def test_page_shows_how_the_controller_drove():
    text = _text(report.page("vae", _scores(drive=DRIVE), SHOWN))
    assert "on mu 812 on PCA 790 expert 915" in text
    assert "median 851, standard deviation over tracks 120, 17 laps finished" in text
    assert "drives to 812" in text


def test_page_does_not_mention_driving_unless_asked_for():
    assert "controller" not in report.page("vae", SCORES, SHOWN)
