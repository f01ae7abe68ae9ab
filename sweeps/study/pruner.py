"""Reports a trial's values to Optuna and asks the study's pruner whether to stop the trial."""

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
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.opening import open_reports_study
from nntrain.sweeps.study.trials import SweepStudy

CONTROL = "nntrain.control"
"""The attribute of a control trial: the step at which the pruner would have stopped the trial."""

REPORTS_OF = "nntrain.reports_of"
"""The attribute of a trial in the reports study: the number of the original trial."""


class StudyPruner:
    """Creates a `TrialPruner` for each trial of a study.

    If the pruning metric is not the only objective, its values are reported to a separate study;
    see `open_reports_study`.
    """

    def __init__(self, plan: SweepPlan, study: SweepStudy, storage: BaseStorage) -> None:
        self.plan, self.study = plan, study
        has_reports = plan.monitor_direction is not None
        self._reports = open_reports_study(plan, storage) if has_reports else None
        self._reported_to: dict[int, Trial] = {}

    def of(self, trial: Trial) -> TrialPruner | None:
        """Returns the pruner of a trial.

        Returns `None` if there are several objectives and no pruning metric.
        """
        if self._reports is not None:
            with warnings.catch_warnings():
                # ignore a warning about missing heartbeats: the original trial sends heartbeats
                warnings.simplefilter("ignore", UserWarning)
                reports = self._reported_to[trial.number] = self._reports.ask()
            reports.set_user_attr(REPORTS_OF, trial.number)
            return TrialPruner(self.plan, self._reports, trial, reports)
        if len(self.plan.directions) > 1:
            return None
        return TrialPruner(self.plan, self.study, trial, trial)

    def end(self, trial: Trial, state: TrialState) -> None:
        """Ends the trial's counterpart in the reports study, if there is a reports study."""
        reports = self._reported_to.pop(trial.number, None)
        if reports is None or self._reports is None:
            return
        values: Mapping[int, float] = self._reports.get_trials(deepcopy=False)[
            reports.number
        ].intermediate_values
        if state is not TrialState.COMPLETE:
            self._reports.tell(reports, state=state)
        elif values:
            self._reports.tell(reports, values[max(values)])
        else:
            self._reports.tell(reports, state=TrialState.FAIL)


def end_reports(plan: SweepPlan, study: SweepStudy, storage: BaseStorage) -> None:
    """Ends trials in the reports study whose original trials are no longer running.

    A worker that dies leaves such trials behind.
    """
    if plan.monitor_direction is None:
        return
    reports_study = open_reports_study(plan, storage)
    reports = reports_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    # read the original trials last, or the counterpart of a trial that just started would be ended
    running = {
        trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    }
    for one in reports:
        reporter = one.user_attrs.get(REPORTS_OF)
        if reporter is not None and reporter not in running:
            reports_study.tell(one.number, state=TrialState.FAIL)


class TrialPruner:
    """Reports values to an Optuna trial and asks the study's pruner; implements `context.Pruner`.

    Args:
        plan: the plan of the sweep.
        study: the study whose pruner decides.
        trial: the running trial.
        reported_to: the trial that receives the values: `trial`, or its counterpart in the
            reports study.
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
        """The number of training batches between two reports."""
        return self._plan.every

    def report(self, value: float, step: int) -> None:
        """Records the value at a step.

        Raises:
            CancelFitException: if another process has marked the trial as lost.
        """
        self._last = (step, value)
        try:
            self._reported_to.report(value, step)
        except UpdateFinishedTrialError as err:
            raise CancelFitException(
                "another process marked the trial as lost", reason=StopReason.INTERRUPTED
            ) from err

    def prune_reason(self) -> str | None:
        """Returns why the trial must stop; `None` if the trial continues.

        A control trial always continues.
        """
        if self._is_decided or not self._reported_to.should_prune():
            return None
        self._is_decided = True
        if self._is_control:
            self._trial.set_user_attr(CONTROL, self._last[0])
            return None
        return self._comparison()

    def _comparison(self) -> str:
        step, value = self._last
        trials = self._study.get_trials(deepcopy=False)
        others = [
            trial.intermediate_values[step]
            for trial in trials
            if trial.number != self._reported_to.number and step in trial.intermediate_values
        ]
        what = f"{self.monitor}={value:.6g} at step {step}, {type(self._study.pruner).__name__}"
        if not others:
            return f"{what}; no other trial reached this step"
        return (
            f"{what}; {len(others)} other trials had values from {min(others):.6g} to "
            f"{max(others):.6g}, median {median(others):.6g}"
        )
