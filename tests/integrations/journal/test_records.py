"""The format of the journal: records are read back bit for bit, and only damaged lines are lost."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nntrain.integrations.journal.records import (
    JOURNAL,
    FileRecord,
    JournalError,
    Record,
    decode,
    encode,
    end_of,
    end_record,
    lines,
    metrics_record,
    metrics_records,
    read_journal,
    rows_of,
    run_of,
    start_record,
)
from nntrain.integrations.tracker import MetricRow, ProcessInfo, RunEnd, RunInfo, Table
from nntrain.result import StopReason
from tests.common.journals import END, START, append, batches, losses

NAN, INF = float("nan"), float("inf")

FLOATS = [0.0, -0.0, 0.1, 1 / 3, 5e-324, -1.7976931348623157e308, 2**53 + 1.0, 1e16, INF, -INF, NAN]

RUN = RunInfo(
    uid="0123456789abcdef",
    name="Läufe 🏃 \u2028 \x1f",
    params={"lr": 0.1, "model.hidden": [50, 20], "none": None, "wd": NAN},
    tags={"a": "b"},
    texts={"config.yaml": "lr: 0.1\nname: 'ä'\n"},
    process=ProcessInfo(12, "host", "/cwd", "program.py", ["--a", "b c"], "/usr/bin/python3"),
    time_ms=1_700_000_000_123,
)
TRACKERS = {
    "mlflow": {
        "_target_": "nntrain.integrations.mlflow.MLflowTracker",
        "tracking_uri": "sqlite:////tmp/mlflow.db",
    }
}

OTHERS: list[Mapping[str, Any]] = [
    {
        "kind": "histograms",
        "time_ms": 1,
        "step": 7,
        "edges": [-INF, 0.1, INF],
        "counts": {"act/0": [1.0, 2.0]},
    },
    {"kind": "tags", "tags": {"nntrain.outcome": "completed", "ключ": "значение\n"}},
    {"kind": "figure", "path": "files/0001-a.png", "name": "plots/a.png", "step": 2**63 - 1},
    {
        "kind": "table",
        "name": "t",
        "columns": ["a", "ß"],
        "rows": [[1, "x"], [None, -0.5]],
        "step": 3,
    },
    {"kind": "artifact", "path": "files/0002-b", "name": "reports/b", "aliases": ["best"]},
    {
        "kind": "model",
        "path": "best.pt",
        "name": "best.pt",
        "aliases": [],
        "node": {"_target_": "m"},
        "trusted_targets": [],
    },
    {"kind": "continued", "by": "/elsewhere/journal.jsonl"},
]


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@pytest.mark.parametrize(
    "record",
    [START, END, start_record(RUN, {}), *OTHERS, *batches(1, 5)],
    ids=lambda r: str(r["kind"]),
)
def test_a_record_is_one_line_and_is_read_back_equal(record: Record) -> None:
    line = encode(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert repr(decode(line)) == repr(dict(record))


def test_floats_and_steps_are_read_back_bit_for_bit() -> None:
    steps = [0, 1, 2**31, 2**53 + 1, 2**63 - 1, 5, 5, 4, 3, 2, 1]
    record = decode(encode(metrics_record(list(range(11)), steps, {"a": FLOATS})))
    assert [(row.time_ms, row.step) for row in rows_of(record)] == list(enumerate(steps))
    assert [bits(row.values["a"]) for row in rows_of(record)] == [bits(value) for value in FLOATS]


def test_a_run_and_its_trackers_are_read_back(tmp_path: Path) -> None:
    path = append(tmp_path, [start_record(RUN, TRACKERS)])
    found = read_journal(tmp_path)
    assert repr(found.run) == repr(RunInfo(**{**vars_of(RUN), "folder": tmp_path}))
    assert found.trackers == TRACKERS
    assert read_journal(path).run.uid == RUN.uid


def vars_of(run: RunInfo) -> dict[str, Any]:
    return {name: getattr(run, name) for name in RunInfo.__slots__}


def test_params_that_json_cannot_represent_are_kept_as_text(tmp_path: Path) -> None:
    params: dict[Any, Any] = {
        "path": Path("/a"),
        3: np.float32(0.5),
        ("a", 1): {StopReason.PRUNED},
        "dtype": np.dtype("f4"),
    }
    append(tmp_path, [start_record(RunInfo(params=params), {})])
    expected = {"path": "/a", "3": "0.5", "('a', 1)": str({StopReason.PRUNED}), "dtype": "float32"}
    assert read_journal(tmp_path).run.params == expected


@pytest.mark.parametrize("reason", StopReason)
def test_an_end_is_read_back(reason: StopReason) -> None:
    end = RunEnd(reason, "why: 'ä'\n", 15, 12)
    assert end_of(decode(encode(end_record(end)))) == end


def test_read_journal_returns_columns_in_the_order_of_recording(tmp_path: Path) -> None:
    value = metrics_record([9], [2], {"valid/loss": [0.25]})
    append(tmp_path, [START, *batches(1, 6), value, *batches(3, 4, time_ms=5_000), END])
    found = read_journal(tmp_path)
    assert list(found.metrics) == ["batch/loss", "lr", "valid/loss"]
    series = found.metrics["batch/loss"]
    assert (series.step.dtype, series.time_ms.dtype, series.value.dtype) == (
        np.int64,
        np.int64,
        np.float64,
    )
    assert series.step.tolist() == [1, 2, 3, 4, 5, 6, 3, 4]
    assert series.time_ms.tolist() == [1001, 1002, 1003, 1004, 1005, 1006, 5003, 5004]
    assert series.value.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 1.5, 2.0]
    assert found.metrics["valid/loss"].step.tolist() == [2]
    assert found.end == RunEnd(StopReason.COMPLETED, time_ms=9_000_000)


def test_read_journal_returns_tags_files_and_tables(tmp_path: Path) -> None:
    append(tmp_path, [START, *OTHERS])
    found = read_journal(tmp_path)
    assert found.tags == {"nntrain.outcome": "completed", "ключ": "значение\n"}
    assert found.files == [
        FileRecord(tmp_path / "files/0001-a.png", "plots/a.png", "figure"),
        FileRecord(tmp_path / "files/0002-b", "reports/b", "artifact"),
        FileRecord(tmp_path / "best.pt", "best.pt", "model"),
    ]
    assert found.tables == [Table("t", ["a", "ß"], [[1, "x"], [None, -0.5]])]
    assert found.continued_by == "/elsewhere/journal.jsonl"
    assert found.end is None


def test_a_run_that_starts_again_after_its_end_has_no_end(tmp_path: Path) -> None:
    append(tmp_path, [START, END, START, *batches(1, 2)])
    assert read_journal(tmp_path).end is None
    append(tmp_path, [END])
    assert read_journal(tmp_path).end is not None


@pytest.mark.parametrize("n_missing", [1, 2, 30])
def test_a_torn_last_line_is_ignored(tmp_path: Path, n_missing: int) -> None:
    path = append(tmp_path, [START, *batches(1, 8)])
    path.write_bytes(path.read_bytes()[:-n_missing])
    found = read_journal(path)
    assert found.metrics["batch/loss"].step.tolist() == [1, 2, 3, 4]
    assert found.damaged == {}


@pytest.mark.parametrize("number", [2, 3, 5, 6])
@pytest.mark.parametrize("where", [0, 20, -3, -12])
def test_a_flipped_byte_damages_only_its_line_which_is_named(
    tmp_path: Path, number: int, where: int
) -> None:
    path = append(tmp_path, [START, *batches(1, 16), END])
    raw = path.read_bytes().splitlines(keepends=True)
    line = bytearray(raw[number - 1])
    line[where] ^= 1
    raw[number - 1] = bytes(line)
    path.write_bytes(b"".join(raw))
    found = read_journal(path)
    assert list(found.damaged) == [number]
    assert "checksum" in found.damaged[number]
    lost = range(4 * (number - 2) + 1, 4 * (number - 1) + 1)
    series = found.metrics["batch/loss"]
    assert list(zip(series.step, series.value, strict=True)) == [
        row for row in losses(1, 16) if row[0] not in lost
    ]
    assert (found.end is None) == (number == 6)


def test_every_flipped_bit_of_a_line_is_detected() -> None:
    line = encode(batches(1, 2)[0])[:-1]
    for i in range(8 * len(line)):
        flipped = bytearray(line)
        flipped[i // 8] ^= 1 << i % 8
        with pytest.raises(ValueError, match="checksum"):
            decode(bytes(flipped))


@pytest.mark.parametrize(
    "line", [b"\n", b"x\n", b"{}\n", b'{"kind":"end"}\n', b"\xff\xfe\x00\n", b"[1,2]\n"]
)
def test_a_line_that_is_not_a_record_is_damaged_and_the_next_is_read(
    tmp_path: Path, line: bytes
) -> None:
    path = append(tmp_path, [START])
    path.write_bytes(path.read_bytes() + line + encode(END))
    found = read_journal(path)
    assert list(found.damaged) == [2]
    assert found.end is not None


def test_reading_can_continue_after_any_line(tmp_path: Path) -> None:
    path = append(tmp_path, [START, *batches(1, 16), END])
    all_lines = list(lines(path))
    assert [line.number for line in all_lines] == [1, 2, 3, 4, 5, 6]
    assert all_lines[-1].end == path.stat().st_size
    for i, line in enumerate(all_lines, start=1):
        assert list(lines(path, line.end, line.number)) == all_lines[i:]


def test_a_newer_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = append(tmp_path, [{**START, "version": 2}])
    with pytest.raises(JournalError) as caught:
        read_journal(path)
    assert (
        str(caught.value)
        == f"{path} has version 2, and this nntrain reads versions up to 1: update nntrain."
    )


@pytest.mark.parametrize("content", [b"", b"nothing of ours\n", encode(END), b'{"kind":"start'])
def test_a_journal_without_a_start_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    with pytest.raises(
        JournalError,
        match=r"journal\.jsonl has no start record: expected a journal written by nntrain",
    ):
        read_journal(tmp_path)


def test_a_missing_journal_raises_file_not_found(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / JOURNAL, Path("zzz")):
        with pytest.raises(FileNotFoundError) as caught:
            read_journal(path)
        assert str(caught.value) == (
            f"{path / JOURNAL if path == tmp_path else path} does not exist: "
            "pass the folder of a run, or the path of its journal.jsonl."
        )


def test_neighboring_rows_with_the_same_keys_share_a_record() -> None:
    keys = ["ab", "ab", "ba", "a", "ab", ""]
    rows = [MetricRow(10 + i, i, dict.fromkeys(names, i / 3)) for i, names in enumerate(keys)]
    records = list(metrics_records(rows))
    assert [list(record["step"]) for record in records] == [[0, 1, 2], [3], [4], [5]]
    assert [row for record in records for row in rows_of(decode(encode(record)))] == rows
    assert list(metrics_records([])) == []


def test_the_folder_of_a_run_is_that_of_its_journal(tmp_path: Path) -> None:
    assert run_of(decode(encode(START)), tmp_path).folder == tmp_path
