"""Printing: every line passes here, so that text from a file cannot send control codes to the terminal."""

import contextlib
import sys
from typing import Any


def printable(text: str) -> str:
    r"""The text with everything that is no visible character written as an escape, such as \x1b.

    Control characters move the cursor or change colours, line breaks forge lines, and halves of characters, as in the
    name of a file in another encoding, cannot be written at all.

    Example:
        >>> printable("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def say(*lines: str, file: Any = None) -> None:
    """Print lines, each of which stays one; on standard output unless a file is named. Progress bars stay below."""
    if lines:
        with _bars_cleared(file or sys.stdout):
            print("\n".join(map(printable, lines)), file=file, flush=True)


def _bars_cleared(file: Any) -> contextlib.AbstractContextManager:
    """Take progress bars off the terminal in the block: a bar does not end its line, so text would follow it."""
    tqdm = sys.modules.get("tqdm")  # not imported where no bar is shown
    return tqdm.tqdm.external_write_mode(file) if tqdm and tqdm.tqdm._instances else contextlib.nullcontext()


def warn(*lines: str) -> None:
    """Print lines on standard error."""
    say(*lines, file=sys.stderr)
