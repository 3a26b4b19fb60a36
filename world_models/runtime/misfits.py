"""Finds settings whose values do not fit their types, and names that are not settings.

jsonargparse reports both as text only. Its exceptions do not hold the setting, its type or the value. So this module
compares the given values with the type hints of the config.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from world_models.runtime import plain_yaml

WANTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "a list in brackets, as in '[{value}]'",
    dict: "names with values, as in --{key}.name 1",
    types.NoneType: "null",
}
SECTION = "its settings one by one, see {key}.* in --help"
UNIONS = (typing.Union, types.UnionType)


def misfit(schema: type, given: Mapping[Any, Any]) -> str | None:
    """A message about the first setting that does not fit its type: its value, and what to give. None if all fit.

    Args:
        schema: the dataclass of the config.
        given: values by name: text as in flags, values as in YAML, or values that were read.
    """
    for key, hint, value in _settings(schema, given):
        if hint is not None and (part := _misfit(hint, value)):
            wanted, found = part
            shown = "" if found is None else str(_read(found))
            return f"{key} is {shown or 'empty'}; give {_wanted(wanted).format(value=shown, key=key)}"
    return None


def unknown_names(schema: type, given: Mapping[Any, Any]) -> Iterator[str]:
    """The names that are not settings, with their sections."""
    return (key for key, hint, _ in _settings(schema, given) if hint is None)


def _settings(schema: type, given: Mapping[Any, Any], section: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The given settings: name with sections, type hint, and value. The hint is None if there is no such setting."""
    hints = typing.get_type_hints(schema)
    for name, value in given.items():
        if not isinstance(name, str):
            continue
        first, _, rest = name.partition(".")
        key, hint = section + first, hints.get(first)
        inner = {rest: value} if rest else _read(value)
        if dataclasses.is_dataclass(hint) and isinstance(inner, Mapping):
            yield from _settings(typing.cast(type, hint), inner, f"{key}.")
        elif rest and typing.get_origin(hint) is dict:
            yield key, typing.get_args(hint)[1], value
        else:
            yield f"{section}{name}", None if rest else hint, value


def _misfit(hint: Any, value: Any) -> tuple[Any, Any] | None:
    """The type hint of the part of a value that does not fit, and that part. None if all fits."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in UNIONS:
        fits = any(_misfit(each, value) is None for each in inner)
    elif kind is typing.Literal:
        fits = value in inner
    else:
        read = value if kind is str else _read(value)
        if kind is tuple and isinstance(read, list | tuple):
            return _first_misfit(inner[0], read)
        if kind is dict and isinstance(read, Mapping):
            return _first_misfit(inner[1], read.values())
        fits = kind is Any or type(read) is kind or (kind is float and type(read) is int)
    return None if fits else (hint, value)


def _first_misfit(hint: Any, values: Iterable[Any]) -> tuple[Any, Any] | None:
    return next(filter(None, (_misfit(hint, value) for value in values)), None)


def _read(value: Any) -> Any:
    """Read a text as a YAML value, such as a number. A text that is not YAML stays a text."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return plain_yaml.load(value)
    except ValueError:
        return value


def _wanted(hint: Any) -> str:
    """Describe the values that a setting takes."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in UNIONS:
        return " or ".join(_wanted(each) for each in inner if each is not int or float not in inner)
    if kind is typing.Literal:
        return ", ".join(map(repr, inner))
    return SECTION if dataclasses.is_dataclass(kind) else WANTED[kind]
