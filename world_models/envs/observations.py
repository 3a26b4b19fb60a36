"""Tells which observations are pictures, and checks each picture against the observation space.

A picture is uint8, height x width x 3 (RGB), or grey (one channel, or no axis of channels). Other observations can
have the shape of a picture, such as three stacked grey frames or a grid of symbols. A data set of them would be
useless, so they are refused here.

A dict observation may hold a picture among other entries: the only RGB picture or, if there is none, the only grey one.
Several of them are refused, because nothing says which one is meant.
"""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

WANTED = "uint8 RGB (height x width x 3) or grey pictures, 16 pixels wide and high or more"
MIN_SIDE = 16
"""Least width and height of a picture. Smaller observations are grids of symbols, such as MiniGrid's 7x7x3."""
MAX_SYMBOL = 10
"""Largest value of MiniGrid's symbols. A picture with no larger value would be black."""


class EnvError(ValueError):
    """The code of an environment raised an error. That error is the `__cause__` of this one."""


class PictureError(EnvError):
    """An environment shows something other than the pictures that its observation space promises."""


def why_no_pictures(env: gymnasium.Env) -> str | None:
    """Describe the observations if they are not pictures; None if they are pictures."""
    return why_no_picture_space(env.observation_space) or _stacked(env)


def why_no_picture_space(space: spaces.Space[Any]) -> str | None:
    """Like `why_no_pictures`, for a space alone. A space does not show whether wrappers have stacked frames."""
    space = picture_in(space)[1]
    if isinstance(space, spaces.Dict):
        names = pictures_in(space)
        several = f" with {len(names)} pictures ({', '.join(names)})" if names else ""
        return f"a Dict of {', '.join(map(str, space))}{several}"
    if not isinstance(space, spaces.Box):
        return " ".join(f"{space}".split())
    found = f"{space.dtype} {sizes(space.shape)}"
    if len(space.shape) < 2:
        return f"{math.prod(space.shape)} numbers"
    if space.dtype != np.uint8:
        return f"{found}, not uint8"
    if not _has_picture_shape(space.shape):
        return f"{found}: {_what_has_shape(space.shape)}"
    if min(space.shape[:2]) < MIN_SIDE:
        return f"{found}: too small for pictures, so they are symbols"
    if not (space.high == 255).all():
        return f"{found} with values to {space.high.max()}, not 255: symbols or parts of colours"
    return None


def pictures_in(space: spaces.Space[Any]) -> list[str]:
    """Names of the RGB pictures in a dict observation or, if there are none, of the grey ones; empty without a dict.

    Example:
        >>> front, map_, depth = (spaces.Box(0, 255, (64, 64, channels), np.uint8) for channels in (3, 3, 1))
        >>> pictures_in(spaces.Dict(front=front, map=map_, depth=depth, speed=spaces.Box(0, 100)))
        ['front', 'map']
    """
    parts = space.items() if isinstance(space, spaces.Dict) else ()
    boxes = {name: part for name, part in parts if isinstance(part, spaces.Box) and not why_no_picture_space(part)}
    return [name for name, box in boxes.items() if not _is_grey(box.shape)] or list(boxes)


def picture_in(space: spaces.Space[Any]) -> tuple[str | None, spaces.Space[Any]]:
    """Find the picture in observations of this space.

    Returns:
        The picture's name in a dict observation, and its space. Without a dict, or if a dict holds no picture or
        several, the name is None and the space is the given one.

    Example:
        >>> screen = spaces.Box(0, 255, (240, 320, 3), np.uint8)
        >>> picture_in(spaces.Dict(screen=screen, health=spaces.Box(0, 100)))[0]
        'screen'
    """
    names = pictures_in(space)
    return (names[0], space[names[0]]) if len(names) == 1 else (None, space)  # type: ignore[index]


def picture_of(observation: Any, name: str | None) -> Any:
    """The picture of an observation; None if the observation is not a dict with an entry of this name.

    Args:
        observation: an observation.
        name: name of the picture in a dict observation, from `picture_in`; None if the observation is the picture.
    """
    if name is None:
        return observation
    return observation.get(name) if isinstance(observation, Mapping) else None


def _has_picture_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def _what_has_shape(shape: tuple[int, ...]) -> str:
    """What observations of this shape usually are."""
    if len(shape) > 3:
        return "stacked frames"
    return "RGBA or stacked frames" if shape[-1:] == (4,) else "channels first or stacked frames"


def _stacked(env: gymnasium.Env) -> str | None:
    """Describe observations that are shaped like a picture but hold several frames, stacked by a wrapper; else None."""
    _, space = picture_in(env.observation_space)
    found = f"{space.dtype} {sizes(space.shape or ())}"
    while isinstance(env, gymnasium.Wrapper):
        name = type(env).__name__
        inner, outer = (picture_in(each.observation_space)[1].shape or () for each in (env.env, env))
        if "stack" in name.lower():
            return f"{found}, stacked by {name}"
        if _is_grey(inner) and outer[2:] == (3,):
            return f"{found}, which {name} made of grey ones: maybe stacked frames"
        env = env.env
    return None


def _is_grey(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or shape[2:] == (1,)


def sizes(shape: tuple[int, ...]) -> str:
    """A shape as text, such as 96x96x3."""
    return "x".join(map(str, shape))


def check_picture(
    source: str, picture: Any, promised: tuple[int, ...] | None, crop: tuple[int, int] | None
) -> tuple[int, ...]:
    """Check a picture of an environment. Returns its shape.

    Args:
        source: where the picture comes from; the message begins with it.
        picture: an observation, or the result of `render()`.
        promised: the shape of the observation space, or of the first picture of `render()` in this episode; None for
            that first picture.
        crop: first row to keep and one past the last; None keeps all.

    Raises:
        PictureError: it is not a picture, has another shape, or has fewer rows than the crop needs.
    """
    wanted = sizes(promised) if promised else "height x width x 3"
    if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8):
        raise PictureError(f"{source} gave {_kind(picture)}, not uint8 {wanted}; fix the environment")
    fits = picture.shape == promised if promised else _has_picture_shape(picture.shape) and 0 not in picture.shape
    if not fits:
        raise PictureError(f"{source} gave {sizes(picture.shape)}, not {wanted}; fix the environment")
    if crop is not None and crop[1] > picture.shape[0]:
        raise PictureError(f"{source} gave {picture.shape[0]} rows, crop keeps rows to {crop[1]}; crop fewer")
    return picture.shape


def _kind(picture: Any) -> str:
    if isinstance(picture, np.ndarray):
        return f"{picture.dtype} {sizes(picture.shape)}"
    return "None" if picture is None else f"a {type(picture).__name__}"
