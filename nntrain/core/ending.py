"""Ending a process without the interpreter's own clearing up, which with torch loaded takes a second."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """Ends the process with an exit code, once its threads have ended and what is registered with `atexit` has run.

    `multiprocessing` ends its processes the same way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _leave(code)


def end_at_once(code: int) -> NoReturn:
    """Ends the process, and those of its data loaders, whatever its threads are doing."""
    for child in multiprocessing.active_children():
        child.terminate()
    _leave(code)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
