"""Grids, clips and PNG files show the given frames."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from world_models.drawing import grids


def _frames(count: int, height: int = 5, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), np.uint8)


def _picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_png_contains_the_picture():
    picture = _frames(1)[0]
    assert np.array_equal(_picture(grids.png(picture)), picture)


def test_saved_file_is_a_png_of_the_picture(tmp_path: Path):
    picture = _frames(1)[0]
    grids.save(tmp_path / "a" / "b" / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "b" / "x.png")), picture)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_grid_shows_each_frame_at_its_place(scale: int):
    rows = [_frames(3), _frames(3, seed=1)]
    picture = grids.grid(rows, scale)
    for i, row in enumerate(rows):
        for j, frame in enumerate(row):
            top, left = 2 + i * (5 * scale + 2), 2 + j * (4 * scale + 2)
            shown = picture[top : top + 5 * scale : scale, left : left + 4 * scale : scale]
            assert np.array_equal(shown, frame)


def test_grid_has_white_gaps():
    picture = grids.grid([_frames(3), _frames(3)], 1)
    assert picture.shape == (2 * 7 + 2, 3 * 6 + 2, 3)
    assert (picture[[0, 1, 7, 8, 14, 15]] == 255).all()
    assert (picture[:, [0, 1, 6, 7, 12, 13, 18, 19]] == 255).all()


def test_grid_leaves_short_rows_white():
    picture = grids.grid([_frames(3), _frames(1)], 1)
    assert (picture[8:, 6:] == 255).all()


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_sheet_breaks_frames_into_rows(count: int, rows: int):
    assert grids.sheet(_frames(count), columns=3, scale=1).shape[0] == rows * 7 + 2


def test_sheet_reads_from_left_to_right():
    frames = _frames(5)
    assert np.array_equal(grids.sheet(frames, columns=3), grids.grid([frames[:3], frames[3:]]))


def test_labels_do_not_change_the_picture_next_to_them():
    picture = _frames(1, 40, 30)[0]
    labelled = grids.labelled(picture, ["one", "two"], margin=50)
    assert labelled.shape == (40, 80, 3)
    assert np.array_equal(labelled[:, 50:], picture)


def test_labels_are_next_to_their_rows():
    ink = grids.labelled(np.full((90, 10, 3), 255, np.uint8), ["one", "", "three"], margin=60).min(2) < 128
    assert [bool(rows.any()) for rows in np.split(ink, 3)] == [True, False, True]


def test_clip_shows_both_sides_of_every_frame():
    left, right = _frames(5, 8, 8), _frames(5, 8, 8, seed=1)
    with Image.open(io.BytesIO(grids.clip_gif(left, right, scale=2))) as gif:
        assert getattr(gif, "n_frames", 1) == 5
        assert gif.size == (2 * 18 + 2, 18 + 2)


def test_clip_plays_at_its_speed_and_repeats_for_ever():
    with Image.open(io.BytesIO(grids.clip_gif(_frames(3), _frames(3, seed=1), frames_per_s=10))) as gif:
        assert (gif.info["duration"], gif.info["loop"]) == (100, 0)


def test_clip_of_sides_of_different_lengths_is_refused():
    with pytest.raises(ValueError):
        grids.clip_gif(_frames(3), _frames(4))


def test_data_url_contains_the_bytes():
    head, body = grids.data_url(b"\x00\xffabc", "image/png").split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == b"\x00\xffabc"
