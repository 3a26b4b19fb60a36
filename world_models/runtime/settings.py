"""Settings: from YAML files and flags to a config dataclass, by jsonargparse, with our own error messages."""

import argparse
import dataclasses
import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_loader

from world_models.runtime import config_files, plain_yaml, untrusted
from world_models.version import __version__

Config = TypeVar("Config")

WRONG_TYPE = (
    r'Parser key "(?P<key>.*?)": Expected an? (?P<type>.*)\. Got value: ?(?P<value>.*)',
    r'Parser key "(?P<key>.*?)": Does not validate against any of the Union subtypes Subtypes: \[(?P<type>.*)\] '
    r"Errors: .* Given value: (?P<value>.*)",
)
"""How jsonargparse reports a value of another type: its errors, and their causes, hold nothing but this text."""
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list in brackets, as in '[{value}]'",
    "dict": "names with values, as in --{key}.name 1",
    "NoneType": "null",
}

YAML_MODE = "world_models"
"""What jsonargparse calls our way of reading YAML; other programs' parsers keep theirs."""
set_loader(YAML_MODE, plain_yaml.load, exceptions=(ValueError,))


class _Parser(ArgumentParser):
    """Raises `ValueError` with one line on what is wrong, where argparse would end the process."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = _plain_words(re.sub(r"\s+", " ", str(message)).strip())
        names = [option.removeprefix("--") for action in self._actions for option in action.option_strings]
        unknown = re.search(r"(?:unrecognized arguments: |[Oo]ption ')(?:--)?([\w.-]+)", line)
        group = re.match(r"Group '([\w.]+)'", line)
        meant = f"{group[1]}.{unknown[1]}" if group and unknown else unknown[1] if unknown else ""
        near = difflib.get_close_matches(meant.replace("-", "_"), names, n=1)
        hint = f"; did you mean --{near[0]}?" if near else "; see --help" if unknown else ""
        raise ValueError(f"{line}{hint}")


def _plain_words(message: str) -> str:
    """The library's report of a wrong type, in the words of our own messages."""
    if message.startswith("Unexpected config:"):
        return "it holds no settings; give it lines of name: value"
    if found := re.match(r"""Parser key "(?P<key>.*?)": Unable to load config '(?P<value>.*?)' - """, message):
        return f"{found['key']} is {found['value']}; give its settings one by one, see {found['key']}.* in --help"
    found = next(filter(None, (re.fullmatch(report, message) for report in WRONG_TYPE)), None)
    if not found:
        return re.sub(r'^(Problems parsing config|Parser key "config"): ', "", message)
    expected: list[tuple[str, str]] = re.findall(r"<class '(.*?)'>|typing\.Literal\[(.*?)\]", found["type"])
    wanted = " or ".join(literals or TYPES.get(name, name) for name, literals in expected)
    return f"{found['key']} is {found['value'] or 'empty'}; give {wanted.format(**found.groupdict())}"


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description as they are written."""


def read(schema: type[Config], argv: Sequence[str], prog: str, description: str = "") -> Config:
    """Read flags and `--config` YAML files into the dataclass `schema`; later files and flags win.

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
    of_files = "YAML file of the fields below, or one of ours, such as mnist/vae; repeatable, later wins"
    parser.add_argument("--config", action="config", help=of_files)
    parser.add_class_arguments(schema)
    if words := _positional(schema):
        parser.usage = f"%(prog)s [{words} ...] [--flag value ...]"
    return parser


def _positional(schema: type) -> str | None:
    """Name of the field that takes the words that follow no flag."""
    return next((field.name for field in dataclasses.fields(schema) if field.metadata.get("positional")), None)


def _with_words(name: str, parser: _Parser, argv: Sequence[str]) -> list[str]:
    """Turn words that follow no flag into the positional field, wherever they stand.

    argparse's own positional arguments would have to stand together, and would overrule a `--config` file when absent.
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
    """Refuse a flag that goes two names deep into names with values: the library takes its value for text.

    Raises:
        ValueError: there is one; the line says how to write it.
    """
    hints = typing.get_type_hints(schema)
    for word in argv:
        flag, equals, value = word.partition("=")
        name, *inner = flag.removeprefix("--").split(".")
        if len(inner) > 1 and typing.get_origin(hints.get(name)) is dict:
            instead = f"--{name}.{inner[0]} '{{\"{inner[1]}\": {value if equals else '...'}}}'"
            raise ValueError(f"{flag} is nested too deeply for a flag; give {instead}")


def _with_found_files(schema: type, argv: Sequence[str]) -> Iterator[str]:
    """The flags, each `--config` with the path of its file; what is no file is refused before the library opens it.

    A section, such as `--vae`, may also name a file of its settings.
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
            if os.path.exists(name):  # noqa: PTH110 - settings as text are no path, and may be too long for one
                untrusted.is_file(name, untrusted.MAX_YAML_BYTES)
            yield f"{flag}={name}"


def _parsed(schema: type, parser: _Parser, argv: Sequence[str]) -> Namespace:
    """The values, checked; the message of a wrong one names its file."""
    try:
        values = parser.parse_args(argv)
        _check_given(schema, values)
    except ValueError as error:
        no_text = isinstance(error, UnicodeDecodeError)
        problem = "no text in UTF-8; name a YAML file of settings" if no_text else str(error)
        files = [word for word in argv if word.startswith("--config=")]
        if len(argv) == 1 and files:
            raise ValueError(f"{files[0].removeprefix('--config=')}: {problem}") from None
        for file in files:
            _parsed(schema, parser, [file])
        raise ValueError(problem) from None
    return values


def _check_given(schema: type, values: Namespace, section: str = "") -> None:
    """Refuse null where a setting takes none, and a value in place of a section. The library would accept both."""
    for name, hint in typing.get_type_hints(schema).items():
        value, key = values[name], section + name
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Namespace):
                raise ValueError(f"{key} is {_shown(value)}; give its settings one by one, see {key}.* in --help")
            _check_given(typing.cast(type, hint), value, f"{key}.")
        elif value is None and types.NoneType not in typing.get_args(hint):
            kind = typing.get_origin(hint) or hint
            wanted = TYPES.get(getattr(kind, "__name__", ""), "one of " + ", ".join(map(str, typing.get_args(hint))))
            raise ValueError(f"{key} is empty; give {wanted.format(value='a, b', key=key)}")


def _shown(value: Any) -> str:
    return "empty" if value is None else str(value)
