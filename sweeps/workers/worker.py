"""A worker: takes a trial, runs its job, tells Optuna how it ended, and takes the next, until there is none left."""

from __future__ import annotations

import gc
import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

from hydra.core.utils import run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna import Trial
from optuna.trial import FrozenTrial, TrialState

from nntrain.result import StopReason
from nntrain.sweeps.context import Pruning, Running, trial_runs
from nntrain.sweeps.spec.compose import Composer
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import custom_function, suggest
from nntrain.sweeps.study.heartbeat import heartbeat
from nntrain.sweeps.study.opening import RUN, open_study
from nntrain.sweeps.study.outcome import TrialEnd, of_error, of_return
from nntrain.sweeps.study.policy import is_over
from nntrain.sweeps.study.pruner import Judge
from nntrain.sweeps.study.storage import STORAGE_ERRORS
from nntrain.sweeps.study.trials import (
    DUPLICATE,
    MESSAGE,
    OUTCOME,
    OVERRIDES,
    claim,
    requeue,
    resume_folder,
)
from nntrain.sweeps.workers.signals import stopped_by

CONFIG = "nntrain.config"
"""What stands for the resolved configuration of a trial: trials with the same one are duplicates."""

TRACEBACK = "nntrain.traceback"
"""The last characters of an error's traceback."""

REPLICATES = "nntrain.replicates"
"""The values of each replicate of a trial, whose mean is the trial's."""

TRACEBACK_LENGTH = 1500

RESAMPLE_TRIES = 10
"""Duplicates in a row after which one is run nevertheless: a small space may hold nothing else."""

Log = Callable[[Path], AbstractContextManager[None]]
"""Where a trial's output goes, given its folder."""


def to_terminal(folder: Path) -> AbstractContextManager[None]:
    """Leaves the output where that of the process goes."""
    return nullcontext()


class Worker:
    """Runs trials, one after another.

    Args:
        plan: what the sweep is to do.
        task_function: the user's job.
        hydra_context: Hydra's.
        config: the configuration that each trial's overrides change.
        slot: which of the workers this is, from 0.
        log: where the output of a trial goes; by default where that of the process goes.
        after_trial: called with all trials after each one.
        began: when the sweep was, in seconds of the clock; `None` means now.
    """

    def __init__(
        self,
        plan: SweepPlan,
        task_function: TaskFunction,
        hydra_context: HydraContext,
        config: DictConfig,
        slot: int = 0,
        log: Log = to_terminal,
        after_trial: Callable[[Sequence[FrozenTrial]], None] | None = None,
        began: float | None = None,
    ) -> None:
        self.plan, self.task_function, self.hydra_context, self.config = (
            plan,
            task_function,
            hydra_context,
            config,
        )
        self.log, self.after_trial = log, after_trial
        self.signum: int | None = None
        self._is_stopped = False
        self._in_job = False
        self._n_duplicate = 0
        self._began = time.time() if began is None else began
        self._composer = Composer(hydra_context.config_loader, config, plan.space.fixed)
        self._custom = custom_function(plan.custom_search_space)
        self.study, self.storage = open_study(plan, 0)
        n_before = len(self.study.get_trials(deepcopy=False))
        if slot or n_before:
            self.study, self.storage = open_study(plan, 1000 * slot + n_before)
        self._judge = Judge(plan, self.study, self.storage)

    def run(self) -> None:
        """Runs trials until there is none left, the time is up, too many have failed, or a signal comes."""
        with stopped_by(
            self._receive
        ):  # which interrupts the job, if it has not handled it itself, and ends the loop
            while not self._is_over() and (
                trial := claim(self.study, self.storage, self.plan.folder, self.plan.n_trials)
            ):
                with heartbeat(self.storage, self.study, trial):
                    self._run(trial)
                if self.after_trial is not None:
                    self.after_trial(self.study.get_trials(deepcopy=False))

    def _is_over(self) -> bool:
        return self._is_stopped or is_over(
            self.plan, self.study.get_trials(deepcopy=False), self._began
        )

    # --- one trial

    def _run(self, trial: Trial) -> None:
        try:
            overrides = self._suggest(trial)
            trial.set_user_attr(OVERRIDES, overrides)
            config = self._compose(trial.number, overrides)
        except Exception as err:  # noqa: BLE001 - of the user's own function, or of a value that the configuration does not take
            self._tell(trial, of_error(err, None))
            return
        if self._is_duplicate(trial, config):
            return
        end = self._job(trial, config, self._judge.of(trial))
        self._tell(trial, self._replicated(trial, end, config, overrides))

    def _suggest(self, trial: Trial) -> list[str]:
        suggest(trial, self.plan.space)
        if self._custom is not None:
            self._custom(self.config, trial)
        return self.plan.space.overrides(trial.params)

    def _compose(self, number: int, overrides: Sequence[str], subfolder: str = "") -> DictConfig:
        config = self._composer.compose(overrides)
        with open_dict(config):
            config.hydra.sweep.dir = str(self.plan.folder)
            config.hydra.sweep.subdir = f"{number}/{subfolder}" if subfolder else str(number)
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _job(self, trial: Trial, config: DictConfig, pruning: Pruning | None) -> TrialEnd:
        is_first = config.hydra.sweep.subdir == str(
            trial.number
        )  # a replicate with another seed goes on with nothing
        before = resume_folder(self.plan.folder, self._frozen(trial)) if is_first else None
        one = Running(trial, pruning, before, self.study.user_attrs[RUN], self.plan.study_name)
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        folder.mkdir(parents=True, exist_ok=True)
        with trial_runs(one), self.log(folder):
            return self._outcome(one, config)

    def _replicated(
        self, trial: Trial, first: TrialEnd, config: DictConfig, overrides: Sequence[str]
    ) -> TrialEnd:
        """The mean over replicates, which differ in the seed; a configuration that did not get through has no more of them."""
        ends, key = [first], self.plan.replicate_key
        for i in range(1, self.plan.replicates):
            if ends[-1].state is not TrialState.COMPLETE:
                return ends[-1]
            seeded = [*overrides, f"{key}={OmegaConf.select(config, key) + i}"]
            ends.append(
                self._job(trial, self._compose(trial.number, seeded, f"replicate-{i}"), None)
            )
        if len(ends) == 1 or ends[-1].state is not TrialState.COMPLETE:
            return ends[-1]
        trial.set_user_attr(REPLICATES, [list(end.values or ()) for end in ends])
        return replace(
            first,
            values=[
                fmean(values) for values in zip(*(end.values or () for end in ends), strict=True)
            ],
        )

    def _is_duplicate(self, trial: Trial, config: DictConfig) -> bool:
        """Whether the configuration has been run before and is not to be run again; then the trial is ended."""
        if self.plan.duplicates == "rerun":
            return False
        key = digest(config)
        same = [
            one
            for one in self.study.get_trials(deepcopy=False)
            if one.user_attrs.get(CONFIG) == key
        ]
        trial.set_user_attr(CONFIG, key)
        done = [one for one in same if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if not done:
            self._n_duplicate = 0
            return False
        if self.plan.duplicates == "reuse":
            self._reuse(trial, done[0])
            return True
        self._n_duplicate += 1
        if self._n_duplicate > RESAMPLE_TRIES:
            return False
        trial.set_user_attr(OUTCOME, DUPLICATE)
        trial.set_user_attr(MESSAGE, f"the same configuration as trial {done[0].number}")
        self.study.tell(trial, state=TrialState.FAIL)
        return True

    def _reuse(self, trial: Trial, done: FrozenTrial) -> None:
        """Ends a trial as the one before that had the same configuration."""
        for step, value in done.intermediate_values.items():
            trial.report(value, step)
        trial.set_user_attr(OUTCOME, done.user_attrs[OUTCOME])
        trial.set_user_attr(
            MESSAGE, f"the same configuration as trial {done.number}, not run again"
        )
        self.study.tell(
            trial, done.values if done.state is TrialState.COMPLETE else None, done.state
        )

    def _outcome(self, one: Running, config: DictConfig) -> TrialEnd:
        job = _Job(self.task_function)
        try:
            self._in_job = True
            if self._is_stopped:  # by a signal that came while the configuration was made
                raise KeyboardInterrupt
            run_job(job, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.hydra_context)
        except (SystemExit, KeyboardInterrupt) as err:
            if not job.has_ended:  # so the signal came in Hydra's own part
                job.error = err
        finally:
            self._in_job = False
        if isinstance(job.error, STORAGE_ERRORS):  # no fault of the trial's
            raise job.error
        if job.error is not None:
            end = of_error(job.error, one.result)
            if (
                self._is_stopped and end.reason is StopReason.ERROR
            ):  # an import may swallow what the signal raised, and stay half done
                end = of_error(KeyboardInterrupt(), None)
            job.error = None  # its traceback holds the model
        else:
            end = of_return(
                job.returned, one.result, self.plan.objectives, len(self.plan.directions)
            )
        if end.reason is StopReason.OUT_OF_MEMORY:
            free_memory()
        if end.reason is StopReason.INTERRUPTED:
            self._is_stopped = True
            self.signum = self.signum or end.signum or signal.SIGINT
        return end

    # --- its end

    def _tell(self, trial: Trial, end: TrialEnd) -> None:
        trial.set_user_attr(OUTCOME, str(end.reason))
        if end.message:
            trial.set_user_attr(MESSAGE, end.message)
        if end.traceback:
            trial.set_user_attr(TRACEBACK, end.traceback[-TRACEBACK_LENGTH:])
        if end.reason is StopReason.INTERRUPTED:
            requeue(self.study, self._frozen(trial))
        self._judge.end(trial, end.state)
        values = (
            list(end.values)
            if end.state is TrialState.COMPLETE and end.values is not None
            else None
        )
        self.study.tell(trial, values, end.state, skip_if_finished=True)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    # --- signals

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._is_stopped, self.signum = True, signum
        if self._in_job:
            raise KeyboardInterrupt


class _Job:
    """The user's job, with what it returned or raised kept: Hydra's own record prints the overrides, secrets and all."""

    def __init__(self, task_function: TaskFunction) -> None:
        self._task_function = task_function
        self.returned: Any = None
        self.error: BaseException | None = None
        self.has_ended = False

    def __call__(self, config: DictConfig) -> Any:
        try:
            self.returned = self._task_function(config)
        except BaseException as err:
            self.error = err
            raise
        finally:
            self.has_ended = True
        return self.returned


def digest(config: DictConfig) -> str:
    """What stands for a configuration, less Hydra's own part; interpolations stay, for a trial's folder is in some."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    text = json.dumps(
        {key: value for key, value in plain.items() if key != "hydra"}, sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def free_memory() -> None:
    """Gives back what a job that ran out of memory has left behind."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
