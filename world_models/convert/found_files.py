"""Lists the files of a folder in natural order: `9.png` before `10.png`."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath

DIGITS = re.compile(r"(\d+)")


def natural_order(paths: Iterable[str]) -> list[str]:
    """Sort paths, with numbers in them by their value.

    Example:
        >>> natural_order(["b/10.png", "b/9.png", "a10/1.png", "a9/1.png"])
        ['a9/1.png', 'a10/1.png', 'b/9.png', 'b/10.png']
    """
    return sorted(paths, key=_key)


def _key(path: str) -> tuple[list[list[tuple[int, int, str]]], str]:
    """Numbers by value, before texts; equal keys, such as those of 1.png and 01.png, are sorted by the path."""
    parts = [
        [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in DIGITS.split(part) if piece]
        for part in path.split("/")
    ]
    return parts, path


def suffix(path: str) -> str:
    """A file's suffix in lower case, such as `.png`."""
    return PurePath(path).suffix.lower()


def listed(path: Path) -> tuple[Path, list[str]]:
    """The folder, and the paths of all files in it and in its subfolders; for one file, its folder and its name.

    Hidden files and folders are left out. Links to folders are not followed, because they may form a circle.
    """
    if not path.is_dir():
        return path.parent, [path.name]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        place = os.path.relpath(folder, path)
        prefix = "" if place == "." else f"{place}/"
        found += [prefix + name for name in names if not name.startswith(".")]
    return path, found
