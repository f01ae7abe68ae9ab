"""The part of a journal that a tracker has not received yet."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from nntrain.integrations.journal.records import lines
from nntrain.integrations.shipping.state import is_delivered, read_state


@dataclass(frozen=True)
class Backlog:
    """The undelivered part of a journal.

    Attributes:
        journal: the journal.
        name: the name of the tracker.
        n_row: the number of undelivered metric rows.
        error: the last error of the delivery.
        options: the options that `nntrain.sync` needs to deliver it.
    """

    journal: Path
    name: str
    n_row: int
    error: str | None
    options: str = ""

    def __str__(self) -> str:
        rows = f"{self.n_row} metric rows" if self.n_row else "the end"
        why = f" because delivery fails ({self.error})" if self.error else ""
        return f"{self.name} has not received {rows} of {self.journal}{why}"

    @property
    def remedy(self) -> str:
        """The command that delivers the backlog."""
        return sync_command(self.journal.parent, self.options)


def sync_command(folder: Path, options: str = "") -> str:
    """Returns the command that delivers the runs in a folder."""
    path = str(folder)
    path = f"./{path}" if path.startswith("-") else path  # otherwise it would be an option
    return f"python -m nntrain.sync {shlex.quote(path)}{options}"


def backlog(journal: Path, name: str) -> Backlog | None:
    """Returns the part of a journal that the tracker `name` has not received.

    Returns `None` if everything was delivered or the journal does not exist.
    """
    state = read_state(journal, name)
    if is_delivered(journal, state):
        return None
    left = (line.record for line in lines(journal, state.offset) if line.record is not None)
    n_row = sum(len(record["step"]) for record in left if record["kind"] == "metrics")
    return Backlog(journal, name, n_row, state.error)
