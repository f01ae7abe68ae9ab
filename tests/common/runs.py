"""Interrupts a fit at a given batch, and compares the results of two fits."""

from typing import Any, ClassVar

import torch

from nntrain import Callback, CancelFitException, Learner, StopReason
from nntrain.core.rng import rng_state


class InterruptAt(Callback):
    """Cancels the fit after the given batch with `StopReason.INTERRUPTED`, as a signal would."""

    order: ClassVar[int] = 100

    def __init__(self, epoch: int, iteration: int, *, training: bool = True) -> None:
        self.place = (epoch, iteration, training)

    def after_batch(self, learn: Learner) -> None:
        if (learn.epoch, learn.iter, learn.training) == self.place:
            raise CancelFitException("interrupted", reason=StopReason.INTERRUPTED)


def outcome(learn: Learner) -> dict[str, Any]:
    """Returns the results of a fit except times: records, weights, optimizer and random states."""
    recorder = learn.recorder
    rows = [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in recorder.rows
    ]
    return {
        "losses": recorder.losses,
        "rows": rows,
        "lrs": recorder.lrs,
        "moms": recorder.moms,
        "train_iter": learn.train_iter,
        "weights": learn.model.state_dict(),
        "opt": learn.opt.state_dict(),
        "rng": rng_state([learn.dls.train, learn.dls.valid]),
    }


def assert_identical(actual: Any, expected: Any, where: str = "outcome") -> None:
    """Checks that two nested values are equal to the last bit; NaN equals NaN."""
    assert type(actual) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype, where
        assert torch.equal(torch.nan_to_num(actual), torch.nan_to_num(expected)), where
    elif isinstance(expected, dict):
        assert list(actual) == list(expected), where
        for name in expected:
            assert_identical(actual[name], expected[name], f"{where}[{name!r}]")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), where
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_identical(one, other, f"{where}[{i}]")
    else:
        assert actual == expected, where
