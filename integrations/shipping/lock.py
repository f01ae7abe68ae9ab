"""A lock that allows only one process at a time to deliver a journal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nntrain.core.files import lock
from nntrain.core.sinks import open_below
from nntrain.integrations.shipping.state import FOLDER


class DeliveredByAnotherError(RuntimeError):
    """Raised if another process is delivering the journal."""


@contextmanager
def delivery_lock(journal: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Allows only one process at a time to deliver a journal.

    Raises:
        DeliveredByAnotherError: if another process is still delivering the journal after
            `timeout_s` seconds.
        OSError: if the lock's file, or its folder, is a symbolic link or cannot be created.
    """
    with open(open_below(journal.parent, f"{FOLDER}/lock", os.O_RDWR | os.O_CREAT), "rb+") as file:
        if not lock(file.fileno(), timeout_s=timeout_s):
            raise DeliveredByAnotherError(
                f"{journal} is being delivered by another process: wait until it has finished."
            )
        yield
