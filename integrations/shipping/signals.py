"""Keeps signals away from the shipper, which ends by itself after its training process.

Schedulers and terminals send a signal to all processes of a job. The training process stops
training; the shipper must survive to deliver the end of the run. This module imports only the
standard library, because the shipper calls it first.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STOPPING = (*_IGNORED, signal.SIGTERM)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Blocks signals in this thread; a process that starts in the block begins with them so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def survive_stop_signals() -> None:
    """Makes this process survive the signals, which its parent has blocked until now.

    A handler, unlike an ignored signal, is not inherited: programs that this process starts can
    still be ended with SIGTERM.
    """
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _survive)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


def _survive(signum: int, frame: FrameType | None) -> None:
    pass
