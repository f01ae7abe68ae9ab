"""How a job ends determines the values and the state of its trial."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from nntrain.core.events import CancelEpochException, CancelFitException
from nntrain.result import FitResult, StopReason
from nntrain.sweeps.study.outcome import FAILURES, STATES, TrialEnd, trial_end

DONE, PRUNED, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL

TABLE = {
    StopReason.COMPLETED: DONE,
    StopReason.EARLY_STOPPED: DONE,
    StopReason.BUDGET: DONE,
    StopReason.PRUNED: PRUNED,
    StopReason.DIVERGED: PRUNED,
    StopReason.INTERRUPTED: FAILED,
    StopReason.ERROR: FAILED,
    StopReason.OUT_OF_MEMORY: FAILED,
}


def ended(
    returned: Any = None,
    *,
    error: BaseException | None = None,
    fit: FitResult | None = None,
    objectives: Sequence[str] = (),
    n: int = 1,
) -> TrialEnd:
    """Returns how a trial ends, given the result or exception of its job, and a fit result."""
    return trial_end(returned, error, fit, objectives, n)


def test_each_reason_has_its_state() -> None:
    assert set(STATES) == set(StopReason)
    assert dict(STATES) == TABLE


def test_only_errors_timeouts_and_kills_count_as_failures() -> None:
    assert {"error", "timeout", "killed"} == FAILURES


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (0.5, [0.5]),
        (3, [3.0]),
        (True, [1.0]),
        (np.float32(0.5), [0.5]),
        (torch.tensor(0.25), [0.25]),
        ([0.5], [0.5]),
        ((0.5,), [0.5]),
        ("0.5", [0.5]),
        (-math.inf, [-math.inf]),
    ],
)
def test_a_number_is_the_value(returned: Any, expected: list[float]) -> None:
    end = ended(returned)
    assert (end.reason, end.values, end.state) == (StopReason.COMPLETED, expected, DONE)


def test_several_objectives_are_returned_in_order() -> None:
    assert ended((1, 2.5), n=2).values == [1.0, 2.5]


@pytest.mark.parametrize(
    ("returned", "n", "message"),
    [
        (None, 1, "the job returned None, expected a number"),
        ("good", 1, "the job returned 'good', expected a number"),
        ({"a": 1}, 1, "the job returned {'a': 1}, expected a number"),
        ([1, 2], 1, "the job returned 2 values, expected a number"),
        ([], 1, "the job returned 0 values, expected a number"),
        (
            0.5,
            2,
            "the job returned 1 value, expected a list of 2 numbers, one for each direction",
        ),
        (
            [1, None],
            2,
            "the job returned [1, None], expected a list of 2 numbers, one for each direction",
        ),
    ],
)
def test_a_return_value_that_is_not_a_number_is_an_error(
    returned: Any, n: int, message: str
) -> None:
    end = ended(returned, n=n)
    assert (end.reason, end.values, end.message) == (StopReason.ERROR, None, message)


@pytest.mark.parametrize("returned", [math.nan, [1.0, math.nan]])
def test_a_trial_whose_value_is_nan_has_diverged(returned: Any) -> None:
    end = ended(returned, n=2 if isinstance(returned, list) else 1)
    assert (end.reason, end.state, end.values) == (StopReason.DIVERGED, PRUNED, None)
    assert end.message.startswith("the objective is ")


RESULT = FitResult(StopReason.BUDGET, "time is up", {"valid/loss": 0.5, "valid/accuracy": 0.75})


@pytest.mark.parametrize("returned", [None, RESULT])
def test_the_objectives_are_read_from_the_result_of_the_fit(returned: Any) -> None:
    fit = None if returned is RESULT else RESULT
    end = ended(returned, fit=fit, objectives=["valid/accuracy", "valid/loss"], n=2)
    assert (end.reason, end.values, end.message) == (StopReason.BUDGET, [0.75, 0.5], "time is up")


def test_the_return_value_of_the_job_replaces_the_metrics_of_the_fit() -> None:
    assert ended(9.0, fit=RESULT, objectives=["valid/loss"]).values == [9.0]


def test_a_missing_objective_is_an_error_that_lists_the_recorded_metrics() -> None:
    end = ended(fit=RESULT, objectives=["valid/f1"])
    assert end.reason is StopReason.ERROR
    assert (
        end.message
        == "objective=valid/f1 was not recorded: set it to one of valid/accuracy, valid/loss"
    )


@pytest.mark.parametrize("reason", [reason for reason, state in TABLE.items() if state is not DONE])
def test_the_result_of_a_stopped_fit_counts_whatever_the_job_returns_or_raises(
    reason: StopReason,
) -> None:
    result = FitResult(reason, "why", {"valid/loss": 0.5})
    for end in (
        ended(0.5, fit=result, objectives=["valid/loss"]),
        ended(error=RuntimeError("later"), fit=result),
    ):
        assert (end.reason, end.state, end.values, end.message) == (
            reason,
            TABLE[reason],
            None,
            "why",
        )


@pytest.mark.parametrize("reason", [reason for reason, state in TABLE.items() if state is DONE])
def test_an_error_after_a_fit_that_ended_well_is_an_error(reason: StopReason) -> None:
    assert ended(error=RuntimeError("later"), fit=FitResult(reason)).reason is StopReason.ERROR


ERRORS: list[tuple[BaseException, StopReason, str]] = [
    (RuntimeError("broken"), StopReason.ERROR, "RuntimeError: broken"),
    (ValueError(), StopReason.ERROR, "ValueError"),
    (MemoryError(), StopReason.OUT_OF_MEMORY, "MemoryError"),
    (
        torch.OutOfMemoryError("CUDA out of memory"),
        StopReason.OUT_OF_MEMORY,
        "OutOfMemoryError: CUDA out of memory",
    ),
    (KeyboardInterrupt(), StopReason.INTERRUPTED, "KeyboardInterrupt"),
    (SystemExit(3), StopReason.ERROR, "the job called sys.exit(3)"),
    (SystemExit(), StopReason.ERROR, "the job called sys.exit(None)"),
    (optuna.TrialPruned("unpromising"), StopReason.PRUNED, "unpromising"),
    (CancelFitException("unpromising", reason=StopReason.PRUNED), StopReason.PRUNED, "unpromising"),
    (CancelFitException("enough", reason=StopReason.INTERRUPTED), StopReason.INTERRUPTED, "enough"),
    (
        CancelFitException("outside of a fit"),
        StopReason.ERROR,
        "CancelFitException: outside of a fit",
    ),
    (CancelEpochException(reason=StopReason.DIVERGED), StopReason.DIVERGED, ""),
]


@pytest.mark.parametrize(
    ("err", "reason", "message"), ERRORS, ids=lambda value: str(value) or type(value).__name__
)
def test_each_kind_of_error_has_its_reason(
    err: BaseException, reason: StopReason, message: str
) -> None:
    end = ended(error=err)
    assert (end.reason, end.state, end.message, end.values) == (
        reason,
        TABLE[reason],
        message,
        None,
    )


def test_an_error_keeps_its_traceback() -> None:
    def broken() -> None:
        raise RuntimeError("here")

    try:
        broken()
    except RuntimeError as err:
        end = ended(error=err)
    assert "in broken" in end.traceback
    assert end.traceback.endswith("RuntimeError: here\n")


def test_the_end_of_an_interrupted_fit_has_the_signal() -> None:
    result = FitResult(StopReason.INTERRUPTED, signum=signal.SIGTERM)
    assert ended(fit=result).signum is signal.SIGTERM
