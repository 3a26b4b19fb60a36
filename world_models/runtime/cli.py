"""Reads YAML files and flags into a frozen dataclass, and runs a command.

A command has two functions. `prepare` checks all input and raises `ValueError` or `OSError`. `work` does the job. So
bad input ends the process with one line and status 2, before anything is written. A later error is a bug and is shown
with its traceback. This holds only for a process that is a command. Python code that calls a command's `main([...])`
gets the exception. With WORLD_MODELS_TRACEBACK=1 a traceback is printed above the line. It shows, for example, the
place in a user's policy or environment where an error was raised.
"""

import contextlib
import dataclasses
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import yaml

from world_models.runtime import host, terminal
from world_models.runtime.errors import Stopped

Config = TypeVar("Config")
Checked = TypeVar("Checked")

POSITIONAL = {"positional": True}
"""Metadata of a config's field, a tuple of strings, that takes the arguments without a flag."""
ONLY_IF_SET = {"only_if_set": True}
"""Metadata of a config's field that `to_yaml` leaves out while it has its default. So the files of runs that do not use
it stay as they were before the field existed."""
TRACEBACK = "WORLD_MODELS_TRACEBACK"
"""Environment variable: unless it is empty or 0, a command that ends early shows the traceback too."""


class Job(Protocol):
    """The checked work of a command."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        ...

    @property
    def num_frames(self) -> int:
        """Number of frames that it processes."""
        ...


def parse(schema: type[Config], argv: Sequence[str] | None = None, *, prog: str, description: str = "") -> Config:
    """Read flags and `--config` YAML files into the dataclass `schema`. Later files and flags override earlier ones.

    `--help`, `--version` and `--print_config` print, and end the process with status 0.

    Args:
        schema: the dataclass.
        argv: the flags; None takes those of the process.
        prog: the command's name.
        description: description of the command for `--help`.

    Raises:
        ValueError: a name or a value is wrong.
    """
    from world_models.runtime import settings  # imported here, because workers do not need jsonargparse

    return settings.read(schema, sys.argv[1:] if argv is None else argv, prog, description)


def run_command(
    doc: str | None,
    schema: type[Config],
    prepare: Callable[[Config], Checked],
    work: Callable[[Checked], Any],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a command: parse, prepare, work.

    If `argv` is None, the command is the whole process, and its exit status is: 2 if the input is bad; 1 if the work
    was `Stopped`; 128 plus the signal's number if a signal ended it, such as 130 for Ctrl-C and 143 for SIGTERM.

    Args:
        doc: the module's docstring, for `--help`.
        schema: the command's config dataclass.
        prepare: checks all input and writes nothing.
        work: does the job.
        argv: the flags; None takes those of the process.

    Raises:
        ValueError, OSError: the input is bad.
        Stopped: the work ended early.
    """
    prog, description = f"python -m {_name(work)}", inspect.cleandoc(doc or "")
    if argv is not None:
        work(prepare(parse(schema, argv, prog=prog, description=description)))
        return
    with _ends_of_process(prog):
        try:
            job = prepare(parse(schema, prog=prog, description=description))
        except (ValueError, OSError) as error:
            host.wait_for_the_first()
            _show_traceback(error)
            terminal.warn(f"{prog}: error: {' '.join(str(error).split())}")
            sys.exit(2)
        work(job)


def _name(work: Callable) -> str:
    """The command's name for `python -m`."""
    module = inspect.getmodule(work)
    assert module is not None
    name = module.__spec__.name if module.__spec__ else module.__name__
    return name.removesuffix(".__main__").removesuffix(".command")


@contextlib.contextmanager
def _ends_of_process(prog: str) -> Iterator[None]:
    """End the process with a status and one line if the block is stopped, interrupted, or nobody reads its output."""
    try:
        with host.interrupts():
            try:
                yield
            except SystemExit:  # raised by --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()
    except Stopped as stopped:
        _show_traceback(stopped)
        sys.exit(terminal.printable(f"{prog}: {stopped}"))
    except KeyboardInterrupt as interrupt:
        if host.prints_messages():
            terminal.warn("", f"{prog}: interrupted; what is finished stays")
        sys.exit(interrupt.status if isinstance(interrupt, host.Interrupted) else 128 + signal.SIGINT)
    except BrokenPipeError:
        if not host.reader_is_gone():
            raise
        host.print_into_nothing()
        sys.exit(128 + signal.SIGPIPE)


def _show_traceback(error: Exception) -> None:
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        terminal.warn(*"".join(traceback.format_exception(error)).splitlines())


def to_yaml(config: Any, every_field: bool = False) -> str:
    """The resolved config as YAML. `--config` reads it back to the same values.

    Args:
        config: the dataclass.
        every_field: whether to include fields with the metadata `ONLY_IF_SET` that have their defaults.
    """
    left_out = {
        field.name
        for field in dataclasses.fields(config)
        if "only_if_set" in field.metadata and getattr(config, field.name) == field.default and not every_field
    }
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in left_out}
    return yaml.safe_dump(_plain(values), sort_keys=False)


def _plain(value: Any) -> Any:
    """Convert tuples to lists, because YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
