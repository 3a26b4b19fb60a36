"""Folders of pictures become episodes, frame by frame in natural order."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from world_models.convert import command
from world_models.convert.formats import images
from world_models.data.rollouts import Rollouts


def picture(value: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A picture whose left half is red and whose right half is blue, both of this value."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = value
    pixels[:, width // 2 :, 2] = value
    return pixels


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def run(tmp_path: Path, *flags: str) -> Rollouts:
    command.main(["--data", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--executor", "serial", *flags])
    return Rollouts(tmp_path / "out", verify=True)


def refused(tmp_path: Path, *flags: str) -> str:
    with pytest.raises(ValueError) as refusal:
        run(tmp_path, *flags)
    assert not (tmp_path / "out").exists()
    return str(refusal.value)


def read(path: Path) -> np.ndarray:
    """The picture of an episode of two."""
    reader = images.ImagesReader(path.parent)
    return next(reader.open_episode(".").pictures)


def test_a_folder_is_an_episode_and_its_files_are_in_natural_order(tmp_path):
    for episode in (9, 10):
        for step in range(8, 13):
            save(tmp_path / f"in/run{episode}/{step}.png", picture(10 * step + episode))
    first, second = run(tmp_path)
    np.testing.assert_array_equal(first.frames, [picture(10 * step + 9) for step in range(8, 13)])
    np.testing.assert_array_equal(second.frames, [picture(10 * step + 10) for step in range(8, 13)])
    assert first.actions.shape == (4, 0) and not first.rewards.any()
    assert first.truncated.tolist() == [False, False, False, True] and not first.terminated.any()


def test_a_flat_folder_is_one_episode(tmp_path):
    for step in range(3):
        save(tmp_path / f"in/{step}.png", picture(step))
    (episode,) = run(tmp_path)
    assert len(episode) == 2
    assert episode.policy == "images"


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg", "JPEG"])
def test_a_picture_of_opencv_keeps_its_colours(tmp_path, suffix):
    for step in range(2):
        path = tmp_path / f"in/{step}.{suffix.lower()}"
        path.parent.mkdir(exist_ok=True)
        quality = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == "webp" else []  # above 100 is lossless
        assert cv2.imwrite(str(path), picture(200)[..., ::-1], quality)
        path.rename(path.with_suffix(f".{suffix}"))
    frame = run(tmp_path)[0].frames[0].astype(int)
    limit = 12 if suffix in ("jpg", "JPEG") else 0
    assert np.abs(frame[:, :28] - picture(200)[:, :28]).max() <= limit
    assert np.abs(frame[:, 36:] - picture(200)[:, 36:]).max() <= limit


def test_pictures_of_any_size_are_resized_by_area(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    for step in range(2):
        save(tmp_path / f"in/{step}.png", pixels)
    means = pixels.reshape(64, 2, 64, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(run(tmp_path)[0].frames[0], means, atol=0.5001)


def test_grey_16_bit_and_transparent_pictures_become_rgb(tmp_path):
    grey, deep = np.full((20, 20), 90, np.uint8), np.full((20, 20), 90 * 257, np.uint16)
    clear = np.full((20, 20, 4), 90, np.uint8)
    palette = Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).quantize(2)
    for index, pixels in enumerate((grey, deep, clear)):
        save(tmp_path / f"in/{index}.png", pixels)
    palette.save(tmp_path / "in/3.png")
    frames = run(tmp_path)[0].frames
    assert frames.shape == (4, 64, 64, 3)
    assert (frames == 90).all()


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(200)).save(tmp_path / "in/0.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "in/0.png"), picture(200)[::-1, ::-1])


def test_pictures_next_to_folders_of_pictures_are_refused(tmp_path):
    save(tmp_path / "in/0.png", picture(1))
    save(tmp_path / "in/episode/0.png", picture(1))
    assert "holds pictures and also folders of pictures, such as episode" in refused(tmp_path)


def test_a_single_picture_is_refused(tmp_path):
    save(tmp_path / "in/0.png", picture(1))
    assert "fewer than 2 frames, wanted 2 or more" in refused(tmp_path)
    with pytest.raises(ValueError, match="a single picture, wanted a folder"):
        command.main(["--data", f"{tmp_path}/in/0.png", "--out", f"{tmp_path}/out"])


@pytest.mark.parametrize("damage", ["no picture", "truncated", "another kind", "a pipe"])
def test_a_broken_picture_is_named(tmp_path, damage):
    for step in range(2):
        save(tmp_path / f"in/run/{step}.png", np.random.default_rng(step).integers(0, 256, (64, 64, 3), np.uint8))
    broken = tmp_path / "in/run/1.png"
    whole = broken.read_bytes()
    if damage == "truncated":
        broken.write_bytes(whole[: len(whole) // 2])
    elif damage == "a pipe":
        import os

        broken.unlink()
        os.mkfifo(broken)
    else:
        tiff = io.BytesIO()
        Image.fromarray(picture(1)).save(tiff, "TIFF")
        broken.write_bytes(b"text" if damage == "no picture" else tiff.getvalue())
    said = refused(tmp_path)
    assert f"{broken}: cannot be read as a picture (" in said
    assert "mend it, or leave such episodes out by --skip_broken true" in said


def test_a_data_set_of_broken_pictures_only_is_refused(tmp_path):
    for episode in range(2):
        (tmp_path / f"in/{episode}").mkdir(parents=True)
        (tmp_path / f"in/{episode}/0.png").write_bytes(b"broken")
    said = refused(tmp_path, "--skip_broken", "true")
    assert f"none of the 2 episodes can be read; the first: {tmp_path}/in/0/0.png: cannot be read as a picture" in said


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch):
    for step in range(2):
        save(tmp_path / f"in/{step}.png", picture(1))
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert "0.png: a picture of 4,096 pixels, wanted 100 at most" in refused(tmp_path)


def test_a_missing_folder_has_no_pictures(tmp_path):
    assert images.ImagesReader(tmp_path).count("gone") == 0
