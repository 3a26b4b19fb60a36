"""Pictures of a video are found by their times."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

import av
from lerobot_files import FPS, write_video

from world_models.convert import timed_video
from world_models.convert.foreign import BrokenEpisodeError


def values(path: Path, times: list[float]) -> list[int]:
    """The grey value of each picture."""
    return [int(picture[0, 0, 0]) for picture in timed_video.pictures_at(path, np.array(times), float(FPS))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A video of sixty pictures, which are a little brighter one after the other."""
    write_video(tmp_path / "a.mp4", np.stack([np.full((32, 32, 3), 4 * t, np.uint8) for t in range(60)]))
    return tmp_path / "a.mp4"


@pytest.mark.parametrize("first", [0, 1, 13, 47])
def test_pictures_begin_anywhere(path: Path, first: int):
    found = values(path, [t / FPS for t in range(first, first + 10)])
    np.testing.assert_allclose(found, [4 * t for t in range(first, first + 10)], atol=6)
    assert (np.diff(found) > 0).all()


def test_pictures_between_may_be_left_out(path: Path):
    np.testing.assert_allclose(values(path, [0.1, 2.0, 5.9]), [4, 80, 236], atol=6)


def test_a_time_without_a_picture_is_broken(path: Path):
    with pytest.raises(BrokenEpisodeError, match=r"no frame at 2.050 s, the next one is at 2.100 s"):
        values(path, [2.0, 2.05])
    with pytest.raises(BrokenEpisodeError, match=r"ends before the frame at 6.000 s"):
        values(path, [5.9, 6.0])


def test_a_file_without_pictures_is_broken(tmp_path: Path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    with pytest.raises(BrokenEpisodeError, match="holds no video"):
        timed_video.check_length(tmp_path / "sound.mp4", 1.0, float(FPS))


def test_a_playlist_is_not_followed(path: Path, tmp_path: Path):
    """FFmpeg would take it for a list of other files."""
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{path}\n#EXT-X-ENDLIST\n")
    with pytest.raises(BrokenEpisodeError, match="cannot be read as mp4"):
        values(tmp_path / "list.mp4", [0.0])
