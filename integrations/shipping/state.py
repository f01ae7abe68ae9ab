"""The state of a delivery: how far a journal is delivered to one tracker, kept in a small file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from nntrain.config.redact import redact
from nntrain.integrations.journal.records import Record, rows_of

FOLDER = "delivery"
"""The folder beside the journal with the states of its deliveries, one file for each tracker."""


@dataclass(frozen=True)
class Held:
    """Values that a tracker received of batches after the checkpoint from which a run was resumed.

    They cannot be removed from the tracker. Delivery skips the values after batch `step`, up to and
    including the batch that `keys` names for each metric.
    """

    step: int
    keys: dict[str, int]


@dataclass
class DeliveryState:
    """How far a journal is delivered to a tracker; stored in `delivery/NAME.json`.

    Any process may read the file. Only the one that holds the delivery lock writes it.
    """

    run_id: str | None = None
    where: str = ""
    offset: int = 0
    """Delivered bytes of the journal."""
    line: int = 0
    """Delivered lines of the journal."""
    n_refused: int = 0
    """Records, or values of rows, that the tracker will never accept."""
    notes: list[str] = field(default_factory=list)
    """What was refused or unreadable, in words."""
    unsupported: dict[str, int] = field(default_factory=dict)
    """Records that the tracker cannot keep, counted by kind; they stay in the journal."""
    error: str | None = None
    """Why the last attempt failed; `None` after a successful one."""
    n_tries: int = 0
    """Failed attempts since the last successful one."""
    done: bool = False
    """Whether the run has ended and all of it is delivered."""
    held: list[Held] = field(default_factory=list)
    """Values of the journal that the tracker already has, one entry for each resume."""
    held_rows: int = 0
    """After a resume: rows that the tracker has and the journal no longer contains."""
    kept_rows: int = 0
    """After a resume: rows that the new journal started with."""

    def is_new(self, step: int, key: str) -> bool:
        """Whether the tracker did not receive a value before the run was resumed."""
        return not any(held.step < step <= held.keys.get(key, -1) for held in self.held)

    def n_rows(self, record: Record) -> int:
        """The number of rows of a record for a tracker that counts them: see `Started.rows`."""
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
    """The file with the state of the delivery to the tracker `name`."""
    return journal.parent / FOLDER / f"{name}.json"


def read_state(journal: Path, name: str) -> DeliveryState:
    """Reads the state of a delivery; without a file it has not started."""
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
    """An error as one line without secrets."""
    return str(redact(f"{type(err).__name__}: {' '.join(str(err).split())[:500]}"))


def is_delivered(journal: Path, state: DeliveryState) -> bool:
    """Whether the run has ended and all of it is delivered, or the journal does not exist."""
    return not journal.exists() or (state.done and state.offset == journal.stat().st_size)


def whereabouts(journal: Path) -> list[str]:
    """Where each tracker keeps the run of a journal, in a few lines for people."""
    states = (
        read_state(journal, path.stem) for path in sorted((journal.parent / FOLDER).glob("*.json"))
    )
    return [state.where for state in states if state.where]
