"""A tracker that stores runs in memory, for tests."""

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
    Tracker,
    TrackerClient,
)


@dataclass
class MemoryRun:
    """The records of one run. Figures and artifacts are stored as bytes by name."""

    id: str
    info: RunInfo
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    rows: list[MetricRow] = field(default_factory=list)
    """The rows of metrics in order of arrival; repeated values are dropped."""
    histograms: list[tuple[MetricRow, list[float], dict[str, list[float]]]] = field(
        default_factory=list
    )
    """Tuples of the row (time and step), the bin edges, and the counts by name."""
    figures: dict[str, bytes] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, ModelFile] = field(default_factory=dict)
    end: RunEnd | None = None
    """How the run ended; `None` while it is running."""
    n_starts: int = 0
    """The number of times that the run was started or resumed."""
    _points: set[tuple[str, int, int, str]] = field(default_factory=set, repr=False)

    def series(self, key: str) -> list[tuple[int, float]]:
        """Returns the steps and values of one metric in order of arrival."""
        return [(row.step, row.values[key]) for row in self.rows if key in row.values]

    @property
    def keys(self) -> set[str]:
        """The keys of all metrics."""
        return {key for row in self.rows for key in row.values}

    def add(self, row: MetricRow) -> None:
        """Adds the values of a row, except those that the run already contains."""
        points = {
            key: (key, row.time_ms, row.step, repr(float(value)))
            for key, value in row.values.items()
        }
        new = {key: float(row.values[key]) for key in points if points[key] not in self._points}
        self._points.update(points.values())
        if new:
            self.rows.append(MetricRow(row.time_ms, row.step, new))


@dataclass(frozen=True)
class MemoryTracker(Tracker):
    """Stores runs in memory so that a test can read them after a fit.

    Values that are delivered twice are stored once, as in MLflow. All clients of a `MemoryTracker`
    write to its `runs`. Use it with `nntrain.integrations.shipping.client.InProcess`, which
    delivers within the training process.

    Args:
        system_metrics: whether to record CPU, memory and GPU usage.
    """

    system_metrics: bool = False
    runs: dict[str, MemoryRun] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The runs by id, in the order in which they were first started."""
    starts: list[MemoryRun] = field(default_factory=list, init=False, repr=False, compare=False)
    """One entry per start or resume, in order: the run that was started or resumed."""

    @property
    def run(self) -> MemoryRun:
        """The run that was most recently started or resumed.

        Raises:
            LookupError: if no run was started.
        """
        if not self.starts:
            raise LookupError("this MemoryTracker has no run: start one first.")
        return self.starts[-1]

    def series(self, key: str) -> list[tuple[int, float]]:
        """Returns the steps and values of one metric of the latest run."""
        return self.run.series(key)

    def connect(self) -> MemoryClient:
        """Returns a client that writes to this tracker's `runs`."""
        return MemoryClient(self)


class MemoryClient(TrackerClient):
    """Writes to the runs of a `MemoryTracker`."""

    def __init__(self, tracker: MemoryTracker) -> None:
        self._tracker = tracker
        self._run: MemoryRun | None = None

    @property
    def run(self) -> MemoryRun:
        """The run that this client started.

        Raises:
            LookupError: if the client has not started a run.
        """
        if self._run is None:
            raise LookupError("this client has no run: call start first.")
        return self._run

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Starts a run, or resumes the run with the same id or `uid`."""
        runs = self._tracker.runs
        key = run_id or run.uid or f"run-{len(runs) + 1}"
        self._run = runs.setdefault(key, MemoryRun(key, run))
        self._tracker.starts.append(self._run)
        self._run.params |= run.params
        self._run.tags |= run.tags
        self._run.texts |= run.texts
        self._run.end = None
        self._run.n_starts += 1
        return Started(key, f"memory run:      {run.name or key}")

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Stores new values and ignores repeated values."""
        for row in rows:
            self.run.add(row)

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Stores new histograms and ignores repeated histograms."""
        entry = (row, list(edges), {name: list(values) for name, values in counts.items()})
        if entry not in self.run.histograms:
            self.run.histograms.append(entry)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags."""
        self.run.tags |= tags

    def figure(self, path: Path, name: str, step: int) -> None:
        """Stores the bytes of a figure."""
        self.run.figures[name] = _content(path)

    def table(self, table: Table, step: int) -> None:
        """Stores a table."""
        self.run.tables[table.name] = table

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        """Stores the bytes of a file."""
        self.run.artifacts[name] = _content(path)

    def model(self, model: ModelFile) -> None:
        """Stores the path of the weights."""
        self.run.models[model.name] = model

    def finish(self, end: RunEnd) -> None:
        """Ends the run."""
        self.run.end = end


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise Refused(f"{path} is not a file")
    return path.read_bytes()
