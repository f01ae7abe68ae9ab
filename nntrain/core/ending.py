"""Ends a process without the interpreter's own clean-up, which takes a second with torch loaded."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """Ends the process with an exit code, after its threads and its `atexit` functions.

    `multiprocessing` ends its processes in the same way.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _leave(code)


def end_at_once(code: int) -> NoReturn:
    """Ends the process and its data loader workers, without waiting for threads."""
    for child in multiprocessing.active_children():
        child.terminate()
    _leave(code)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
