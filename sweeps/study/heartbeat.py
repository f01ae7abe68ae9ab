"""Sends heartbeats of running trials, so that other machines can detect dead trials."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.trial import TrialState

from nntrain.sweeps.study.storage import HEARTBEAT_S, STORAGE_ERRORS
from nntrain.sweeps.study.trials import is_alive_here


@contextmanager
def heartbeat(storage: BaseStorage, study: Study, trial: Trial) -> Iterator[None]:
    """Sends heartbeats of a trial from a background thread during a `with` block.

    Has no effect if the storage does not support heartbeats. Optuna itself sends heartbeats only in
    `Study.optimize`, which nntrain does not use.
    """
    if not isinstance(storage, BaseHeartbeat):
        yield
        return
    trial_id = storage.get_trial_id_from_study_id_trial_number(
        storage.get_study_id_from_name(study.study_name), trial.number
    )
    storage.record_heartbeat(trial_id)
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


def _beat(storage: BaseHeartbeat, trial_id: int, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT_S):
        with suppress(*STORAGE_ERRORS):  # the next heartbeat may succeed
            storage.record_heartbeat(trial_id)


def fail_stale(study: Study) -> None:
    """Marks trials as failed if their heartbeats have stopped, and queues these trials again.

    The function also handles trials on other machines. A process of this machine that stands still,
    for example because it is suspended, keeps its trial.
    """
    storage = study._storage
    if not isinstance(storage, BaseHeartbeat) or not is_heartbeat_enabled(storage):
        return
    retry = storage.get_heartbeat_stale_trial_callback()
    for trial_id in storage._get_stale_trial_ids(study._study_id):
        trial = storage.get_trial(trial_id)
        if is_alive_here(trial):
            continue
        with suppress(UpdateFinishedTrialError):  # another process was faster
            if storage.set_trial_state_values(trial_id, TrialState.FAIL) and retry is not None:
                retry(study, trial)
