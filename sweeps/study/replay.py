"""Reads a study file with damaged lines."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult

from nntrain.sweeps.errors import SweepError

_log = logging.getLogger(__name__)

_DAMAGED = "damaged"
"""The key of an entry that stands for a line that is not JSON; its value is the text."""

_CREATES = re.compile(r'"op_code": ?4\b')
_STUDY = re.compile(r'"study_id": ?(\d+)')

_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""Exceptions of Optuna for an entry with missing keys or wrong types."""


def entries(file: BinaryIO, size: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields the entries of a study file and the length of their lines, in bytes.

    Args:
        file: the file, at the start of a line.
        size: the number of bytes to read; a line that ends later is not read.
    """
    for line in file:
        size -= len(line)
        if size < 0 or not line.endswith(b"\n"):
            return
        yield _entry(line), len(line)


def _entry(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {_DAMAGED: line.decode(errors="replace")}


class TolerantReplay(JournalStorageReplayResult):
    """Optuna's copy of a study file in memory, which ignores damaged lines and names each of them.

    Optuna numbers trials by their order. A damaged line that created a trial therefore still
    creates one.

    Args:
        prefix: the prefix of the IDs of this storage's threads.
        path: the study file, for messages.
    """

    def __init__(self, prefix: str, path: Path) -> None:
        super().__init__(prefix)
        self._path = path
        self.damaged: list[int] = []
        """The numbers of the damaged lines; the first line is number 1."""

    def apply_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Applies entries in order.

        Raises:
            SweepError: if the file cannot be read in spite of its damaged lines.
        """
        for log in logs:
            try:
                super().apply_logs([log])
            except _ERRORS:
                if log.get("worker_id") == self.worker_id:
                    raise  # this process has asked for something impossible
                self._skip(log)
            else:
                self._check_trial(log)

    def _skip(self, log: Mapping[str, Any]) -> None:
        self.damaged.append(self.log_number_read)
        _log.warning(
            "line %d of the study file %s is damaged and is ignored",
            self.log_number_read,
            self._path,
        )
        text = str(log.get(_DAMAGED, ""))
        if log.get("op_code") == JournalOperation.CREATE_TRIAL or _CREATES.search(text):
            self._create(log.get("study_id"), text)

    def _create(self, study_id: Any, text: str) -> None:
        found = _STUDY.search(text)
        known = [int(found[1])] if found else [study_id, *self._studies]
        study = next((one for one in known if isinstance(one, int) and one in self._studies), None)
        if study is not None:
            self._apply_create_trial({"study_id": study, "worker_id": "", "datetime_start": None})

    def _check_trial(self, log: Mapping[str, Any]) -> None:
        trial_id = log.get("trial_id", 0)
        if not isinstance(trial_id, int):
            self._skip(log)
        elif self.damaged and trial_id >= max(len(self._trials), 1):
            lines = ", ".join(map(str, self.damaged))
            raise SweepError(
                f"The study file {self._path} is damaged: a trial is missing (damaged lines: "
                f"{lines}), so move the file away or restore a copy of it, or choose another "
                "hydra.sweeper.study_name."
            )
