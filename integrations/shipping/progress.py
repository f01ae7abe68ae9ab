"""Progress bars for deliveries, shown while a process waits for them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self, cast

from nntrain.core.streams import SafeStream
from nntrain.integrations.shipping.state import read_state

if TYPE_CHECKING:
    from rich.progress import Progress

AFTER_S = 0.5
"""Seconds to wait before the bars appear."""

EVERY_S = 0.1
"""Seconds between two updates."""


class DeliveryBar:
    """Shows a progress bar (in bytes) for each slow delivery if stderr is a terminal.

    Args:
        deliveries: pairs of a journal and the name of a tracker that receives it.
    """

    def __init__(self, deliveries: Sequence[tuple[Path, str]]) -> None:
        self._deliveries = deliveries
        self._bars: Progress | None = None
        self._next_s = time.monotonic() + AFTER_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def draw(self) -> None:
        """Updates the bars, at most once every 0.1 s."""
        if (now := time.monotonic()) < self._next_s:
            return
        self._next_s = now + EVERY_S
        if self._bars is None:
            self._bars = _bars(self._deliveries)
        for task, (journal, name) in zip(self._bars.tasks, self._deliveries, strict=True):
            self._bars.update(
                task.id, completed=read_state(journal, name).offset, total=_size(journal)
            )
        self._bars.refresh()


def _size(journal: Path) -> int:
    return journal.stat().st_size if journal.exists() else 0


def _bars(deliveries: Sequence[tuple[Path, str]]) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(file=cast("IO[str]", SafeStream(lambda: sys.stderr)))
    columns = (
        TextColumn("delivering to {task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(),
    )
    bars = Progress(
        *columns,
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_interactive,
    )
    for _, name in deliveries:
        bars.add_task(name, total=None)
    bars.start()
    return bars
