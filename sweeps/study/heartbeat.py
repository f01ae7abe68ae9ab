"""Sends heartbeats of running trials, so that other machines can detect dead trials."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count

from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from nntrain.sweeps.study.storage import STORAGE_ERRORS
from nntrain.sweeps.study.trials import KILLED, give_up_or_retry, owner_of, runs_elsewhere

HEARTBEAT = "nntrain.heartbeat"
"""The system attribute of a trial with the number of its heartbeats."""

HEARTBEAT_S = 10.0
"""Seconds between two heartbeats of a running trial."""

GRACE_S = 60.0
"""Seconds without a heartbeat after which a trial is treated as lost."""


@contextmanager
def heartbeat(storage: BaseStorage, study: Study, trial: Trial) -> Iterator[None]:
    """Sends heartbeats of a trial from a background thread during a `with` block.

    Works with every storage. Optuna has heartbeats only for databases, and sends them only in
    `Study.optimize`, which nntrain does not use.
    """
    trial_id = storage.get_trial_id_from_study_id_trial_number(
        storage.get_study_id_from_name(study.study_name), trial.number
    )
    over = threading.Event()
    thread = threading.Thread(
        target=_beat, args=(storage, trial_id, over), name="nntrain-heartbeat", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _beat(storage: BaseStorage, trial_id: int, over: threading.Event) -> None:
    # another process may end the trial or delete the study
    with suppress(UpdateFinishedTrialError, KeyError):
        for number in count(1):
            if over.wait(HEARTBEAT_S):
                return
            with suppress(*STORAGE_ERRORS):  # the next heartbeat may succeed
                storage.set_trial_system_attr(trial_id, HEARTBEAT, number)


class Watch:
    """Ends the trials of other machines that send no heartbeats, and queues them again.

    Compares the numbers of heartbeats instead of times, because the clocks of two machines may
    differ.

    Args:
        study: the study.
        storage: the storage of the study.
    """

    def __init__(self, study: Study, storage: BaseStorage) -> None:
        self._study, self._storage = study, storage
        self._seen: dict[int, tuple[int, int]] = {}  # a heartbeat, and looks since it was new
        self._next_look = 0.0

    def look(self, trials: Sequence[FrozenTrial]) -> None:
        """Compares the heartbeats with those seen before, at most once in `HEARTBEAT_S`.

        Args:
            trials: all trials of the study.
        """
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + HEARTBEAT_S
        for trial in trials:
            if runs_elsewhere(trial) and self._n_silent(trial) * HEARTBEAT_S > GRACE_S:
                message = f"no heartbeat from {owner_of(trial)['host']} for {GRACE_S:g} s"
                give_up_or_retry(self._study, self._storage, trial, KILLED, message)

    def undecided(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Returns the running trials of other machines without a new heartbeat at the last look."""
        return [
            trial
            for trial in trials
            if runs_elsewhere(trial) and self._seen.get(trial.number, (0, 1))[1] > 0
        ]

    def _n_silent(self, trial: FrozenTrial) -> int:
        """Returns the number of looks since a heartbeat was new; the first look counts."""
        beat = trial.system_attrs.get(HEARTBEAT, 0)
        before, n = self._seen.get(trial.number, (beat, 0))
        self._seen[trial.number] = beat, n + 1 if beat == before else 0
        return self._seen[trial.number][1]
