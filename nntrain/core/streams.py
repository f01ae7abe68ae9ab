"""Standard streams that never end the program: closed, lost or limited to ASCII.

This module imports only the standard library, because each command calls it first.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class ConsoleFile(io.FileIO):
    """A console to write to. Text for a console that is gone is dropped without an exception.

    A console is gone if its terminal was closed, the reader of its pipe has ended, or the disk with
    the file that it was redirected to is full.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes bytes; returns how many were written or dropped."""
        view = memoryview(data)
        try:
            while (n := super().write(view)) is None:
                select.select([], [self], [])  # a non-blocking console, which is busy
        except OSError:
            return view.nbytes
        return n


class SafeStream(io.TextIOBase):
    """The current standard output or error, without exceptions if a text cannot be shown.

    Characters that the stream cannot encode are escaped; text for a stream that is gone is dropped.
    Use it for output of a library, whose program may not have called `open_streams`.

    Args:
        current: function that returns `sys.stdout` or `sys.stderr`, which may change.
    """

    def __init__(self, current: Callable[[], TextIO | None]) -> None:
        self._current = current

    @property
    def _stream(self) -> TextIO | None:
        stream = self._current()
        return getattr(stream, "rich_proxied_file", stream)  # what rich's live display replaced

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str, /) -> int:
        """Writes a text."""
        if (stream := self._stream) is not None:
            with suppress(OSError):
                stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        if (stream := self._stream) is not None:
            with suppress(OSError):
                stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        stream = self._stream
        return stream is not None and stream.isatty()

    def fileno(self) -> int:
        """Returns the descriptor of the stream."""
        if (stream := self._stream) is None:
            raise io.UnsupportedOperation("fileno")
        return stream.fileno()


def open_streams() -> None:
    """Opens the streams that were closed at the start, and makes output safe.

    Closed descriptors are opened to `/dev/null`; otherwise the next file or pipe would get a number
    that child processes take for a standard stream. Characters that the encoding of the console
    does not contain are printed as escapes. Streams that other code has replaced are not changed.
    """
    for fd in range(3):
        _open_descriptor(fd)
    if sys.stdin is None:
        reader = io.BufferedReader(io.FileIO(0, closefd=False))
        sys.stdin = io.TextIOWrapper(reader, encoding="utf-8")
    sys.stdout = _safe(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _safe(sys.stderr, sys.__stderr__, 2)


def use_utf8() -> None:
    """Starts the program again in UTF-8 mode if its locale cannot read its arguments or its folder.

    In the locale `C`, Python uses UTF-8 by itself, unless the environment forbids it.
    """
    with suppress(OSError):  # the folder was removed
        texts = (*sys.argv, os.getcwd())
        if sys.getfilesystemencoding() != "utf-8" and any(map(is_undecoded, texts)):
            command = [sys.executable, *sys.orig_argv[1:]]
            os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})


def is_undecoded(text: str) -> bool:
    """Returns whether a text contains bytes that are not valid in the encoding of the locale."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def _open_descriptor(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)
        os.set_inheritable(fd, True)


def _safe(stream: TextIO | None, original: TextIO | None, fd: int) -> TextIO:
    if stream is None:
        return _writer(ConsoleFile(fd, "w", closefd=False), "utf-8")
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return stream
    with suppress(OSError):
        stream.flush()
    file = ConsoleFile(stream.fileno(), "w", closefd=False)
    file.name = stream.name
    return _writer(file, stream.encoding, stream.line_buffering, stream.write_through)


def _writer(
    file: ConsoleFile, encoding: str, line_buffering: bool = True, write_through: bool = False
) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=line_buffering,
        write_through=write_through,
    )
