"""Reads JSON objects, which anybody may have written, as dataclasses. Missing values and wrong types become None."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

if TYPE_CHECKING:
    Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
else:
    Json = object  # tools that read types at run time cannot follow one that contains itself
"""A value of a JSON text whose content is not known. Check its type before you use it."""

LARGEST = 1e30  # errors and rates are smaller; a chart could not show larger numbers

Kind = TypeVar("Kind")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number. `math.isfinite` raises on huge integers, so it is compared with a bound."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def read(kind: type[Kind], value: object) -> Kind | None:
    """Read a JSON object as a dataclass. Unknown keys are ignored.

    Args:
        kind: the dataclass. Its fields are numbers, texts, lists, mappings, and other such dataclasses. A field whose
            type allows None becomes None if its value is missing or has another type.
        value: the JSON value.

    Returns:
        The dataclass; None if a value for another field is missing or has another type, or `value` is not an object.
    """
    return _read(kind, value)


def _read(kind: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):  # X | None
        return _read(inner[0], value)
    if dataclasses.is_dataclass(kind):
        return _object(kind, value)
    if origin is Sequence:
        read = [_read(inner[0], each) for each in value] if isinstance(value, list) else [None]
        return None if any(each is None for each in read) else read
    if origin is Mapping:
        read = {name: _read(inner[1], each) for name, each in value.items()} if isinstance(value, dict) else None
        return read and {name: each for name, each in read.items() if each is not None or _allows_none(inner[1])}
    if kind is float:
        return float(value) if is_number(value) else None
    if kind is int:
        return int(value) if is_number(value) and value == int(value) else None
    return value if isinstance(value, kind) else None


def _object(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return None
    hints = typing.get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    read = {name: _read(hint, value.get(name)) for name, hint in fields.items()}
    is_complete = all(read[name] is not None or _allows_none(hint) for name, hint in fields.items())
    return kind(**read) if is_complete else None


def _allows_none(kind: Any) -> bool:
    return types.NoneType in typing.get_args(kind)


def plain(value: Any) -> Any:
    """Convert dataclasses, also those in lists and mappings, to mappings for `json`. Keys keep the fields' order."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
