"""Ending a fit in good order when the process is told to stop."""

from __future__ import annotations

import signal
import threading
from signal import Signals
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from nntrain.core.callback import Callback, Purpose
from nntrain.core.events import CancelFitException
from nntrain.result import StopReason

if TYPE_CHECKING:
    from nntrain.learner import Learner


class StopOnSignal(Callback):
    """Ends the fit with `StopReason.INTERRUPTED` when SIGINT (Ctrl-C) or SIGTERM comes.

    The fit ends after the current batch, when every other callback has seen it, so that `Checkpoint` can save that very
    position. A SIGINT that comes while a signal is already waiting raises KeyboardInterrupt at once. A signal that the
    process ignores stays ignored; in a thread other than the main one this callback does nothing, for Python handles
    signals in the main thread only. A signal that comes too late to cancel the fit is passed on when the fit is cleaned up.
    """

    order: ClassVar[int] = 100
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self) -> None:
        self._received: Signals | None = None
        self._previous: dict[Signals, Any] = {}

    def before_fit(self, learn: Learner) -> None:
        """Installs the handlers."""
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in (signal.SIGINT, signal.SIGTERM):
            # None stands for a handler that was not installed from Python, and so could not be put back
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                self._previous[signum] = signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self._received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or Signals(signum)

    def after_batch(self, learn: Learner) -> None:
        """Ends the fit if a signal came."""
        self._cancel_if_received()

    def after_epoch(self, learn: Learner) -> None:
        """Ends the fit if a signal came after the epoch's last batch."""
        self._cancel_if_received()

    def _cancel_if_received(self) -> None:
        if self._received is not None:
            name = self._received.name
            raise CancelFitException(
                f"{name} was received", reason=StopReason.INTERRUPTED, signum=self._received
            )

    def cleanup_fit(self, learn: Learner) -> None:
        """Puts the handlers back, and passes on a signal that did not end the fit."""
        previous, self._previous = self._previous, {}
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        received, self._received = self._received, None
        if received is not None and learn.result.signum is None:
            _pass_on(received)


def _pass_on(signum: Signals) -> None:
    if signal.getsignal(signum) is signal.SIG_DFL:
        raise SystemExit(
            128 + signum
        )  # the default would kill the process before the other callbacks have cleaned up
    signal.raise_signal(signum)
