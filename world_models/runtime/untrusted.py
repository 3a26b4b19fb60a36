"""Reads files that anybody may have written. They cannot make a reader wait, run code, or take much memory."""

import json
import stat
from pathlib import Path
from typing import Any

import yaml

from world_models.runtime.typed_json import Json

MAX_DEPTH = 50
"""Largest depth of a JSON or YAML text; ours have four levels."""

MAX_BRACKETS = 10_000
"""Largest number of lists and objects in a JSON text; ours have some dozens, and a million take seconds."""

MAX_YAML_BYTES = 1_000_000
MAX_YAML_VALUES = 30_000
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_file(path: str | Path, max_bytes: int | None = None) -> bool:
    """Whether the file exists. Check this before you open it: reading a pipe or a device may wait without end.

    Raises:
        ValueError: the path is not a regular file, or the file has more than `max_bytes`.
    """
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"{path}: {KINDS.get(kind, 'something')}, wanted a file; remove it, or name something else")
    if max_bytes is not None and found.st_size > max_bytes:
        raise ValueError(f"{path}: {found.st_size:,} bytes, wanted {max_bytes:,} at most; do not trust this file")
    return True


def read_text(path: Path, max_bytes: int) -> str | None:
    """Read a text file; None if it does not exist. Bytes that are not UTF-8 become the replacement character.

    Raises:
        ValueError: it is larger than `max_bytes`, or is not a regular file.
    """
    return path.read_text(encoding="utf-8", errors="replace") if is_file(path, max_bytes) else None


def from_json(text: str | bytes) -> Json:
    """Read a JSON text.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has a number with thousands of digits.
    """
    brackets = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(map(text.count, brackets)) > MAX_BRACKETS:  # pyright: ignore[reportArgumentType]: both are of one kind
        raise ValueError(f"more than {MAX_BRACKETS:,} lists and objects")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    return value


def _check_depth(value: Json) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        nested = [each for each in level if isinstance(each, dict | list)]
        if not nested:
            return
        level = [inner for each in nested for inner in (each.values() if isinstance(each, dict) else each)]
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def check_yaml(text: str) -> None:
    """Refuse YAML that no file of settings has: tags, deep nesting, and aliases, which can expand to huge data.

    Raises:
        yaml.YAMLError: the text has one of these, is too large, or is not YAML.
    """
    if len(text) > MAX_YAML_BYTES:
        raise yaml.YAMLError(f"{len(text):,} characters, wanted {MAX_YAML_BYTES:,} at most")
    depth = 0
    for count, event in enumerate(yaml.parse(text, _Loader)):
        if count > MAX_YAML_VALUES:
            raise yaml.YAMLError(f"more than {MAX_YAML_VALUES:,} values")
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"the alias *{event.anchor}; write the value itself")
        if getattr(event, "tag", None):
            raise yaml.YAMLError(f"the tag {event.tag}; write the value without it")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels")


def from_yaml(text: str) -> Any:
    """Read a YAML text.

    Raises:
        ValueError: it is not YAML, or `check_yaml` refuses it.
    """
    try:
        check_yaml(text)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or "nested too deeply") from None
