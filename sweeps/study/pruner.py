"""The study's pruner as a trial sees it: it takes what the trial has reached, and says once whether to go on."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from statistics import median

from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from nntrain.core.events import CancelFitException
from nntrain.result import StopReason
from nntrain.sweeps.context import Pruning
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.opening import shadow_study
from nntrain.sweeps.study.trials import SweepStudy

CONTROL = "nntrain.control"
"""The step at which a trial would have been pruned that was let run on, to see how often pruning is wrong."""

REPORTS_OF = "nntrain.reports_of"
"""The trial whose reports a trial of the pruning metric's own study holds."""


class Judge:
    """Makes the pruning of each trial.

    A pruner compares what a study's trials have reported in the study's own direction, and with several objectives Optuna
    has none. So where the pruner is to see another metric than the one objective, that metric has a study of its own.
    """

    def __init__(self, plan: SweepPlan, study: SweepStudy, storage: BaseStorage) -> None:
        self.plan, self.study = plan, study
        self._shadow = shadow_study(plan, storage) if plan.monitor_direction is not None else None
        self._reported_to: dict[int, Trial] = {}

    def of(self, trial: Trial) -> Pruning | None:
        """The pruning of a trial; `None` where there are several objectives and no metric to prune by."""
        if self._shadow is not None:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # that it gives no sign of life, which the trial itself does
                shadow = self._reported_to[trial.number] = self._shadow.ask()
            shadow.set_user_attr(REPORTS_OF, trial.number)
            return TrialPruning(self.plan, self._shadow, trial, shadow)
        return (
            TrialPruning(self.plan, self.study, trial, trial)
            if len(self.plan.directions) == 1
            else None
        )

    def end(self, trial: Trial, state: TrialState) -> None:
        """Ends the trial in the study of the metric that the pruner sees, if there is one."""
        shadow = self._reported_to.pop(trial.number, None)
        if shadow is None or self._shadow is None:
            return
        reported: Mapping[int, float] = self._shadow.get_trials(deepcopy=False)[
            shadow.number
        ].intermediate_values
        if state is TrialState.COMPLETE and reported:
            self._shadow.tell(shadow, reported[max(reported)])
        else:
            self._shadow.tell(
                shadow, state=TrialState.FAIL if state is TrialState.COMPLETE else state
            )


def end_reports(plan: SweepPlan, study: SweepStudy, storage: BaseStorage) -> None:
    """Ends the trials of the pruning metric's own study whose trials have ended without saying so: their process died."""
    if plan.monitor_direction is None:
        return
    shadow = shadow_study(plan, storage)
    reports = shadow.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    running = {
        trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    }  # later: it began first
    for trial in reports:
        of = trial.user_attrs.get(REPORTS_OF)
        if of is not None and of not in running:
            shadow.tell(trial.number, state=TrialState.FAIL)


class TrialPruning:
    """Reports to a trial of Optuna's, and asks the pruner.

    Args:
        plan: the plan.
        study: the study whose pruner decides.
        trial: the trial that runs.
        reported_to: the trial that takes the reports: the same, or that of the study of another metric.
    """

    def __init__(self, plan: SweepPlan, study: Study, trial: Trial, reported_to: Trial) -> None:
        self._plan, self._study, self._trial, self._reported_to = plan, study, trial, reported_to
        self._is_control = (
            random.Random(f"{plan.study_name}/{trial.number}").random() < plan.control_fraction
        )
        self._is_decided = False
        self._last = (0, 0.0)

    @property
    def monitor(self) -> str | None:
        """The metric to report."""
        return self._plan.monitor or (self._plan.objectives[0] if self._plan.objectives else None)

    @property
    def every(self) -> int | None:
        """Training batches between two reports."""
        return self._plan.every

    def report(self, value: float, step: int) -> None:
        """Takes the value at a step.

        Raises:
            CancelFitException: if the trial was ended meanwhile, as lost, by somebody else.
        """
        self._last = (step, value)
        try:
            self._reported_to.report(value, step)
        except UpdateFinishedTrialError as err:
            raise CancelFitException(
                "the trial was taken for lost by another process", reason=StopReason.INTERRUPTED
            ) from err

    def verdict(self) -> str | None:
        """Why the trial is to stop; asked again, a trial that is let run on as a control goes on."""
        if self._is_decided or not self._reported_to.should_prune():
            return None
        self._is_decided = True
        if self._is_control:
            self._trial.set_user_attr(CONTROL, self._last[0])
            return None
        return self._compared()

    def _compared(self) -> str:
        step, value = self._last
        trials = self._study.get_trials(deepcopy=False)
        others = [
            trial.intermediate_values[step]
            for trial in trials
            if trial.number != self._reported_to.number and step in trial.intermediate_values
        ]
        what = f"{self.monitor}={value:.6g} at step {step}, {type(self._study.pruner).__name__}"
        if not others:
            return f"{what}; no other trial got there"
        return f"{what}; there {len(others)} others had {min(others):.6g} to {max(others):.6g}, median {median(others):.6g}"
