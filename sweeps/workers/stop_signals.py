"""Handles SIGINT and SIGTERM during a sweep."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_stop_signal(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Calls `receive` on SIGINT or SIGTERM for the duration of a `with` block.

    Python handles signals only in the main thread, so this has no effect in other threads.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = {
        signum: signal.signal(signum, receive)
        for signum in (signal.SIGINT, signal.SIGTERM)
        if is_main
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
