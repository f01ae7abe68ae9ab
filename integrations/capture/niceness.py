"""Lowers the CPU priority of the shipper so that it does not slow down training."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

try:
    import psutil
except ImportError:
    psutil = None

NICENESS = 10
"""The niceness of the shipper: on a shared core, training gets about 90% of the CPU time."""


def give_way() -> None:
    """Lowers the priority of this process.

    If Linux schedules processes by session (autogroup, the default on desktops), the priority
    applies only within the session.
    """
    os.nice(NICENESS)


def children_give_way() -> None:
    """Lowers the priority of child processes that a tracker's library started in other sessions."""
    for child in () if psutil is None else psutil.Process().children(recursive=True):
        with suppress(OSError):  # the system has no autogroups, or the process has ended
            if os.getsid(child.pid) != os.getsid(0):
                Path(f"/proc/{child.pid}/autogroup").write_bytes(b"%d" % NICENESS)
