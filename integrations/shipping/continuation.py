"""Continues the journal of a resumed run without duplicating any point."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from nntrain.core.files import link_or_copy
from nntrain.integrations.journal.files import FOLDER as FILES
from nntrain.integrations.journal.records import (
    Line,
    Record,
    encode,
    lines,
    metrics_records,
    read_journal,
    rows_of,
)
from nntrain.integrations.journal.writer import append_if_free
from nntrain.integrations.shipping.lock import delivery_lock
from nntrain.integrations.shipping.state import FOLDER, DeliveryState, Held, read_state, write_state

WAIT_S = 60.0
"""Seconds to wait for a shipper that is still delivering the journal of a killed process."""


def continue_journal(old: Path, new: Path, train_iter: int) -> None:
    """Copies the records up to batch `train_iter` from `old` to `new`; marks `old` as continued.

    The trackers continue the same run. Points of later batches that were already delivered stay in
    the trackers. The delivery state lists these points so that they are not sent again.

    Raises:
        DeliveredByAnotherError: if another process is still delivering `old` after a minute.
    """
    old = _latest(old)
    with delivery_lock(old, WAIT_S):
        kept = [
            (line, _cut(line.record, train_iter)) for line in lines(old) if line.record is not None
        ]
        _write(new, kept)
        _link_files(old.parent, new.parent)
        for path in (old.parent / FOLDER).glob("*.json"):
            write_state(new, path.stem, _state(read_state(old, path.stem), kept, train_iter))
        if old != new:
            append_if_free(old, [{"kind": "continued", "by": str(new)}])


def _latest(journal: Path) -> Path:
    """Returns the newest journal of the run, which may have been resumed several times."""
    following = read_journal(journal).continued_by
    return _latest(Path(following)) if following and Path(following).is_file() else journal


def _cut(record: Record, train_iter: int) -> list[Record]:
    """Returns the part of a record to copy: no end of the run, and no rows of later batches."""
    match record["kind"]:
        case "end" | "continued":
            return []
        case "histograms" | "figure" | "table":
            return [record] if record["step"] <= train_iter else []
        case "metrics":
            rows = rows_of(record)
            kept = [row for row in rows if row.step <= train_iter]
            return [record] if len(kept) == len(rows) else list(metrics_records(kept))
        case _:
            return [record]


def _write(path: Path, kept: list[tuple[Line, list[Record]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        for _, records in kept:
            file.writelines(encode(record) for record in records)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _link_files(old: Path, new: Path) -> None:
    if old != new and (old / FILES).is_dir():
        shutil.copytree(old / FILES, new / FILES, copy_function=link_or_copy, dirs_exist_ok=True)


def _state(
    state: DeliveryState, kept: list[tuple[Line, list[Record]]], train_iter: int
) -> DeliveryState:
    """Returns the delivery state of the new journal, given the state of the old journal."""
    delivered = [(line, records) for line, records in kept if line.end <= state.offset]
    sent = sum(state.n_rows(line.record) for line, _ in delivered if line.record is not None)
    return DeliveryState(
        run_id=state.run_id,
        where=state.where,
        offset=sum(len(encode(record)) for _, records in delivered for record in records),
        line=sum(len(records) for _, records in delivered),
        n_refused=state.n_refused,
        notes=state.notes,
        unsupported=state.unsupported,
        held=[*state.held, Held(train_iter, _later(delivered, train_iter))],
        held_rows=state.held_rows + sent - _n_rows(state, delivered),
        kept_rows=_n_rows(state, kept),
    )


def _n_rows(state: DeliveryState, kept: list[tuple[Line, list[Record]]]) -> int:
    return sum(state.n_rows(record) for _, records in kept for record in records)


def _later(delivered: list[tuple[Line, list[Record]]], train_iter: int) -> dict[str, int]:
    """Returns the last delivered step of each key that has steps after `train_iter`."""
    last: dict[str, int] = {}
    for line, _ in delivered:
        assert line.record is not None
        for step, keys in _points(line.record):
            if step > train_iter:
                last |= {key: max(step, last.get(key, 0)) for key in keys}
    return last


def _points(record: Record) -> Iterator[tuple[int, Iterable[str]]]:
    """Yields each step of a record, with the keys that have a value at that step."""
    if record["kind"] == "metrics":
        yield from ((row.step, row.values) for row in rows_of(record))
    elif record["kind"] == "histograms":
        yield record["step"], record["counts"]
