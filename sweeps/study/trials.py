"""Trial bookkeeping: the owner of a trial, the number of trials, and recovery from crashes."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nntrain.result import StopReason
from nntrain.sweeps.study.exhaustive import RETRY_OF, Grid
from nntrain.sweeps.study.storage import claiming

# --- trial attributes

OWNER = "nntrain.worker"
"""The process that runs the trial: host, process ID, and start time."""

OUTCOME = "nntrain.outcome"
"""Why the trial ended: a value of `StopReason`, or `TIMEOUT`, `KILLED`, or `DUPLICATE`."""

MESSAGE = "nntrain.message"
"""A description of the outcome."""

TRACEBACK = "nntrain.traceback"
"""The end of the error's traceback."""

OVERRIDES = "nntrain.overrides"
"""The trial's own overrides, excluding the fixed overrides of the sweep."""

WARM_START = "nntrain.warm_start"
"""The number of a copied trial in its original study."""

TIMEOUT, KILLED, DUPLICATE = "timeout", "killed", "duplicate"

LAUNCH = "NNTRAIN_LAUNCH"
"""The environment variable with the name of the launch; set only in jobs of a Hydra launcher."""

UNOWNED_S = 60
"""Seconds after which a running trial without an owner is treated as lost."""

LOG = "trial.log"
"""The file in a trial's folder with everything that the worker printed during the trial."""


class SweepStudy(Study):
    """An Optuna study that also stores its folder and whether the sampler is exhausted.

    Optuna's grid samplers call `stop` when no configuration is left. Optuna only allows this call
    in `Study.optimize`. Here, the call sets `exhausted` instead.
    """

    exhausted: bool = False
    folder: Path | None = None

    def stop(self) -> None:
        """Records that the sampler has no configuration left."""
        self.exhausted = True


# --- the owner


def this_process() -> str:
    """Returns the value of `OWNER` for this process."""
    process = psutil.Process()
    owner = {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}
    return json.dumps(owner | ({"launch": os.environ[LAUNCH]} if LAUNCH in os.environ else {}))


def owner_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """Returns the host, process ID, and start time of the process that runs a trial.

    The result is empty if the trial has no owner.
    """
    owner: Mapping[str, Any] = json.loads(trial.user_attrs.get(OWNER, "{}"))
    return owner


def is_of(trial: FrozenTrial, pid: int) -> bool:
    """Returns whether the owner of a trial is the process `pid` on this machine."""
    owner = owner_of(trial)
    return bool(owner.get("pid") == pid and owner["host"] == socket.gethostname())


def age_s(trial: FrozenTrial) -> float:
    """Returns the seconds since a trial was created or started; 0 for a waiting trial.

    Optuna stores local time, which daylight saving changes, so it is converted to UTC first.
    """
    started = trial.datetime_start
    return 0.0 if started is None else max(0.0, time.time() - started.timestamp())


def is_lost(trial: FrozenTrial) -> bool:
    """Returns whether the process of a running trial has died.

    Returns false for trials on other machines, which `Watch` checks. A trial without an owner is
    treated as lost after `UNOWNED_S` seconds.
    """
    owner = owner_of(trial)
    if not owner:
        return trial.datetime_start is None or age_s(trial) > UNOWNED_S
    is_here = bool(owner["host"] == socket.gethostname())
    return is_here and not _is_alive(owner["pid"], owner["started"])


def runs_elsewhere(trial: FrozenTrial) -> bool:
    """Returns whether a process on another machine runs the trial."""
    owner = owner_of(trial)
    is_elsewhere = bool(owner) and owner["host"] != socket.gethostname()
    return is_elsewhere and trial.state is TrialState.RUNNING


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
    """Returns the trials that count toward `n_trials`.

    Three kinds of trials do not count: trials that were queued again, copies from another study,
    and duplicates that were not run.
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
    """Returns whether another trial can run: a waiting trial, or a new one within `n_trials`."""
    return (
        any(trial.state is TrialState.WAITING for trial in trials)
        or len(counted(trials)) < n_trials
    )


def claim(study: SweepStudy, storage: BaseStorage, folder: Path, n_trials: int) -> Trial | None:
    """Claims a waiting trial or a new trial for this process.

    Returns `None` if no trial is left to run.
    """
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
            if isinstance(study.sampler, Grid):
                study.sampler.assign(study, storage, storage.get_trial(trial_id))
        return Trial(study, trial_id)


def _take(storage: BaseStorage, trial_id: int) -> bool:
    """Claims a waiting trial; returns false if a worker on another machine claimed it first."""
    try:
        if not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return False
    except UpdateFinishedTrialError:
        return False
    storage.set_trial_user_attr(trial_id, OWNER, this_process())
    return True


# --- ending trials whose processes have died


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Queues a new trial with the same parameters, unless there is already a retry.

    The new trial counts toward `n_trials` instead of the old trial.
    """
    folder = study.folder if isinstance(study, SweepStudy) else None
    # use a lock: two commands may find the same dead process simultaneously
    with nullcontext() if folder is None else claiming(folder):
        if all(
            other.user_attrs.get(RETRY_OF) != trial.number
            for other in study.get_trials(deepcopy=False)
        ):
            study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


def fail(
    study: Study, storage: BaseStorage, trial: FrozenTrial, outcome: str, message: str
) -> None:
    """Marks a trial as failed; does nothing if the trial has already ended."""
    study_id = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    try:
        storage.set_trial_user_attr(trial_id, OUTCOME, outcome)
        storage.set_trial_user_attr(trial_id, MESSAGE, message)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return


def interrupt(study: Study, storage: BaseStorage, trial: FrozenTrial, message: str) -> None:
    """Marks a trial as interrupted, and queues its configuration again."""
    requeue(study, trial)
    fail(study, storage, trial, StopReason.INTERRUPTED, message)


def repair(study: Study, storage: BaseStorage) -> list[FrozenTrial]:
    """Ends the running trials whose processes have died; returns these trials.

    Each trial is queued again, unless it is a retry after an earlier crash.
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
    """Ends a trial whose process died; queues the trial again unless it is already a retry."""
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
    """Returns the folder of the trial that `trial` retries; `None` if `trial` is not a retry."""
    before = trial.user_attrs.get(RETRY_OF)
    return None if before is None else folder_of(study_folder, before)
