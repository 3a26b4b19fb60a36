"""Settings: from YAML files and flags to the types of a dataclass's fields.

A setting has a dotted name, `lr` or `vae.beta`: a field that is a dataclass itself is a section of settings. Whatever
is no setting, or no value of its type, raises `ValueError` with one line that names it.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from world_models import plain_yaml

Schema = TypeVar("Schema")
Values = dict[str, Any]
"""Values that were given, by dotted names."""

MAX_FILE_BYTES = 1_000_000
MAX_SHOWN = 60  # letters of a value that a message repeats
OURS = tuple(Path(__file__).parents[up] / "configs" for up in (0, 1))
"""Where the YAML files that come with the package lie: of an installed one, of a checkout."""
LARGEST = 1e300
"""No number is larger, and no text may be one: comparing is all that can be done with a whole number of any length."""
WANTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text, in quotes where it looks like something else",
    tuple: "a list in brackets, as in '[{}]'",
    dict: "names with values, as in '{{a: 1, b: 2}}'",
}
"""What a message asks for, by the kind of a setting."""


def types_of(schema: type) -> dict[str, Any]:
    """The type of each setting by its dotted name, sections too."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(schema).items():
        found[name] = hint
        if dataclasses.is_dataclass(hint):
            found |= {f"{name}.{inner}": each for inner, each in types_of(typing.cast(type, hint)).items()}
    return found


def build(schema: type[Schema], values: Mapping[str, Any]) -> Schema:
    """The dataclass with the values, and the defaults of what was not given.

    Raises:
        ValueError: a field without a default was not given, or a dataclass refuses its values.
    """
    given = {name: value for name, value in values.items() if "." not in name}
    for field in dataclasses.fields(schema):  # type: ignore[arg-type]
        if inside := _inside(values, field.name):
            given[field.name] = _changed(_default(field), inside)
        elif field.name not in given and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{field.name} is missing; give --{field.name}")
    return schema(**given)


def _changed(section: Any, values: Mapping[str, Any]) -> Any:
    """A section with other values, those of its own sections among them."""
    given = {name: value for name, value in values.items() if "." not in name}
    sections = {name.partition(".")[0] for name in values} - given.keys()
    given |= {name: _changed(getattr(section, name), _inside(values, name)) for name in sections}
    return dataclasses.replace(section, **given)


def _inside(values: Mapping[str, Any], section: str) -> Values:
    """The values of a section, by their names in it."""
    return {name.removeprefix(f"{section}."): each for name, each in values.items() if name.startswith(f"{section}.")}


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def put(values: Values, schema: type, name: str, value: Any) -> None:
    """Set one setting, or those of a section one by one.

    Args:
        values: where it is set.
        schema: the dataclass whose settings there are.
        name: dotted; of a setting that holds numbers by name, such as mixture, also `mixture.random`.
        value: what a YAML file holds, or the text of a flag.

    Raises:
        ValueError: there is no such setting, or the value is none of its type.
    """
    hints = types_of(schema)
    outer, _, key = name.rpartition(".")
    if typing.get_origin(hints.get(outer)) is dict:
        before = values.get(outer) or _default(next(f for f in dataclasses.fields(schema) if f.name == outer))
        value, name = before | {key: value}, outer
    check_name(schema, name)
    if not dataclasses.is_dataclass(hints[name]):
        values[name] = _checked(name, hints[name], value)
        return
    held = plain_yaml.of_text(value) if isinstance(value, str) else value
    if not isinstance(held, Mapping):
        raise ValueError(f"{name} is {shown(value)}; give its settings one by one, see {name}.* in --help")
    for inner, each in held.items():
        put(values, schema, f"{name}.{inner}", each)


def check_name(schema: type, name: str) -> None:
    """Refuse what is no setting.

    Raises:
        ValueError: it is none; the line says which one was probably meant.
    """
    known = types_of(schema)
    if name not in known:
        raise ValueError(f"{shown(name)} is no setting{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Sequence[str] | Mapping[str, Any], mark: str = "--") -> str:
    """The end of a line on an unknown name: the one that was probably meant, or where all are shown."""
    near = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1)
    return f"; did you mean {mark}{near[0]}?" if near else "; see --help"


def shown(value: Any) -> str:
    """A value as a message repeats it: short, and in letters that a terminal prints."""
    text = "empty" if value is None or value == "" else _printable(str(value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _checked(name: str, hint: Any, value: Any) -> Any:
    try:
        return converted(hint, value)
    except TypeError as wanted:
        raise ValueError(f"{name} is {shown(value)}; give {wanted}") from None


def converted(hint: Any, value: Any) -> Any:
    """The value as the type has it; a text is read as YAML where the type is no text.

    Raises:
        TypeError: it is none; the message says what is wanted.
    """
    kind, inside = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (Union, types.UnionType):
        return _one_of(inside, value)
    if kind is Literal:
        if value in inside:
            return value
        raise TypeError(", ".join(map(repr, inside)))
    if isinstance(value, str) and kind is not str:
        value = plain_yaml.of_text(value)
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_element(inside[0], each) for each in value)
    if kind is dict and isinstance(value, Mapping):
        return {str(name): _element(inside[1], each) for name, each in value.items()}
    if kind in (int, float) and (number := _number(kind, value)) is not None:
        return number
    if kind in (bool, str) and type(value) is kind:
        return value
    raise TypeError(WANTED[kind].format(shown(value)))


def _one_of(hints: Sequence[Any], value: Any) -> Any:
    """The value as one of several types, of which null is tried first."""
    read = plain_yaml.of_text(value) if isinstance(value, str) else value
    if read is None and types.NoneType in hints:
        return None
    wanted = []
    for hint in hints:
        try:
            if hint is not types.NoneType:
                return converted(hint, value)
        except TypeError as problem:  # noqa: PERF203 - there are two types or three
            wanted.append(str(problem))
    raise TypeError(" or ".join([*wanted, *(["null"] if types.NoneType in hints else [])]))


def _element(hint: Any, value: Any) -> Any:
    try:
        return converted(hint, value)
    except TypeError as wanted:
        raise TypeError(f"{wanted} in the place of {shown(value)}") from None


def _number(kind: type, value: Any) -> int | float | None:
    """The number, None where it is none of this kind; a whole one may be written as 1e5 or 64.0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not -LARGEST < value < LARGEST:
        return None
    return kind(value) if kind is float or value == int(value) else None


# ---- files ----


def read_file(schema: type, name: str, values: Values) -> None:
    """Set what a YAML file says.

    Args:
        schema: the dataclass whose settings there are.
        name: a path; or one of ours, such as mnist/vae.
        values: where it is set.

    Raises:
        ValueError: no settings, or wrong ones; each line begins with the file's path.
    """
    path = find_file(name)
    with path.open("rb") as file:
        text = file.read(MAX_FILE_BYTES + 1)
    try:
        if len(text) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES:,} bytes; name a YAML file of settings")
        try:
            held = plain_yaml.load(text.decode())
        except UnicodeDecodeError:
            raise ValueError("no text in UTF-8; name a YAML file of settings") from None
        if not isinstance(held, Mapping) or not held:
            raise ValueError("a --config file holds no settings; give it lines of name: value")
        for key, value in held.items():
            put(values, schema, str(key), value)
    except ValueError as error:
        raise ValueError(f"{_printable(str(path))}: {' '.join(str(error).split())}") from None


def find_file(name: str) -> Path:
    """The YAML file that a person names: what lies at that path, else the one of ours of that name.

    Raises:
        ValueError: there is neither.
    """
    path = Path(name)
    if name and path.exists():
        if path.is_dir():
            raise ValueError(f"--config {_printable(name)}: a folder; name a YAML file")
        return path
    ours = dict(shipped())
    wanted = name.removesuffix(".yaml").removeprefix("configs/")
    if wanted in ours:
        return ours[wanted]
    meant = did_you_mean(wanted, ours, mark="").removesuffix("; see --help")
    raise ValueError(
        f"--config {_printable(name)}: no such file{meant}; name a YAML file, or one of ours: {', '.join(ours)}"
    )


def shipped() -> Iterator[tuple[str, Path]]:
    """The YAML files that come with the package, by the names that `--config` takes: `mnist/vae` and so on."""
    folder = next((folder for folder in OURS if folder.is_dir()), None)
    for path in sorted(folder.rglob("*.yaml")) if folder else ():
        name = path.relative_to(folder).with_suffix("").as_posix()  # type: ignore[arg-type]
        if not name.startswith("sweeps/"):  # which W&B reads
            yield name, path
