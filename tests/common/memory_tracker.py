"""A tracker that keeps everything in lists, to see what the adapter sends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nntrain import StopReason
from nntrain.integrations.base import MetricRow, RunInfo


class MemoryTracker:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.started: list[str | None] = []
        self.info = RunInfo()
        self.rows: list[MetricRow] = []
        self.calls = 0
        self.set_tags: dict[str, str] = {}
        self.files: list[str] = []
        self.figures: list[str] = []
        self.reasons: list[StopReason] = []

    def open(self) -> None:
        """There is nothing to reach."""

    def start(self, info: RunInfo, run_id: str | None = None) -> str:
        self.started.append(run_id)
        self.info = info
        return run_id or "run-1"

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        self.calls += 1
        self.rows += rows

    def tags(self, tags: Mapping[str, str]) -> None:
        self.set_tags |= tags

    def artifact(self, path: Path, folder: str = "") -> None:
        self.files.append(path.name)

    def figure(self, figure: Any, name: str) -> None:
        self.figures.append(name)

    def finish(self, reason: StopReason) -> None:
        self.reasons.append(reason)

    def where(self) -> str:
        return "in memory"

    def series(self, key: str) -> list[tuple[int, float]]:
        """The steps and values of one key, in the order in which they came."""
        return [(row.step, row.values[key]) for row in self.rows if key in row.values]
