"""Handles the signals that stop a sweep."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nntrain.core.stop_signals import STOPS, default_warnings


@contextmanager
def on_stop_signal(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Calls `receive` on SIGINT, SIGTERM and `WARNINGS` for the duration of a `with` block.

    Warnings that the process ignores or handles itself are left alone. Python handles signals only
    in the main thread, so this has no effect in other threads.
    """
    is_main = threading.current_thread() is threading.main_thread()
    signums = [*STOPS, *default_warnings()] if is_main else []
    before = {signum: signal.signal(signum, receive) for signum in signums}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
