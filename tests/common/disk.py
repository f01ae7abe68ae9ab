"""A full disk, simulated by the largest file size that a process may write."""

import resource
import signal
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from nntrain import Callback, Learner


@contextmanager
def full_disk(n_bytes: int = 0) -> Iterator[None]:
    """Context manager in which this process cannot write files of more than `n_bytes` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


class FullDisk(Callback):
    """Simulates a full disk at the end of the given epochs, while other callbacks write files."""

    order: ClassVar[int] = 60

    def __init__(self, epochs: Collection[int]) -> None:
        self.epochs, self._stack = epochs, ExitStack()

    def after_epoch(self, learn: Learner) -> None:
        if learn.epoch in self.epochs:
            self._stack.enter_context(full_disk())

    def before_epoch(self, learn: Learner) -> None:
        self._stack.close()

    def after_fit(self, learn: Learner) -> None:
        self._stack.close()

    def cleanup_fit(self, learn: Learner) -> None:
        self._stack.close()
