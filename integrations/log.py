"""What `learn.tracker` is while a run is tracked: it writes into the journal."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from nntrain.core.run_log import Cell, Figure, RunLog
from nntrain.integrations.journal.records import Record, metrics_record
from nntrain.integrations.journal.writer import Job
from nntrain.integrations.shipping.continuation import link_or_copy

if TYPE_CHECKING:
    from nntrain.learner import Learner

_LOG = logging.getLogger("nntrain")

FOLDER = "files"
"""The folder beside the journal that holds what its records name."""

DPI = 150
"""Dots per inch of a figure's image."""


class Files:
    """The files that are kept with a run, beside its journal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._n = 0

    def place(self, name: str) -> str:
        """A free place for a file of that name, seen from the journal."""
        (self._folder / FOLDER).mkdir(parents=True, exist_ok=True)
        while True:
            self._n += 1
            place = f"{FOLDER}/{self._n:04}-{Path(name).name}"
            if not (self._folder / place).exists():
                return place

    def copy(self, path: Path) -> str:
        """Copies a file; returns where, seen from the journal."""
        place = self.place(path.name)
        shutil.copyfile(path, self._folder / place)
        return place

    def link(self, path: Path) -> str:
        """Keeps a file that is never written to but only replaced, as checkpoints are, without copying it."""
        place = self.place(path.name)
        link_or_copy(path.resolve(), self._folder / place)
        return place

    def draw(self, figure: Figure, name: str) -> str:
        """Draws a figure into an image; returns where it lies, seen from the journal."""
        place = self.place(name)
        figure.savefig(self._folder / place, dpi=DPI)
        return place


@contextmanager
def warned_of(path: Path) -> Iterator[None]:
    """Warns of a file that cannot be kept, since the disk takes nothing, and lets the training go on."""
    try:
        yield
    except OSError as err:
        _LOG.warning("%s is not kept with the run: %s", path, err)


class Writes(Protocol):
    """Takes records for the journal."""

    def __call__(self, *records: Record) -> None:
        """Takes records."""


class JournalLog(RunLog):
    """Writes what user callbacks log into the journal; a tensor is read from its device in the journal's thread.

    Args:
        learn: the Learner whose fit is tracked.
        write: takes records.
        write_later: takes a function that gives records.
        files: where files are kept.
    """

    def __init__(
        self, learn: Learner, write: Writes, write_later: Callable[[Job], None], files: Files
    ) -> None:
        super().__init__(learn)
        self._write, self._write_later, self._files = write, write_later, files
        self._has_ended = self._has_warned = False

    def end(self) -> None:
        """Takes nothing more: the run has ended."""
        self._has_ended = True

    def _records(self) -> bool:
        if self._has_ended and not self._has_warned:
            self._has_warned = True
            _LOG.warning(
                "What is logged now is not recorded, for the fit has ended: log in after_fit or before."
            )
        return not self._has_ended and super()._records()

    def _metrics(self, values: Mapping[str, float | Tensor], step: int) -> None:
        self._write_later(partial(_row, time.time_ns() // 1_000_000, step, values))

    def _figure(self, figure: Figure, name: str, step: int) -> None:
        with self._unless_full(name):
            self._write(
                {
                    "kind": "figure",
                    "path": self._files.draw(figure, name),
                    "name": name,
                    "step": step,
                }
            )

    def _table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int
    ) -> None:
        self._write(
            {
                "kind": "table",
                "name": name,
                "columns": list(columns),
                "rows": list(rows),
                "step": step,
            }
        )

    def _artifact(self, path: Path, name: str, aliases: Sequence[str]) -> None:
        with self._unless_full(name):
            self._write(
                {
                    "kind": "artifact",
                    "path": self._files.copy(path),
                    "name": name,
                    "aliases": list(aliases),
                }
            )

    @contextmanager
    def _unless_full(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as err:  # a disk that takes nothing must not end the training
            self._refuse([name], f"it cannot be kept ({err})")


def _row(time_ms: int, step: int, values: Mapping[str, float | Tensor]) -> Iterator[Record]:
    yield metrics_record(
        [time_ms], [step], {name: [float(value)] for name, value in values.items()}
    )
