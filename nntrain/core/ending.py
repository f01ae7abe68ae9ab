"""Fast process exit: skips the interpreter's cleanup, which takes a second if torch is loaded."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """Waits for threads, runs `atexit` functions, and exits with `code`.

    `multiprocessing` exits its child processes in the same way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _leave(code)


def end_at_once(code: int) -> NoReturn:
    """Terminates child processes (such as data loader workers), and exits without waiting."""
    for child in multiprocessing.active_children():
        child.terminate()
    _leave(code)


def end_on_sigterm_as_pid_1() -> None:
    """Makes the first process of a container end on SIGTERM even before training handles it.

    The kernel ignores signals without a handler for process 1. `StopOnSignal` replaces the handler
    during training.
    """
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda signum, frame: end_at_once(128 + signum))


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
