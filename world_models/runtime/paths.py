"""Resolves paths that a user names, once and first. So the checked path is the one that is read and written.

`data/new/../old` is `data/old`, whether or not `data/new` exists. A relative path still means the same place after the
program has changed its working directory. All other code gets absolute paths without links and `..`.
"""

import dataclasses
import errno
import functools
import os
from pathlib import Path
from typing import Any

MAX_NEW_NAME_BYTES, MAX_NEW_PATH_BYTES = 200, 3800
"""Limits for new names and paths. Systems allow 255 and 4,096; the rest is for the names of files in a new folder."""


def resolved(path: str | Path, name: str = "path", keeps_last_link: bool = False) -> Path:
    """The absolute path, with links followed and `..` resolved.

    Args:
        path: the path as the user gave it.
        name: name of the setting, for messages.
        keeps_last_link: whether the last part is kept if it is a link, so that the link's own name is shown.

    Raises:
        ValueError: the path is empty, a link in it is broken, or no file can have this path.
    """
    text = os.fspath(path)
    _check_text(text, name)
    try:
        place = Path.cwd()
    except FileNotFoundError:
        raise ValueError(f"{name} is {text!r}, and the working folder has been deleted; go to another one") from None
    *above, last = Path(text).parts or (".",)
    for part in above:
        place = _followed(_step(place, part), text, name)
    place = _step(place, last)
    end = _followed(place, text, name)
    place = place if keeps_last_link else end
    _check_place(place, text, name)
    return place


PATH = {"resolve": resolved}
"""Metadata of a config's field that holds a path, or a tuple of paths; see `resolve_fields`."""
LINK = {"resolve": functools.partial(resolved, keeps_last_link=True)}
"""Like `PATH`, but if the path is a link, its own name is kept."""


def resolve_fields(config: Any) -> None:
    """Resolve the fields of a frozen config that have the metadata `PATH` or `LINK`. `__post_init__` calls it first.

    Raises:
        ValueError: as in `resolved`, or the field takes one path and the value is a list of them, as text.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "resolve" not in field.metadata or value is None:
            continue
        if isinstance(value, str):
            _check_one(value, field.name)
        resolve = functools.partial(field.metadata["resolve"], name=field.name)
        places = tuple(str(resolve(each)) for each in value) if isinstance(value, tuple | list) else str(resolve(value))
        object.__setattr__(config, field.name, places)


def _check_one(path: str, name: str) -> None:
    """Refuse a list such as `[a,b]`, as other settings take it. A setting that takes one reads a list as a text."""
    if path.startswith("[") and path.endswith("]") and not os.path.lexists(path):
        raise ValueError(
            f"{name} is {_short(path)}, and it takes one path, not a list; give one without brackets, and run the "
            "command once for each"
        )


def one_or_several(paths: str | tuple[str, ...], name: str) -> str | tuple[str, ...]:
    """Check the paths of a setting that takes one path or several. A tuple of one path becomes that path.

    Raises:
        ValueError: there is none, or one is named twice.
    """
    if isinstance(paths, str):
        return paths
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if not paths or twice:
        raise ValueError(f"{name} names {twice or 'nothing'}{' twice' if twice else ''}; name each data set once")
    return paths[0] if len(paths) == 1 else paths


def check_name(text: str, name: str) -> None:
    """Check that a text is the name of one folder.

    Raises:
        ValueError: it is empty, has a separator or a control character, is `.` or `..`, or is too long.
    """
    _check_text(text, name)
    if "/" in text or text in (".", "..") or len(text.encode()) > MAX_NEW_NAME_BYTES:
        raise ValueError(f"{name} is {_short(text)}; give the name of one folder, without / and of 200 bytes at most")


def _check_text(text: str, name: str) -> None:
    if not text.strip():
        raise ValueError(f"{name} is {text!r}; give a name")
    if any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 or 0xD800 <= ord(letter) < 0xE000 for letter in text):
        raise ValueError(f"{name} is {_short(text)}; give a name of UTF-8 text without control characters")


def _step(place: Path, part: str) -> Path:
    """The path of `part` in a folder whose path has no links."""
    if part == "..":
        return place.parent
    return Path("/") if part.startswith("/") else place / part


def _followed(place: Path, text: str, name: str) -> Path:
    """The path itself, or the target if it is a link."""
    if not os.path.islink(place):  # noqa: PTH114 - unlike Path, it returns False for a name that is too long
        return place
    end = Path(os.path.realpath(place))
    if not os.path.lexists(end) or os.path.islink(end):  # noqa: PTH114 - still a link: the links form a circle
        raise ValueError(
            f"{name} is {_short(text)}: {place} is a broken link to {str(place.readlink())!r}; "
            "make that folder, or give another name"
        )
    return end


def _check_place(place: Path, text: str, name: str) -> None:
    """Check that a file can have this path."""
    _check_text(str(place), name)  # the target of a link may have any bytes
    try:
        place.lstat()
        return
    except FileNotFoundError:
        too_long = max(len(part.encode()) for part in place.parts) > MAX_NEW_NAME_BYTES
        reason = os.strerror(errno.ENAMETOOLONG) if too_long or len(str(place).encode()) > MAX_NEW_PATH_BYTES else ""
    except NotADirectoryError:
        file = next(parent for parent in place.parents if os.path.lexists(parent))
        reason = f"{file} is a file, not a folder"
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
    if reason:
        raise ValueError(f"{name} is {_short(text)}: {reason}; give another name")


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:100]}...")
