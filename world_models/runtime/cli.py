"""From YAML files and flags to a frozen dataclass, and from a command line to a command.

A command is two functions: `prepare` looks at everything a person may have got wrong and raises `ValueError` or
`FileNotFoundError`; `work` does the job. So bad input ends with one line and status 2 before anything is touched,
and an error after that is a bug, shown with its traceback. Only a process that is a command ends so: who calls a
command's `main([...])` from Python gets the exception. With WORLD_MODELS_TRACEBACK=1 a traceback stands above the line:
it shows where in a policy or an environment of one's own an error arose.
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
"""Metadata of the one field of a config, a tuple of strings, that takes the words that follow no flag."""
TRACEBACK = "WORLD_MODELS_TRACEBACK"
"""Environment variable: unless it is empty or 0, a command that ends early shows the traceback too."""


class Job(Protocol):
    """Work of a command that was checked and can begin."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        ...

    @property
    def num_frames(self) -> int:
        """Frames that it goes through."""
        ...


def parse(schema: type[Config], argv: Sequence[str] | None = None, *, prog: str, description: str = "") -> Config:
    """Read flags and `--config` YAML files into the dataclass `schema`; later files and flags win.

    `--help`, `--version` and `--print_config` print, and end the process with status 0.

    Args:
        schema: the dataclass.
        argv: the flags; those of the process when None.
        prog: the command's name.
        description: what `--help` says of it.

    Raises:
        ValueError: a name or a value is wrong.
    """
    from world_models.runtime import settings  # which imports jsonargparse: workers have no use for it

    return settings.read(schema, sys.argv[1:] if argv is None else argv, prog, description)


def run_command(
    doc: str | None,
    schema: type[Config],
    prepare: Callable[[Config], Checked],
    work: Callable[[Checked], Any],
    argv: Sequence[str] | None = None,
) -> None:
    """Run a command: parse, prepare, work.

    As a process (`argv` None) it ends with status 2 and one line where the input is bad, with 1 where the work was
    `Stopped`, with 128 and the signal's number after one that asks it to end: 130 after Ctrl-C, 143 after SIGTERM.

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
    """The command's name, as `python -m` takes it."""
    module = inspect.getmodule(work)
    assert module is not None
    name = module.__spec__.name if module.__spec__ else module.__name__
    return name.removesuffix(".__main__").removesuffix(".command")


@contextlib.contextmanager
def _ends_of_process(prog: str) -> Iterator[None]:
    """End the process with a status and one line if the block was stopped, interrupted, or its reader is gone."""
    try:
        with host.interrupts():
            try:
                yield
            except SystemExit:  # of --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()
    except Stopped as stopped:
        _show_traceback(stopped)
        sys.exit(terminal.printable(f"{prog}: {stopped}"))
    except KeyboardInterrupt as interrupt:
        if host.speaks():
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


def to_yaml(config: Any) -> str:
    """The resolved config as YAML that `--config` reads back to the same values."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    """Tuples as lists, which is what YAML knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
