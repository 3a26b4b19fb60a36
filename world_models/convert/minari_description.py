"""What a Minari data set says about itself in `metadata.json`: its environment, its images and its actions."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from world_models.convert.config import Keys
from world_models.convert.foreign import MAX_PIXELS
from world_models.runtime import untrusted
from world_models.runtime.terminal import printable
from world_models.runtime.typed_json import Json

METADATA_FILE = "metadata.json"
MAX_METADATA_BYTES = 100_000_000
"""The bounds of each pixel are in the metadata, twice. They take 2 MB for a picture of 210x160."""
MIN_SIDE = 32
"""Minari itself takes nothing smaller for an image: in MiniGrid, 7x7 numbers are kinds of objects, not colours."""


def read(path: Path) -> dict[str, Any]:
    """Read `metadata.json`.

    Raises:
        ValueError: it is no JSON object, or too long.
    """
    return _json_object(path, untrusted.read_text(path, MAX_METADATA_BYTES), "it")


def _json_object(path: Path, text: Any, what: str) -> dict[str, Any]:
    """A JSON object. The bounds of pixels are more lists than `untrusted.from_json` takes."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {what} is no JSON object; download or write the data set again")
    return value


def _space(path: Path, metadata: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A space as Minari describes it in JSON."""
    return _json_object(path.with_name(METADATA_FILE), metadata.get(key), key)


def image(path: Path, metadata: Mapping[str, Any], keys: Keys) -> tuple[str, tuple[int, ...]]:
    """Where in the observations the images are, as a path that begins with `/` or is empty, and their shape."""
    space = _space(path, metadata, "observation_space")
    if keys != Keys(frames=keys.frames):
        raise ValueError(f"{path}: of keys, only keys.frames is for Minari, whose other arrays have fixed names")
    if space.get("type") != "Dict" and keys.frames is not None:
        raise ValueError(f"{path}: observations are {_shown(space)}, no dict; leave --keys.frames out")
    found, place = space, ""
    for part in keys.frames.split("/") if keys.frames else ():
        found = _entries(found).get(part)
        place += f"/{part}"
        if not isinstance(found, Mapping):
            raise ValueError(f"{path}: no {keys.frames} in observations, which are {_shown(space)}; give another name")
    if found.get("type") == "Dict":
        raise ValueError(f"{path}: observations{place} are {_shown(found)}; name an image by --keys.frames NAME")
    shape = _image_shape(found)
    if shape is None:
        raise ValueError(
            f"{path}: observations{place} are {_shown(found)}, wanted images: uint8 (height, width, 3), or grey ones, "
            f"of {MIN_SIDE}x{MIN_SIDE} pixels or more, which are resized to 64x64; choose another data set"
        )
    return place, shape


def _entries(space: Mapping[str, Any]) -> Mapping[str, Any]:
    entries = space.get("subspaces")
    return entries if space.get("type") == "Dict" and isinstance(entries, Mapping) else {}


def _image_shape(space: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of the images of a space; None if it holds none."""
    shape = space.get("shape")
    if not isinstance(shape, list) or any(type(side) is not int for side in shape) or len(shape) not in (2, 3):
        return None
    if space.get("type") != "Box" or space.get("dtype") != "uint8":
        return None
    has_colours = shape[2:] in ([], [1], [3])
    return tuple(shape) if has_colours and min(shape[:2]) >= MIN_SIDE and math.prod(shape[:2]) <= MAX_PIXELS else None


def _shown(space: Mapping[str, Any], max_length: int = 100) -> str:
    """A space in a few words."""
    if space.get("type") == "Dict":
        text = f"a dict of {', '.join(map(str, _entries(space))) or 'nothing'}"
    else:
        text = " ".join(str(space[key]) for key in ("type", "dtype", "shape") if key in space) or "nothing"
    text = printable(text)
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


def action_space(path: Path, metadata: Mapping[str, Any]) -> gymnasium.Space:
    """The space of the actions."""
    space = _space(path, metadata, "action_space")
    makers = {
        "Box": lambda: gymnasium.spaces.Box(
            np.array(space["low"], space["dtype"]),
            np.array(space["high"], space["dtype"]),
            tuple(space["shape"]),
            np.dtype(space["dtype"]).type,
        ),
        "Discrete": lambda: gymnasium.spaces.Discrete(space["n"], start=space["start"]),
        "MultiDiscrete": lambda: gymnasium.spaces.MultiDiscrete(np.array(space["nvec"], np.int64)),
        "MultiBinary": lambda: gymnasium.spaces.MultiBinary(space["n"]),
    }
    kind = space.get("type")
    if kind not in makers:
        raise ValueError(
            f"{path}: actions are {_shown(space)}, wanted one of {', '.join(makers)}; choose another data set"
        )
    try:
        return makers[kind]()
    except Exception as error:  # Gymnasium and NumPy raise whatever a wrong description makes them trip over
        reason = printable(" ".join(str(error).split()))[:200]
        raise ValueError(f"{path}: action_space is no {kind} ({reason}); write the data set again") from None


def env_id(metadata: Mapping[str, Any]) -> str | None:
    """The id of the environment; None if it is unknown."""
    try:
        found = untrusted.from_json(metadata["env_spec"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    name: Json = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200 else None
