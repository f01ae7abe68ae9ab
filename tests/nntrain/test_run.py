"""The composition root's own decisions: exit codes, the final table, the objective."""

import signal

import pytest

from nntrain import FitResult, StopReason
from nntrain.config.errors import ConfigError
from nntrain.run import check_objective, exit_code, final_table


@pytest.mark.parametrize(
    ("reason", "signum", "expected"),
    [
        (StopReason.COMPLETED, None, 0),
        (StopReason.EARLY_STOPPED, None, 0),
        (StopReason.BUDGET, None, 0),
        (StopReason.PRUNED, None, 0),
        (StopReason.DIVERGED, None, 1),
        (StopReason.ERROR, None, 1),
        (StopReason.OUT_OF_MEMORY, None, 1),
        (StopReason.INTERRUPTED, signal.SIGTERM, 143),
        (StopReason.INTERRUPTED, signal.SIGINT, 130),
        (StopReason.INTERRUPTED, None, 130),
    ],
)
def test_the_exit_code_is_that_of_the_outcome_table(reason: StopReason, signum: signal.Signals | None, expected: int) -> None:
    assert exit_code(FitResult(reason, signum=signum)) == expected


def test_every_reason_has_an_exit_code() -> None:
    assert {exit_code(FitResult(reason)) for reason in StopReason} == {0, 1, 130}


def test_the_final_table_has_the_outcome_and_the_last_metrics() -> None:
    result = FitResult(StopReason.BUDGET, "time is up", {"epoch": 1.0, "valid/loss": 0.25, "time/epoch_s": 3.0}, n_epoch=2)
    assert final_table(result).splitlines() == ["outcome:         budget after 2 epochs: time is up", "valid/loss:      0.25"]


def test_an_objective_that_is_not_recorded_is_refused() -> None:
    check_objective(None, [])
    check_objective("valid/loss", ["train/loss", "valid/loss"])
    with pytest.raises(
        ConfigError, match=r"objective=valid/acc is not going to be recorded: set it to one of train/loss, or to null"
    ):
        check_objective("valid/acc", ["train/loss"])
