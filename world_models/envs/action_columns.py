"""Convert actions to columns of float32 numbers, which data sets store, and back to what `env.step` takes."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

from world_models.runtime.typed_json import Json

NUMBERS = "biuf"
"""Kinds of NumPy dtypes that are real numbers: bool, signed, unsigned and floating point."""


def num_columns(space: spaces.Space) -> int:
    """The number of float32 columns of an action, A.

    Raises:
        ValueError: actions of this space are not a vector of numbers.

    Example:
        >>> num_columns(spaces.Discrete(5)), num_columns(spaces.Box(-1, 1, (2, 3)))
        (1, 6)
    """
    if isinstance(space, spaces.Discrete):
        return 1
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return math.prod(space.shape or ())
    raise ValueError(
        f"actions are {_shown(space)}; only Box, Discrete, MultiDiscrete and MultiBinary fit columns of numbers"
    )


def to_columns(space: spaces.Space, action: Any) -> Float32[np.ndarray, " A"]:
    """Convert an action to its float32 columns. Values outside a Box are kept; `clipped` brings them inside.

    The action has the shape of the space or of the columns. Dimensions of size 1 are ignored.

    Raises:
        ValueError: the action is not an array of finite numbers of that shape, or the space holds whole numbers and
            the action is not in it.
    """
    values = _numbers(space, action)
    with np.errstate(over="ignore"):
        columns = np.array(values, np.float32).reshape(-1)  # a copy, because the policy may reuse its array
    if not np.isfinite(columns).all():
        raise ValueError(f"the policy gave {_shown(action)}; an action must be finite in float32")
    if not (isinstance(space, spaces.Box) and space.dtype.kind == "f"):
        _check_whole(space, values, columns)
    return columns


def _numbers(space: spaces.Space, action: Any) -> np.ndarray:
    try:
        values = np.asarray(action)
    except Exception as error:  # lists of uneven length; tensors on another device or with a gradient
        raise ValueError(f"the policy gave {_shown(action)}, which is no array ({_line(error)})") from None
    if values.dtype.kind not in NUMBERS:
        raise ValueError(
            f"the policy gave {_shown(action)}, which is no array of real numbers; {_shown(space)} takes one"
        )
    shape = space.shape or ()
    if values.shape != shape and _without_ones(values.shape) not in (_without_ones(shape), _flat(shape)):
        size = f"an action of {values.size} values, shape {values.shape}"
        raise ValueError(f"the policy gave {size}, {_shown(space)} takes {math.prod(shape)}, shape {shape}")
    return values


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side for side in shape if side != 1)


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    return _without_ones((math.prod(shape),))


def _check_whole(space: spaces.Space, values: np.ndarray, columns: Float32[np.ndarray, " A"]) -> None:
    """Refuse an action that is not in its space of whole numbers. It may exceed an integer Box, which clips it."""
    if (values != np.floor(values)).any():
        raise ValueError(f"the policy gave {_shown(values.tolist())}; {_shown(space)} takes whole numbers")
    if (columns != values.reshape(-1)).any():
        raise ValueError(
            f"the policy gave {_shown(values.tolist())}, which the float32 columns of a data set cannot hold exactly"
        )
    if isinstance(space, spaces.Box):
        return
    if isinstance(space, spaces.MultiBinary):
        low, number = 0, np.array(2)
    else:
        low = np.asarray(getattr(space, "start", 0)).reshape(-1)  # MultiDiscrete has it since Gymnasium 1.0
        number = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)  # type: ignore[attr-defined]
    if ((columns < low) | (columns >= low + number.reshape(-1))).any():
        raise ValueError(f"the policy gave {_shown(values.tolist())}, which is not in {_shown(space)}")


def clipped(space: spaces.Space, columns: Float32[np.ndarray, " A"]) -> Float32[np.ndarray, " A"]:
    """Clip the columns to their Box. Returns the same array if nothing lies outside or the space is not a Box.

    The bounds are those of the space, rounded to float32. So a value inside the Box that is rounded to float32 keeps
    every bit.
    """
    if not isinstance(space, spaces.Box):
        return columns
    low, high = (bound.reshape(-1).astype(np.float32) for bound in (space.low, space.high))
    below, above = columns < low, columns > high
    if not (below.any() or above.any()):
        return columns
    return np.where(below, low, np.where(above, high, columns))


def from_columns(space: spaces.Space, columns: Float32[np.ndarray, " A"]) -> Any:
    """Convert stored columns to the action that `env.step` takes, with exactly the stored values."""
    if isinstance(space, spaces.Discrete):
        return int(columns[0])
    return columns.reshape(space.shape or ()).astype(space.dtype)


def describe_space(space: spaces.Space) -> dict[str, Json]:
    """The action space as JSON, for the attribute `action_space`."""
    kind = type(space).__name__
    if isinstance(space, spaces.Discrete):
        return {"type": kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Box):
        low, high = (
            [float(x) if np.isfinite(x) else None for x in bound.reshape(-1)] for bound in (space.low, space.high)
        )
        return {"type": kind, "shape": list(space.shape), "low": low, "high": high}
    return {"type": kind, "shape": list(space.shape or ())}


def _shown(action: Any, max_length: int = 80) -> str:
    """Show the action in one short line."""
    text = _line(f"{action!r}")
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


def _line(text: Any) -> str:
    return " ".join(str(text).split())
