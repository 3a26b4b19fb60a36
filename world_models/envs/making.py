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

from world_models.envs.car_names import FASTER
from world_models.runtime.cli import TRACEBACK
from world_models.runtime.typed_json import Json

MAX_JSON_LETTERS = 16_384
HOW_TO_FIX = f"fix it ({TRACEBACK}=1 shows the whole traceback)"
"""The end of a message about an error in a user's code, see `describe_error`."""
NOT_FOR_ENV_ARGS = {
    "render_mode": "it is chosen here",
    "max_episode_steps": "give --max_steps",
    "disable_env_checker": "it is chosen here",
    "renderer": "give --renderer",
    "id": "give --env",
}
"""Arguments of `gymnasium.make` that `env_args` may not hold, and what to do instead."""


def check_arguments(env_args: Any) -> str:
    """Check the arguments of an environment. Returns them as JSON with sorted keys, as a shard stores them.

    Raises:
        ValueError: they are not names with JSON values, or one of them has to be set in another way.
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
        raise ValueError(f"env_args is {len(text):,} characters of JSON; give {MAX_JSON_LETTERS:,} at most")
    for name, instead in NOT_FOR_ENV_ARGS.items():
        if name in env_args:
            raise ValueError(f"env_args holds {name}, which is no argument of the environment; {instead}")
    return text


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that is needed to make an environment. Equal recipes make equal environments.

    Attributes:
        env_id: the id, as `MODULE:ID` if a module must be imported to register it.
        env_args: arguments for the environment, as `check_arguments` returns them.
        renderer: argument `renderer` of one of our environments; None for other environments.
    """

    env_id: str
    env_args: str
    renderer: str | None = None

    def __call__(self, **options: Any) -> gymnasium.Env:
        """Make the environment without a time limit and with these options of `gymnasium.make`.

        Raises:
            ValueError: the environment cannot be made, or does not take its arguments.
        """
        spec, arguments = find_spec(self.env_id), json.loads(self.env_args)
        if arguments:
            with self._as_value_errors():
                parameters = _parameters(spec)
            _check_taken(self.env_id, parameters, arguments)
        env_id = FASTER.get(self.env_id, self.env_id) if self.renderer else self.env_id
        options |= arguments | ({"renderer": self.renderer} if self.renderer else {})
        with self._as_value_errors():
            return gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True, **options)

    @contextlib.contextmanager
    def _as_value_errors(self) -> Iterator[None]:
        """Turn every error that an environment raises when it is made into a `ValueError` of one line."""
        given = "" if self.env_args == "{}" else f" with env_args {self.env_args}"
        try:
            yield
        except (gymnasium.error.Error, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"env {self.env_id!r} cannot be made: {reason}; install what it needs") from None
        except Exception as error:
            if self.renderer:  # our own classes give good messages
                raise
            # Gymnasium re-raises some errors. The cause names the user's file.
            cause = error.__cause__
            origin = cause if cause is not None and type(cause) is type(error) else error
            problem = f"env {self.env_id!r} cannot be made{given}: {describe_error(origin)}"
            raise ValueError(f"{problem}; {HOW_TO_FIX}") from error


def recipe(env_id: str, renderer: str, env_args: Mapping[str, Json]) -> Recipe:
    """The recipe of an environment. It makes our faster one, if there is one, unless `renderer` is gymnasium."""
    is_ours = env_id.removeprefix("world_models:") in FASTER.values()
    takes_renderer = is_ours or (env_id in FASTER and renderer != "gymnasium")
    return Recipe(env_id, check_arguments(env_args), renderer if takes_renderer else None)


def find_spec(env_id: str) -> registration.EnvSpec:
    """Find the registered spec of an id. Imports the id's module first.

    Raises:
        ValueError: no environment has this id, or its module cannot be imported. The message names similar ids.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # the import runs the user's code
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                problem = f"{error}; install it, or give an id, or MODULE:ID with a module that Python finds"
            else:
                problem = f"the import of {module} fails, {describe_error(error)}; {HOW_TO_FIX}"
            raise ValueError(f"env {env_id!r} cannot be made: {problem}") from error
    try:
        namespace, plain, version = registration.parse_env_id(name)
        newest = registration.find_highest_version(namespace, plain) if version is None else version
        return gymnasium.spec(registration.get_env_id(namespace, plain, newest))
    except gymnasium.error.Error as error:
        reason = re.sub(r"\.? Did you mean.*", "", " ".join(str(error).split())).rstrip(".")
    near = difflib.get_close_matches(name, gymnasium.registry, n=3)
    meant = f"did you mean {' or '.join(near)}?" if near else "give an id that gymnasium.make takes."
    own = "" if colon else f" For an env of your own, name the module that registers it: --env my_package:{name}"
    raise ValueError(f"env {env_id!r} cannot be made: {reason}; {meant}{own}")


def describe_error(error: BaseException) -> str:
    """An error of a user's code in one line: its type, the first line of its message, its file and its line number.

    Example:
        >>> describe_error(ZeroDivisionError("division by zero"))
        'ZeroDivisionError: division by zero (?, line 0)'
    """
    said = str(error).strip().partition("\n")[0]
    where = traceback.extract_tb(error.__traceback__)
    file, line = (where[-1].filename, where[-1].lineno) if where else ("?", 0)
    if isinstance(error, SyntaxError):
        said, file, line = error.msg, error.filename or file, error.lineno or line
    return f"{type(error).__name__}{f': {said}' if said else ''} ({file}, line {line})"


def _parameters(spec: registration.EnvSpec) -> Mapping[str, inspect.Parameter] | None:
    """The environment's arguments by name; None if it takes arguments of any name."""
    creator = spec.entry_point if callable(spec.entry_point) else registration.load_env_creator(str(spec.entry_point))
    parameters = inspect.signature(creator).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }


def _check_taken(
    env_id: str, parameters: Mapping[str, inspect.Parameter] | None, arguments: Mapping[str, Json]
) -> None:
    """Check that the environment takes the arguments.

    Raises:
        ValueError: it does not know an argument, or the default of an argument has another type.
    """
    if parameters is None:
        return
    for name, value in arguments.items():
        if name not in parameters:
            raise ValueError(_unknown_argument(env_id, name, sorted(set(parameters) - set(NOT_FOR_ENV_ARGS))))
        if wanted := _wanted(parameters[name].default, value):
            raise ValueError(f"env_args.{name} is {value!r}; {env_id} wants {wanted}")


def _unknown_argument(env_id: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    instead = f"; did you mean {near[0]}?" if near else ""
    if env_id in FASTER and name in (_parameters(find_spec(FASTER[env_id])) or ()):
        instead = f"; --env {FASTER[env_id]} takes it too"
    return f"env_args holds {name}; {env_id} takes {', '.join(known) or 'no arguments'}{instead}"


def _wanted(default: Any, value: Any) -> str | None:
    """The type that the value should have, like the default; None if it has it. Text is no number and no bool."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    return None


@contextlib.contextmanager
def off_screen() -> Iterator[None]:
    """Keep pygame from opening a window and a sound card in this block, unless the user chose drivers for them.

    On a machine without screen or sound card, SDL would print errors on the terminal.
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
    """Collect Gymnasium's warnings of this block as plain lines. Other warnings are shown as usual."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        yield lines
    for warning in caught:
        if f"{os.sep}gymnasium{os.sep}" in warning.filename:
            lines.append(re.sub(r"\x1b\[\d*m", "", str(warning.message)).removeprefix("WARN: "))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
