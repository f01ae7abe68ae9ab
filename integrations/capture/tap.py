"""Observes writes to a text stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO


class Tap:
    """Calls a function with each string that is written to a stream, until `close` is called.

    An instance attribute replaces the stream's `write` method. The stream itself is not replaced,
    so output of logging handlers that already refer to the stream is observed too.
    """

    def __init__(self, stream: TextIO, listen: Callable[[Tap, str], None]) -> None:
        self._attributes = vars(stream)
        self._before = self._attributes.get("write")
        self._write = stream.write
        self._listen: Callable[[Tap, str], None] | None = listen
        self._attributes["write"] = self._tapped = self._write_and_tell

    def _write_and_tell(self, text: str) -> int:
        try:
            return self._write(text)
        finally:
            if self._listen is not None and isinstance(text, str):
                self._listen(self, text)

    def close(self) -> None:
        """Stops observing, and restores `write` unless other code has replaced it since."""
        self._listen = None
        if self._attributes.get("write") is not self._tapped:
            return
        if self._before is None:
            del self._attributes["write"]
        else:
            self._attributes["write"] = self._before
