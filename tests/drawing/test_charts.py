"""Charts show the given values."""

from typing import Any

import numpy as np
import pytest

from world_models.drawing import charts
from world_models.runs import rate_distortion


def _draws(picture: np.ndarray) -> bool:
    return picture.dtype == np.uint8 and picture.ndim == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_bars_are_drawn():
    assert _draws(charts.bars(np.array([3.0, 1.0, 0.0]), [7, 2, 5], "dimension", "KL"))


def test_higher_bars_have_more_ink():
    def ink(heights: list[float]) -> int:
        picture = charts.bars(np.array([10.0, *heights]), [0, 1, 2], "", "").astype(int)
        return int((picture[..., 2] - picture[..., 0] > 50).sum())

    assert ink([9.0, 9.0]) > ink([1.0, 1.0])


LINES = [{"frames_seen": 10 * i, "val/sse": 100.0 / i, "val/kl_nats": 5.0} for i in (1, 2, 3)]


@pytest.mark.parametrize("lines", [LINES, LINES[:1]])
@pytest.mark.parametrize("levels", [{}, {"val/sse": {"PCA": 50.0}}])
def test_curves_are_drawn_next_to_each_other(lines: list[dict[str, Any]], levels: dict[str, dict[str, float]]):
    one, two = (charts.curves(lines, names, levels) for names in (("val/sse",), ("val/sse", "val/kl_nats")))
    assert _draws(two)
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)


def test_a_level_adds_a_line():
    with_level, without = (charts.curves(LINES, ("val/sse",), levels) for levels in ({"val/sse": {"PCA": 50.0}}, {}))
    assert not np.array_equal(with_level, without)


def test_figures_leave_no_state_in_pyplot():
    import matplotlib.pyplot as plt

    charts.bars(np.ones(2), [0, 1], "", "")
    assert plt.get_fignums() == []


def test_pictures_import_no_torch():
    import subprocess
    import sys

    code = "import sys, world_models.drawing.charts, world_models.drawing.grids; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


POINTS = [
    rate_distortion.RatePoint("a", 10.0, 30.0),
    rate_distortion.RatePoint("b", 20.0, 12.0),
    rate_distortion.RatePoint("c", 5.0, 40.0, False),
]


def test_rate_and_distortion_are_drawn_as_points():
    assert _draws(charts.rate_distortion(POINTS, {4: 50.0, 32: 20.0}))


@pytest.mark.parametrize("change", [POINTS[:2], [POINTS[0]._replace(sse=35.0), *POINTS[1:]]])
def test_another_point_changes_the_picture(change: list[rate_distortion.RatePoint]):
    assert not np.array_equal(charts.rate_distortion(POINTS, {}), charts.rate_distortion(change, {}))


def test_a_point_from_a_validation_is_drawn_hollow():
    filled, hollow = (charts.rate_distortion([rate_distortion.RatePoint("a", 1.0, 2.0, e)], {}) for e in (True, False))
    assert (filled < 200).any(2).sum() > (hollow < 200).any(2).sum()


def test_each_level_of_pca_is_a_line():
    one, two = (charts.rate_distortion(POINTS, levels) for levels in ({4: 25.0}, {4: 25.0, 8: 22.0}))
    assert not np.array_equal(one, two)


def test_a_chart_without_points_can_be_drawn():
    assert charts.rate_distortion([], {}).ndim == 3


def test_labels_of_close_levels_do_not_overlap():
    def heights(picture: np.ndarray) -> int:
        return int((picture[:, -25:] < 200).any((1, 2)).sum())

    close, same = ({k: 20.0 + k / 1e6 for k in (1, 2, 3)}, {1: 20.0})
    assert heights(charts.rate_distortion([], close)) > 2 * heights(charts.rate_distortion([], same))


@pytest.mark.parametrize(("count", "coloured"), [(3, 3), (10, 10), (12, 12), (13, 12), (100, 12)])
def test_the_first_twelve_names_have_colours_of_their_own(count: int, coloured: int):
    found = charts.colours([str(i) for i in range(count)])
    assert len({shade for shade in found.values() if shade != "lightgray"}) == coloured
    assert [name for name, shade in found.items() if shade == "lightgray"] == [str(i) for i in range(coloured, count)]


def test_the_legend_counts_the_names_that_have_no_colour():
    assert charts.legend([str(i) for i in range(15)])[1][-1] == "3 more"


def test_the_legend_shows_the_end_of_a_long_name():
    assert charts.legend(["x" * 50 + "end"])[1] == ["…" + "x" * 36 + "end"]


def test_a_name_that_is_no_valid_formula_can_be_drawn():
    assert charts.bins([0.0, 1.0, 2.0], [1.0, 2.0], r"$\frac{$", "SSE").ndim == 3
