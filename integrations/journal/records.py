"""The format of the journal, the file in which training records a run.

`journal.jsonl` is an append-only file with one JSON object per line. Each line ends with a
checksum, which detects damage: `"crc"`, the CRC-32 of the line's text before the checksum. The key
`kind` contains the kind of the record:

==============  ================================================================================
`start`         a run starts or is resumed: `version`, `run` (see `RunInfo`), `trackers` (specs)
`metrics`       rows with the same keys, as columns: `time_ms`, `step`, `values` by key
`histograms`    `time_ms`, `step`, `edges`, `counts` by name
`tags`          `tags` by name
`figure`        `path` of an image below the journal's folder, `name`, `step`
`table`         `name`, `columns`, `rows`, `step`
`artifact`      `path` of a file below the journal's folder, `name`, `aliases`
`model`         like `artifact`, plus `node`, the configuration that builds the model
`end`           `reason`, `message`, `signum`, `time_ms`
`continued`     the journal `by` continues the run; delivery of this journal stops
==============  ================================================================================

If the process dies while it writes a line, the line has no newline at its end and is ignored.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nntrain.integrations.journal.checks import check_record
from nntrain.integrations.tracker import MetricRow, ProcessInfo, RunEnd, RunInfo, Table
from nntrain.result import StopReason

VERSION = 1
"""The version of the format; journals of a newer version cannot be read."""

JOURNAL = "journal.jsonl"
"""The file name of the journal in the folder of a run."""

_TAIL = len(',"crc":"00000000"}')

Record = Mapping[str, Any]


class JournalError(ValueError):
    """Raised for a journal that has no start record or was written by a newer nntrain."""


# --- lines


def encode(record: Record) -> bytes:
    """Encodes a record as a line with a checksum; non-JSON values such as paths become strings."""
    body = json.dumps(record, separators=(",", ":"), default=str).encode()
    return b'%s,"crc":"%08x"}\n' % (body[:-1], zlib.crc32(body[:-1]))


def decode(line: bytes) -> dict[str, Any]:
    """Decodes a line and returns its record.

    Raises:
        ValueError: if the line is damaged, or is nested too deeply.
    """
    if not _has_checksum(line):
        raise ValueError("its checksum is wrong")
    try:
        record: dict[str, Any] = json.loads(line.rstrip(b"\n")[:-_TAIL] + b"}")
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err
    return record


def _has_checksum(line: bytes) -> bool:
    body = line.rstrip(b"\n")
    return body[-_TAIL:] == b',"crc":"%08x"}' % zlib.crc32(body[:-_TAIL])


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a journal: its number (from 1), end offset in bytes, and record or read error.

    `is_wrong` is True if the checksum fits, but nntrain does not write such a record.
    """

    number: int
    end: int
    record: Record | None
    damage: str = ""
    is_wrong: bool = False


def lines(path: Path, offset: int = 0, number: int = 0) -> Iterator[Line]:
    """Yields the complete lines after byte `offset`, where the first `number` lines end."""
    with open(path, "rb") as file:
        file.seek(offset)
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            offset, number = offset + len(raw), number + 1
            yield _line(number, offset, raw)


def _line(number: int, end: int, raw: bytes) -> Line:
    try:
        record = decode(raw)
    except ValueError as err:
        return Line(number, end, None, str(err), is_wrong=_has_checksum(raw))
    try:
        check_record(record, VERSION)
    except ValueError as err:
        return Line(number, end, None, str(err), is_wrong=True)
    return Line(number, end, record)


# --- records


def start_record(run: RunInfo, trackers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the record of a start or resume; `trackers` maps names to specs without secrets."""
    values = asdict(run)
    del values["folder"]
    values["params"] = {str(key): value for key, value in run.params.items()}
    return {
        "kind": "start",
        "version": VERSION,
        "run": values,
        "trackers": {name: dict(spec) for name, spec in trackers.items()},
    }


def run_of(record: Record, folder: Path) -> RunInfo:
    """Returns the run information of a start record.

    Raises:
        JournalError: if the journal has a newer version.
    """
    if record["version"] > VERSION:
        raise JournalError(
            f"{folder / JOURNAL} has version {record['version']}, and this nntrain reads versions "
            f"up to {VERSION}: update nntrain."
        )
    run = _known(RunInfo, record["run"])
    process = ProcessInfo(**_known(ProcessInfo, run.get("process", {})))
    return RunInfo(**{**run, "process": process, "folder": folder})


def _known(kind: type[RunInfo] | type[ProcessInfo], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the fields that this version of nntrain knows."""
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def metrics_record(
    time_ms: list[int], step: list[int], values: Mapping[str, list[float]]
) -> dict[str, Any]:
    """Returns a metrics record for rows with the same keys, given as columns."""
    return {"kind": "metrics", "time_ms": time_ms, "step": step, "values": dict(values)}


def metrics_records(rows: Iterable[MetricRow]) -> Iterator[dict[str, Any]]:
    """Converts rows to records; consecutive rows with the same keys share a record."""
    block: list[MetricRow] = []
    for row in rows:
        if block and row.values.keys() != block[0].values.keys():
            yield _columns(block)
            block = []
        block.append(row)
    if block:
        yield _columns(block)


def _columns(rows: list[MetricRow]) -> dict[str, Any]:
    values = {key: [row.values[key] for row in rows] for key in rows[0].values}
    return metrics_record([row.time_ms for row in rows], [row.step for row in rows], values)


def rows_of(record: Record) -> list[MetricRow]:
    """Returns the rows of a metrics record."""
    columns = record["values"]
    return [
        MetricRow(time_ms, step, {key: values[i] for key, values in columns.items()})
        for i, (time_ms, step) in enumerate(zip(record["time_ms"], record["step"], strict=True))
    ]


def end_record(end: RunEnd) -> dict[str, Any]:
    """Returns the record of a run's end."""
    signum = None if end.signum is None else int(end.signum)
    return {
        "kind": "end",
        "reason": str(end.reason),
        "message": end.message,
        "signum": signum,
        "time_ms": end.time_ms,
    }


def end_of(record: Record) -> RunEnd:
    """Returns the end of the run from an end record."""
    return RunEnd(
        StopReason(record["reason"]), record["message"], record["signum"], record["time_ms"]
    )


# --- whole journals


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one metric, in the order of recording.

    Attributes:
        step: `(n,)` int64, in training batches.
        time_ms: `(n,)` int64, in milliseconds since 1970.
        value: `(n,)` float64.
    """

    step: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    value: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of the run: its path, its name in the tracker, and the kind of its record."""

    path: Path
    name: str
    kind: str


@dataclass
class RunRecord:
    """The contents of a journal.

    Attributes:
        run: the information about the run in its latest start record.
        trackers: the specs of the run's trackers, by name.
        metrics: the values of each metric, by key.
        tags: the tags by name.
        files: figures, artifacts and models.
        tables: the tables.
        end: how the run ended; `None` while the run is active. If the process died, `end` is `None`
            until the shipper closes the journal.
        continued_by: the journal that continues the run, or `None`.
        damaged: the error of each unreadable line, by line number. The other attributes contain all
            readable lines.
        wrong: the numbers of the damaged lines whose checksum fits: nntrain did not write them.
    """

    run: RunInfo
    trackers: dict[str, dict[str, Any]]
    metrics: dict[str, Series] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    files: list[FileRecord] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    end: RunEnd | None = None
    continued_by: str | None = None
    damaged: dict[int, str] = field(default_factory=dict)
    wrong: list[int] = field(default_factory=list)


def read_journal(path: str | Path) -> RunRecord:
    """Reads a journal.

    Args:
        path: the journal, or the folder of the run.

    Raises:
        FileNotFoundError: if the journal does not exist.
        JournalError: if the journal has no start record or was written by a newer nntrain.
    """
    path = journal_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: pass the folder of a run, or the path of its {JOURNAL}."
        )
    found, columns = _Gathered(), _Columns()
    for line in lines(path):
        if line.record is None:
            found.damage(line)
        elif line.record["kind"] == "metrics":
            columns.add(line.record)
        else:
            found.take(line.record, path.parent)
    record = found.record(path)
    record.metrics = columns.series()
    return record


def journal_path(path: str | Path) -> Path:
    """Returns the path of a journal; `path` is the journal itself or the folder of the run."""
    path = Path(path)
    return path / JOURNAL if path.is_dir() else path


class _Columns:
    """Collects the columns of all metrics records and joins them."""

    def __init__(self) -> None:
        self._steps: dict[str, list[int]] = {}
        self._times: dict[str, list[int]] = {}
        self._values: dict[str, list[float]] = {}

    def add(self, record: Record) -> None:
        for key, values in record["values"].items():
            self._steps.setdefault(key, []).extend(record["step"])
            self._times.setdefault(key, []).extend(record["time_ms"])
            self._values.setdefault(key, []).extend(values)

    def series(self) -> dict[str, Series]:
        return {
            key: Series(
                np.array(self._steps[key], np.int64),
                np.array(self._times[key], np.int64),
                np.array(values, np.float64),
            )
            for key, values in self._values.items()
        }


class _Gathered:
    """Collects the contents of all records except metrics."""

    def __init__(self) -> None:
        self.start: tuple[RunInfo, dict[str, Any]] | None = None
        self.tags: dict[str, str] = {}
        self.files: list[FileRecord] = []
        self.tables: list[Table] = []
        self.end: RunEnd | None = None
        self.continued_by: str | None = None
        self.damaged: dict[int, str] = {}
        self.wrong: list[int] = []

    def damage(self, line: Line) -> None:
        self.damaged[line.number] = line.damage
        if line.is_wrong:
            self.wrong.append(line.number)

    def take(self, record: Record, folder: Path) -> None:
        match record["kind"]:
            case "start":
                self.start, self.end = (run_of(record, folder), dict(record["trackers"])), None
            case "tags":
                self.tags |= record["tags"]
            case "figure" | "artifact" | "model" as kind:
                self.files.append(FileRecord(folder / record["path"], record["name"], kind))
            case "table":
                self.tables.append(Table(record["name"], record["columns"], record["rows"]))
            case "end":
                self.end = end_of(record)
            case "continued":
                self.continued_by = record["by"]

    def record(self, path: Path) -> RunRecord:
        if self.start is None:
            first = next((f", but line {n}: {why}" for n, why in self.damaged.items()), "")
            raise JournalError(
                f"{path} has no start record: expected a journal written by nntrain{first}."
            )
        run, trackers = self.start
        return RunRecord(
            run,
            trackers,
            tags=self.tags,
            files=self.files,
            tables=self.tables,
            end=self.end,
            continued_by=self.continued_by,
            damaged=self.damaged,
            wrong=self.wrong,
        )
