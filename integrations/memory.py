"""A tracker that keeps everything in memory, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nntrain.integrations.tracker import (
    MetricRow,
    ModelFile,
    Refused,
    RunEnd,
    RunInfo,
    Started,
    Table,
)


@dataclass
class MemoryRun:
    """What one run recorded; files are kept by name as their bytes."""

    id: str
    info: RunInfo
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    rows: list[MetricRow] = field(default_factory=list)
    """The rows of metrics in the order in which they came, without values that came before."""
    histograms: list[tuple[MetricRow, list[float], dict[str, list[float]]]] = field(
        default_factory=list
    )
    """Row, edges, and counts by name."""
    figures: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, ModelFile] = field(default_factory=dict)
    end: RunEnd | None = None
    """How the run ended; `None` while it goes on."""
    n_starts: int = 0
    """How often the run was begun or gone on with."""

    def series(self, key: str) -> list[tuple[int, float]]:
        """The steps and values of one key, in the order in which they came."""
        return [(row.step, row.values[key]) for row in self.rows if key in row.values]

    @property
    def keys(self) -> set[str]:
        """The keys of all metrics."""
        return {key for row in self.rows for key in row.values}


@dataclass
class MemoryTracker:
    """Keeps runs in memory: what a test looks at after a fit.

    As in MLflow, a value that comes twice with the same key, step and time is kept once. Nothing of it is on the disk, so it
    shows only what this very object was handed.

    Args:
        system_metrics: whether the use of processor, memory and GPU is recorded.
    """

    system_metrics: bool = False

    def __post_init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}
        """The runs by id, in the order of their beginning."""
        self._run: MemoryRun | None = None
        self._seen: dict[str, set[tuple[str, int, int, str]]] = {}

    @property
    def run(self) -> MemoryRun:
        """The run that was begun last.

        Raises:
            LookupError: if none was.
        """
        if self._run is None:
            raise LookupError("no run was begun in this MemoryTracker")
        return self._run

    def series(self, key: str) -> list[tuple[int, float]]:
        """The steps and values of one key of the last run."""
        return self.run.series(key)

    def settled(self) -> MemoryTracker:
        """The tracker itself: nothing depends on folder or environment."""
        return self

    def load(self) -> None:
        """There is no library to import."""

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Begins the run, or goes on with the one of that id or that `uid`."""
        key = run_id or run.uid or f"run-{len(self.runs) + 1}"
        self._run = self.runs.setdefault(key, MemoryRun(key, run))
        self._run.params |= run.params
        self._run.tags |= run.tags
        self._run.texts |= run.texts
        self._run.end = None
        self._run.n_starts += 1
        return Started(key, f"memory run:      {run.name or key}")

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Keeps the values that are new."""
        seen = self._seen.setdefault(self.run.id, set())
        for row in rows:
            points = {
                key: (key, row.time_ms, row.step, repr(float(value)))
                for key, value in row.values.items()
            }
            values = {
                key: float(row.values[key]) for key, point in points.items() if point not in seen
            }
            seen.update(points.values())
            if values:
                self.run.rows.append(MetricRow(row.time_ms, row.step, values))

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Keeps histograms, unless they were kept before."""
        entry = (row, list(edges), {name: list(values) for name, values in counts.items()})
        if entry not in self.run.histograms:
            self.run.histograms.append(entry)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        self.run.tags |= tags

    def figure(self, path: Path, name: str, step: int) -> None:
        """Keeps the bytes of a figure."""
        self.run.figures[name] = _content(path)

    def table(self, table: Table, step: int) -> None:
        """Keeps a table."""
        self.run.tables[table.name] = table

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        """Keeps the bytes of a file."""
        self.run.artifacts[name] = _content(path)

    def model(self, model: ModelFile) -> None:
        """Keeps which file the weights are in."""
        self.run.models[model.name] = model

    def finish(self, end: RunEnd) -> None:
        """Ends the run."""
        self.run.end = end


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise Refused(f"{path} is no file")
    return path.read_bytes()
