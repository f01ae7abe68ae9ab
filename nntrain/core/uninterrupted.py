"""Steps that must not be cut off: a process waits for them before it exits on its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CHANGED = threading.Condition()
_running: list[object] = []
_marks: list[int] = []


def show_steps_in(fd: int) -> None:
    """Lets another process see in an open file whether this process is in such a step."""
    _marks.append(fd)


def is_in_step(fd: int) -> bool:
    """Returns whether the process that shows its steps in an open file is in such a step."""
    return os.pread(fd, 1, 0) == b"1"


def _show() -> None:
    for fd in _marks:
        os.pwrite(fd, b"1" if _running else b"0", 0)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Marks a step of this thread that must not be cut off, such as changing tables."""
    step = object()
    with _CHANGED:
        _running.append(step)
        _show()
    try:
        yield
    finally:
        with _CHANGED:
            _running.remove(step)
            _show()
            _CHANGED.notify_all()


def wait_until_interruptible(timeout_s: float) -> bool:
    """Waits until no thread is in such a step; returns False after `timeout_s` seconds."""
    with _CHANGED:
        return _CHANGED.wait_for(lambda: not _running, timeout_s)
