"""Letting the training process run first where the shipper wants the same core."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

try:
    import psutil
except ImportError:
    psutil = None

NICENESS = 10
"""Leaves training nine tenths of a core that the shipper wants too, and the shipper the rest."""


def give_way() -> None:
    """Lowers the priority of this process.

    Where Linux groups processes by session, as it does on desktops by default, the priority counts
    only within the session.
    """
    os.nice(NICENESS)


def children_give_way() -> None:
    """Lowers the priority of the sessions that a tracker's library has started from here."""
    for child in () if psutil is None else psutil.Process().children(recursive=True):
        with suppress(OSError):  # this system has no such groups, or the process has ended
            if os.getsid(child.pid) != os.getsid(0):
                Path(f"/proc/{child.pid}/autogroup").write_text(str(NICENESS))
