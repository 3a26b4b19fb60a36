"""From YAML files and flags to a frozen dataclass, and from a command line to a command.

A command is two functions: `prepare` looks at everything a person may have got wrong and raises `ValueError` or
`FileNotFoundError`; `work` does the job. So bad input ends with one line and status 2 before anything is touched,
and an error after that is a bug, shown with its traceback. Only a process that is a command ends so: who calls a
command's `main([...])` from Python gets the exception.
"""

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from world_models.version import __version__

Config = TypeVar("Config")
Job = TypeVar("Job")

POSITIONAL = {"positional": True}
"""Metadata of the one field of a config, a tuple of strings, that takes the words that follow no flag."""
WRONG_TYPE = (
    r'Parser key "(?P<key>.*?)": Expected an? (?P<type>.*)\. Got value: (?P<value>.*)',
    r'Parser key "(?P<key>.*?)": Does not validate against any of the Union subtypes Subtypes: \[(?P<type>.*)\] '
    r"Errors: .* Given value: (?P<value>.*)",
)
"""How jsonargparse reports a value of another type."""
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list in brackets, as in '[{value}]'",
    "dict": "names with values, as in --{key}.name 1",
    "NoneType": "null",
}


class Stopped(RuntimeError):  # noqa: N818 - it is no error
    """Work ended early for a reason that a person can act on; what was finished stays."""


class _Parser(ArgumentParser):
    """Raises `ValueError` with one line on what is wrong, where argparse would end the process."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = _plain_words(re.sub(r"\s+", " ", str(message)).strip())
        flags = [option for action in self._actions for option in action.option_strings]
        unknown = re.search(r"(?:unrecognized arguments: |[Oo]ption ')(?:--)?([\w.]+)", line)
        near = difflib.get_close_matches(f"--{unknown[1]}", flags, n=1) if unknown else []
        hint = f"; did you mean {near[0]}?" if near else "; see --help" if unknown else ""
        raise ValueError(f"{line}{hint}")


def _plain_words(message: str) -> str:
    """The library's report of a wrong type, in the words of our own messages."""
    if message.startswith("Unexpected config:"):
        return f"a --config file holds no settings ({message}); give it lines of name: value"
    if found := re.fullmatch(r"""Parser key "config": (?P<what>.*): '(?P<path>.*)'""", message):
        return f"--config {found['path']}: {found['what'].lower()}; name a YAML file"
    if found := re.match(r"""Parser key "(?P<key>.*?)": Unable to load config '(?P<value>.*?)' - """, message):
        return f"{found['key']} is {found['value']}; give its settings one by one, see {found['key']}.* in --help"
    found = next(filter(None, (re.fullmatch(report, message) for report in WRONG_TYPE)), None)
    if not found:
        return message
    types: list[tuple[str, str]] = re.findall(r"<class '(.*?)'>|typing\.Literal\[(.*?)\]", found["type"])
    wanted = " or ".join(literals or TYPES.get(name, name) for name, literals in types)
    return f"{found['key']} is {found['value']}; give {wanted.format(**found.groupdict())}"


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description as they are written."""


def parse(schema: type[Config], argv: Sequence[str] | None = None, *, prog: str, description: str = "") -> Config:
    """Read flags and `--config` YAML files into the dataclass `schema`; later files and flags win.

    Raises:
        ValueError: a name or a value is wrong.
    """
    return _parse(schema, _parser(schema, prog, description), argv)


def _parser(schema: type, prog: str, description: str) -> _Parser:
    parser = _Parser(prog=prog, description=description, formatter_class=_Help, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"world_models {__version__}")
    parser.add_argument("--config", action="config", help="YAML file of the fields below; repeatable, later wins")
    parser.add_class_arguments(schema)
    if words := _positional(schema):
        parser.usage = f"%(prog)s [{words} ...] [--flag value ...]"
    return parser


def _positional(schema: type) -> str | None:
    """Name of the field that takes the words that follow no flag."""
    return next(
        (field.name for field in dataclasses.fields(schema) if POSITIONAL.items() <= field.metadata.items()), None
    )


def _with_words(name: str, parser: _Parser, argv: Sequence[str]) -> list[str]:
    """The flags, with the words that follow none as that of the field; so they may stand before, between and after.

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


def _parse(schema: type[Config], parser: _Parser, argv: Sequence[str] | None) -> Config:
    if words := _positional(schema):
        argv = _with_words(words, parser, sys.argv[1:] if argv is None else argv)
    values = parser.instantiate(parser.parse_args(argv))
    return schema(**{field.name: values[field.name] for field in dataclasses.fields(schema)})  # type: ignore[arg-type]


def run_command(
    doc: str | None,
    schema: type[Config],
    prepare: Callable[[Config], Job],
    work: Callable[[Job], Any],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a command: parse, prepare, work.

    As a process (`argv` None) it ends with status 2 and one line where the input is bad, with 1 where the work was
    `Stopped`, with 130 after Ctrl-C.

    Args:
        doc: the module's docstring, which `--help` shows.
        schema: the command's config dataclass.
        prepare: checks all input, touches nothing.
        work: does the job.
        argv: the flags; those of the process when None.

    Raises:
        ValueError: the input is bad; of `prepare` also `OSError`, such as FileNotFoundError.
        Stopped: the work ended early.
    """
    parser = _parser(schema, f"python -m {_name(work)}", inspect.cleandoc(doc or ""))
    if argv is not None:
        work(prepare(_parse(schema, parser, argv)))
        return
    with _ends_of_process(parser.prog):
        try:
            job = prepare(_parse(schema, parser, None))
        except (ValueError, OSError) as error:
            parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
        work(job)


def _name(work: Callable) -> str:
    """The command's name, as `python -m` takes it."""
    module = inspect.getmodule(work)
    assert module is not None
    name = module.__spec__.name if module.__spec__ else module.__name__
    return name.removesuffix(".__main__")


@contextlib.contextmanager
def _ends_of_process(prog: str) -> Iterator[None]:
    """End the process with a status and one line, where the block ends for a reason from outside."""
    try:
        yield
    except Stopped as stopped:
        sys.exit(f"{prog}: {stopped}")
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted; what is finished stays", file=sys.stderr)
        sys.exit(130)


def to_yaml(config: Any) -> str:
    """The resolved config as YAML that `--config` reads back to the same values."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    """Tuples as lists, which is what YAML knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def flatten(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Nested values by their names from outside in: `{"vae": {"beta": 4}}` as `{"vae.beta": 4}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}{separator}{inner}": each for inner, each in flatten(value, separator).items()}
        else:
            flat[str(name)] = value
    return flat


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds: the one-line bounds check of config dataclasses."""
    if not condition:
        raise ValueError(message)


def require_bounds(config: Any, part: str = "", **bounds: tuple[int, int]) -> None:
    """Check that fields of a config are numbers from the least to the most.

    Args:
        config: the dataclass.
        part: what stands before the fields' names on the command line, such as `vae.`.
        bounds: the least and the most of each field. The most is far beyond use; it keeps later sums within a machine.
    """
    for name, (least, most) in bounds.items():
        value = getattr(config, name)
        require(value >= least, f"{part}{name} is {value}; give {least} or more")
        require(value <= most, f"{part}{name} is {value}; give {most:,} at most")
