"""A copy of what the training process prints, as a file of plain lines."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

CONSOLE_LOG = "console.log"
"""The name of the file in the run's folder."""

MAX_LINES = 100
"""So many lines of a stream may wait because a bar may still be drawn over them; a bar is not as high."""

_LOG = logging.getLogger("nntrain")

_TOKEN = re.compile(
    r"""\x1b\[(?P<numbers>[0-9;?]{0,32})[ -/]*(?P<control>[@-~])  # cursor, erasing, colours
    | \x1b\][^\x07\x1b]*(?:\x07|\x1b\\)                      # titles and links
    | \x1b[^[\]]
    | (?P<text>[^\x00-\x08\x0a-\x1f\x7f]+)
    | (?P<char>[\x00-\x1f\x7f])""",
    re.VERBOSE,
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?]{0,32}[ -/]*|\][^\x07\x1b]{0,2048}\x1b?)?$")


class _Row:
    """A line on the screen, and whether it is part of a bar: what was drawn from a carriage return on is."""

    def __init__(self) -> None:
        self.text = ""
        self.is_bar = False

    def draw(self, column: int, text: str) -> None:
        self.text = self.text[:column].ljust(column) + text + self.text[column + len(text) :]

    def erase(self, first: int, end: int) -> None:
        self.text = (self.text[:first] + " " * (end - first) + self.text[end:]).rstrip()


class Screen:
    """What a stream would have left on a terminal, line by line: bars are drawn over, colours are dropped.

    It keeps no more of the screen than may still be drawn over: the line of the cursor, lines that were drawn from a
    carriage return on, and lines that came in one piece with an unfinished one, as the frames of a live display do, until
    it is seen how far up the next frame begins.
    """

    def __init__(self) -> None:
        self._rows = [_Row()]
        self._row = self._column = 0
        self._after_return = False
        self._settled = 0  # rows above this one are of no live display
        self._unread = ""

    def write(self, text: str) -> list[str]:
        """Draws the text and returns the lines that nothing will be drawn over any more."""
        text = self._unread + text
        unfinished = _UNFINISHED.search(text)
        self._unread = unfinished.group() if unfinished else ""
        top = self._draw(text.removesuffix(self._unread))
        if self._column == 0 and not self._rows[self._row].text:
            self._settled = self._row
        else:
            self._settled = min(self._settled, top)
        return self._taken()

    def close(self) -> list[str]:
        """The lines that are left."""
        rows, self._rows = self._rows, [_Row()]
        self._row = self._column = self._settled = 0
        lines = [row.text.rstrip() for row in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _draw(self, text: str) -> int:
        """Draws, and returns the highest row on which it did."""
        top = self._row
        for token in _TOKEN.finditer(text):
            if token["text"] is not None:
                self._print(token["text"])
            elif token["char"] is not None:
                self._move(token["char"])
            elif token["control"] is not None:
                self._control(token["control"], token["numbers"])
            if self._row < top:
                top = self._settled = self._row
                for row in self._rows[:top]:
                    row.is_bar = False
        return top

    def _print(self, text: str) -> None:
        row = self._rows[self._row]
        if self._column == 0 and (self._after_return or not row.text):
            row.is_bar = self._after_return
        row.draw(self._column, text)
        self._column += len(text)
        self._after_return = False

    def _move(self, char: str) -> None:
        if char == "\n":
            self._down(1)
            self._column, self._after_return = 0, False
        elif char == "\r":
            row = self._rows[self._row]
            if row.is_bar and row.text.isspace():  # wiped with blanks: what comes next is no bar
                row.text = ""
            self._column, self._after_return, self._settled = (
                0,
                not (row.is_bar and not row.text),
                self._row,
            )
        elif char == "\b":
            self._column = max(self._column - 1, 0)

    def _control(self, control: str, numbers: str) -> None:
        number = min(int(numbers), 1000) if numbers.isdigit() else 0
        n = max(number, 1)
        if control in "AF":
            self._row = max(self._row - n, 0)
        elif control in "BE":
            self._down(n)
        elif control in "CDG":
            self._column = max(
                {"C": self._column + n, "D": self._column - n, "G": n - 1}[control], 0
            )
        elif control == "K" or (control == "J" and number == 0):
            self._erase(number)
        if control in "EF":
            self._column = 0
        elif control == "J" and number == 0:
            del self._rows[self._row + 1 :]

    def _down(self, n: int) -> None:
        self._row += n
        self._rows += [_Row() for _ in range(self._row + 1 - len(self._rows))]

    def _erase(self, number: int) -> None:
        row = self._rows[self._row]
        first, end = (
            (self._column, None) if number == 0 else (0, self._column + 1 if number == 1 else None)
        )
        row.erase(first, len(row.text) if end is None else end)
        self._after_return = self._after_return and bool(row.text)

    def _taken(self) -> list[str]:
        done = [i for i, row in enumerate(self._rows[: self._settled]) if not row.is_bar]
        n = max(done[-1] + 1 if done else 0, self._row - MAX_LINES)
        lines = [row.text.rstrip() for row in self._rows[:n]]
        del self._rows[:n]
        self._row, self._settled = self._row - n, max(self._settled - n, 0)
        return lines


class ConsoleLog:
    """Appends to a file, as long as it is entered, what this process prints to `sys.stdout` and `sys.stderr`.

    The terminal shows what it would show anyway: the two streams stay the objects that they are, so that a logging
    handler which holds one is heard too, and only their `write` is listened to. What a forked process prints, or
    a program that is run from this one, is not recorded. A line is in the file as soon as it ends; a bar leaves there what
    it leaves on a terminal, which for `nntrain.callbacks.Progress` is nothing. The file is UTF-8.

    A file that cannot be written is told once as a warning; what is printed meanwhile is missing in it.

    Args:
        path: the file.
        redact: takes the secrets out of a line.
    """

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        self.path = path
        self._redact = redact
        self._lock = threading.RLock()
        self._printed: deque[tuple[Screen, str]] = deque()
        self._is_reading = self._has_warned = False
        self._depth = self._pid = 0
        self._file: FileIO | None = None
        self._taps: list[_Tap] = []

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth == 1:
            self._pid = os.getpid()
            self._open()
            streams = {
                id(stream): stream
                for stream in (sys.stdout, sys.stderr)
                if hasattr(stream, "__dict__")
            }
            self._taps = [_Tap(stream, self._record) for stream in streams.values()]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            for tap in self._taps:
                tap.close()
            if os.getpid() == self._pid:
                self._close()

    def _open(self) -> None:
        try:
            self._file = FileIO(
                str(self.path), "ab"
            )  # without a buffer, which a forked process would write once more
        except OSError as err:
            self._warn(err)

    def _close(self) -> None:
        with self._lock:
            self._append([line for tap in self._taps for line in tap.screen.close()])
            if self._file is not None:
                self._file.close()
            self._file = None

    def _record(self, screen: Screen, text: str) -> None:
        if (
            os.getpid() != self._pid
        ):  # a forked process, in which nobody may ever give the lock back
            return
        with self._lock:
            self._printed.append((screen, text))
            if not self._is_reading:  # else a signal's handler printed just while this was at work
                self._read()

    def _read(self) -> None:
        self._is_reading = True
        try:
            while self._printed:
                screen, text = self._printed.popleft()
                self._append(screen.write(text))
        finally:
            self._is_reading = False

    def _append(self, lines: list[str]) -> None:
        if not lines or self._file is None:
            return
        text = "".join(f"{self._redact(line)}\n" for line in lines)
        try:
            self._file.write(text.encode("utf-8", "backslashreplace"))
        except (OSError, ValueError) as err:  # ValueError: somebody closed the file
            self._warn(err)

    def _warn(self, err: OSError | ValueError) -> None:
        if not self._has_warned:
            self._has_warned = True
            _LOG.warning(
                "%s cannot be written (%s): what is printed goes on, but is missing there.",
                self.path,
                err,
            )


class _Tap:
    """Listens to what is written to a stream, by an attribute of the stream, until it is closed."""

    def __init__(self, stream: TextIO, listen: Callable[[Screen, str], None]) -> None:
        self.screen = Screen()
        self._attributes = vars(stream)
        self._before = self._attributes.get("write")
        self._write = stream.write
        self._listen: Callable[[Screen, str], None] | None = listen
        self._attributes["write"] = self._tapped = self._write_and_tell

    def _write_and_tell(self, text: str) -> int:
        try:
            return self._write(text)
        finally:
            if self._listen is not None and isinstance(text, str):
                self._listen(self.screen, text)

    def close(self) -> None:
        """Stops; the stream is as it was, unless somebody put a `write` of his own on top, which then goes on to it."""
        self._listen = None
        if self._attributes.get("write") is not self._tapped:
            return
        if self._before is None:
            del self._attributes["write"]
        else:
            self._attributes["write"] = self._before
