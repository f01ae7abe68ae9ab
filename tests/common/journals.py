"""Journals for tests, and a tracker that fails on request."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nntrain.integrations.journal.records import (
    JOURNAL,
    Record,
    encode,
    end_record,
    metrics_record,
    start_record,
)
from nntrain.integrations.memory import MemoryClient, MemoryTracker
from nntrain.integrations.shipping.delivery import Delivery
from nntrain.integrations.shipping.spec import spec_of
from nntrain.integrations.tracker import (
    MetricRow,
    ModelFile,
    ProcessInfo,
    RunEnd,
    RunInfo,
    Started,
    Table,
    Tracker,
    TrackerClient,
)
from nntrain.result import StopReason

UID = "0123456789abcdef"

RUN = RunInfo(
    UID, "a run", {"lr": 0.1}, {"who": "me"}, process=ProcessInfo(args=["a", "b"]), time_ms=500
)
START = start_record(RUN, {})
END = end_record(RunEnd(StopReason.COMPLETED, time_ms=9_000_000))


def start(tracker: Tracker, name: str = "mlflow", uid: str = UID) -> Record:
    """Returns the start record of a run with one tracker."""
    return start_record(replace(RUN, uid=uid), {name: spec_of(tracker)})


def batches(first: int, last: int, n_group: int = 4, time_ms: int = 1_000) -> list[Record]:
    """Returns the records of the batches from `first` to `last`; each `batch/loss` is step / 2."""
    groups = [range(i, min(i + n_group, last + 1)) for i in range(first, last + 1, n_group)]
    return [
        metrics_record(
            [time_ms + step for step in steps],
            list(steps),
            {"batch/loss": [step / 2 for step in steps], "lr": [1 / step for step in steps]},
        )
        for steps in groups
    ]


def losses(first: int, last: int) -> list[tuple[int, float]]:
    """Returns the losses that a tracker should contain after delivery of `batches`."""
    return [(step, step / 2) for step in range(first, last + 1)]


def append(folder: Path, records: Iterable[Record]) -> Path:
    """Appends records to the journal in a folder and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / JOURNAL, "ab") as file:
        file.writelines(encode(record) for record in records)
    return folder / JOURNAL


def deliver(journal: Path, tracker: Tracker, name: str = "memory") -> Delivery:
    """Delivers a whole journal, as a new process would."""
    delivery = Delivery(journal, name, tracker)
    while delivery.advance():
        pass
    return delivery


@dataclass(frozen=True)
class FailingTracker(MemoryTracker):
    """Memory tracker that calls `before` and `after` around each client method; both may raise.

    Both functions receive the name of the method. With `counts_rows`, the client reports the
    number of stored rows, because the tracker would store repeated rows twice.
    """

    before: Callable[[str], None] = str
    after: Callable[[str], None] = str
    counts_rows: bool = False
    taken: list[tuple[int, Any]] = field(default_factory=list, init=False)
    """Each received row, histogram, figure and table, with its step."""

    def connect(self) -> TrackerClient:
        return FailingClient(self)


class FailingClient(MemoryClient):
    def __init__(self, tracker: FailingTracker) -> None:
        super().__init__(tracker)
        self.failing = tracker

    @contextmanager
    def _call(self, name: str, *taken: tuple[int, Any]) -> Iterator[None]:
        self.failing.before(name)
        self.failing.taken.extend(taken)
        yield
        self.failing.after(name)

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        with self._call("start"):
            started = super().start(run, run_id)
        n_row = len(self.failing.taken) if self.failing.counts_rows else None
        return Started(started.run_id, started.where, n_row)

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        with self._call("metrics", *((row.step, dict(row.values)) for row in rows)):
            super().metrics(rows)

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        with self._call("histograms", (row.step, dict(counts))):
            super().histograms(row, edges, counts)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        with self._call("set_tags"):
            super().set_tags(tags)

    def figure(self, path: Path, name: str, step: int) -> None:
        with self._call("figure", (step, {})):
            super().figure(path, name, step)

    def table(self, table: Table, step: int) -> None:
        with self._call("table", (step, {})):
            super().table(table, step)

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        with self._call("artifact"):
            super().artifact(path, name, aliases)

    def model(self, model: ModelFile) -> None:
        with self._call("model"):
            super().model(model)

    def finish(self, end: RunEnd) -> None:
        with self._call("finish"):
            super().finish(end)


@dataclass(frozen=True)
class PlainTracker(Tracker):
    """Tracker for metrics only; with `counts_rows`, its client reports how many rows it stored."""

    counts_rows: bool = False
    rows: list[MetricRow] = field(default_factory=list, init=False)

    def connect(self) -> TrackerClient:
        return PlainClient(self)


class PlainClient(TrackerClient):
    def __init__(self, tracker: PlainTracker) -> None:
        self.tracker = tracker

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        counted = len(self.tracker.rows) if self.tracker.counts_rows else None
        return Started("plain", "nowhere", counted)

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        self.tracker.rows.extend(rows)

    def finish(self, end: RunEnd) -> None:
        """Does nothing."""


def every(n: int, error: Callable[[], Exception]) -> Callable[[str], None]:
    """Returns a function that raises an error on every n-th call."""
    calls = 0

    def call(_: str) -> None:
        nonlocal calls
        calls += 1
        if calls % n == 0:
            raise error()

    return call
