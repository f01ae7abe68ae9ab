"""Copies the console output of the training process to a plain-text file."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from nntrain.config.door import no_link
from nntrain.integrations.capture.tap import Tap
from nntrain.integrations.capture.terminal import TerminalText

CONSOLE_LOG = "console.log"
"""The file name of the console log in the folder of the run."""

N_BACK = 100
"""The maximum number of lines that a live display can redraw; terminals have fewer lines."""

_LOG = logging.getLogger("nntrain")


class ConsoleLog:
    """Context manager that copies this process's `sys.stdout` and `sys.stderr` to a file.

    The terminal output does not change. Output of forked processes and of other programs is not
    recorded. Each line is written to the file as soon as it is complete, without colors. Only the
    last state of a progress bar is written. Lines that a live display redraws by moving the cursor
    up are removed from the file. The file is encoded in UTF-8. If the file cannot be written, one
    warning is logged.

    Args:
        path: the file; new lines are appended.
        redact: function that removes secrets from a line.
    """

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        self.path = path
        self._redact = redact
        self._lock = threading.RLock()
        self._printed: deque[tuple[Tap, str]] = deque()
        self._lines: deque[tuple[Tap, int]] = deque(
            maxlen=N_BACK
        )  # the offset of each line in the file
        self._is_reading = self._has_warned = False

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        self._file = self._opened()
        streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "__dict__")]
        taps = (Tap(stream, self._record) for stream in {id(one): one for one in streams}.values())
        self._texts = {tap: TerminalText() for tap in taps}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for tap in self._texts:
            tap.close()
        if os.getpid() != self._pid:
            return
        with self._lock:
            for tap, text in self._texts.items():
                if line := text.rest():
                    self._append(tap, line)
            if self._file is not None:
                self._file.close()

    def _opened(self) -> FileIO | None:
        try:  # unbuffered, because a forked process would write the buffer again
            return FileIO(str(self.path), "ab", opener=no_link)
        except OSError as err:
            self._warn(err)
            return None

    def _record(self, tap: Tap, text: str) -> None:
        if os.getpid() != self._pid:  # in a forked process, the lock may never be released
            return
        with self._lock:
            self._printed.append((tap, text))
            if (
                not self._is_reading
            ):  # True if a signal handler prints while a line is being recorded
                self._read()

    def _read(self) -> None:
        self._is_reading = True
        try:
            while self._printed:
                tap, text = self._printed.popleft()
                for line in self._texts[tap].read(text):
                    if isinstance(line, str):
                        self._append(tap, line)
                    else:
                        self._remove(tap, line)
        finally:
            self._is_reading = False

    def _append(self, tap: Tap, line: str) -> None:
        if self._file is None:
            return
        data = f"{self._redact(line)}\n".encode("utf-8", "backslashreplace")
        try:
            self._lines.append((tap, self._file.seek(0, os.SEEK_END)))
            self._file.write(data)
        except (OSError, ValueError) as err:  # ValueError: the file was closed
            self._warn(err)

    def _remove(self, tap: Tap, n: int) -> None:
        while n > 0 and self._file is not None and self._lines and self._lines[-1][0] is tap:
            self._file.truncate(self._lines.pop()[1])
            n -= 1

    def _warn(self, err: OSError | ValueError) -> None:
        if not self._has_warned:
            self._has_warned = True
            _LOG.warning("%s cannot be written (%s): later output is not recorded.", self.path, err)
