"""Journals for tests, and a tracker that fails as a test says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from nntrain.integrations.memory import MemoryTracker
from nntrain.integrations.shipping.delivery import Delivery
from nntrain.integrations.shipping.spec import node_of
from nntrain.integrations.tracker import (
    MetricRow,
    ModelFile,
    ProcessInfo,
    RunEnd,
    RunInfo,
    Started,
    Table,
)
from nntrain.result import StopReason

UID = "0123456789abcdef"

RUN = RunInfo(
    UID, "a run", {"lr": 0.1}, {"who": "me"}, process=ProcessInfo(args=["a", "b"]), time_ms=500
)
START = start_record(RUN, {})
END = end_record(RunEnd(StopReason.COMPLETED, time_ms=9_000_000))


def start(tracker: Any, name: str = "mlflow", uid: str = UID) -> Record:
    """The start of a run that was recorded with a tracker."""
    return start_record(replace(RUN, uid=uid), {name: node_of(tracker)})


def batches(first: int, last: int, n_group: int = 4, time_ms: int = 1_000) -> list[Record]:
    """The records of the batches from `first` to `last`, of whose keys `batch/loss` has half its step as value."""
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
    """What a tracker should hold of `batches`."""
    return [(step, step / 2) for step in range(first, last + 1)]


def append(folder: Path, records: Iterable[Record]) -> Path:
    """Appends records to the journal in a folder; returns where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / JOURNAL, "ab") as file:
        file.writelines(encode(record) for record in records)
    return folder / JOURNAL


def deliver(journal: Path, tracker: MemoryTracker, name: str = "memory") -> Delivery:
    """Delivers all that is in a journal, as a new process would."""
    delivery = Delivery(journal, name, tracker)
    while delivery.advance():
        pass
    return delivery


@dataclass
class FailingTracker(MemoryTracker):
    """Calls `before` and `after` with the name of each call that hands something over; they may raise.

    Where `counts_rows` is set it is one that cannot take a row twice: it keeps what comes, and says how much it holds.
    """

    before: Callable[[str], None] = str
    after: Callable[[str], None] = str
    counts_rows: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.taken: list[tuple[int, Any]] = []
        """Each row, histogram, figure and table that came, with its step."""

    def _call(self, name: str, call: Callable[[], None]) -> None:
        self.before(name)
        call()
        self.after(name)

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        self.before("start")
        started = super().start(run, run_id)
        self.after("start")
        return Started(started.run_id, started.where, len(self.taken) if self.counts_rows else None)

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        self.before("metrics")
        self.taken += [(row.step, dict(row.values)) for row in rows]
        super().metrics(rows)
        self.after("metrics")

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        self.before("histograms")
        self.taken.append((row.step, dict(counts)))
        super().histograms(row, edges, counts)
        self.after("histograms")

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._call("set_tags", lambda: MemoryTracker.set_tags(self, tags))

    def figure(self, path: Path, name: str, step: int) -> None:
        self.before("figure")
        self.taken.append((step, {}))
        super().figure(path, name, step)
        self.after("figure")

    def table(self, table: Table, step: int) -> None:
        self.before("table")
        self.taken.append((step, {}))
        super().table(table, step)
        self.after("table")

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        self._call("artifact", lambda: MemoryTracker.artifact(self, path, name, aliases))

    def model(self, model: ModelFile) -> None:
        self._call("model", lambda: MemoryTracker.model(self, model))

    def finish(self, end: RunEnd) -> None:
        self._call("finish", lambda: MemoryTracker.finish(self, end))


def every(n: int, error: Callable[[], Exception]) -> Callable[[str], None]:
    """Raises at each n-th call."""
    calls = 0

    def call(_: str) -> None:
        nonlocal calls
        calls += 1
        if calls % n == 0:
            raise error()

    return call
