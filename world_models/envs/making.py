"""Makes a Gymnasium environment from an id and arguments, or says in one line why it cannot."""

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import json
import os
import re
import reprlib
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
from gymnasium.envs import registration

from world_models.runtime.cli import TRACEBACK

FAST_CAR_RACING = "world_models/CarRacing-v3"
FASTER = {"CarRacing-v3": FAST_CAR_RACING}
"""Environments of ours, by the id of the one that they stand for. They are the same, and take `renderer` as well."""
MAX_JSON_LETTERS = 16_384
MEND = f"mend it ({TRACEBACK}=1 shows the whole traceback)"
"""What to do about an error of somebody's code, see `fault`."""
OURS = {
    "render_mode": "it is chosen here",
    "max_episode_steps": "give --max_steps",
    "disable_env_checker": "it is chosen here",
    "renderer": "give --renderer",
    "id": "give --env",
}
"""Arguments of `gymnasium.make` that are not for `env_args`, and what to do instead."""


def check_arguments(env_args: Any) -> str:
    """The arguments as JSON with sorted keys, as a shard stores them.

    Raises:
        ValueError: they are not names with values that JSON holds, or some of them are set otherwise.
    """
    wanted = "give names with values, such as --env_args.domain_randomize true"
    if not isinstance(env_args, Mapping):
        raise ValueError(f"env_args is {reprlib.repr(env_args)}; {wanted}")
    try:
        text = json.dumps(env_args, sort_keys=True, allow_nan=False)
        kept = json.loads(text) == env_args
    except (TypeError, ValueError, RecursionError):
        text, kept = "", False
    if not kept:
        held = "finite numbers, text, true, false, null, lists, and names that are text"
        raise ValueError(f"env_args is {reprlib.repr(env_args)}; {wanted}: JSON holds {held}")
    if len(text) > MAX_JSON_LETTERS:
        raise ValueError(f"env_args is {len(text):,} letters of JSON; give {MAX_JSON_LETTERS:,} at most")
    for name, instead in OURS.items():
        if name in env_args:
            raise ValueError(f"env_args holds {name}, which is no argument of the environment; {instead}")
    return text


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What makes an environment. Equal recipes make equal environments.

    Attributes:
        env_id: the id, with the module that registers it if that has to be imported.
        env_args: arguments for the environment, as `check_arguments` writes them.
        renderer: who draws, as an argument of an environment of ours; None where none of ours is to be made.
    """

    env_id: str
    env_args: str
    renderer: str | None = None

    def __call__(self, **options: Any) -> gymnasium.Env:
        """Make it without a time limit, and with these options of `gymnasium.make`.

        Raises:
            ValueError: it cannot be made, or does not take its arguments.
        """
        spec, arguments = find(self.env_id), json.loads(self.env_args)
        if arguments:
            with self._blamed():
                parameters = _parameters(spec)
            _check_taken(self.env_id, parameters, arguments)
        env_id = FASTER.get(self.env_id, self.env_id) if self.renderer else self.env_id
        options |= arguments | ({"renderer": self.renderer} if self.renderer else {})
        with self._blamed():
            return gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True, **options)

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Turn any error that an environment raises when it is made into a `ValueError` of one line."""
        given = "" if self.env_args == "{}" else f" with env_args {self.env_args}"
        try:
            yield
        except (gymnasium.error.Error, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"env {self.env_id!r} cannot be made: {reason}; install what it needs") from None
        except Exception as error:
            if self.renderer:  # a class of ours refuses in its own words
                raise
            # Gymnasium raises some errors again, in its own file.
            again = error.__cause__
            origin = again if again is not None and type(again) is type(error) else error
            raise ValueError(f"env {self.env_id!r} cannot be made{given}: {fault(origin)}; {MEND}") from error


def recipe(env_id: str, renderer: str, env_args: Mapping[str, Any]) -> Recipe:
    """The recipe of an environment; if we have a faster one that is the same, that is made, unless it may not draw."""
    is_ours = env_id.removeprefix("world_models:") in FASTER.values()
    takes_renderer = is_ours or (env_id in FASTER and renderer != "gymnasium")
    return Recipe(env_id, check_arguments(env_args), renderer if takes_renderer else None)


def find(env_id: str) -> registration.EnvSpec:
    """The registered spec of an id. The id's module is imported first.

    Raises:
        ValueError: nothing, or its module cannot be imported; the line names what is near.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # importing somebody's module runs it
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                problem = f"{error}; give an id, or MODULE:ID with a module that Python finds"
            else:
                problem = f"the import of {module} fails, {fault(error)}; {MEND}"
            raise ValueError(f"env {env_id!r} cannot be made: {problem}") from error
    try:
        namespace, plain, version = registration.parse_env_id(name)
        newest = registration.find_highest_version(namespace, plain) if version is None else version
        return gymnasium.spec(registration.get_env_id(namespace, plain, newest))
    except gymnasium.error.Error as error:
        reason = re.sub(r"\.? Did you mean.*", "", " ".join(str(error).split())).rstrip(".")
    near = difflib.get_close_matches(name, gymnasium.registry, n=3)
    meant = f"did you mean {' or '.join(near)}?" if near else "give an id that gymnasium.make takes."
    own = "" if colon else f" One of your own comes with the module that registers it: --env my_package:{name}"
    raise ValueError(f"env {env_id!r} cannot be made: {reason}; {meant}{own}")


def fault(error: BaseException) -> str:
    """An error of somebody's code in a line: its type, the first line of its message, and the file and line it is from.

    Example:
        >>> fault(ZeroDivisionError("division by zero"))
        'ZeroDivisionError: division by zero (?, line 0)'
    """
    said = str(error).strip().partition("\n")[0]
    where = traceback.extract_tb(error.__traceback__)
    file, line = (where[-1].filename, where[-1].lineno) if where else ("?", 0)
    if isinstance(error, SyntaxError):
        said, file, line = error.msg, error.filename or file, error.lineno or line
    return f"{type(error).__name__}{f': {said}' if said else ''} ({file}, line {line})"


def _parameters(spec: registration.EnvSpec) -> Mapping[str, inspect.Parameter] | None:
    """The names of the environment's arguments. None if they are unknown, or if any name is taken."""
    creator = spec.entry_point if callable(spec.entry_point) else registration.load_env_creator(str(spec.entry_point))
    parameters = inspect.signature(creator).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }


def _check_taken(env_id: str, parameters: Mapping[str, inspect.Parameter] | None, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the environment does not take, and values of another kind than its defaults.

    Raises:
        ValueError: there is such a one.
    """
    if parameters is None:
        return
    for name, value in arguments.items():
        if name not in parameters:
            raise ValueError(_not_taken(env_id, name, sorted(set(parameters) - set(OURS))))
        if wanted := _wanted(parameters[name].default, value):
            raise ValueError(f"env_args.{name} is {value!r}; {env_id} wants {wanted}")


def _not_taken(env_id: str, name: str, takes: list[str]) -> str:
    takes_it = f"{env_id} takes {', '.join(takes) or 'no arguments'}"
    near = difflib.get_close_matches(name, takes, n=1)
    instead = f"; did you mean {near[0]}?" if near else ""
    if env_id in FASTER and name in (_parameters(find(FASTER[env_id])) or ()):
        instead = f"; --env {FASTER[env_id]} takes it too"
    return f"env_args holds {name}; {takes_it}{instead}"


def _wanted(default: Any, value: Any) -> str | None:
    """The type that a value must have, if it differs from the default's. Text is not taken for a number or a bool."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    return None


@contextlib.contextmanager
def off_screen() -> Iterator[None]:
    """In this block pygame opens no window and no sound card, unless the user named drivers for them.

    Where there is neither, SDL and what it loads write errors past Python to the terminal.
    """
    drivers = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    ours = [name for name in drivers if name not in os.environ]
    os.environ.update({name: drivers[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextlib.contextmanager
def gymnasium_warnings() -> Iterator[list[str]]:
    """Collect what Gymnasium warns of in this block, as plain lines; warnings of others come as ever."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        yield lines
    for warning in heard:
        if f"{os.sep}gymnasium{os.sep}" in warning.filename:
            lines.append(re.sub(r"\x1b\[\d*m", "", str(warning.message)).removeprefix("WARN: "))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
