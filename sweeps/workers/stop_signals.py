"""Routes the signals that stop a sweep, while the sweep runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_stop_signal(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Routes SIGINT and SIGTERM to a function.

    Python handles signals in the main thread; in other threads nothing changes.
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
