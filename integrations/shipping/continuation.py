"""Continuing the journal of a resumed run: cut at the checkpoint, so that no point is doubled."""

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
"""Seconds to wait for a shipper that still delivers the journal of a killed process."""


def continue_journal(old: Path, new: Path, train_iter: int) -> None:
    """Starts the journal `new` with the records of `old` up to batch `train_iter`; closes `old`.

    The trackers continue the same run. They keep the points of later batches that they received,
    so these points are noted as held and not sent again.

    Raises:
        DeliveredByAnotherError: if a process still delivers `old` after a minute.
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
    """The last journal that continues this one; a checkpoint may be resumed more than once."""
    following = read_journal(journal).continued_by
    return _latest(Path(following)) if following and Path(following).is_file() else journal


def _cut(record: Record, train_iter: int) -> list[Record]:
    """The records to keep of one record: no end, and no rows of later batches."""
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
    """The state of the new journal's delivery: the tracker received the start of the journal."""
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
    """The last delivered step after the cut, by key."""
    last: dict[str, int] = {}
    for line, _ in delivered:
        assert line.record is not None
        for step, keys in _points(line.record):
            if step > train_iter:
                last |= {key: max(step, last.get(key, 0)) for key in keys}
    return last


def _points(record: Record) -> Iterator[tuple[int, Iterable[str]]]:
    """Yields the steps of a record, and the keys that have a value there."""
    if record["kind"] == "metrics":
        yield from ((row.step, row.values) for row in rows_of(record))
    elif record["kind"] == "histograms":
        yield record["step"], record["counts"]
