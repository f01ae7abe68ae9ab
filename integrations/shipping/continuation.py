"""Continues the journal of a resumed run without duplicating any point."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from nntrain.config.targets import in_packages
from nntrain.core.sinks import create_below, link_below, replace_below
from nntrain.integrations.journal.files import FOLDER as FILES
from nntrain.integrations.journal.records import (
    JournalError,
    Line,
    Record,
    encode,
    journal_path,
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


def continue_journal(
    old: Path,
    new: Path,
    train_iter: int,
    trusted: Sequence[str] = (),
    uid: str | None = None,
) -> None:
    """Copies the records up to batch `train_iter` from `old` to `new`; marks `old` as continued.

    The trackers continue the same run. Points of later batches that were already delivered stay in
    the trackers. The delivery state lists these points so that they are not sent again.

    Args:
        old: the journal of the earlier run, or an earlier journal of this run.
        new: the journal to write.
        train_iter: the last batch to keep.
        trusted: packages that the models of the earlier run may use; the journal may come from
            somebody else, so it cannot grant this itself.
        uid: the id of the run in the checkpoint, if it is known; a checkpoint may come from
            somebody else, and must not take over another run.

    Raises:
        JournalError: if `old` cannot be read, or records another run.
        DeliveredByAnotherError: if another process is still delivering `old` after a minute.
        OSError: if a file to write is a symbolic link, or cannot be written.
    """
    if uid is not None and read_journal(old).run.uid != uid:
        raise JournalError(f"{old} records another run than the checkpoint: resume another one.")
    old = latest_journal(old)
    with delivery_lock(old, WAIT_S):
        kept = [
            (line, [_granted(record, trusted) for record in _cut(line.record, train_iter)])
            for line in lines(old)
            if line.record is not None
        ]
        states = {
            path.stem: read_state(old, path.stem) for path in (old.parent / FOLDER).glob("*.json")
        }
        _write(new, kept)
        _link_files(old.parent, new.parent)
        for name, state in states.items():
            write_state(new, name, _state(state, kept, train_iter))
        if old != new:
            append_if_free(old, [{"kind": "continued", "by": str(new)}])


def latest_journal(journal: Path) -> Path:
    """Returns the newest journal of the run, which may have been resumed several times."""
    uid = read_journal(journal).run.uid
    seen = {journal.resolve()}
    while (following := _following(journal, uid)) and following.resolve() not in seen:
        journal = following
        seen.add(journal.resolve())
    return journal


def _following(journal: Path, uid: str) -> Path | None:
    """Returns the journal that continues a journal, if it exists and belongs to the same run."""
    by = read_journal(journal).continued_by
    with suppress(JournalError, OSError, ValueError):
        if by and read_journal(by).run.uid == uid:
            return journal_path(by)
    return None


def _granted(record: Record, trusted: Sequence[str]) -> Record:
    """Returns a record whose model may use only packages that are trusted."""
    if record["kind"] != "model":
        return record
    names = [name for name in record["trusted_targets"] if in_packages(name, trusted)]
    return {**record, "trusted_targets": names}


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
    records = (encode(record) for _, records in kept for record in records)
    replace_below(path.parent, path.name, records, sync=True)


def _link_files(old: Path, new: Path) -> None:
    """Links the files of the earlier run, without symbolic links, which may lead elsewhere."""
    if old == new or (old / FILES).is_symlink():
        return
    for path in sorted((old / FILES).rglob("*")):
        if path.is_file() and not path.is_symlink():
            _link(path, new, path.relative_to(old).as_posix())


def _link(path: Path, folder: Path, place: str) -> None:
    with suppress(FileExistsError):
        if not link_below(path, folder, place):
            with open(path, "rb") as source, open(create_below(folder, place), "wb") as target:
                shutil.copyfileobj(source, target)


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
