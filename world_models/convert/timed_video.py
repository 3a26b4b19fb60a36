"""Pictures of an mp4 file by their times. A file may hold several episodes, one after the other.

PyAV decodes, because it knows AV1, LeRobot's usual codec, and gives the exact time of each picture. Only the parser of
mp4 files is used, on a file that is already open. So no file can make it read other files or addresses.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from world_models.convert.foreign import MAX_PIXELS, BrokenEpisodeError
from world_models.runtime import untrusted
from world_models.runtime.terminal import printable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

TOLERANCE = 0.25
"""Share of a picture's duration by which its time may differ from the wanted one."""
LEAD = 16
"""Decoding begins so many pictures before the first wanted one, because pictures are not stored in the order in which
they are shown."""


def check_installed() -> None:
    """Check that PyAV is installed.

    Raises:
        ValueError: it is not.
    """
    if importlib.util.find_spec("av") is None:
        raise ValueError("the videos of a LeRobot data set need PyAV; pip install 'world_models[lerobot]'")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """Open a video. Every error of the block becomes `BrokenEpisodeError`. A worker decodes with one thread."""
    import av

    try:
        if not untrusted.is_file(path):
            raise BrokenEpisodeError("no such file")
        with path.open("rb") as file, av.open(file, format="mp4") as container:
            if not container.streams.video:
                raise BrokenEpisodeError("holds no video")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            _check_size(stream.codec_context.width * stream.codec_context.height)
            yield container, stream
    except BrokenEpisodeError:
        raise
    except Exception as error:  # PyAV raises whatever a damaged file makes it trip over
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise BrokenEpisodeError(f"cannot be read as mp4 ({reason[:200]})") from None


def _check_size(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise BrokenEpisodeError(f"frames of {pixels:,} pixels, wanted {MAX_PIXELS:,} at most")


def check_length(path: Path, seconds: float, fps: float) -> None:
    """Check that a video lasts so long, by its header.

    Raises:
        BrokenEpisodeError: it does not, or it cannot be opened.
    """
    with _opened(path) as (_, stream):
        lasts = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if lasts < seconds - TOLERANCE / fps:
        raise BrokenEpisodeError(f"lasts {lasts:.3f} s, wanted {seconds:.3f} s or more")


def pictures_at(path: Path, times: Float64[np.ndarray, " rows"], fps: float) -> Iterator[np.ndarray]:
    """The pictures at these times, one after the other.

    Args:
        path: the video.
        times: ascending times in seconds from the beginning of the video.
        fps: number of pictures per second.

    Raises:
        BrokenEpisodeError: a picture is missing or cannot be decoded.
    """
    wanted, tolerance = iter(times.tolist()), TOLERANCE / fps
    time = next(wanted)
    with _opened(path) as (container, stream):
        assert stream.time_base is not None, "mp4 files have one"
        begin = max(0.0, time - LEAD / fps)
        container.seek(int(begin / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time is None or frame.time < time - tolerance:
                continue
            if frame.time > time + tolerance:
                raise BrokenEpisodeError(f"no frame at {time:.3f} s, the next one is at {frame.time:.3f} s")
            _check_size(frame.width * frame.height)
            yield frame.to_ndarray(format="rgb24")
            following = next(wanted, None)
            if following is None:
                return
            time = following
    raise BrokenEpisodeError(f"ends before the frame at {time:.3f} s")
