"""Videos: a file is an episode. `--every n` takes its frames 0, n, 2n, ...

There are no actions and no rewards. The last step truncates its episode. A GIF is decoded by Pillow, which knows the
number of its frames; every frame counts once, however long it is shown. OpenCV decodes the others.

Damage inside a video is often concealed by its decoder. A video counts as broken if it cannot be opened, or if it gives
fewer frames than its header says. A tolerance of 2 % is needed, because some headers hold estimates.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from world_models.convert import found_files
from world_models.convert.config import ConvertConfig
from world_models.convert.foreign import MAX_PIXELS, BrokenEpisodeError, ForeignEpisode, Source
from world_models.runtime import untrusted

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".gif")
FFMPEG_LOG_LEVEL, NO_LOG = "OPENCV_FFMPEG_LOGLEVEL", "-8"
TOLERANCE = 0.02
MIN_TOLERANCE = 2
"""Share and number of frames that a video may lack, compared with its header."""


@dataclasses.dataclass(frozen=True)
class VideoReader:
    """Reads video files.

    Attributes:
        root: the folder of all episodes.
        every: the n-th frames are taken.
    """

    root: Path
    every: int
    num_actions = 0

    def only(self, names: Sequence[str]) -> "VideoReader":
        """The same reader, which knows no single episodes."""
        return self

    def count(self, name: str) -> int:
        """Number of frames that are taken, by the file's header."""
        path = self.root / name
        with _gif(path) if _is_gif(path) else _opened(path) as video:
            total = _num_gif_frames(video) if isinstance(video, Image.Image) else _num_frames(video)
        return -(-total // self.every)

    def open_episode(self, name: str) -> ForeignEpisode:
        """Open an episode. Its frames are decoded one after the other."""
        path = self.root / name
        return ForeignEpisode(_gif_pictures(path, self.every) if _is_gif(path) else _pictures(path, self.every))


def find(root: Path, files: Sequence[str], config: ConvertConfig) -> Source:
    """The episodes among these files: every file is one."""
    return Source(root, tuple(files), VideoReader(root, config.every), "videos")


def _is_gif(path: Path) -> bool:
    return found_files.suffix(path.name) == ".gif"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video. Each worker decodes with one thread, because there is a worker for each core.

    Raises:
        BrokenEpisodeError: it cannot be opened, or its frames are too large.
    """
    _check_file(path)
    os.environ.setdefault(FFMPEG_LOG_LEVEL, NO_LOG)  # FFmpeg reads it once, when the process opens its first video
    log_level = cv2.utils.logging.setLogLevel(0)  # both print lines of their own about damaged files
    try:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    finally:
        cv2.utils.logging.setLogLevel(log_level)
    try:
        if not video.isOpened():
            raise BrokenEpisodeError("cannot be opened as a video; is it complete, and of a codec that OpenCV reads?")
        pixels = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)) * int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if pixels > MAX_PIXELS:
            raise BrokenEpisodeError(f"frames of {pixels:,} pixels, wanted {MAX_PIXELS:,} at most")
        yield video
    except cv2.error as error:  # such as no memory for a frame
        raise BrokenEpisodeError(f"cannot be decoded ({' '.join(str(error).split())})") from None
    finally:
        video.release()


def _check_file(path: Path) -> None:
    try:
        found = untrusted.is_file(path)
    except ValueError as error:
        raise BrokenEpisodeError(str(error)) from None
    if not found:
        raise BrokenEpisodeError("no such file any more")


def _num_frames(video: cv2.VideoCapture) -> int:
    """Number of frames by the header; 0 if the header does not say."""
    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))


def _pictures(path: Path, every: int) -> Iterator[np.ndarray]:
    with _opened(path) as video:
        total, count = _num_frames(video), 0
        while video.grab():
            if count % every == 0:
                decoded, picture = video.retrieve()
                if not decoded:
                    raise BrokenEpisodeError(f"frame {count} cannot be decoded")
                yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            count += 1
        if total - count > max(MIN_TOLERANCE, TOLERANCE * total):
            raise BrokenEpisodeError(f"ends after {count:,} frames, wanted the {total:,} that its header says")


@contextlib.contextmanager
def _gif(path: Path) -> Iterator[Image.Image]:
    """Open a GIF. Errors of Pillow in the block become `BrokenEpisodeError`."""
    _check_file(path)
    try:
        with Image.open(path, formats=("GIF",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BrokenEpisodeError(f"frames of {image.width * image.height:,} pixels, wanted {MAX_PIXELS:,}")
            yield image
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        if isinstance(error, BrokenEpisodeError):
            raise
        reason = " ".join(str(error).split()).replace(str(path), path.name) or type(error).__name__
        raise BrokenEpisodeError(f"cannot be read as a GIF ({reason})") from None


def _num_gif_frames(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1))


def _gif_pictures(path: Path, every: int) -> Iterator[np.ndarray]:
    """Each frame as it is shown. `seek` also decodes the frames between, because each holds only what changes."""
    with _gif(path) as image:
        for index in range(0, _num_gif_frames(image), every):
            image.seek(index)
            yield np.asarray(image.convert("RGB"))
