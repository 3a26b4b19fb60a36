"""Prints lines. All output goes through here, so that text from a file cannot send control codes to the terminal."""

import contextlib
import sys
from typing import Any


def printable(text: str) -> str:
    r"""Replace every character that is not printable by an escape, such as \x1b.

    Control characters could move the cursor or change colours, and line breaks could fake other lines. Incomplete
    characters, as in a file name in another encoding, cannot be printed at all.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def say(*lines: str, file: Any = None) -> None:
    """Print lines; line breaks in them are escaped. Progress bars stay below the lines.

    Args:
        lines: the lines.
        file: the output; None takes standard output.
    """
    if lines:
        with _bars_cleared(file or sys.stdout):
            print("\n".join(map(printable, lines)), file=file, flush=True)


def _bars_cleared(file: Any) -> contextlib.AbstractContextManager:
    """Remove progress bars from the terminal in this block. A bar does not end its line, so text would follow it."""
    tqdm = sys.modules.get("tqdm")  # it is imported only if a bar is shown
    return tqdm.tqdm.external_write_mode(file) if tqdm and tqdm.tqdm._instances else contextlib.nullcontext()


def warn(*lines: str) -> None:
    """Print lines on standard error."""
    say(*lines, file=sys.stderr)
