"""Turns an observation into a frame. `collect` and a controller that drives use the same function, `preprocess`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

SIZE = 64


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How an observation becomes a frame.

    Attributes:
        crop: first row to keep and one past the last; None keeps all rows.
        size: height and width of the frame, in pixels.
        interpolation: OpenCV's name of the interpolation.
    """

    crop: tuple[int, int] | None = None
    size: int = SIZE
    interpolation: str = "INTER_AREA"

    def __post_init__(self):
        if self.crop is not None and not 0 <= self.crop[0] < self.crop[1]:
            raise ValueError(f"crop {self.crop[0]}:{self.crop[1]} keeps no row; give TOP:BOTTOM with 0 <= TOP < BOTTOM")
        if self.size != SIZE or self.interpolation != "INTER_AREA":
            raise ValueError(
                f"preprocess has size {self.size} and {self.interpolation}, and frames are {SIZE}x{SIZE} by "
                "INTER_AREA, as in the paper; give these two, because pictures of any size are resized to them"
            )

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "Preprocess":
        """Read the `preprocess` attribute of a file or model, decoded from JSON.

        Raises:
            ValueError: it is not such an attribute, or was written by a later version.
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


def parse_crop(text: str, auto: tuple[int, int] | None) -> tuple[int, int] | None:
    """Parse `--crop`: `auto`, `none` or `TOP:BOTTOM`.

    Args:
        text: the value of the flag.
        auto: the rows that `auto` keeps: those without an indicator bar, as in the original experiment.

    Raises:
        ValueError: the text is none of the three.

    Example:
        >>> parse_crop("0:84", None), parse_crop("none", (0, 84))
        ((0, 84), None)
    """
    if text in ("auto", "none"):
        return auto if text == "auto" else None
    top, colon, bottom = text.partition(":")
    if not (colon and top.isdecimal() and bottom.isdecimal()):
        raise ValueError(f"crop is {text!r}; give auto, none, or the rows to keep as TOP:BOTTOM, such as 0:84")
    return int(top), int(bottom)


def preprocess(frame: np.ndarray, spec: Preprocess | Mapping[str, Any]) -> UInt8[np.ndarray, "*batch 64 64 3"]:
    """Turn an observation, or any batch of them, into frames: crop rows, make grey three channels, resize (INTER_AREA).

    Args:
        frame: an observation or a batch of them, uint8: (height, width, channels) with any axes in front, such as
            (time, height, width, 3) or (episodes, time, height, width, 1). 3 channels are RGB, 1 is grey. Two axes are
            one grey picture. Three axes are always one picture, so a batch of grey ones needs its axis of channels:
            `frames[..., None]`.
        spec: how to do it: the `preprocess` of rollouts, latents or a model.

    Returns:
        A frame for each picture, with the same axes in front. Each frame is the same as if its picture were alone.

    Raises:
        ValueError: the pictures are not uint8, have no pixels, have another number of channels, or have fewer rows
            than the crop keeps.

    Example:
        >>> spec = {"crop": [0, 84], "size": 64, "interpolation": "INTER_AREA"}
        >>> preprocess(np.zeros((96, 96, 3), np.uint8), spec).shape
        (64, 64, 3)
        >>> preprocess(np.zeros((10, 96, 96, 3), np.uint8), spec).shape
        (10, 64, 64, 3)
    """
    preprocessing = spec if isinstance(spec, Preprocess) else Preprocess.from_spec(spec)
    pictures = _pictures(frame)
    if preprocessing.crop is not None:
        height, axis = pictures.shape[-3], max(0, frame.ndim - 3)
        first, last = preprocessing.crop
        if last > height:
            are_frames = f", or leave preprocess out if these are {SIZE}x{SIZE} frames" if height == SIZE else ""
            raise ValueError(
                f"crop keeps rows to {last}, the picture has {height} (axis {axis}); crop fewer{are_frames}"
            )
        pictures = pictures[..., first:last, :, :]
    if pictures.ndim == 3:
        return _frame(pictures, preprocessing.size)
    frames = np.empty((*pictures.shape[:-3], preprocessing.size, preprocessing.size, 3), np.uint8)
    for index in np.ndindex(pictures.shape[:-3]):
        frames[index] = _frame(pictures[index], preprocessing.size)
    return frames


def _pictures(observations: np.ndarray) -> UInt8[np.ndarray, "*batch height width channels"]:
    """Check the observations, and give them an axis of channels if they have none.

    Raises:
        ValueError: they are not pictures. The message names the axis.
    """
    if not isinstance(observations, np.ndarray) or observations.dtype != np.uint8:
        found = getattr(observations, "dtype", type(observations).__name__)
        raise ValueError(f"observations are {found}; give a NumPy array of uint8, RGB or grey values of 0 to 255")
    if observations.ndim < 2:
        raise ValueError(f"observations of shape {observations.shape}; give pictures: (..., height, width, channels)")
    pictures = observations[..., None] if observations.ndim == 2 else observations
    first, shape = pictures.ndim - 3, observations.shape
    for axis, name in ((first, "height"), (first + 1, "width")):
        if not shape[axis]:
            raise ValueError(
                f"axis {axis} ({name}) of observations of shape {shape} is empty; give pictures with pixels"
            )
    if pictures.shape[-1] not in (1, 3):
        raise ValueError(
            f"axis {first + 2} (channels) of observations of shape {shape} holds {shape[-1]}, and 3 (RGB) or 1 (grey) "
            f"are taken; {_remedy(shape)}"
        )
    return pictures


def _remedy(shape: tuple[int, ...]) -> str:
    if shape[-1] == 4:
        return "cut off the alpha channel by observations[..., :3]"
    if shape[-3] in (1, 3):
        return f"move the channels of axis {len(shape) - 3} to the end by np.moveaxis(observations, -3, -1)"
    return "give grey pictures an axis of one channel by observations[..., None]"


def _frame(picture: UInt8[np.ndarray, "height width channels"], size: int) -> UInt8[np.ndarray, "64 64 3"]:
    small = cv2.resize(np.ascontiguousarray(picture), (size, size), interpolation=cv2.INTER_AREA)
    if small.ndim == 2:  # OpenCV drops a lone channel
        small = small[..., None]
    return np.repeat(small, 3, axis=2) if small.shape[2] == 1 else small
