"""The delivery state: how much of a journal a tracker has received, stored in a small file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from nntrain.config.redact import redact
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


def state_path(journal: Path, name: str) -> Path:
    """Returns the path of the state file for the tracker `name`."""
    return journal.parent / FOLDER / f"{name}.json"


def read_state(journal: Path, name: str) -> DeliveryState:
    """Reads the state of a delivery; returns a new state if the file does not exist."""
    path = state_path(journal, name)
    if not path.is_file():
        return DeliveryState()
    known = {item.name for item in fields(DeliveryState)}
    values = {key: value for key, value in json.loads(path.read_text()).items() if key in known}
    return DeliveryState(**{**values, "held": [Held(**held) for held in values.get("held", ())]})


def write_state(journal: Path, name: str, state: DeliveryState) -> None:
    """Writes the state atomically: a reader finds either the old or the new file."""
    path = state_path(journal, name)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(state)))
    os.replace(part, path)


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
