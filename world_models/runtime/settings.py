"""Reads YAML files and flags into a config dataclass, by jsonargparse, with our own error messages."""

import argparse
import dataclasses
import difflib
import itertools
import json
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_loader

from world_models.runtime import config_files, misfits, plain_yaml, untrusted
from world_models.version import __version__

Config = TypeVar("Config")

YAML_MODE = "world_models"
"""Name under which jsonargparse knows our reader of YAML. Parsers of other programs keep their own reader."""
set_loader(YAML_MODE, plain_yaml.load, exceptions=(ValueError,))


class _Parser(ArgumentParser):
    """Raises `ValueError` with a message of one line, where argparse would end the process."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ValueError(" ".join(str(message).split()))


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description."""


def read(schema: type[Config], argv: Sequence[str], prog: str, description: str = "") -> Config:
    """Read flags and `--config` YAML files into the dataclass `schema`. Later files and flags override earlier ones.

    Raises:
        ValueError: a name or a value is wrong.
    """
    parser = _parser(schema, prog, description)
    if words := _positional(schema):
        argv = _with_words(words, parser, argv)
    _check_depth(schema, argv)
    argv = list(_with_found_files(schema, argv))
    values = _parsed(schema, parser, argv)
    instances = parser.instantiate(values)
    return schema(**{field.name: instances[field.name] for field in dataclasses.fields(schema)})  # type: ignore[arg-type]


def _parser(schema: type, prog: str, description: str) -> _Parser:
    parser = _Parser(
        prog=prog, description=description, formatter_class=_Help, allow_abbrev=False, parser_mode=YAML_MODE
    )
    parser.add_argument("--version", action="version", version=f"world_models {__version__}")
    config_help = (
        "YAML file of the fields below, or the name of one of ours, such as mnist/vae; repeatable, later files override"
    )
    parser.add_argument("--config", action="config", help=config_help)
    parser.add_class_arguments(schema)
    if words := _positional(schema):
        parser.usage = f"%(prog)s [{words} ...] [--flag value ...]"
    return parser


def _positional(schema: type) -> str | None:
    """Name of the field that takes the arguments without a flag; None if there is no such field."""
    return next((field.name for field in dataclasses.fields(schema) if field.metadata.get("positional")), None)


def _with_words(name: str, parser: _Parser, argv: Sequence[str]) -> list[str]:
    """Turn arguments without a flag into the positional field.

    argparse's own positional arguments must stand together, and if they are absent they override a `--config` file.
    """
    alone = {option for action in parser._actions if action.nargs in (0, "?") for option in action.option_strings}
    flags, words, wants_value = [], [], False
    for word in argv:
        if wants_value and not word.startswith("--"):
            flags.append(word)
            wants_value = False
        elif word.startswith("-"):
            flags.append(word)
            wants_value = "=" not in word and word not in alone
        else:
            words.append(word)
    return [*flags, f"--{name}={json.dumps(words)}"] if words else flags


def _check_depth(schema: type, argv: Sequence[str]) -> None:
    """Refuse a flag with two names after a field of names with values, because jsonargparse reads its value as text.

    Raises:
        ValueError: there is such a flag; the message says how to write it.
    """
    hints = typing.get_type_hints(schema)
    for word in argv:
        flag, equals, value = word.partition("=")
        name, *inner = flag.removeprefix("--").split(".")
        if len(inner) > 1 and typing.get_origin(hints.get(name)) is dict:
            instead = f"--{name}.{inner[0]} '{{\"{inner[1]}\": {value if equals else '...'}}}'"
            raise ValueError(f"{flag} is nested too deeply for a flag; give {instead}")


def _with_found_files(schema: type, argv: Sequence[str]) -> Iterator[str]:
    """The flags, with the path of the file for each `--config`. Anything but a file is refused before it is opened.

    A section, such as `--vae`, may also name a file with its settings.
    """
    sections = {f"--{field.name}" for field in dataclasses.fields(schema) if dataclasses.is_dataclass(field.type)}
    rest = iter(argv)
    for word in rest:
        flag, has_value, value = word.partition("=")
        if flag != "--config" and flag not in sections:
            yield word
            continue
        name = value if has_value else next(rest, None)
        if name is None:
            yield word
        elif flag == "--config":
            yield f"--config={config_files.find(name)}"
        else:
            if os.path.exists(name):  # noqa: PTH110 - the value may be settings as text, too long for a path
                untrusted.is_file(name, untrusted.MAX_YAML_BYTES)
            yield f"{flag}={name}"


def _parsed(schema: type, parser: _Parser, argv: Sequence[str]) -> Namespace:
    """Parse and check the values. If a value in a file is wrong, the message names the file."""
    try:
        values = parser.parse_args(argv)
        # The library accepts null where a setting takes none, and a value in place of a section.
        problem = misfits.misfit(schema, values.as_dict())
        if problem is None:
            return values
    except UnicodeDecodeError:
        problem = "not text in UTF-8; name a YAML file of settings"
    except ValueError as error:
        problem = _problem(schema, parser, argv, str(error))
    files = [word for word in argv if word.startswith("--config=")]
    if len(argv) == 1 and files:
        raise ValueError(f"{files[0].removeprefix('--config=')}: {problem}")
    for file in files:
        _parsed(schema, parser, [file])
    raise ValueError(problem)


def _problem(schema: type, parser: _Parser, argv: Sequence[str], message: str) -> str:
    """Describe what is wrong with the flags, or with the file if it is the only flag; else jsonargparse's message."""
    flags = dict(_given(argv))
    given: Any = {name: text for name, text in flags.items() if text is not None}
    if given.keys() == {"config"}:
        try:
            given = flags = plain_yaml.load(Path(given["config"]).read_text("utf-8"))
        except ValueError as error:
            return str(error)
        if not isinstance(given, dict):
            return "it holds no settings; give it lines of name: value"
    return misfits.misfit(schema, given) or message + _hint(schema, parser, flags)


def _given(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The names of the flags and their texts, None without a text. An argument without a flag counts as a name."""
    is_taken = False
    for word, following in itertools.pairwise([*argv, "--"]):
        name, equals, text = word.removeprefix("--").partition("=")
        takes = not is_taken and word.startswith("--") and not equals and not following.startswith("--")
        if not is_taken:
            yield name, text if equals else following if takes else None
        is_taken = takes


def _hint(schema: type, parser: _Parser, given: Mapping[Any, Any]) -> str:
    """A hint about the first name that is not a setting, such as a similar name. Empty if all are settings."""
    options = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
    unknown = next((name for name in misfits.unknown_names(schema, given) if name not in options), None)
    if unknown is None:
        return ""
    near = difflib.get_close_matches(unknown.replace("-", "_"), options, n=1)
    return f"; did you mean --{near[0]}?" if near else "; see --help"
