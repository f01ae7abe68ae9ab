"""A worker, which claims trials, runs the user's job, and reports the results to Optuna."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

from hydra.core.utils import run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna import Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from nntrain.config.learning import learn_config
from nntrain.core.names import RUN_UID
from nntrain.result import FitResult, StopReason
from nntrain.sweeps.context import Pruner, TrialContext, active_trial
from nntrain.sweeps.spec.checks import check_same_hydra
from nntrain.sweeps.spec.compose import Composer
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.spec.space import custom_function, suggest
from nntrain.sweeps.study.heartbeat import heartbeat
from nntrain.sweeps.study.opening import open_study
from nntrain.sweeps.study.outcome import TrialEnd, trial_end
from nntrain.sweeps.study.policy import is_over
from nntrain.sweeps.study.pruner import StudyPruner
from nntrain.sweeps.study.storage import STORAGE_ERRORS
from nntrain.sweeps.study.trials import (
    DUPLICATE,
    MESSAGE,
    OUTCOME,
    OVERRIDES,
    TRACEBACK,
    claim,
    requeue,
    resume_folder,
)
from nntrain.sweeps.workers.output import Output, to_terminal
from nntrain.sweeps.workers.stop_signals import on_stop_signal

_log = logging.getLogger(__name__)

CONFIG = "nntrain.config"
"""The attribute with the hash of a trial's configuration; duplicates have the same hash."""

REPLICATES = "nntrain.replicates"
"""The attribute with the values of each replicate of a trial; their mean is the trial's value."""

TRACEBACK_LENGTH = 1500

RESAMPLE_TRIES = 10
"""After this number of consecutive duplicates, a worker runs a duplicate anyway.

Without this limit, a worker would never stop once all configurations have been tried.
"""


class Worker:
    """Runs trials, one after another.

    Args:
        plan: the plan of the sweep.
        task_function: the user's job.
        hydra_context: Hydra's context.
        config: the base configuration, to which each trial's overrides are applied.
        slot: the number of this worker, from 0.
        output: redirects the output of a trial.
        after_trial: called after each trial, with all trials of the study.
        began: the start of the sweep, in seconds since 1970; `None` uses the current time.
    """

    def __init__(
        self,
        plan: SweepPlan,
        task_function: TaskFunction,
        hydra_context: HydraContext,
        config: DictConfig,
        slot: int = 0,
        output: Output = to_terminal,
        after_trial: Callable[[Sequence[FrozenTrial]], None] | None = None,
        began: float | None = None,
    ) -> None:
        self.plan, self.config = plan, config
        self.task_function, self.hydra_context = task_function, hydra_context
        self.output, self.after_trial = output, after_trial
        self.signum: int | None = None
        self._is_stopped = False
        self._in_job = False
        self._n_duplicate = 0
        self._began = time.time() if began is None else began
        learn_config(config, plan.secrets())
        self._composer = Composer(hydra_context.config_loader, config, plan.space.fixed)
        self._custom = custom_function(plan.custom_search_space)
        self.study, self.storage = open_study(plan, 0)
        n_before = len(self.study.get_trials(deepcopy=False))
        if slot or n_before:
            self.study, self.storage = open_study(plan, 1000 * slot + n_before)
        self._pruner = StudyPruner(plan, self.study, self.storage)

    def run(self) -> None:
        """Runs trials until no trial is left, the sweep is over, or a signal arrives.

        A signal ends the loop. It also interrupts the running job, unless the job handles the
        signal itself.
        """
        with on_stop_signal(self._receive):
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
            self._run_claimed(trial)
        except UpdateFinishedTrialError:
            self._drop(trial)

    def _drop(self, trial: Trial) -> None:
        """Logs that another process has ended the trial because this process stood still."""
        with suppress(UpdateFinishedTrialError):
            self._pruner.end(trial, TrialState.FAIL)
        _log.warning(
            "Another process has ended trial %d, because this process did not respond for a "
            "while; the result of this process is dropped",
            trial.number,
        )

    def _run_claimed(self, trial: Trial) -> None:
        try:
            overrides = self._suggest(trial)
            trial.set_user_attr(OVERRIDES, overrides)
            config = self._compose(trial.number, overrides)
        except Exception as err:  # noqa: BLE001 - from the user's function, or an invalid value
            self._tell(trial, self._end(None, err, None))
            return
        if self._is_duplicate(trial, config):
            return
        end = self._job(trial, config, self._pruner.of(trial))
        self._tell(trial, self._replicated(trial, end, config, overrides))

    def _suggest(self, trial: Trial) -> list[str]:
        suggest(trial, self.plan.space)
        if self._custom is not None:
            self._custom(self.config, trial)
        return self.plan.space.overrides(trial.params)

    def _compose(self, number: int, overrides: Sequence[str], subfolder: str = "") -> DictConfig:
        config = self._composer.compose(overrides)
        check_same_hydra(config, self.config)
        with open_dict(config):
            config.hydra.sweep.dir = str(self.plan.folder)
            config.hydra.sweep.subdir = f"{number}/{subfolder}" if subfolder else str(number)
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def _job(self, trial: Trial, config: DictConfig, pruner: Pruner | None) -> TrialEnd:
        # only the first run of a trial can resume an earlier trial, not its replicates
        is_first = config.hydra.sweep.subdir == str(trial.number)
        before = resume_folder(self.plan.folder, self._frozen(trial)) if is_first else None
        context = TrialContext(
            trial, pruner, before, self.study.user_attrs[RUN_UID], self.plan.study_name
        )
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        folder.mkdir(parents=True, exist_ok=True)
        with active_trial(context), self.output(folder):
            return self._outcome(context, config)

    def _replicated(
        self, trial: Trial, first: TrialEnd, config: DictConfig, overrides: Sequence[str]
    ) -> TrialEnd:
        """Runs the replicates and returns the mean of their values.

        If a replicate does not complete, skips the others and returns that replicate's `TrialEnd`.
        """
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
        """Ends a trial if its configuration must not run again; returns whether the trial ended."""
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
        """Ends a trial with the result of an earlier trial."""
        for step, value in done.intermediate_values.items():
            trial.report(value, step)
        trial.set_user_attr(OUTCOME, done.user_attrs[OUTCOME])
        trial.set_user_attr(
            MESSAGE, f"the same configuration as trial {done.number}, not run again"
        )
        self.study.tell(
            trial, done.values if done.state is TrialState.COMPLETE else None, done.state
        )

    def _outcome(self, context: TrialContext, config: DictConfig) -> TrialEnd:
        job = _Job(self.task_function)
        try:
            self._in_job = True
            if self._is_stopped:  # a signal arrived while the configuration was composed
                raise KeyboardInterrupt
            run_job(job, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.hydra_context)
        except (SystemExit, KeyboardInterrupt) as err:
            if not job.has_ended:  # raised by Hydra's code, not by the user's job
                job.error = err
        finally:
            self._in_job = False
        if isinstance(job.error, STORAGE_ERRORS):  # the storage failed, not the trial
            raise job.error
        end = self._end(job.returned, job.error, context.fit)
        if self._is_stopped and job.error is not None and end.reason is StopReason.ERROR:
            # an import may swallow the KeyboardInterrupt and fail later with another error
            end = self._end(None, KeyboardInterrupt(), None)
        job.error = None  # the traceback refers to the model and would keep it in memory
        if end.reason is StopReason.OUT_OF_MEMORY:
            free_memory()
        if end.reason is StopReason.INTERRUPTED and not self._has_ended(context.trial):
            self._is_stopped = True
            self.signum = self.signum or end.signum or signal.SIGINT
        return end

    def _has_ended(self, trial: Trial) -> bool:
        """Returns whether another process has ended the trial."""
        return not self._is_stopped and self._frozen(trial).state.is_finished()

    def _end(self, returned: Any, error: BaseException | None, fit: FitResult | None) -> TrialEnd:
        return trial_end(returned, error, fit, self.plan.objectives, len(self.plan.directions))

    def _tell(self, trial: Trial, end: TrialEnd) -> None:
        trial.set_user_attr(OUTCOME, str(end.reason))
        if end.message:
            trial.set_user_attr(MESSAGE, end.message)
        if end.traceback:
            trial.set_user_attr(TRACEBACK, end.traceback[-TRACEBACK_LENGTH:])
        if end.reason is StopReason.INTERRUPTED:
            requeue(self.study, self._frozen(trial))
        self._pruner.end(trial, end.state)
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
        is_repeated, self._is_stopped, self.signum = self._is_stopped, True, signum
        # a scheduler may send several signals, but only Ctrl-C ends the cleanup of the job
        if self._in_job and not (is_repeated and signum != signal.SIGINT):
            raise KeyboardInterrupt


class _Job:
    """Calls the user's job and stores its return value or exception.

    Hydra's `JobReturn` is not used, because it prints the overrides, including secrets, on errors.
    """

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
    """Returns a hash of a configuration, excluding the `hydra` node.

    Interpolations are not resolved, because some of them contain the folder of the trial.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    text = json.dumps(
        {key: value for key, value in plain.items() if key != "hydra"}, sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def free_memory() -> None:
    """Frees unused memory after a job ran out of memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
