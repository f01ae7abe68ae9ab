"""Decides how a trial ended: the only place that converts the end of a job to an Optuna state.

A job ends with a return value or an exception. This is not enough for a job that uses a `Learner`:
`fit` returns normally even if it was pruned, diverged, or was interrupted, and the job may then
return a value as if the fit had completed. Only the `FitResult` contains the actual reason. The job
can return the `FitResult`, and `PruningCallback` also stores it in the trial's context.

`trial_end` checks three sources in this order: a fit that did not complete, the exception of the
job, and the return value of the job.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import TrialPruned
from optuna.trial import TrialState

from nntrain.config.errors import ConfigError
from nntrain.core.events import CancelException, reason_of
from nntrain.result import FitResult, StopReason

STATES: Mapping[StopReason, TrialState] = {
    StopReason.COMPLETED: TrialState.COMPLETE,
    StopReason.EARLY_STOPPED: TrialState.COMPLETE,
    StopReason.BUDGET: TrialState.COMPLETE,
    StopReason.PRUNED: TrialState.PRUNED,
    StopReason.DIVERGED: TrialState.PRUNED,
    StopReason.INTERRUPTED: TrialState.FAIL,
    StopReason.ERROR: TrialState.FAIL,
    StopReason.OUT_OF_MEMORY: TrialState.FAIL,
}
"""The state of a trial in Optuna for each `StopReason`."""

FAILURES = frozenset({StopReason.ERROR.value, "timeout", "killed"})
"""The outcomes that count toward `max_failure_rate`.

Other outcomes may be caused by the parameters of the trial."""


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Attributes:
        reason: why the trial ended.
        values: the values of the objectives, if the trial completed.
        message: a description of the reason.
        traceback: the traceback, if the job raised an error.
        signum: the number of the signal, if one interrupted the job.
    """

    reason: StopReason
    values: Sequence[float] | None = None
    message: str = ""
    traceback: str = ""
    signum: int | None = None

    @property
    def state(self) -> TrialState:
        """The state of the trial in Optuna."""
        return STATES[self.reason]


def trial_end(
    returned: Any,
    error: BaseException | None,
    fit: FitResult | None,
    objectives: Sequence[str],
    n_objective: int,
) -> TrialEnd:
    """Decides how a trial ended; the module docstring explains the order of precedence.

    Args:
        returned: the return value of the job: a number, a sequence of numbers, or a `FitResult`.
        error: the exception that the job raised.
        fit: the result of the last fit that reported to the trial.
        objectives: names of the metrics in the `FitResult` that are the values of the trial.
        n_objective: the expected number of values.
    """
    if isinstance(returned, FitResult):
        fit, returned = returned, None
    if fit is not None and STATES[fit.reason] is not TrialState.COMPLETE:
        text = "" if error is None else _text(error)
        return TrialEnd(fit.reason, message=fit.message, traceback=text, signum=fit.signum)
    if error is not None:
        return _of_error(error)
    reason, message = (StopReason.COMPLETED, "") if fit is None else (fit.reason, fit.message)
    if returned is None and fit is not None and objectives:
        missing = [name for name in objectives if name not in fit.metrics]
        if missing:
            recorded = ", ".join(sorted(fit.metrics))
            return _error(f"objective={missing[0]} was not recorded: set it to one of {recorded}")
        returned = [fit.metrics[name] for name in objectives]
    return _of_values(returned, reason, message, n_objective)


def _of_error(err: BaseException) -> TrialEnd:
    if isinstance(err, TrialPruned):
        return TrialEnd(StopReason.PRUNED, message=str(err))
    if isinstance(err, CancelException) and STATES[err.reason] is not TrialState.COMPLETE:
        return TrialEnd(err.reason, message=err.message)
    if isinstance(err, SystemExit):
        return _error(f"the job called sys.exit({err.code!r})")
    if isinstance(err, ConfigError):
        return _error(str(err))  # a configuration error needs no traceback
    message = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
    return TrialEnd(reason_of(err), message=message, traceback=_text(err))


def _text(err: BaseException) -> str:
    return "".join(traceback.format_exception(err))


def _of_values(returned: Any, reason: StopReason, message: str, n_objective: int) -> TrialEnd:
    values = (
        list(returned)
        if isinstance(returned, Sequence) and not isinstance(returned, str)
        else [returned]
    )
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return _error(f"the job returned {returned!r}, expected {_expected(n_objective)}")
    if len(numbers) != n_objective:
        n = len(numbers)
        return _error(
            f"the job returned {n} value{'s' * (n != 1)}, expected {_expected(n_objective)}"
        )
    if any(math.isnan(value) for value in numbers):
        return TrialEnd(
            StopReason.DIVERGED, message=f"the objective is {', '.join(map(str, numbers))}"
        )
    return TrialEnd(reason, numbers, message)


def _expected(n: int) -> str:
    return "a number" if n == 1 else f"a list of {n} numbers, one for each direction"


def _error(message: str) -> TrialEnd:
    return TrialEnd(StopReason.ERROR, message=message)
