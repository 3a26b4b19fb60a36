"""Reading files that anybody may have written: nothing in them makes a reader wait, run code, or take much memory."""

import json
import stat
from pathlib import Path
from typing import Any

import yaml

from world_models.runtime.typed_json import Json

MAX_DEPTH = 50
"""Levels of a JSON or YAML text; ours have four."""

MAX_BRACKETS = 10_000
"""Lists and objects of a JSON text; ours have some dozens, and a million take seconds."""

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
    """Whether a file is there. Only a file is ever opened: a pipe or a device may keep its reader waiting for ever.

    Raises:
        ValueError: something else than a file is there, or the file has more than `max_bytes`.
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
    """A file's text, None if there is no such file; bytes that are no UTF-8 become the replacement character.

    Raises:
        ValueError: it is larger than `max_bytes`, or no file.
    """
    return path.read_text(encoding="utf-8", errors="replace") if is_file(path, max_bytes) else None


def from_json(text: str | bytes) -> Json:
    """The value that a JSON text stands for.

    Raises:
        ValueError: it is no JSON, nested too deeply, or has a number of thousands of digits.
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
    """Refuse what a settings file never has: tags, deep nesting, and aliases, by which one page holds a billion values.

    Raises:
        yaml.YAMLError: it has one of them, or is no YAML.
    """
    if len(text) > MAX_YAML_BYTES:
        raise yaml.YAMLError(f"{len(text):,} letters, wanted {MAX_YAML_BYTES:,} at most")
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
    """The value that a YAML text stands for.

    Raises:
        ValueError: it is no YAML, or has what `check_yaml` refuses.
    """
    try:
        check_yaml(text)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or "nested too deeply") from None
