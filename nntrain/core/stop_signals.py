"""The signals that stop a run."""

from __future__ import annotations

import signal
from signal import Signals

STOPS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and the request to end."""

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals that schedulers send before the end of a job, or a terminal when it is closed."""


def default_warnings() -> list[Signals]:
    """Returns the `WARNINGS` that would end the process, or do the same as SIGTERM.

    Signals that the process ignores (such as SIGHUP under `nohup`), and those with a handler of the
    program, are left out.
    """
    same = {signal.SIG_DFL, signal.getsignal(signal.SIGTERM)} - {signal.SIG_IGN, None}
    return [signum for signum in WARNINGS if signal.getsignal(signum) in same]
