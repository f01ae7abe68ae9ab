"""A test suite for callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from nntrain.callbacks import Checkpoint
from nntrain.core.callback import Callback
from nntrain.core.events import (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    Event,
)
from nntrain.learner import Learner
from nntrain.result import StopReason
from nntrain.testing.spies import RaiseAt, counted_reads
from nntrain.testing.toys import Lists, flat_weights, regression_lists, small_learner

CANCELS: list[tuple[Event, type[CancelException]]] = [
    (Event.BEFORE_FIT, CancelFitException),
    (Event.BEFORE_BATCH, CancelFitException),
    (Event.AFTER_LOSS, CancelEpochException),
    (Event.BEFORE_TRAIN, CancelTrainException),
    (Event.BEFORE_VALIDATE, CancelValidException),
    (Event.AFTER_PRED, CancelBatchException),
    (Event.BEFORE_BACKWARD, CancelBackwardException),
    (Event.BEFORE_STEP, CancelStepException),
]

ERRORS: list[tuple[Event, type[BaseException]]] = [
    (Event.BEFORE_FIT, RuntimeError),
    (Event.AFTER_LOSS, RuntimeError),
    (Event.BEFORE_VALIDATE, RuntimeError),
    (Event.AFTER_EPOCH, RuntimeError),
    (Event.AFTER_FIT, RuntimeError),
    (Event.BEFORE_STEP, KeyboardInterrupt),
    (Event.AFTER_VALIDATE, KeyboardInterrupt),
]

INTERRUPTIONS: dict[str, tuple[Event, int, int | None]] = {
    "in training": (Event.AFTER_BATCH, 1, 1),
    "in validation": (Event.BEFORE_VALIDATE, 1, None),
    "after an epoch": (Event.AFTER_EPOCH, 0, None),
}
"""The event, epoch and batch at which the resume test interrupts the fit."""


def _id(value: object) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


class CallbackContract:
    """Tests that every callback must pass. Subclass this in a test module and override `make`.

        class TestPeakMemory(CallbackContract):
            def make(self) -> Callback:
                return PeakMemory()

    Each test trains a small model for a few epochs, in an empty working directory. `make` must
    return a callback that does not end these fits early.
    """

    def make(self) -> Callback:
        """Returns a new callback."""
        raise NotImplementedError(f"{type(self).__name__} must override make().")

    def reads_per_batch(self) -> int:
        """Returns the expected number of device reads per training batch; the default is 0."""
        return 0

    def learner(self, *cbs: Callback, bs: int = 8) -> Learner:
        """Returns a small learner with `cbs`, except callbacks that every Learner already has."""
        learn = small_learner(bs=bs)
        default = {type(cb) for cb in learn.cbs}
        return learn.add_cbs(cb for cb in cbs if type(cb) not in default)

    @pytest.fixture(autouse=True)
    def _empty_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_its_order_is_in_the_bands_and_it_has_a_purpose(self) -> None:
        """`order` is between -60 and 100. See `Callback` for the meaning of the values."""
        callback = self.make()
        assert -60 <= callback.order <= 100
        assert callback.purposes

    def test_it_withstands_two_fits_and_trains(self) -> None:
        """Both fits complete, update the weights, and restore modes, hooks and callbacks."""
        learn = self.learner(self.make())
        unchanged = _Unchanged(learn)
        start = flat_weights(learn.model)
        results = [learn.fit(2), learn.fit(2)]
        unchanged.check()
        assert [result.reason for result in results] == [StopReason.COMPLETED] * 2
        assert [result.n_epoch for result in results] == [2, 2]
        assert torch.isfinite(flat_weights(learn.model)).all()
        assert not torch.equal(flat_weights(learn.model), start)

    @pytest.mark.parametrize(("event", "cancel"), CANCELS, ids=_id)
    def test_it_withstands_a_cancel_by_another_callback(
        self, event: Event, cancel: type[CancelException]
    ) -> None:
        """The fit ends with the right reason, and the next fit completes."""
        learn = self.learner(RaiseAt(event, cancel()), self.make())
        unchanged = _Unchanged(learn)
        result = learn.fit(2)
        unchanged.check()
        ends_fit = cancel is CancelFitException
        assert result.reason is (StopReason.EARLY_STOPPED if ends_fit else StopReason.COMPLETED)
        assert learn.fit(1).reason is StopReason.COMPLETED
        assert torch.isfinite(flat_weights(learn.model)).all()

    @pytest.mark.parametrize(("event", "error"), ERRORS, ids=_id)
    def test_it_withstands_an_error_of_another_callback(
        self, event: Event, error: type[BaseException]
    ) -> None:
        """`fit` raises the error and restores the learner, and the next fit completes."""
        learn = self.learner(RaiseAt(event, error("broken")), self.make())
        unchanged = _Unchanged(learn)
        with pytest.raises(error):
            learn.fit(2)
        unchanged.check()
        assert learn.fit(1).reason is StopReason.COMPLETED
        assert torch.isfinite(flat_weights(learn.model)).all()

    def test_it_withstands_lr_find_between_fits(self) -> None:
        """`lr_find` does not change the state of the callback."""

        def fitted(*, with_lr_find: bool) -> Learner:
            learn = self.learner(self.make())
            torch.manual_seed(1)
            learn.fit(1)
            if with_lr_find:
                learn.lr_find(num_it=20)
            learn.fit(1)
            return learn

        _assert_same(fitted(with_lr_find=True), fitted(with_lr_find=False))

    def test_it_withstands_validation_and_predictions(self) -> None:
        """`validate` and `get_preds` return the same results with and without the callback."""
        learn, plain = self.learner(self.make()), self.learner()
        unchanged = _Unchanged(learn)
        assert learn.validate() == plain.validate()
        assert torch.equal(learn.get_preds()[0], plain.get_preds()[0])
        unchanged.check()

    def test_its_clean_up_may_run_twice_or_without_a_fit(self) -> None:
        """`cleanup_fit` changes nothing when there is nothing to clean up."""
        callback = self.make()
        learn = self.learner(callback)
        unchanged = _Unchanged(learn)
        callback.cleanup_fit(learn)
        unchanged.check()
        learn.fit(1)
        weights = flat_weights(learn.model)
        callback.cleanup_fit(learn)
        unchanged.check()
        assert torch.equal(flat_weights(learn.model), weights)
        assert learn.fit(1).reason is StopReason.COMPLETED

    def test_it_does_not_change_the_callers_list(self) -> None:
        """`fit(cbs=...)` does not modify the list, and removes the callback after the fit."""
        cbs = [self.make()]
        kept = list(cbs)
        learn = small_learner()
        learn.fit(1, cbs=cbs)
        assert cbs == kept
        assert cbs[0] not in learn.cbs

    def test_it_does_not_change_the_callers_batches(self) -> None:
        """The tensors in the data loaders do not change."""
        learn = self.learner(self.make())
        learn.fit(1)
        for part, original in zip(
            (learn.dls.train, learn.dls.valid or ()), vars(regression_lists()).values(), strict=True
        ):
            for batch, expected in zip(part, original, strict=True):
                assert all(
                    torch.equal(item, other) for item, other in zip(batch, expected, strict=True)
                )

    @pytest.mark.parametrize("place", INTERRUPTIONS)
    def test_its_state_continues_in_a_resumed_fit(self, place: str) -> None:
        """An interrupted and resumed fit has the same result as an uninterrupted fit.

        A callback with state must implement `state_dict` and `load_state_dict`.
        """
        event, epoch, iteration = INTERRUPTIONS[place]
        whole = self.learner(self.make(), Checkpoint("whole"))
        torch.manual_seed(1)
        whole.fit(3)
        signal = CancelFitException(reason=StopReason.INTERRUPTED)
        stop = _Interrupt(event, signal, epoch, iteration)
        first = self.learner(self.make(), Checkpoint("part"), stop)
        torch.manual_seed(1)
        first.fit(3)
        resumed = self.learner(self.make(), Checkpoint("part", resume="part/last.ckpt"))
        resumed.fit(3)
        _assert_same(resumed, whole)

    def test_it_reads_the_device_no_more_than_it_says(self) -> None:
        """Five additional batches add `5 * reads_per_batch` device reads."""

        def reads(bs: int, *cbs: Callback) -> int:
            learn = self.learner(*cbs, bs=bs)
            with counted_reads() as counter:
                learn.fit(1)
            return counter.n

        plain = reads(4) - reads(8)
        assert reads(4, self.make()) - reads(8, self.make()) == plain + 5 * self.reads_per_batch()

    def test_the_same_seed_gives_the_same_fit(self) -> None:
        """Two fits with the same seed are equal, and a fit with another seed is different."""

        def fitted(seed: int) -> Learner:
            learn = self.learner(self.make())
            torch.manual_seed(seed)
            learn.fit(2)
            return learn

        first, again, other = fitted(1), fitted(1), fitted(2)
        _assert_same(first, again)
        assert not torch.equal(flat_weights(first.model), flat_weights(other.model))

    def test_a_model_of_one_module_and_one_batch_is_enough(self) -> None:
        """The smallest possible fit completes."""
        data = regression_lists()
        dls = Lists(list(data.train)[:1], list(data.valid or ())[:1])
        learn = Learner(nn.Linear(1, 1), dls, nn.functional.mse_loss, device="cpu")
        learn.add_cbs([self.make()])
        assert learn.fit(1).reason is StopReason.COMPLETED


class _Interrupt(RaiseAt):
    """Ends the fit as a signal would, after the checkpoint callback has been called."""

    order: ClassVar[int] = 99


class _Unchanged:
    """Checks that a fit undoes all temporary changes, such as hooks and added callbacks."""

    def __init__(self, learn: Learner) -> None:
        next(part for part in learn.model.modules() if isinstance(part, nn.Dropout)).eval()
        self.learn, self.before = learn, self._now(learn)

    @staticmethod
    def _now(learn: Learner) -> dict[str, Any]:
        return {
            "modes": [module.training for module in learn.model.modules()],
            "hooks": list(_hooks_of(learn.model)),
            "loss_func": learn.loss_func,
            "batch": (learn.dls.train, learn.dls.valid),
            "cbs": list(learn.cbs),
            "requires_grad": [param.requires_grad for param in learn.model.parameters()],
            "grad_enabled": torch.is_grad_enabled(),
        }

    def check(self) -> None:
        assert self._now(self.learn) == self.before


def _hooks_of(module: nn.Module) -> Iterator[Any]:
    for part in module.modules():
        for name, value in vars(part).items():
            if name.endswith("_hooks") and value:
                yield part, name
    for param in module.parameters():
        if param._backward_hooks:
            yield param


def _course(learn: Learner) -> tuple[Tensor, Tensor, list[dict[str, float]]]:
    """Returns the weights, losses and metrics of a fit, without timing metrics."""
    rows = [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in learn.recorder.rows
    ]
    return flat_weights(learn.model), learn.recorder.losses, rows


def _assert_same(learn: Learner, other: Learner) -> None:
    weights, losses, rows = _course(learn)
    other_weights, other_losses, other_rows = _course(other)
    assert torch.equal(losses, other_losses)
    assert rows == other_rows
    assert torch.equal(weights, other_weights)
