"""Converts terminal output to plain lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""\x1b\[(?P<numbers>[0-9;?]{0,32})[ -/]*(?P<control>[@-~])  # cursor, erasing, colors
    | \x1b\][^\x07\x1b]*(?:\x07|\x1b\\)                           # titles and links
    | \x1b[^[\]]
    | (?P<text>[^\x00-\x08\x0a-\x1f\x7f]+)
    | (?P<char>[\x00-\x1f\x7f])""",
    re.VERBOSE,
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?]{0,32}[ -/]*|\][^\x07\x1b]{0,2048}\x1b?)?$")


class TerminalText:
    """Splits the output of one stream into plain lines without colors.

    If a line is redrawn after a carriage return, only its last version is kept.
    """

    def __init__(self) -> None:
        self._line = self._unread = ""
        self._is_redrawn = False

    def read(self, text: str) -> Iterator[str | int]:
        """Yields complete lines as strings; for each upward cursor move, yields its line count."""
        text = self._unread + text
        unfinished = _UNFINISHED.search(text)
        self._unread = unfinished.group() if unfinished else ""
        for token in _TOKEN.finditer(text.removesuffix(self._unread)):
            if token["text"] is not None:
                self._line = token["text"] if self._is_redrawn else self._line + token["text"]
                self._is_redrawn = False
            elif token["char"] == "\n":
                yield self.rest()
            elif token["char"] == "\r":
                self._is_redrawn = True
            elif token["control"] == "K" and (self._is_redrawn or token["numbers"] in ("1", "2")):
                self._line = ""
            elif token["control"] in ("A", "F"):
                self._line = ""
                yield int(token["numbers"]) if token["numbers"].isdigit() else 1

    def rest(self) -> str:
        """Returns the unfinished line, and starts a new one."""
        line, self._line, self._is_redrawn = self._line.rstrip(), "", False
        return line
