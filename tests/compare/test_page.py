"""The page of several runs: it is self-contained, and text in a run's files never becomes markup."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import html_faults

from world_models.compare import chart
from world_models.compare import page as comparison_page
from world_models.compare.frames import FrameRows
from world_models.runs.description import Description
from world_models.runs.records import RunRecord

CURVES = np.full((4, 6, 3), 7, np.uint8)


def _run(name: str, config: dict[str, Any] | None = None, **description: Any) -> RunRecord:
    lines = ({"frames_seen": 100.0, "val/sse": 20.0, "val/kl_nats": 3.0},)
    return RunRecord(
        Path("runs") / name,
        name,
        config or {},
        lines,
        None,
        Description.from_json(description) if description else None,
    )


def _rows(*names: str) -> FrameRows:
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    return FrameRows("rollouts/held<out>", frames, dict.fromkeys(names, 255 - frames))


def _page(*runs: RunRecord, frames: FrameRows | None = None, notes: tuple[str, ...] = ()) -> str:
    return comparison_page.page(runs, CURVES, frames, notes)


def _text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_page_loads_nothing_from_other_files():
    page = _page(_run("a"), _run("b"), frames=_rows("a", "b"))
    references = re.findall(r"""(?:src|href|srcset|url)\s*[=(]\s*["']?([^"')\s>]*)""", page)
    assert len(references) == 1 + 3  # the curves; the frames, and those of two runs
    assert all(reference.startswith("data:image/png;base64,") for reference in references)


@pytest.mark.parametrize("tag", ["<script", "<link", "<iframe", "@import", "http://", "https://", "file:"])
def test_page_has_no_scripts_links_or_addresses(tag: str):
    assert tag not in _page(_run("a"), frames=_rows("a"))


def test_page_is_well_formed():
    page = _page(_run("a", {"seed": 0}), _run("b", {"seed": 1}), frames=_rows("a", "b"), notes=("no frames of c",))
    assert html_faults(page) == []


def test_everything_from_a_run_is_escaped():
    bad = "<script>&'\""
    runs = [_run(bad, {bad: bad}, env=bad, versions={bad: bad}, data_digest=bad), _run("b", data_digest="d")]
    page = _page(*runs, frames=_rows(bad), notes=(bad,))
    assert "<script" not in page
    assert "held<out>" not in page
    assert "&lt;script&gt;&amp;" in page


def test_page_of_several_runs_says_how_many():
    assert "<title>2 runs side by side</title>" in _page(_run("a"), _run("b"))


def test_page_of_one_run_has_its_name():
    assert "<title>The run a</title>" in _page(_run("a"))


def test_every_column_is_explained():
    text = _text(_page(_run("a")))
    assert "val SSE : lowest squared error of a validation" in text
    assert "PSNR" not in text


def test_settings_that_differ_are_listed():
    assert "seed 0 1" in _text(_page(_run("a", {"seed": 0}), _run("b", {"seed": 1})))


def test_equal_settings_are_reported_as_equal():
    assert "the settings are the same" in _text(_page(_run("a"), _run("b")))


def test_a_warning_names_runs_that_cannot_be_compared():
    assert "Careful: the runs were trained on different data" in _text(
        _page(_run("a", data_digest="1"), _run("b", data_digest="2"))
    )


def test_the_page_lists_what_is_left_out():
    assert "no frames of x" in _text(_page(_run("a"), notes=("no frames of x",)))


def test_frames_are_labelled_with_the_names_of_the_runs():
    page = _page(_run("a"), _run("b"), frames=_rows("a", "b"))
    assert re.findall(r"<th[^>]*>([^<]*)</th>\s*<td><img", page) == ["held-out frames", "a", "b"]


def test_a_page_without_frames_does_not_mention_frames():
    assert "The same frames" not in _page(_run("a"))


def test_the_page_shows_where_each_run_comes_from():
    text = _text(_page(_run("a", versions={"git_commit": "abc123"}), _run("b")))
    assert "git commit abc123" in text
    assert "folder runs/b" in text


# compare.png


def _ink(picture: np.ndarray) -> int:
    return int((picture < 250).any(2).sum())


def test_curves_of_a_run_are_drawn():
    assert _ink(chart.draw([_run("a")])) > 0


def test_a_run_without_metrics_has_an_empty_chart():
    empty = RunRecord(Path("runs/a"), "a", {}, (), None, None)
    assert _ink(chart.draw([empty])) < _ink(chart.draw([_run("a")]))


def test_a_long_curve_has_no_markers_at_its_points():
    def drawn(count: int) -> np.ndarray:
        lines = tuple({"frames_seen": float(x), "train/sse": 5.0} for x in np.linspace(0, 100, count))
        return chart.draw([RunRecord(Path("runs/a"), "a", {}, lines, None, None)])

    assert _ink(drawn(100)) < _ink(drawn(5))


@pytest.mark.parametrize("name", ["$x", r"$\nothing$", "_hidden", "x" * 300, "a\\b{"])
def test_a_run_with_any_name_can_be_drawn(name: str):
    assert _ink(chart.draw([_run(name)])) > 0


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30, 1e29])
def test_metrics_with_any_values_can_be_drawn(value: float):
    lines = ({"frames_seen": 1.0, "val/sse": value, "val/kl_nats": value}, {"frames_seen": 1e9, "val/sse": 1.0})
    assert _ink(chart.draw([RunRecord(Path("runs/a"), "a", {}, lines, None, None)])) > 0


def test_hundreds_of_runs_are_drawn():
    assert _ink(chart.draw([_run(f"run{i}") for i in range(40)])) > 0
