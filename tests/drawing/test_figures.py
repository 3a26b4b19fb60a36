"""Pictures as arrays and PNG files."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from world_models.data.rollouts import Rollouts
from world_models.drawing import figures
from world_models.runs import rate_distortion


def _frames(count: int, height: int = 5, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), np.uint8)


def _picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_png_holds_the_picture():
    picture = _frames(1)[0]
    assert np.array_equal(_picture(figures.png(picture)), picture)


def test_saved_file_is_a_png_of_the_picture(tmp_path: Path):
    picture = _frames(1)[0]
    figures.save(tmp_path / "a" / "b" / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "b" / "x.png")), picture)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_grid_shows_each_frame_at_its_place(scale: int):
    rows = [_frames(3), _frames(3, seed=1)]
    picture = figures.grid(rows, scale)
    for i, row in enumerate(rows):
        for j, frame in enumerate(row):
            top, left = 2 + i * (5 * scale + 2), 2 + j * (4 * scale + 2)
            shown = picture[top : top + 5 * scale : scale, left : left + 4 * scale : scale]
            assert np.array_equal(shown, frame)


def test_grid_has_white_gaps():
    picture = figures.grid([_frames(3), _frames(3)], 1)
    assert picture.shape == (2 * 7 + 2, 3 * 6 + 2, 3)
    assert (picture[[0, 1, 7, 8, 14, 15]] == 255).all()
    assert (picture[:, [0, 1, 6, 7, 12, 13, 18, 19]] == 255).all()


def test_grid_leaves_short_rows_white():
    picture = figures.grid([_frames(3), _frames(1)], 1)
    assert (picture[8:, 6:] == 255).all()


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_sheet_breaks_frames_into_rows(count: int, rows: int):
    assert figures.sheet(_frames(count), columns=3, scale=1).shape[0] == rows * 7 + 2


def test_sheet_reads_from_left_to_right():
    frames = _frames(5)
    assert np.array_equal(figures.sheet(frames, columns=3), figures.grid([frames[:3], frames[3:]]))


def test_labelled_picture_keeps_the_picture_beside_its_margin():
    picture = _frames(1, 40, 30)[0]
    labelled = figures.labelled(picture, ["one", "two"], margin=50)
    assert labelled.shape == (40, 80, 3)
    assert np.array_equal(labelled[:, 50:], picture)


def test_labels_stand_beside_their_rows():
    ink = figures.labelled(np.full((90, 10, 3), 255, np.uint8), ["one", "", "three"], margin=60).min(2) < 128
    assert [bool(rows.any()) for rows in np.split(ink, 3)] == [True, False, True]


def test_contact_sheet_has_a_row_for_each_of_a_few_episodes(make_rollouts: Callable[..., Path]):
    data = Rollouts(make_rollouts([4, 6], [5, 3]))
    assert figures.contact_sheet(data, num_episodes=3, num_frames=5).shape == (3 * 130 + 2, 5 * 130 + 2 + 150, 3)


def test_contact_sheet_shows_no_episode_twice(make_rollouts: Callable[..., Path]):
    data = Rollouts(make_rollouts([4, 6]))
    assert figures.contact_sheet(data).shape[0] == 2 * 130 + 2


def test_contact_sheet_runs_from_the_first_frame_to_the_final_one(make_rollouts: Callable[..., Path]):
    data = Rollouts(make_rollouts([4]))
    picture = figures.contact_sheet(data, num_frames=3)[2:130:2, 150:]
    shown = [picture[:, 2 + 130 * i : 130 + 130 * i : 2] for i in range(3)]
    assert np.array_equal(np.stack(shown), data[0].frames[[0, 2, 4]])


def test_clip_shows_both_sides_of_every_frame():
    left, right = _frames(5, 8, 8), _frames(5, 8, 8, seed=1)
    with Image.open(io.BytesIO(figures.clip_gif(left, right, scale=2))) as gif:
        assert getattr(gif, "n_frames", 1) == 5
        assert gif.size == (2 * 18 + 2, 18 + 2)


def test_clip_runs_at_its_speed_for_ever():
    with Image.open(io.BytesIO(figures.clip_gif(_frames(3), _frames(3, seed=1), frames_per_s=10))) as gif:
        assert (gif.info["duration"], gif.info["loop"]) == (100, 0)


def test_clip_of_sides_of_different_lengths_is_refused():
    with pytest.raises(ValueError):
        figures.clip_gif(_frames(3), _frames(4))


def test_data_url_holds_the_bytes():
    head, body = figures.data_url(b"\x00\xffabc", "image/png").split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == b"\x00\xffabc"


def _draws(picture: np.ndarray) -> bool:
    return picture.dtype == np.uint8 and picture.ndim == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_bars_are_drawn():
    assert _draws(figures.bars(np.array([3.0, 1.0, 0.0]), [7, 2, 5], "dimension", "KL"))


def test_higher_bars_have_more_ink():
    def ink(heights: list[float]) -> int:
        picture = figures.bars(np.array([10.0, *heights]), [0, 1, 2], "", "").astype(int)
        return int((picture[..., 2] - picture[..., 0] > 50).sum())

    assert ink([9.0, 9.0]) > ink([1.0, 1.0])


LINES = [{"frames_seen": 10 * i, "val/sse": 100.0 / i, "val/kl_nats": 5.0} for i in (1, 2, 3)]


@pytest.mark.parametrize("lines", [LINES, LINES[:1]])
@pytest.mark.parametrize("levels", [{}, {"val/sse": {"PCA": 50.0}}])
def test_curves_are_drawn_one_beside_the_other(lines: list[dict[str, Any]], levels: dict[str, dict[str, float]]):
    one, two = (figures.curves(lines, names, levels) for names in (("val/sse",), ("val/sse", "val/kl_nats")))
    assert _draws(two)
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)


def test_a_level_is_a_line_more():
    with_level, without = (figures.curves(LINES, ("val/sse",), levels) for levels in ({"val/sse": {"PCA": 50.0}}, {}))
    assert not np.array_equal(with_level, without)


def test_figures_leave_no_state_in_pyplot():
    import matplotlib.pyplot as plt

    figures.bars(np.ones(2), [0, 1], "", "")
    assert plt.get_fignums() == []


def test_figures_import_no_torch():
    import subprocess
    import sys

    code = "import sys, world_models.drawing.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


POINTS = [
    rate_distortion.RatePoint("a", 10.0, 30.0),
    rate_distortion.RatePoint("b", 20.0, 12.0),
    rate_distortion.RatePoint("c", 5.0, 40.0, False),
]


def test_rate_is_drawn_against_distortion():
    assert _draws(figures.rate_distortion(POINTS, {4: 50.0, 32: 20.0}))


@pytest.mark.parametrize("change", [POINTS[:2], [POINTS[0]._replace(sse=35.0), *POINTS[1:]]])
def test_another_point_is_another_picture(change: list[rate_distortion.RatePoint]):
    assert not np.array_equal(figures.rate_distortion(POINTS, {}), figures.rate_distortion(change, {}))


def test_a_point_by_validation_is_hollow():
    filled, hollow = (figures.rate_distortion([rate_distortion.RatePoint("a", 1.0, 2.0, e)], {}) for e in (True, False))
    assert (filled < 200).any(2).sum() > (hollow < 200).any(2).sum()


def test_each_level_of_pca_is_a_line():
    one, two = (figures.rate_distortion(POINTS, levels) for levels in ({4: 25.0}, {4: 25.0, 8: 22.0}))
    assert not np.array_equal(one, two)


def test_a_picture_of_no_points_is_drawn():
    assert figures.rate_distortion([], {}).ndim == 3


def test_labels_of_close_levels_are_pushed_apart():
    def heights(picture: np.ndarray) -> int:
        return int((picture[:, -25:] < 200).any((1, 2)).sum())

    close, same = ({k: 20.0 + k / 1e6 for k in (1, 2, 3)}, {1: 20.0})
    assert heights(figures.rate_distortion([], close)) > 2 * heights(figures.rate_distortion([], same))


@pytest.mark.parametrize(("count", "coloured"), [(3, 3), (10, 10), (12, 12), (13, 12), (100, 12)])
def test_the_first_twelve_names_have_colours_of_their_own(count: int, coloured: int):
    found = figures.colours([str(i) for i in range(count)])
    assert len({shade for shade in found.values() if shade != "lightgray"}) == coloured
    assert [name for name, shade in found.items() if shade == "lightgray"] == [str(i) for i in range(coloured, count)]


def test_the_legend_counts_the_names_that_have_no_colour():
    assert figures.legend([str(i) for i in range(15)])[1][-1] == "3 more"


def test_the_legend_shows_the_end_of_a_long_name():
    assert figures.legend(["x" * 50 + "end"])[1] == ["…" + "x" * 36 + "end"]


def test_a_name_that_is_no_formula_is_drawn_as_it_is():
    assert figures.bins([0.0, 1.0, 2.0], [1.0, 2.0], r"$\frac{$", "SSE").ndim == 3
