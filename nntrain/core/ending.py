"""Fast process exit: skips the interpreter's cleanup, which takes a second if torch is loaded."""

from __future__ import annotations

import atexit
import multiprocessing
import os
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


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
