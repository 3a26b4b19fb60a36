"""What is said on the terminal: every line passes here, so no words from a file can steer the terminal."""

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
    """Print lines, each of which stays one; on standard output unless a file is named."""
    if lines:
        print("\n".join(map(printable, lines)), file=file, flush=True)


def warn(*lines: str) -> None:
    """Print lines on standard error."""
    say(*lines, file=sys.stderr)
