"""The books of a study: who runs a trial, which trials count, and what becomes of one whose process has died."""

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

OWNER = "nntrain.worker"
"""The process that runs a trial: host, process id and when it was started."""

OUTCOME = "nntrain.outcome"
"""Why a trial ended: a word of `StopReason`, or one of `TIMEOUT`, `KILLED`, `DUPLICATE`."""

MESSAGE = "nntrain.message"
"""The same for people."""

OVERRIDES = "nntrain.overrides"
"""The overrides of a trial, those that are the same in all trials left out."""

RETRY_OF = "nntrain.retry_of"
"""The number of the trial that was interrupted and that this one runs again."""

WARM_START = "nntrain.warm_start"
"""The number that a trial has in the study that it was taken over from."""

TIMEOUT, KILLED, DUPLICATE = "timeout", "killed", "duplicate"

LAUNCH = "NNTRAIN_LAUNCH"
"""The environment variable that names the launch which a worker belongs to, where another Hydra launcher started it."""

UNOWNED_S = 60
"""Seconds after which a running trial that nobody has signed counts as lost."""


class SweepStudy(Study):
    """A study with a folder. Its sampler may say that there is nothing left to try, which Optuna expects in `optimize` only."""

    exhausted: bool = False
    folder: Path | None = None

    def stop(self) -> None:
        """Takes note that the sampler has tried everything."""
        self.exhausted = True


def this_process() -> str:
    """What a trial's `OWNER` is when this process runs it."""
    process = psutil.Process()
    owner = {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}
    return json.dumps(owner | ({"launch": os.environ[LAUNCH]} if LAUNCH in os.environ else {}))


def owner_of(trial: FrozenTrial) -> Mapping[str, Any]:
    """Host, process id and start of the process that runs a trial; nothing if nobody has signed it."""
    owner: Mapping[str, Any] = json.loads(trial.user_attrs.get(OWNER, "{}"))
    return owner


def is_of(trial: FrozenTrial, pid: int) -> bool:
    """Whether a process of this machine runs a trial, or did."""
    owner = owner_of(trial)
    return bool(owner.get("pid") == pid and owner["host"] == socket.gethostname())


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a running trial's process is dead, as far as can be told on this machine."""
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


def counted(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that use up `n_trials`: all but those that another one runs again, that were taken over from another study,
    or that were not run because they are duplicates.
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
    """Whether there is a trial to run: one that waits, or a new one."""
    return (
        any(trial.state is TrialState.WAITING for trial in trials)
        or len(counted(trials)) < n_trials
    )


def claim(study: SweepStudy, storage: BaseStorage, folder: Path, n_trials: int) -> Trial | None:
    """A trial that waits, or a new one, signed by this process; `None` if the study has all that it is to have."""
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
                signed = create_trial(state=TrialState.RUNNING, user_attrs={OWNER: this_process()})
                trial_id = storage.create_new_trial(study_id, template_trial=signed)
            else:
                return None
        return Trial(study, trial_id)


def _take(storage: BaseStorage, trial_id: int) -> bool:
    """Takes a waiting trial, unless a worker of another machine has been faster."""
    try:
        if not storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return False
    except UpdateFinishedTrialError:
        return False
    storage.set_trial_user_attr(trial_id, OWNER, this_process())
    return True


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Has a trial's configuration run again, once; the new trial counts in its place."""
    folder = study.folder if isinstance(study, SweepStudy) else None
    with (
        nullcontext() if folder is None else claiming(folder)
    ):  # two commands may find the same dead process at once
        if all(
            other.user_attrs.get(RETRY_OF) != trial.number
            for other in study.get_trials(deepcopy=False)
        ):
            study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


def fail(
    study: Study, storage: BaseStorage, trial: FrozenTrial, outcome: str, message: str
) -> None:
    """Ends a trial that cannot do so itself; one that has ended meanwhile stays as it is."""
    study_id = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    try:
        storage.set_trial_user_attr(trial_id, OUTCOME, outcome)
        storage.set_trial_user_attr(trial_id, MESSAGE, message)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return


def interrupt(study: Study, storage: BaseStorage, trial: FrozenTrial, message: str) -> None:
    """Ends a trial for no fault of its own; it is run again."""
    requeue(study, trial)
    fail(study, storage, trial, StopReason.INTERRUPTED, message)


def repair(study: Study, storage: BaseStorage) -> list[FrozenTrial]:
    """Ends the running trials whose processes are dead, and has each of them run again, unless it was a second try."""
    lost = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if is_lost(trial)
    ]
    for trial in lost:
        give_up_or_retry(study, storage, trial, KILLED, "its process died without a word")
    return lost


def give_up_or_retry(
    study: Study, storage: BaseStorage, trial: FrozenTrial, outcome: str, message: str
) -> None:
    """Ends a trial whose process died; it is run again unless it is itself a second try after such a death."""
    if not _died_before(study, trial):
        requeue(study, trial)
    fail(study, storage, trial, outcome, message)


def _died_before(study: Study, trial: FrozenTrial) -> bool:
    before = trial.user_attrs.get(RETRY_OF)
    if before is None:
        return False
    return bool(study.get_trials(deepcopy=False)[before].user_attrs.get(OUTCOME) == KILLED)


def folder_of(study_folder: Path, number: int) -> Path:
    """The folder of a trial."""
    return study_folder / str(number)


def resume_folder(study_folder: Path, trial: FrozenTrial) -> Path | None:
    """The folder of the trial that this one runs again; `None` for a first try."""
    before = trial.user_attrs.get(RETRY_OF)
    return None if before is None else folder_of(study_folder, before)
