"""Going on with the journal of a run that is resumed: cut at the checkpoint's step, so that no curve has double points."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

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
from nntrain.integrations.shipping.delivery import (
    FOLDER,
    DeliveryState,
    Held,
    delivery_lock,
    read_state,
    write_state,
)

WAIT_S = 60.0
"""Seconds to wait for a shipper that still delivers what a killed process has left."""


def continue_journal(old: Path, new: Path, train_iter: int) -> None:
    """Begins the journal `new` with what `old` holds up to training batch `train_iter`, and closes `old` for good.

    The trackers go on with the same run: what they got of later batches cannot be taken back, so these points are noted as
    held, and not sent a second time.

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
    """The journal that went on with this one last, where a run is resumed twice from the same checkpoint."""
    following = read_journal(journal).continued_by
    return _latest(Path(following)) if following and Path(following).is_file() else journal


def _cut(record: Record, train_iter: int) -> list[Record]:
    """What is kept of a record: nothing of an end, and no row of a later batch."""
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
    if old != new and (old / "files").is_dir():
        shutil.copytree(
            old / "files", new / "files", copy_function=link_or_copy, dirs_exist_ok=True
        )


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Keeps a file under a second name without copying it, where the file system can."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _state(
    state: DeliveryState, kept: list[tuple[Line, list[Record]]], train_iter: int
) -> DeliveryState:
    """Where the delivery of the new journal stands: what the tracker has got of the old one is a beginning of it."""
    delivered = [(line, records) for line, records in kept if line.end <= state.offset]
    sent = sum(state.n_rows(line.record) for line, _ in delivered if line.record is not None)
    return DeliveryState(
        run_id=state.run_id,
        where=state.where,
        offset=sum(len(encode(record)) for _, records in delivered for record in records),
        line=sum(len(records) for _, records in delivered),
        n_refused=state.n_refused,
        notes=state.notes,
        held=[*state.held, Held(train_iter, _later(delivered, train_iter))],
        held_rows=state.held_rows + sent - _n_rows(state, delivered),
        kept_rows=_n_rows(state, kept),
    )


def _n_rows(state: DeliveryState, kept: list[tuple[Line, list[Record]]]) -> int:
    return sum(state.n_rows(record) for _, records in kept for record in records)


def _later(delivered: list[tuple[Line, list[Record]]], train_iter: int) -> dict[str, int]:
    """The last step after the cut that was delivered, by key."""
    last: dict[str, int] = {}
    for line, _ in delivered:
        assert line.record is not None
        for step, keys in _points(line.record):
            if step > train_iter:
                last |= {key: max(step, last.get(key, 0)) for key in keys}
    return last


def _points(record: Record) -> Iterator[tuple[int, Iterable[str]]]:
    """The steps of a record, and which keys have a value there."""
    if record["kind"] == "metrics":
        yield from ((row.step, row.values) for row in rows_of(record))
    elif record["kind"] == "histograms":
        yield record["step"], record["counts"]
