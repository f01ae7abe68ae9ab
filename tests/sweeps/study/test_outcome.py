"""What Optuna is told of how a job ended."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from nntrain.core.events import CancelEpochException, CancelFitException
from nntrain.result import FitResult, StopReason
from nntrain.sweeps.study.outcome import FAILURES, STATES, of_error, of_return

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


def test_each_reason_has_its_state() -> None:
    assert set(STATES) == set(StopReason)
    assert dict(STATES) == TABLE


def test_only_what_is_broken_counts_as_a_failure() -> None:
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
    end = of_return(returned, None, [], 1)
    assert (end.reason, end.values, end.state) == (StopReason.COMPLETED, expected, DONE)


def test_several_objectives_are_returned_in_order() -> None:
    assert of_return((1, 2.5), None, [], 2).values == [1.0, 2.5]


@pytest.mark.parametrize(
    ("returned", "n", "message"),
    [
        (None, 1, "the job returned None: expected is a number"),
        ("good", 1, "the job returned 'good': expected is a number"),
        ({"a": 1}, 1, "the job returned {'a': 1}: expected is a number"),
        ([1, 2], 1, "the job returned 2 values: expected is a number"),
        ([], 1, "the job returned 0 values: expected is a number"),
        (
            0.5,
            2,
            "the job returned 1 values: expected is a list of 2 numbers, one for each direction",
        ),
        (
            [1, None],
            2,
            "the job returned [1, None]: expected is a list of 2 numbers, one for each direction",
        ),
    ],
)
def test_what_is_no_value_is_told(returned: Any, n: int, message: str) -> None:
    end = of_return(returned, None, [], n)
    assert (end.reason, end.values, end.message) == (StopReason.ERROR, None, message)


@pytest.mark.parametrize("returned", [math.nan, [1.0, math.nan]])
def test_a_value_that_is_no_number_has_diverged(returned: Any) -> None:
    end = of_return(returned, None, [], 2 if isinstance(returned, list) else 1)
    assert (end.reason, end.state, end.values) == (StopReason.DIVERGED, PRUNED, None)
    assert end.message.startswith("the objective is ")


RESULT = FitResult(StopReason.BUDGET, "time is up", {"valid/loss": 0.5, "valid/accuracy": 0.75})


@pytest.mark.parametrize("returned", [None, RESULT])
def test_a_fits_result_holds_the_objectives(returned: Any) -> None:
    result = None if returned is RESULT else RESULT
    end = of_return(returned, result, ["valid/accuracy", "valid/loss"], 2)
    assert (end.reason, end.values, end.message) == (StopReason.BUDGET, [0.75, 0.5], "time is up")


def test_what_the_job_returns_wins_over_what_its_fit_recorded() -> None:
    assert of_return(9.0, RESULT, ["valid/loss"], 1).values == [9.0]


def test_an_objective_that_was_not_recorded_is_told_with_those_that_were() -> None:
    end = of_return(None, RESULT, ["valid/f1"], 1)
    assert end.reason is StopReason.ERROR
    assert (
        end.message
        == "objective=valid/f1 was never recorded: set it to one of valid/accuracy, valid/loss"
    )


@pytest.mark.parametrize("reason", [reason for reason, state in TABLE.items() if state is not DONE])
def test_a_fit_that_was_stopped_decides_whatever_the_job_returns_or_raises(
    reason: StopReason,
) -> None:
    result = FitResult(reason, "why", {"valid/loss": 0.5})
    for end in (of_return(0.5, result, ["valid/loss"], 1), of_error(RuntimeError("later"), result)):
        assert (end.reason, end.state, end.values, end.message) == (
            reason,
            TABLE[reason],
            None,
            "why",
        )


@pytest.mark.parametrize("reason", [reason for reason, state in TABLE.items() if state is DONE])
def test_an_error_after_a_fit_that_ended_well_is_an_error(reason: StopReason) -> None:
    assert of_error(RuntimeError("later"), FitResult(reason)).reason is StopReason.ERROR


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
    (optuna.TrialPruned("no promise"), StopReason.PRUNED, "no promise"),
    (CancelFitException("no promise", reason=StopReason.PRUNED), StopReason.PRUNED, "no promise"),
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
def test_what_a_job_raises_is_kept_apart(
    err: BaseException, reason: StopReason, message: str
) -> None:
    end = of_error(err, None)
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
        end = of_error(err, None)
    assert "in broken" in end.traceback
    assert end.traceback.endswith("RuntimeError: here\n")


def test_an_interrupted_fit_says_by_which_signal() -> None:
    import signal

    result = FitResult(StopReason.INTERRUPTED, signum=signal.SIGTERM)
    assert of_return(None, result, [], 1).signum is signal.SIGTERM
