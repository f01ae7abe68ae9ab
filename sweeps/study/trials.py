"""Trial bookkeeping: which process runs a trial, which trials count, and what follows a crash."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nntrain.result import StopReason
from nntrain.sweeps.study.storage import claiming

# --- the attributes of a trial

OWNER = "nntrain.worker"
"""The process that runs the trial: host, process id, and start time."""

OUTCOME = "nntrain.outcome"
"""Why the trial ended: a value of `StopReason`, or `TIMEOUT`, `KILLED` or `DUPLICATE`."""

MESSAGE = "nntrain.message"
"""The outcome in words."""

TRACEBACK = "nntrain.traceback"
"""The last characters of an error's traceback."""

OVERRIDES = "nntrain.overrides"
"""The overrides of the trial, without those that are the same in all trials."""

RETRY_OF = "nntrain.retry_of"
"""The number of the interrupted trial that this one runs again."""

WARM_START = "nntrain.warm_start"
"""The number of the trial in the study from which it was copied."""

TIMEOUT, KILLED, DUPLICATE = "timeout", "killed", "duplicate"

LAUNCH = "NNTRAIN_LAUNCH"
"""The environment variable that names a worker's launch, if another Hydra launcher started it."""

UNOWNED_S = 60
"""Seconds after which a running trial without an owner counts as lost."""

LOG = "trial.log"
"""The file in a trial's folder with everything that the worker printed while the trial ran."""


class SweepStudy(Study):
    """A study with a folder.

    Optuna's grid samplers call `stop` when nothing is left to try, which Optuna only allows in
    `optimize`. Here the call sets `exhausted`.
    """

    exhausted: bool = False
    folder: Path | None = None

    def stop(self) -> None:
        """Records that the sampler has tried everything."""
        self.exhausted = True


# --- the owner


def this_process() -> str:
    """Returns the value of `OWNER` for this process."""
    process = psutil.Process()
    owner = {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}
    return json.dumps(owner | ({"launch": os.environ[LAUNCH]} if LAUNCH in os.environ else {}))


def owner_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """Returns the host, process id and start time of a trial's owner; empty without an owner."""
    owner: Mapping[str, Any] = json.loads(trial.user_attrs.get(OWNER, "{}"))
    return owner


def is_of(trial: FrozenTrial, pid: int) -> bool:
    """Whether a process of this machine runs a trial, or ran it."""
    owner = owner_of(trial)
    return bool(owner.get("pid") == pid and owner["host"] == socket.gethostname())


def is_lost(trial: FrozenTrial) -> bool:
    """Whether the process of a running trial is dead; false if it ran on another machine."""
    owner = owner_of(trial)
    if not owner:
        return trial.datetime_start is None or datetime.now() - trial.datetime_start > timedelta(
            seconds=UNOWNED_S
        )
    return bool(owner["host"] == socket.gethostname()) and not _is_alive(
        owner["pid"], owner["started"]
    )


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(
            abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


# --- the number of trials


def counted(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Returns the trials that count for `n_trials`.

    Trials that another one runs again do not count, nor do copies from another study and
    duplicates that were not run.
    """
    trials = list(trials)
    others = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    others |= {
        trial.number
        for trial in trials
        if WARM_START in trial.user_attrs or trial.user_attrs.get(OUTCOME) == DUPLICATE
    }
    return [trial for trial in trials if trial.number not in others]


def has_room(trials: Sequence[FrozenTrial], n_trials: int) -> bool:
    """Whether there is a trial to run: a waiting one, or a new one."""
    return (
        any(trial.state is TrialState.WAITING for trial in trials)
        or len(counted(trials)) < n_trials
    )


def claim(study: SweepStudy, storage: BaseStorage, folder: Path, n_trials: int) -> Trial | None:
    """Claims a waiting trial or a new one for this process; `None` if the study is complete."""
    study_id = storage.get_study_id_from_name(study.study_name)
    while True:
        with claiming(folder):
            trials = study.get_trials(deepcopy=False)
            waiting = [trial.number for trial in trials if trial.state is TrialState.WAITING]
            if waiting:
                trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, waiting[0])
                if not _take(storage, trial_id):
                    continue
            elif not study.exhausted and len(counted(trials)) < n_trials:
                owned = create_trial(state=TrialState.RUNNING, user_attrs={OWNER: this_process()})
                trial_id = storage.create_new_trial(study_id, template_trial=owned)
            else:
                return None
        return Trial(study, trial_id)


def _take(storage: BaseStorage, trial_id: int) -> bool:
    """Takes a waiting trial, unless a worker on another machine was faster."""
    try:
        if not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return False
    except UpdateFinishedTrialError:
        return False
    storage.set_trial_user_attr(trial_id, OWNER, this_process())
    return True


# --- the end of a trial that cannot end itself


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Queues a trial's configuration once more; the new trial counts instead of the old one."""
    folder = study.folder if isinstance(study, SweepStudy) else None
    # the lock, because two commands may find the same dead process at once
    with nullcontext() if folder is None else claiming(folder):
        if all(
            other.user_attrs.get(RETRY_OF) != trial.number
            for other in study.get_trials(deepcopy=False)
        ):
            study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


def fail(
    study: Study, storage: BaseStorage, trial: FrozenTrial, outcome: str, message: str
) -> None:
    """Ends a trial whose process cannot; a trial that has ended meanwhile is not changed."""
    study_id = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    try:
        storage.set_trial_user_attr(trial_id, OUTCOME, outcome)
        storage.set_trial_user_attr(trial_id, MESSAGE, message)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return


def interrupt(study: Study, storage: BaseStorage, trial: FrozenTrial, message: str) -> None:
    """Ends a trial through no fault of its own, and queues it again."""
    requeue(study, trial)
    fail(study, storage, trial, StopReason.INTERRUPTED, message)


def repair(study: Study, storage: BaseStorage) -> list[FrozenTrial]:
    """Ends the running trials whose processes are dead; returns them.

    Each is queued again, unless it was already the second try.
    """
    lost = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if is_lost(trial)
    ]
    for trial in lost:
        give_up_or_retry(study, storage, trial, KILLED, "its process died without a message")
    return lost


def give_up_or_retry(
    study: Study, storage: BaseStorage, trial: FrozenTrial, outcome: str, message: str
) -> None:
    """Ends a trial whose process died; queues it again, unless it was already the second try."""
    if not _died_before(study, trial):
        requeue(study, trial)
    fail(study, storage, trial, outcome, message)


def _died_before(study: Study, trial: FrozenTrial) -> bool:
    before = trial.user_attrs.get(RETRY_OF)
    if before is None:
        return False
    return bool(study.get_trials(deepcopy=False)[before].user_attrs.get(OUTCOME) == KILLED)


# --- the folder of a trial


def folder_of(study_folder: Path, number: int) -> Path:
    """Returns the folder of a trial."""
    return study_folder / str(number)


def resume_folder(study_folder: Path, trial: FrozenTrial) -> Path | None:
    """Returns the folder of the trial that this one runs again; `None` for a first try."""
    before = trial.user_attrs.get(RETRY_OF)
    return None if before is None else folder_of(study_folder, before)
