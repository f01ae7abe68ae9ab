"""The lock that lets one process at a time deliver a journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nntrain.core.files import lock
from nntrain.integrations.shipping.state import FOLDER


class DeliveredByAnotherError(RuntimeError):
    """Another process is delivering this journal."""


@contextmanager
def delivery_lock(journal: Path, timeout_s: float = 0.0) -> Iterator[None]:
    """Lets one process at a time deliver a journal.

    Raises:
        DeliveredByAnotherError: if another process still delivers it after `timeout_s` seconds.
    """
    folder = journal.parent / FOLDER
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as file:
        if not lock(file.fileno(), timeout_s=timeout_s):
            raise DeliveredByAnotherError(
                f"{journal} is being delivered by another process: wait until it has finished."
            )
        yield
