"""Receives messages from the training process, and checks whether it is alive."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator
from typing import Any


class Parent:
    """The training process, which sends messages to the shipper through a pipe.

    Args:
        fd: the read end of the pipe.
        pid: the process id of the training process, the parent of this process.
    """

    def __init__(self, fd: int, pid: int) -> None:
        self.pid = pid
        self._fd = fd
        self._buffer = b""
        self.is_silent = False
        """True when no more journals will arrive."""
        self._is_closed = False

    @property
    def has_died(self) -> bool:
        """Whether the training process has ended; this process then gets a new parent."""
        return os.getppid() != self.pid

    def messages(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """Waits up to `timeout_s` seconds for messages and yields the received messages."""
        # check before reading the pipe, so that the last message is not lost
        has_died = self.has_died
        if self._is_closed or not select.select([self._fd], [], [], timeout_s)[0]:
            time.sleep(timeout_s if self._is_closed else 0)
            self.is_silent |= has_died
            return
        data = os.read(self._fd, 65536)
        self._is_closed = not data
        *whole, self._buffer = (self._buffer + data).split(b"\n")
        messages = [json.loads(message) for message in whole]
        # Do not rely on end of file: a forked DataLoader worker may keep the pipe open.
        self.is_silent |= not data or any("bye" in message for message in messages)
        yield from messages
