"""Who gets the signals that ask a sweep to stop, for as long as it runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopped_by(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has a function get SIGINT and SIGTERM; nothing changes in a thread other than the main one, which gets no signals."""
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
