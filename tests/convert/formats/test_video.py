"""Videos become episodes, frame by frame. Those of this test are made by OpenCV and Pillow."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image

from world_models.convert import command
from world_models.convert.formats import video
from world_models.data.rollouts import Rollouts

CODES = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "MJPG", ".webm": "VP80", ".mov": "mp4v"}
LIMIT = 12
"""Largest error of a value by lossy packing, away from edges."""


def picture(step: int, size: int = 64) -> np.ndarray:
    """Red rises from left to right, green is the number of the step, blue is constant."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[..., 0] = np.linspace(40, 200, size).astype(np.uint8)
    pixels[..., 1] = 8 * (step % 25) + 20
    pixels[..., 2] = 120
    return pixels


def write(path: Path, num_frames: int = 20, size: int = 64) -> Path:
    """Write a video of these pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        first, *rest = [Image.fromarray(picture(step, size)) for step in range(num_frames)]
        first.save(path, save_all=True, append_images=rest, duration=40)
        return path
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODES[path.suffix]), 25, (size, size))
    if not writer.isOpened():
        pytest.skip(f"OpenCV cannot write {path.suffix} here")
    for step in range(num_frames):
        writer.write(picture(step, size)[..., ::-1])
    writer.release()
    return path


def run(tmp_path: Path, *flags: str) -> Rollouts:
    command.main(["--data", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--executor", "serial", *flags])
    return Rollouts(tmp_path / "out", verify=True)


def refused(tmp_path: Path, *flags: str) -> str:
    with pytest.raises(ValueError) as refusal:
        run(tmp_path, *flags)
    assert not (tmp_path / "out").exists()
    return str(refusal.value)


@pytest.mark.parametrize("suffix", [*CODES, ".gif"])
def test_frame_t_of_a_video_is_frame_t_of_its_episode(tmp_path, suffix):
    write(tmp_path / f"in/clip{suffix}")
    (episode,) = run(tmp_path)
    assert episode.frames.shape == (20, 64, 64, 3)
    wanted = np.stack([picture(step) for step in range(20)])
    assert np.abs(episode.frames.astype(int) - wanted).max() <= LIMIT
    assert episode.actions.shape == (19, 0) and not episode.rewards.any()
    assert episode.truncated[-1] and not episode.terminated.any()
    assert episode.policy == "video"


@pytest.mark.parametrize("suffix", [".avi", ".gif"])
def test_every_n_th_frame_is_taken_from_the_first_on(tmp_path, suffix):
    path = write(tmp_path / f"in/clip{suffix}")
    assert video.VideoReader(path.parent, 3).count(path.name) == 7
    (episode,) = run(tmp_path, "--every", "3")
    steps = np.round((episode.frames[:, 32, 32, 1].astype(float) - 20) / 8)
    np.testing.assert_array_equal(steps, [0, 3, 6, 9, 12, 15, 18])


def test_videos_are_episodes_in_natural_order_also_of_subfolders(tmp_path):
    for name, length in {"in/day2/clip10.avi": 4, "in/day2/clip9.avi": 3, "in/day10/clip1.avi": 5}.items():
        write(tmp_path / name, length)
    assert [len(episode) + 1 for episode in run(tmp_path)] == [3, 4, 5]


def test_a_frame_of_a_gif_is_drawn_over_the_one_before(tmp_path):
    background, spot = Image.new("RGB", (64, 64), (200, 0, 0)), Image.new("RGB", (64, 64), (200, 0, 0))
    spot.paste((0, 200, 0), (0, 0, 8, 8))
    (tmp_path / "in").mkdir()
    background.save(tmp_path / "in/spot.gif", save_all=True, append_images=[spot, background], disposal=1)
    frames = run(tmp_path)[0].frames
    assert frames[0, 40, 40].tolist() == frames[1, 40, 40].tolist() == [200, 0, 0]
    assert frames[1, 2, 2].tolist() == [0, 200, 0] and frames[2, 2, 2].tolist() == [200, 0, 0]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.gif"])
def test_a_file_that_is_no_video_is_refused_by_its_name(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(b"no video" * 100)
    assert f"{tmp_path}/in/{name}: cannot be " in refused(tmp_path)


def test_ffmpeg_and_opencv_print_no_lines_of_their_own(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/clip.mp4").write_bytes(b"no video" * 100)
    argv = [sys.executable, "-m", "world_models.convert", "--data", f"{tmp_path}/in", "--out", f"{tmp_path}/out"]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "clip.mp4: cannot be opened as a video" in result.stderr


def test_a_video_that_breaks_off_has_fewer_frames_than_its_header_says(tmp_path):
    path = write(tmp_path / "in/clip.avi", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = video.VideoReader(path.parent, 1)
    with pytest.raises(video.BrokenEpisodeError, match=r"ends after .* frames, wanted the 60 that its header says"):
        list(reader.open_episode(path.name).pictures)


def test_a_gif_that_breaks_off_is_broken(tmp_path):
    path = write(tmp_path / "in/clip.gif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = video.VideoReader(path.parent, 1)
    with pytest.raises(video.BrokenEpisodeError):
        list(reader.open_episode(path.name).pictures)


@pytest.mark.parametrize("suffix", [".avi", ".gif"])
def test_frames_of_too_many_pixels_are_refused(tmp_path, suffix, monkeypatch):
    write(tmp_path / f"in/clip{suffix}", 3)
    monkeypatch.setattr(video, "MAX_PIXELS", 100)
    assert "frames of 4,096 pixels, wanted 100" in refused(tmp_path)


@pytest.mark.parametrize("suffix", [".avi", ".gif"])
def test_a_pipe_is_not_opened(tmp_path, suffix):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / f"in/clip{suffix}")
    assert "a named pipe, wanted a file" in refused(tmp_path)


def test_a_missing_file_is_broken(tmp_path):
    with pytest.raises(video.BrokenEpisodeError, match="no such file any more"):
        video.VideoReader(tmp_path, 1).count("gone.mp4")


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").touch()
    undecodable = Mock(spec=cv2.VideoCapture)
    undecodable.isOpened.return_value = True
    undecodable.get.return_value = 4.0  # width, height and number of frames
    undecodable.grab.return_value = True
    undecodable.retrieve.side_effect = [(True, picture(0)), (False, None)]
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: undecodable)
    pictures = video.VideoReader(tmp_path, 1).open_episode("clip.mp4").pictures
    np.testing.assert_array_equal(next(pictures), picture(0)[..., ::-1])
    with pytest.raises(video.BrokenEpisodeError, match="frame 1 cannot be decoded"):
        next(pictures)
