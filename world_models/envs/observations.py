"""Which observations are pictures, and whether what an environment shows is the picture that it promised.

A picture is uint8, height x width x 3 (RGB) or grey (one channel, or none). What looks like one and is none, such as
three stacked grey frames or a grid of symbols, would be stored as nonsense in silence; so it is found here, by name.
"""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

WANTED = "uint8 RGB (height x width x 3) or grey pictures, 16 pixels wide and high or more"
MIN_SIDE = 16
"""Of a picture; what is smaller is a grid of symbols, such as MiniGrid's 7x7x3."""
MAX_SYMBOL = 10
"""Of MiniGrid's symbols; a picture without a brighter pixel would be black."""


class EnvError(ValueError):
    """The code of an environment raised an error, which is the `__cause__` of this one."""


class PictureError(EnvError):
    """An environment shows something else than the pictures that its observation space promises."""


def why_no_pictures(env: gymnasium.Env) -> str | None:
    """What the observations are if they are no pictures; None if they are pictures."""
    return why_no_picture_space(env.observation_space) or _stacked(env)


def why_no_picture_space(space: spaces.Space[Any]) -> str | None:
    """The same of a space alone, which does not tell whether wrappers stacked frames."""
    if isinstance(space, spaces.Dict):
        return f"a Dict of {', '.join(map(str, space))}"
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


def _has_picture_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def _what_has_shape(shape: tuple[int, ...]) -> str:
    """What observations of such a shape usually are."""
    if len(shape) > 3:
        return "stacked frames"
    return "RGBA or stacked frames" if shape[-1:] == (4,) else "channels first or stacked frames"


def _stacked(env: gymnasium.Env) -> str | None:
    """What observations of a picture's shape are, if one of the wrappers made them of several frames."""
    found = f"{env.observation_space.dtype} {sizes(env.observation_space.shape or ())}"
    while isinstance(env, gymnasium.Wrapper):
        name = type(env).__name__
        inner, outer = (each.observation_space.shape or () for each in (env.env, env))
        if "stack" in name.lower():
            return f"{found}, stacked by {name}"
        if _is_grey(inner) and outer[2:] == (3,):
            return f"{found}, which {name} made of grey ones: maybe stacked frames"
        env = env.env
    return None


def _is_grey(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or shape[2:] == (1,)


def sizes(shape: tuple[int, ...]) -> str:
    """A shape as 96x96x3."""
    return "x".join(map(str, shape))


def check_picture(
    source: str, picture: Any, promised: tuple[int, ...] | None, crop: tuple[int, int] | None
) -> tuple[int, ...]:
    """Check what an environment shows; returns its shape.

    Args:
        source: the environment and its way of showing, to be named.
        picture: an observation, or what `render()` gave.
        promised: the shape of the observation space, or of the first picture that `render()` gave in this episode;
            None for that first one.
        crop: rows that are kept of it.

    Raises:
        PictureError: it is no picture, of another shape, or has fewer rows than are kept.
    """
    wanted = sizes(promised) if promised else "height x width x 3"
    if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8):
        raise PictureError(f"{source} gave {_kind(picture)}, not uint8 {wanted}; mend the environment")
    fits = picture.shape == promised if promised else _has_picture_shape(picture.shape) and 0 not in picture.shape
    if not fits:
        raise PictureError(f"{source} gave {sizes(picture.shape)}, not {wanted}; mend the environment")
    if crop is not None and crop[1] > picture.shape[0]:
        raise PictureError(f"{source} gave {picture.shape[0]} rows, crop keeps rows to {crop[1]}; crop fewer")
    return picture.shape


def _kind(picture: Any) -> str:
    if isinstance(picture, np.ndarray):
        return f"{picture.dtype} {sizes(picture.shape)}"
    return "None" if picture is None else f"a {type(picture).__name__}"
