"""How a trial ended, and what Optuna is told of it."""

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
"""Optuna's state for each reason why a fit ends."""

FAILURES = frozenset({StopReason.ERROR.value, "timeout", "killed"})
"""Outcomes that count for `max_failure_rate`: those that say nothing of the configuration, but that something is broken."""


@dataclass(frozen=True)
class TrialEnd:
    """The reason, the values of the objectives if there are any, a message for people, the traceback of an error, and the
    signal that interrupted the job, if one did.
    """

    reason: StopReason
    values: Sequence[float] | None = None
    message: str = ""
    traceback: str = ""
    signum: int | None = None

    @property
    def state(self) -> TrialState:
        """Optuna's state."""
        return STATES[self.reason]


def of_error(err: BaseException, result: FitResult | None) -> TrialEnd:
    """What became of a trial whose job raised; the fit's own account of it wins, if there is one."""
    if result is not None and result.reason not in (
        StopReason.COMPLETED,
        StopReason.EARLY_STOPPED,
        StopReason.BUDGET,
    ):
        return TrialEnd(result.reason, message=result.message, traceback=_text(err))
    if isinstance(err, TrialPruned):
        return TrialEnd(StopReason.PRUNED, message=str(err))
    if isinstance(err, CancelException) and STATES[err.reason] is not TrialState.COMPLETE:
        return TrialEnd(err.reason, message=err.message)
    if isinstance(err, SystemExit):
        return TrialEnd(StopReason.ERROR, message=f"the job called sys.exit({err.code!r})")
    if isinstance(err, ConfigError):
        return TrialEnd(
            StopReason.ERROR, message=str(err)
        )  # a mistake of the user's, which is told in a sentence
    message = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
    return TrialEnd(reason_of(err), message=message, traceback=_text(err))


def _text(err: BaseException) -> str:
    return "".join(traceback.format_exception(err))


def of_return(
    returned: Any, result: FitResult | None, objectives: Sequence[str], n_objective: int
) -> TrialEnd:
    """What became of a trial whose job returned.

    Args:
        returned: a number, a sequence of them, or the `FitResult` of the job's own fit.
        result: how the last fit ended that reported to the trial, if one did.
        objectives: the names under which the values stand in the metrics of a `FitResult`.
        n_objective: how many values there must be.
    """
    if isinstance(returned, FitResult):
        result, returned = returned, None
    if result is not None and STATES[result.reason] is not TrialState.COMPLETE:
        return TrialEnd(result.reason, message=result.message, signum=result.signum)
    reason, message = (
        (StopReason.COMPLETED, "") if result is None else (result.reason, result.message)
    )
    if returned is None and result is not None and objectives:
        missing = [name for name in objectives if name not in result.metrics]
        if missing:
            recorded = ", ".join(sorted(result.metrics))
            return _wrong(f"objective={missing[0]} was never recorded: set it to one of {recorded}")
        returned = [result.metrics[name] for name in objectives]
    return _of_values(returned, reason, message, n_objective)


def _of_values(returned: Any, reason: StopReason, message: str, n_objective: int) -> TrialEnd:
    values = (
        list(returned)
        if isinstance(returned, Sequence) and not isinstance(returned, str)
        else [returned]
    )
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return _wrong(f"the job returned {returned!r}: expected is {_expected(n_objective)}")
    if len(numbers) != n_objective:
        return _wrong(
            f"the job returned {len(numbers)} values: expected is {_expected(n_objective)}"
        )
    if any(math.isnan(value) for value in numbers):
        return TrialEnd(
            StopReason.DIVERGED, message=f"the objective is {', '.join(map(str, numbers))}"
        )
    return TrialEnd(reason, numbers, message)


def _expected(n: int) -> str:
    return "a number" if n == 1 else f"a list of {n} numbers, one for each direction"


def _wrong(message: str) -> TrialEnd:
    return TrialEnd(StopReason.ERROR, message=message)
