"""The delivery state: how much of a journal a tracker has received, stored in a small file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nntrain.config.redact import redact
from nntrain.core.sinks import check_part, open_below, replace_below
from nntrain.integrations.journal.records import Record, rows_of

FOLDER = "delivery"
"""The folder next to the journal that contains one state file per tracker."""


@dataclass(frozen=True)
class Held:
    """Values that a tracker received for batches after the checkpoint of a resumed run.

    The values cannot be removed from the tracker, so delivery does not send them again. For each
    metric `key`, delivery skips the batches after the checkpoint's `step`, up to and including
    `keys[key]`.
    """

    step: int
    keys: dict[str, int]


@dataclass
class DeliveryState:
    """How much of a journal a tracker has received; stored in `delivery/NAME.json`.

    Any process may read the file. Only the process that holds the delivery lock may write it.
    """

    run_id: str | None = None
    where: str = ""
    offset: int = 0
    """Number of delivered bytes of the journal."""
    line: int = 0
    """Number of delivered lines of the journal."""
    n_refused: int = 0
    """Number of records, or single values, that the tracker refused."""
    notes: list[str] = field(default_factory=list)
    """Descriptions of refused and unreadable records."""
    unsupported: dict[str, int] = field(default_factory=dict)
    """Number of records that the tracker cannot store, by kind."""
    error: str | None = None
    """Why the last attempt failed; `None` after a successful one."""
    n_tries: int = 0
    """Number of failed attempts since the last successful attempt."""
    done: bool = False
    """Whether the run has ended and is completely delivered."""
    held: list[Held] = field(default_factory=list)
    """Values that the tracker received before a resume; one entry per resume."""
    held_rows: int = 0
    """After a resume: number of rows in the tracker that the journal no longer contains."""
    kept_rows: int = 0
    """After a resume: number of rows that were copied from the earlier journal."""

    def is_new(self, step: int, key: str) -> bool:
        """Returns True if the tracker did not receive the value before the run was resumed."""
        return not any(held.step < step <= held.keys.get(key, -1) for held in self.held)

    def n_rows(self, record: Record) -> int:
        """Returns how many rows the record adds to `Started.rows`."""
        if record["kind"] in self.unsupported:
            return 0
        match record["kind"]:
            case "metrics":
                return sum(
                    any(self.is_new(row.step, key) for key in row.values) for row in rows_of(record)
                )
            case "histograms":
                return int(any(self.is_new(record["step"], key) for key in record["counts"]))
            case "figure" | "table":
                return 1
            case _:
                return 0


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_count, value.values()))


def _holds(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and _count(one.get("step")) and _counts(one.get("keys"))
        for one in value
    )


_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "run_id": lambda value: value is None or (_text(value) and value.isprintable()),
    "where": _text,
    "offset": _count,
    "line": _count,
    "n_refused": _count,
    "notes": lambda value: isinstance(value, list) and all(map(_text, value)),
    "unsupported": _counts,
    "error": lambda value: value is None or _text(value),
    "n_tries": _count,
    "done": lambda value: isinstance(value, bool),
    "held": _holds,
    "held_rows": _count,
    "kept_rows": _count,
}
"""Checks of the values in a state file, which may come from somebody else."""


def state_path(journal: Path, name: str) -> Path:
    """Returns the path of the state file for the tracker `name`.

    Raises:
        ValueError: if the name of the tracker cannot be the name of a file.
    """
    return journal.parent / _place(name)


def _place(name: str) -> str:
    check_part(f"{name}.json")
    return f"{FOLDER}/{name}.json"


def read_state(journal: Path, name: str) -> DeliveryState:
    """Reads the state of a delivery; returns a new state if the file does not exist.

    A state that nntrain did not write is ignored, with a note: the run is then sent again from the
    start. A tracker stores repeated records once.

    Raises:
        ValueError: if the name of the tracker cannot be the name of a file.
        OSError: if the file or its folder is a symbolic link.
    """
    try:
        with open(open_below(journal.parent, _place(name), os.O_RDONLY), "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return DeliveryState()
    try:
        return _at_a_line(state_of(json.loads(content)), journal)
    except (ValueError, RecursionError) as err:
        why = "it is nested too deeply" if isinstance(err, RecursionError) else str(err)
        note = f"{_place(name)} cannot be read ({why}): the run is sent again from the start"
        return DeliveryState(notes=[note])


def state_of(saved: Any) -> DeliveryState:
    """Returns the state that a state file contains; unknown keys are ignored.

    Raises:
        ValueError: if nntrain does not write such a file.
    """
    if not isinstance(saved, dict):
        raise ValueError("it must contain an object")
    known = {item.name for item in fields(DeliveryState)}
    values = {key: value for key, value in saved.items() if key in known}
    for key, value in values.items():
        if not _FORMS[key](value):
            raise ValueError(f"{key} has a wrong type or value")
    if (values.get("done") or values.get("offset")) and values.get("run_id") is None:
        raise ValueError("it has no run_id")
    held = [Held(one["step"], one["keys"]) for one in values.get("held", ())]
    return DeliveryState(**{**values, "held": held})


def _at_a_line(state: DeliveryState, journal: Path) -> DeliveryState:
    """Returns the state, which starts again if its offset is not the end of a line."""
    if state.offset == 0 or not journal.exists():
        return state
    with open(journal, "rb") as file:
        file.seek(state.offset - 1)
        if file.read(1) == b"\n":
            return state
    return replace(state, offset=0, line=0, done=False)


def write_state(journal: Path, name: str, state: DeliveryState) -> None:
    """Writes the state atomically: a reader finds either the old or the new file.

    Raises:
        ValueError: if the name of the tracker cannot be the name of a file.
        OSError: if the folder of the file is a symbolic link, or the file cannot be written.
    """
    replace_below(journal.parent, _place(name), [json.dumps(asdict(state)).encode()])


def send_again(journal: Path, name: str) -> None:
    """Changes the state so that the next delivery continues the same run, from its first record."""
    old = read_state(journal, name)
    kept = DeliveryState(old.run_id, held=old.held, held_rows=old.held_rows)
    write_state(journal, name, replace(kept, kept_rows=old.kept_rows))


def set_aside(journal: Path, name: str) -> None:
    """Renames the state file, so that the next delivery sends the whole run again."""
    path = state_path(journal, name)
    n = 1
    while (old := path.with_name(f"{path.name}.{n}")).is_symlink() or old.exists():
        n += 1
    os.rename(path, old)


def error_text(err: Exception) -> str:
    """Returns an error as one line without secrets."""
    return str(redact(f"{type(err).__name__}: {' '.join(str(err).split())[:500]}"))


def is_delivered(journal: Path, state: DeliveryState) -> bool:
    """Returns True if the run has ended and is delivered, or if the journal does not exist."""
    return not journal.exists() or (state.done and state.offset == journal.stat().st_size)


def whereabouts(journal: Path) -> list[str]:
    """Returns one message per tracker that says where to find the run."""
    states = (
        read_state(journal, path.stem) for path in sorted((journal.parent / FOLDER).glob("*.json"))
    )
    return [state.where for state in states if state.where]
