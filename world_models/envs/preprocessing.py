"""From an observation to a frame: the one function that collecting and a live controller share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

SIZE = 64
BAR_TOP, BAR_ROWS = 84, 96
"""CarRacing's observation has so many rows, and its indicator bar begins at that one."""


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an observation becomes a frame.

    Attributes:
        crop: rows kept, first and one past the last; None keeps them all.
        size: height and width of the frame.
        interpolation: OpenCV's name of how it is resized.
    """

    crop: tuple[int, int] | None = None
    size: int = SIZE
    interpolation: str = "INTER_AREA"

    def __post_init__(self):
        if self.crop is not None and not 0 <= self.crop[0] < self.crop[1]:
            raise ValueError(f"crop {self.crop[0]}:{self.crop[1]} keeps no row; give TOP:BOTTOM with 0 <= TOP < BOTTOM")
        if self.size != SIZE or self.interpolation != "INTER_AREA":
            raise ValueError(f"frames are {SIZE}x{SIZE}, INTER_AREA; found {self.size}, {self.interpolation}")

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "Preprocess":
        """Read the `preprocess` attribute of a file or model, decoded from JSON.

        Raises:
            ValueError: it is none, or of a later version.
        """
        try:
            crop = spec["crop"]
            return cls(
                None if crop is None else (int(crop[0]), int(crop[1])), int(spec["size"]), str(spec["interpolation"])
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{spec!r} is no preprocess; give the one that rollouts or a model hold ({error})"
            ) from None


def parse_crop(text: str, has_bar: bool) -> tuple[int, int] | None:
    """Read `--crop`: `auto`, `none` or `TOP:BOTTOM`.

    Args:
        text: as it was given; `auto` cuts the indicator bar off, as the original experiment does.
        has_bar: whether the observations have CarRacing's rows, and that bar in the last of them.
    """
    if text == "none" or (text == "auto" and not has_bar):
        return None
    top, colon, bottom = (f"0:{BAR_TOP}" if text == "auto" else text).partition(":")
    if not (colon and top.isdecimal() and bottom.isdecimal()):
        raise ValueError(f"crop is {text!r}; give auto, none, or the rows to keep as TOP:BOTTOM, such as 0:84")
    return int(top), int(bottom)


def preprocess(
    frame: UInt8[np.ndarray, "height width *channels"], spec: Preprocess | Mapping[str, Any]
) -> UInt8[np.ndarray, "64 64 3"]:
    """Turn an observation into a frame: crop rows, make grey three channels, resize with INTER_AREA.

    Args:
        frame: RGB (3 channels) or grey (1 channel, or none).
        spec: how; the `preprocess` of rollouts, latents or a model.
    """
    how = spec if isinstance(spec, Preprocess) else Preprocess.from_spec(spec)
    if how.crop is not None:
        if how.crop[1] > frame.shape[0]:
            raise ValueError(f"crop keeps rows to {how.crop[1]}, the picture has {frame.shape[0]}; crop fewer")
        frame = frame[how.crop[0] : how.crop[1]]
    small = cv2.resize(frame, (how.size, how.size), interpolation=cv2.INTER_AREA)
    if small.ndim == 2:  # OpenCV drops a lone channel
        small = small[..., None]
    return np.repeat(small, 3, axis=2) if small.shape[2] == 1 else small
