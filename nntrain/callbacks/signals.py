"""Graceful shutdown on a signal: Ctrl-C, the end of a job, or the warning before it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from nntrain.core.callback import Callback, Purpose
from nntrain.core.events import CancelFitException
from nntrain.core.stop_signals import STOPS, default_warnings
from nntrain.result import StopReason

if TYPE_CHECKING:
    from nntrain.learner import Learner


class StopOnSignal(Callback):
    """Stops the fit gracefully (`StopReason.INTERRUPTED`) on a signal.

    The signals are SIGINT (Ctrl-C), SIGTERM, and `WARNINGS`: SIGUSR1 and SIGUSR2 (sent by SLURM and
    submitit before a job ends) and SIGHUP (the terminal was closed).

    The fit stops after all other callbacks have handled the current batch, so `Checkpoint` can save
    the exact position of the fit. If SIGINT arrives while another signal is pending,
    `KeyboardInterrupt` is raised immediately. Signals that the process ignores remain ignored, for
    example SIGHUP under `nohup`. The program's own handlers of `WARNINGS` stay in place.
    Outside the main thread the callback does nothing, because Python handles signals only in the
    main thread. A signal that arrives too late to cancel the fit is raised again during cleanup.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self) -> None:
        self._received: Signals | None = None
        self._previous: dict[Signals, Any] = {}

    def before_fit(self, learn: Learner) -> None:
        """Installs the signal handlers."""
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return
        warnings = default_warnings()  # before the handler of SIGTERM changes
        for signum in STOPS:
            # `None` means that the handler was not installed by Python code and cannot be restored.
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                self._previous[signum] = signal.signal(signum, self._receive)
        for signum in warnings:
            self._previous[signum] = signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self._received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or Signals(signum)

    def after_batch(self, learn: Learner) -> None:
        """Stops the fit if a signal was received."""
        self._cancel_if_received()

    def after_epoch(self, learn: Learner) -> None:
        """Stops the fit if a signal was received after the last batch of the epoch."""
        self._cancel_if_received()

    def _cancel_if_received(self) -> None:
        if self._received is not None:
            name = self._received.name
            raise CancelFitException(
                f"{name} was received", reason=StopReason.INTERRUPTED, signum=self._received
            )

    def cleanup_fit(self, learn: Learner) -> None:
        """Restores the signal handlers and raises any signal that did not stop the fit."""
        previous, self._previous = self._previous, {}
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        received, self._received = self._received, None
        if received is not None and learn.result.signum is None:
            _pass_on(received)


@contextmanager
def ignored_warnings() -> Iterator[None]:
    """Ignores `WARNINGS` in a `with` block after training, because the process ends soon anyway."""
    is_main = threading.current_thread() is threading.main_thread()
    ignored = default_warnings() if is_main else []
    handlers = {signum: signal.signal(signum, signal.SIG_IGN) for signum in ignored}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _pass_on(signum: Signals) -> None:
    if signal.getsignal(signum) is signal.SIG_DFL:
        # The default action would kill the process before the other callbacks can clean up.
        raise SystemExit(128 + signum)
    signal.raise_signal(signum)
