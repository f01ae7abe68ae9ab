"""The training loop: calls the Learner and its callbacks, and handles exceptions."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from signal import Signals
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nntrain.core.batch import EmptyLoaderError, describe, n_batches, split_batch
from nntrain.core.callback import Purpose
from nntrain.core.dispatch import cleanup, gather
from nntrain.core.events import (
    BACKWARD,
    BATCH,
    EPOCH,
    FIT,
    STEP,
    TRAIN,
    VALIDATE,
    CancelException,
    CancelFitException,
    Event,
    Level,
    reason_of,
)
from nntrain.result import FitResult, StopReason

if TYPE_CHECKING:
    from nntrain.learner import Learner


class Loop:
    """One run of the training loop, with the callbacks that have `purpose` in their `purposes`.

    `fit` and `validate` set `learn.result`. Cancel exceptions are handled by the loop; all other
    exceptions are raised again. Subclasses can override `call`, `batches`, `predict` and
    `get_loss`.

    Raises:
        RuntimeError: if a loop of the Learner is already running.
    """

    def __init__(self, learn: Learner, purpose: Purpose) -> None:
        if learn.loop is not None:
            raise RuntimeError(
                "The loop is already running: do not call fit, validate or lr_find from a callback."
            )
        self.learn = learn
        self._handlers = gather(learn.cbs, purpose)
        self._noted: BaseException | None = None
        learn.purpose = purpose

    def fit(self) -> FitResult:
        """Runs the epochs from `learn.start_epoch` up to `learn.n_epoch` (exclusive)."""
        return self._run(self._do_epochs)

    def validate(self, dl: Iterable[Any]) -> FitResult:
        """Runs one validation pass over a loader, without the events of an epoch."""
        return self._run(partial(self._do_part, VALIDATE, dl))

    # --- how a run ends

    def _run(self, body: Callable[[], None]) -> FitResult:
        self.learn.loop = self
        try:
            failure = self._run_and_clean_up(body)
        finally:
            self.learn.loop, self._noted = None, None
        if failure is None:
            return self.learn.result
        try:
            raise failure
        finally:
            del failure  # breaks a reference cycle that would keep the batch in memory

    def _run_and_clean_up(self, body: Callable[[], None]) -> BaseException | None:
        learn, grad_enabled, failure = self.learn, torch.is_grad_enabled(), None
        try:
            self._fit_level(body)
        except BaseException as err:  # noqa: BLE001 - raised again after all callbacks have cleaned up
            failure = err
            self._note(err, "the loop")
            learn.result = self._failed(reason_of(err), err)
        torch.set_grad_enabled(grad_enabled)
        cleanup_failure = cleanup(learn, self._handlers, failure)
        if cleanup_failure is not None:
            learn.result = self._failed(StopReason.ERROR, cleanup_failure)
        return failure or cleanup_failure

    def _fit_level(self, body: Callable[[], None]) -> None:
        try:
            self.call(FIT.before)
            body()
            self.learn.result = self._result(StopReason.COMPLETED)
        except CancelFitException as cancel:
            self.learn.result = self._result(cancel.reason, cancel.message, cancel.signum)
            self.call(FIT.after_cancel)
        self.call(FIT.after)

    def _failed(self, reason: StopReason, err: BaseException) -> FitResult:
        result = self._result(reason, f"{type(err).__name__}: {err}")
        return replace(result, traceback="".join(traceback.format_exception(err)))

    def _result(
        self, reason: StopReason, message: str = "", signum: Signals | None = None
    ) -> FitResult:
        metrics, n_epoch = self._recorded()
        return FitResult(reason, message, metrics, n_epoch, self.learn.train_iter, signum)

    def _recorded(self) -> tuple[dict[str, float], int]:
        try:
            recorder = self.learn.recorder
        except LookupError:
            return {}, 0
        return dict(recorder.row), len(recorder.rows)

    def _note(self, err: BaseException, where: str) -> None:
        if self._noted is not err:
            self._noted, learn = err, self.learn
            part = "train" if learn.training else "valid"
            err.add_note(
                f"nntrain: raised in {where}, epoch {learn.epoch}, iteration {learn.iter}, {part}"
            )

    # --- events

    def call(self, event: Event) -> None:
        """Calls all callbacks that handle an event."""
        for cb, handler in self._handlers.get(event, ()):
            try:
                handler(self.learn)
            except CancelException:
                raise
            except Exception as err:
                self._note(err, f"{type(cb).__name__}.{event} (order={cb.order})")
                raise

    def _level(self, level: Level, body: Callable[[], None]) -> None:
        try:
            self.call(level.before)
            body()
        except level.cancel:
            self.call(level.after_cancel)
        self.call(level.after)

    # --- epochs, parts and batches

    def _do_epochs(self) -> None:
        learn = self.learn
        for learn.epoch in range(learn.start_epoch, learn.n_epoch):
            self._level(EPOCH, self._do_epoch)

    def _do_epoch(self) -> None:
        self._do_part(TRAIN, self.learn.dls.train)
        if self.learn.dls.valid is not None:
            self._do_part(VALIDATE, self.learn.dls.valid)

    def _do_part(self, level: Level, dl: Iterable[Any]) -> None:
        learn = self.learn
        learn.dl, learn.first_iter = dl, 0
        learn.training, learn.data_wait_s = level is TRAIN, 0.0
        learn.n_iter = n_batches(dl)
        with torch.set_grad_enabled(learn.training):
            self._level(level, self._all_batches)

    def _all_batches(self) -> None:
        learn = self.learn
        learn.iter, start = learn.first_iter - 1, perf_counter()
        for learn.iter, learn.batch in enumerate(self.batches(), learn.first_iter):
            learn.data_wait_s += perf_counter() - start
            learn.xb, learn.yb = split_batch(learn.batch, learn.n_inp)
            self._level(BATCH, self._do_batch)
            start = perf_counter()
        if learn.iter < 0:
            part = "training" if learn.training else "validation"
            raise EmptyLoaderError(
                f"The {part} loader yielded no batches: "
                "the dataset is empty, or drop_last dropped the only batch."
            )

    def _do_batch(self) -> None:
        learn = self.learn
        learn.pred = self.predict()
        self.call(Event.AFTER_PRED)
        if learn.purpose is Purpose.PREDICT:
            return
        learn.loss = self.get_loss()
        self.call(Event.AFTER_LOSS)
        if learn.training:
            self._level(BACKWARD, learn.backward)
            self._level(STEP, learn.step)
            learn.zero_grad()

    def batches(self) -> Iterable[Any]:
        """Returns the batches of this part of the epoch."""
        return self.learn.dl

    def predict(self) -> Any:
        """Returns the predictions for the batch."""
        return self.learn.predict()

    def get_loss(self) -> Tensor:
        """Returns the loss of the batch; adds the shapes to the exception if the loss fails."""
        learn = self.learn
        try:
            return learn.get_loss()
        except CancelException:
            raise
        except Exception as err:
            pred, target = describe(learn.pred), describe(learn.yb or learn.xb)
            err.add_note(f"nntrain: the loss was called with pred {pred} and target {target}")
            raise
