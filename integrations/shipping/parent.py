"""The shipper's view of the training process: its messages, and whether it is alive."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator
from typing import Any


class Parent:
    """The training process, which sends messages through a pipe.

    Args:
        fd: the reading end of the pipe.
        pid: the training process, the parent of this one.
    """

    def __init__(self, fd: int, pid: int) -> None:
        self.pid = pid
        self._fd = fd
        self._buffer = b""
        self.is_silent = False
        """Whether no more messages will come."""

    @property
    def has_died(self) -> bool:
        """Whether the process has ended, so that this process has another parent."""
        return os.getppid() != self.pid

    def messages(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """Waits for messages, at most `timeout_s` seconds, and yields those that have arrived."""
        has_died = self.has_died  # checked before the pipe is read, so that no last message is lost
        if self.is_silent or not select.select([self._fd], [], [], timeout_s)[0]:
            time.sleep(timeout_s if self.is_silent else 0)
            self.is_silent |= has_died
            return
        data = os.read(self._fd, 65536)
        *whole, self._buffer = (self._buffer + data).split(b"\n")
        messages = [json.loads(message) for message in whole]
        # a worker forked by the training process keeps the pipe open, so its end is not enough
        self.is_silent = not data or any("bye" in message for message in messages)
        yield from messages
