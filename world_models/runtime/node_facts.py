"""What two machines must have in common to make the same shards: versions, this package's code, and the user's modules.

Facts are texts by name, such as `gymnasium`: `1.2.2`. Two machines fit together if their facts are equal.
"""

import functools
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from world_models.runtime import files
from world_models.version import __version__

PACKAGE, CODE, PYTHON = "world_models", "the code of world_models", "Python"
MODULE = "module "
"""Beginning of the name of a fact about a module of the user."""
MISSING = "missing"

Facts = dict[str, str]


def names(packages: Sequence[str], modules: Sequence[str] = ()) -> list[str]:
    """The names of the facts that two machines have to share.

    Args:
        packages: names of installed packages.
        modules: names of modules of the user, such as `my_package.policies`.
    """
    return [PACKAGE, CODE, PYTHON, *packages, *(f"{MODULE}{name}" for name in modules)]


def collect_facts(names: tuple[str, ...]) -> Facts:
    """The facts of this machine, by their names. As `collect`, without its memory, so that Ray can send it."""
    return collect(names)


@functools.lru_cache(maxsize=8)
def collect(names: tuple[str, ...]) -> Facts:
    """The facts of this machine, by their names.

    Example:
        >>> sorted(collect(("numpy", "module json")))
        ['module json', 'numpy']
    """
    return {name: _fact(name) for name in names}


def _fact(name: str) -> str:
    if name == PACKAGE:
        return __version__
    if name == PYTHON:
        return ".".join(platform.python_version_tuple()[:2])
    if name == CODE:
        root = Path(__file__).parents[1]
        sources = sorted(root.rglob("*.py"))
        return _digest(
            *(part for path in sources for part in (path.relative_to(root).as_posix().encode(), _code(path)))
        )
    if name.startswith(MODULE):
        return _module(name.removeprefix(MODULE))
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return MISSING


def _module(name: str) -> str:
    """The digest of a module's file, or that it is missing. A built-in module has no file, and is found."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # the import of its package runs the user's code
        spec = None
    if spec is None:
        return MISSING
    return _digest(_code(Path(spec.origin))) if spec.origin and Path(spec.origin).is_file() else "found"


def _code(path: Path) -> bytes:
    return path.read_bytes()


def _digest(*parts: bytes) -> str:
    return f"sha256 {files.sha256(*parts)[:12]}"


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The differences between a node's facts and those of the driver, each in a few words.

    Example:
        >>> differences({"gymnasium": "1.1.0"}, {"gymnasium": "1.2.2"})
        ['gymnasium is 1.1.0 there and 1.2.2 here']
    """
    there = {name: found.get(name, MISSING) for name in wanted}
    return [
        f"{name} is {value} there and {wanted[name]} here" for name, value in there.items() if value != wanted[name]
    ]
