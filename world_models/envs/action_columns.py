"""Actions as columns of float32 numbers: from what a policy gives to what is stored and handed to `env.step`."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces
from jaxtyping import Float32

NUMBERS = "biuf"
"""Kinds of NumPy dtypes that are real numbers; strings, objects and complex numbers are none."""


def num_columns(space: spaces.Space) -> int:
    """How many float32 columns an action takes: A.

    Raises:
        ValueError: actions of this space are not a vector of numbers.
    """
    if isinstance(space, spaces.Discrete):
        return 1
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return math.prod(space.shape or ())
    raise ValueError(
        f"actions are {_shown(space)}; only Box, Discrete, MultiDiscrete and MultiBinary fit columns of numbers"
    )


def to_columns(space: spaces.Space, action: Any) -> Float32[np.ndarray, " A"]:
    """An action as its float32 columns. Values outside a Box are kept; `clipped` brings them inside.

    The action has the shape of the space, or that of the columns; dimensions of one do not count.

    Raises:
        ValueError: it is no array of finite numbers of that shape, or no element of a space of whole numbers.
    """
    values = _numbers(space, action)
    with np.errstate(over="ignore"):
        columns = np.array(values, np.float32).reshape(-1)  # a copy: the policy may use its array again
    if not np.isfinite(columns).all():
        raise ValueError(f"the policy gave {_shown(action)}; an action has to be finite in float32")
    if not (isinstance(space, spaces.Box) and space.dtype.kind == "f"):
        _check_whole(space, values, columns)
    return columns


def _numbers(space: spaces.Space, action: Any) -> np.ndarray:
    try:
        values = np.asarray(action)
    except Exception as error:  # of lists of uneven length, and of tensors on another device or with a gradient
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
    """Refuse an action that is no element of a space of whole numbers. It may lie outside an integer Box."""
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
        low = np.asarray(getattr(space, "start", 0)).reshape(-1)  # of a MultiDiscrete only since Gymnasium 1.0
        number = np.asarray(space.n if isinstance(space, spaces.Discrete) else space.nvec)  # type: ignore[attr-defined]
    if ((columns < low) | (columns >= low + number.reshape(-1))).any():
        raise ValueError(f"the policy gave {_shown(values.tolist())}, which is not in {_shown(space)}")


def clipped(space: spaces.Space, columns: Float32[np.ndarray, " A"]) -> Float32[np.ndarray, " A"]:
    """The columns clipped to their Box. The same array if nothing lies outside, or if the space is no Box.

    The bounds are the float32 numbers nearest to those of the space, so that a value inside, rounded to float32, stays
    as it is to the last bit.
    """
    if not isinstance(space, spaces.Box):
        return columns
    low, high = (bound.reshape(-1).astype(np.float32) for bound in (space.low, space.high))
    below, above = columns < low, columns > high
    if not (below.any() or above.any()):
        return columns
    return np.where(below, low, np.where(above, high, columns))


def from_columns(space: spaces.Space, columns: Float32[np.ndarray, " A"]) -> Any:
    """The stored columns as the action that `env.step` takes: exactly those float32 values."""
    if isinstance(space, spaces.Discrete):
        return int(columns[0])
    return columns.reshape(space.shape or ()).astype(space.dtype)


def describe_space(space: spaces.Space) -> dict[str, Any]:
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


def _shown(action: Any, most_letters: int = 80) -> str:
    """The action in one short line."""
    text = _line(f"{action!r}")
    return text if len(text) <= most_letters else f"{text[: most_letters - 3]}..."


def _line(text: Any) -> str:
    return " ".join(str(text).split())
