"""The Learner: a model, its data, loss and optimizer, and the loop that trains them and tells callbacks of each step."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral
from pathlib import Path
from signal import Signals
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nntrain import checkpoint, lr_finder, schedule, summary
from nntrain.callbacks.defaults import default_callbacks
from nntrain.core.batch import EmptyLoaderError, describe, n_batches, split_batch
from nntrain.core.callback import Callback, Purpose
from nntrain.core.device import resolve_device
from nntrain.core.dispatch import Handlers, cleanup, gather, training_loop_text
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
from nntrain.core.optimizer import (
    LearningRate,
    Optimizer,
    OptimizerFactory,
    Splitter,
    group_lrs,
    make_optimizer,
    one_group,
    param_groups,
    set_hyper,
)
from nntrain.core.run_log import RunLog
from nntrain.metrics import Metric, as_metrics
from nntrain.recorder import GatherPreds, Recorder
from nntrain.result import FitResult, StopReason


class Loaders(Protocol):
    """The data: anything with an iterable `train` and an iterable `valid` (or `None` to train without validation)."""

    @property
    def train(self) -> Iterable[Any]:
        """Batches to train on."""

    @property
    def valid(self) -> Iterable[Any] | None:
        """Batches to validate on."""


class Learner:
    """Trains a model: calls callbacks at each event of the loop, and lets them change or cancel what follows.

    Args:
        model: called with the inputs of a batch; a mapping batch gives keyword arguments.
        dls: an object with iterable `train` and `valid`.
        loss_func: called with the predictions and the labels, or with the inputs where a batch has no labels
            (autoencoding). It returns a scalar, or a mapping of named parts whose sum is the loss.
        lr: one learning rate, one for each parameter group, or a `slice` of them.
        opt_func: makes the optimizer from parameter groups and `lr`; any of `torch.optim`, or an object with `step`
            and `zero_grad`.
        metrics: functions of `(pred, target)`, torchmetrics functionals or objects, or `Metric`s.
        cbs: callbacks beside the default ones (device, tensor casting, train/eval mode, recorder).
        wd: weight decay; `None` keeps the optimizer's own.
        device: where to train; `None` takes the accelerator if there is one, else the CPU.
        splitter: splits the parameters into groups.
    """

    opt: Optimizer | None
    dl: Iterable[Any]
    """The loader in use."""
    n_epoch: int
    epoch: int
    iter: int
    """Index of the batch within its epoch."""
    n_iter: int | None
    """Batches in this part of the epoch; `None` where the loader has no length."""
    train_iter: int
    """Training batches seen by this learner since it was made, over all fits."""
    pct_train: float
    """Share of this fit's training that is done, from 0 to 1."""
    training: bool
    batch: Any
    xb: tuple[Any, ...]
    yb: tuple[Any, ...]
    pred: Any
    loss: Tensor
    loss_parts: Mapping[str, Tensor]
    purpose: Purpose
    result: FitResult
    """How the fit in progress, or the last one, ended; set before `after_fit` and `cleanup_fit`."""
    start_epoch: int
    """The epoch with which the fit begins."""
    first_iter: int
    """Index of the first batch of this part of the epoch; not 0 where a fit is resumed within an epoch."""
    data_wait_s: float
    """Seconds waited for data in this part of the epoch."""
    tracker: RunLog
    """What callbacks log to; where the fit is not tracked it only checks what it is given."""

    def __init__(
        self,
        model: nn.Module,
        dls: Loaders,
        loss_func: Callable[..., Tensor | Mapping[str, Tensor]],
        *,
        lr: LearningRate = 1e-3,
        opt_func: OptimizerFactory = torch.optim.SGD,
        metrics: Sequence[Any] = (),
        cbs: Sequence[Callback] = (),
        wd: float | None = None,
        device: torch.device | str | None = None,
        splitter: Splitter = one_group,
    ) -> None:
        self.model, self.dls, self.loss_func = model, dls, loss_func
        self.lr, self.wd, self.opt_func, self.splitter = lr, wd, opt_func, splitter
        self.device = resolve_device(device)
        self.metrics: list[Metric] = as_metrics(metrics)
        self.n_inp: int | None = getattr(dls, "n_inp", None)
        self.opt = None
        self.n_epoch, self.epoch, self.iter, self.n_iter = 0, 0, 0, 0
        self.train_iter, self.pct_train, self.training = 0, 0.0, False
        self.start_epoch, self.first_iter = 0, 0
        self.loss_parts = {}
        self.data_wait_s = 0.0
        self.purpose = Purpose.FIT
        self.tracker = RunLog(self)
        self._handlers: Handlers | None = None
        self._noted: BaseException | None = None
        self.cbs: list[Callback] = []
        self.add_cbs([*default_callbacks(), *cbs])

    # --- callbacks

    def add_cb(self, cb: Callback) -> Learner:
        """Adds one callback and calls its `after_create`."""
        if self._handlers is not None:
            raise RuntimeError(
                f"{type(cb).__name__} cannot be added during a fit: give it to fit(cbs=...) or add it before."
            )
        self.cbs = sorted([*self.cbs, cb], key=lambda callback: callback.order)
        cb.after_create(self)
        return self

    def add_cbs(self, cbs: Iterable[Callback]) -> Learner:
        """Adds callbacks."""
        for cb in cbs:
            self.add_cb(cb)
        return self

    def remove_cb(self, cb: Callback | type[Callback]) -> Learner:
        """Removes one callback, or every callback of a class."""
        if self._handlers is not None:
            raise RuntimeError(
                "Callbacks cannot be removed during a fit: remove them before or after it."
            )
        gone = [
            known
            for known in self.cbs
            if known is cb or (isinstance(cb, type) and isinstance(known, cb))
        ]
        self.cbs = [known for known in self.cbs if known not in gone]
        return self

    def remove_cbs(self, cbs: Iterable[Callback | type[Callback]]) -> Learner:
        """Removes callbacks."""
        for cb in cbs:
            self.remove_cb(cb)
        return self

    @contextmanager
    def added_cbs(self, *cbs: Callback) -> Iterator[Learner]:
        """Adds callbacks for the length of a `with` block."""
        before = self.cbs
        try:
            yield self.add_cbs(cbs)
        finally:
            self.cbs = before

    @property
    def recorder(self) -> Recorder:
        """The callback that records losses, learning rates and metrics.

        Raises:
            LookupError: if it was removed.
        """
        if (recorder := self._find_recorder()) is None:
            raise LookupError("The Learner has no Recorder: add one with add_cb(Recorder()).")
        return recorder

    def _find_recorder(self) -> Recorder | None:
        return next((cb for cb in self.cbs if isinstance(cb, Recorder)), None)

    # --- what to do with a batch: override these in a subclass

    def predict(self) -> Any:
        """Calls the model on the inputs `xb`; a mapping gives keyword arguments."""
        if isinstance(self.xb[0], dict):
            return self.model(**self.xb[0])
        return self.model(*self.xb)

    def get_loss(self) -> Tensor:
        """Calls the loss function on the predictions and the labels (without labels: the inputs)."""
        loss = self.loss_func(self.pred, *(self.yb or self.xb))
        if isinstance(loss, Tensor):
            self.loss_parts = {}
            return loss
        if not isinstance(loss, Mapping):
            raise TypeError(
                f"The loss must be a tensor or a mapping of named tensors but is {type(loss).__name__}."
            )
        self.loss_parts = {name: part.detach() for name, part in loss.items()}
        return torch.stack(list(loss.values())).sum()

    def backward(self) -> None:
        """Computes the gradients of the loss."""
        self.loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Lets the optimizer update the parameters."""
        assert self.opt is not None
        self.opt.step()

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        assert self.opt is not None
        self.opt.zero_grad()

    def create_opt(self) -> Optimizer:
        """Makes a new optimizer for the model, on the learner's device."""
        self.model.to(self.device)
        self.opt = make_optimizer(self.model, self.opt_func, self.lr, self.wd, self.splitter)
        return self.opt

    # --- entry points

    def fit(
        self,
        n_epoch: int,
        *,
        lr: LearningRate | None = None,
        wd: float | None = None,
        cbs: Sequence[Callback] | None = None,
        reset_opt: bool = False,
        start_epoch: int = 0,
    ) -> FitResult:
        """Trains until `n_epoch` epochs are done, beginning with `start_epoch`, and says how it ended.

        Args:
            n_epoch: epochs in all; the schedule spans them.
            lr: learning rate for this fit; `None` takes the learner's.
            wd: weight decay for this fit; `None` takes the learner's.
            cbs: callbacks for this fit only.
            reset_opt: make a new optimizer instead of going on with the last one.
            start_epoch: epochs to leave out at the beginning.

        Raises:
            ValueError: if `n_epoch` is not a whole number of at least 0, `start_epoch` is not between 0 and `n_epoch`, or a
                learning rate is negative or not finite.
        """
        if not (isinstance(n_epoch, Integral) and n_epoch >= 0):
            raise ValueError(
                f"n_epoch={n_epoch} must be a whole number of at least 0: the epochs in all."
            )
        if not 0 <= start_epoch <= n_epoch:
            raise ValueError(f"start_epoch={start_epoch} is not between 0 and n_epoch={n_epoch}.")
        with self.added_cbs(*(cbs or ())):
            self._prepare_optimizer(lr, self.wd if wd is None else wd, reset_opt)
            self.n_epoch, self.start_epoch = n_epoch, start_epoch
            self.epoch, self.iter, self.pct_train = start_epoch, 0, 0.0
            if (recorder := self._find_recorder()) is not None:
                recorder.clear()
            return self._run(Purpose.FIT, self._do_epochs)

    def fit_one_cycle(
        self, n_epoch: int, lr_max: LearningRate | None = None, **kwargs: Any
    ) -> FitResult:
        """Trains with a warm-up and a cosine decay; see `nntrain.schedule.fit_one_cycle`."""
        return schedule.fit_one_cycle(self, n_epoch, lr_max, **kwargs)

    def fit_flat_cos(
        self, n_epoch: int, lr: LearningRate | None = None, **kwargs: Any
    ) -> FitResult:
        """Trains at a constant rate, then a cosine decay; see `nntrain.schedule.fit_flat_cos`."""
        return schedule.fit_flat_cos(self, n_epoch, lr, **kwargs)

    def fit_sgdr(
        self, n_cycles: int, cycle_len: int, lr_max: LearningRate | None = None, **kwargs: Any
    ) -> FitResult:
        """Trains with cosine decays and warm restarts; see `nntrain.schedule.fit_sgdr`."""
        return schedule.fit_sgdr(self, n_cycles, cycle_len, lr_max, **kwargs)

    def lr_find(self, **kwargs: Any) -> lr_finder.LRFindResult:
        """Finds a learning rate by mock training that leaves no trace; see `nntrain.lr_finder.lr_find`."""
        return lr_finder.lr_find(self, **kwargs)

    def validate(
        self, dl: Iterable[Any] | None = None, *, cbs: Sequence[Callback] = ()
    ) -> dict[str, float]:
        """The metrics over a loader (the validation set by default), as `{"valid/loss": ...}`."""
        with self.added_cbs(*cbs):
            self._run(Purpose.VALIDATE, partial(self._validate_on, self._valid_or(dl)))
        return dict(self.recorder.row)

    def get_preds(
        self, dl: Iterable[Any] | None = None, *, cbs: Sequence[Callback] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Predictions `(items, ...)` and labels over a loader, on the CPU; the labels are `None` where there are none."""
        gather_preds = GatherPreds()
        with self.added_cbs(gather_preds, *cbs):
            self._run(Purpose.PREDICT, partial(self._validate_on, self._valid_or(dl)))
        return gather_preds.collected()

    def save(self, path: str | Path, *, with_opt: bool = True) -> Path:
        """Writes the model, and the optimizer unless told not to, in one atomic step."""
        return checkpoint.save_model(self, path, with_opt=with_opt)

    def load(self, path: str | Path, *, with_opt: bool = True, strict: bool = True) -> Learner:
        """Reads what `save` wrote, onto the learner's device."""
        checkpoint.load_model(self, path, with_opt=with_opt, strict=strict)
        return self

    def summary(self) -> summary.ModelSummary:
        """Shapes, parameters and MACs of each layer for the first validation or training batch."""
        return summary.summarize(self)

    def show_training_loop(self) -> str:
        """Prints, and returns, the loop with the callbacks that act at each event, in order."""
        text = training_loop_text(self.cbs)
        print(text)
        return text

    # --- the loop

    def _valid_or(self, dl: Iterable[Any] | None) -> Iterable[Any]:
        chosen = self.dls.valid if dl is None else dl
        if chosen is None:
            raise ValueError("There is no validation set: pass a loader.")
        return chosen

    def _prepare_optimizer(self, lr: LearningRate | None, wd: float | None, reset: bool) -> None:
        if self.opt is None or reset:
            self.create_opt()
        assert self.opt is not None
        n_group = len(param_groups(self.opt))
        if n_group or lr is not None:
            set_hyper(self.opt, "lr", group_lrs(self.lr if lr is None else lr, n_group))
        if wd is not None:
            set_hyper(self.opt, "weight_decay", wd)
        self.model.zero_grad()  # a fit that was cancelled between its backward pass and its step left gradients

    def _event(self, event: Event) -> None:
        assert self._handlers is not None
        for cb, handler in self._handlers.get(event, ()):
            try:
                handler(self)
            except CancelException:
                raise
            except Exception as err:
                self._note(err, f"{type(cb).__name__}.{event} (order={cb.order})")
                raise

    def _note(self, err: BaseException, where: str) -> None:
        if self._noted is not err:
            self._noted = err
            part = "train" if self.training else "valid"
            err.add_note(
                f"nntrain: raised in {where}, epoch {self.epoch}, iteration {self.iter}, {part}"
            )

    def _level(self, level: Level, body: Callable[[], None]) -> None:
        try:
            self._event(level.before)
            body()
        except level.cancel:
            self._event(level.after_cancel)
        self._event(level.after)

    def _run(self, purpose: Purpose, body: Callable[[], None]) -> FitResult:
        if self._handlers is not None:
            raise RuntimeError(
                "The loop is already running: fit, validate and lr_find cannot be called from a callback."
            )
        self.purpose, self._handlers = purpose, gather(self.cbs, purpose)
        try:
            failure = self._run_and_clean_up(body)
        finally:
            self._handlers, self._noted = None, None
        if failure is None:
            return self.result
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame, and with it the batch

    def _run_and_clean_up(self, body: Callable[[], None]) -> BaseException | None:
        assert self._handlers is not None
        grad_enabled, failure = torch.is_grad_enabled(), None
        try:
            self._fit_level(body)
        except BaseException as err:  # noqa: BLE001 - raised again when every callback has cleaned up
            failure = err
            self._note(err, "the loop")
            self.result = self._failed(reason_of(err), err)
        torch.set_grad_enabled(grad_enabled)
        cleanup_failure = cleanup(self, self._handlers, failure)
        if cleanup_failure is not None:
            self.result = self._failed(StopReason.ERROR, cleanup_failure)
        return failure or cleanup_failure

    def _fit_level(self, body: Callable[[], None]) -> None:
        try:
            self._event(FIT.before)
            body()
            self.result = self._result(StopReason.COMPLETED)
        except CancelFitException as cancel:
            self.result = self._result(cancel.reason, cancel.message, cancel.signum)
            self._event(FIT.after_cancel)
        self._event(FIT.after)

    def _failed(self, reason: StopReason, err: BaseException) -> FitResult:
        result = self._result(reason, f"{type(err).__name__}: {err}")
        return replace(result, traceback="".join(traceback.format_exception(err)))

    def _result(
        self, reason: StopReason, message: str = "", signum: Signals | None = None
    ) -> FitResult:
        recorder = self._find_recorder()
        metrics, n_epoch = (dict(recorder.row), len(recorder.rows)) if recorder else ({}, 0)
        return FitResult(reason, message, metrics, n_epoch, self.train_iter, signum)

    def _do_epochs(self) -> None:
        for self.epoch in range(self.start_epoch, self.n_epoch):
            self._level(EPOCH, self._do_epoch)

    def _do_epoch(self) -> None:
        self._do_part(TRAIN, self.dls.train)
        if self.dls.valid is not None:
            self._do_part(VALIDATE, self.dls.valid)

    def _validate_on(self, dl: Iterable[Any]) -> None:
        self._do_part(VALIDATE, dl)

    def _do_part(self, level: Level, dl: Iterable[Any]) -> None:
        self.dl, self.first_iter = dl, 0
        self.training, self.data_wait_s = level is TRAIN, 0.0
        self.n_iter = n_batches(dl)
        with torch.set_grad_enabled(self.training):
            self._level(level, self._all_batches)

    def _all_batches(self) -> None:
        self.iter, start = self.first_iter - 1, perf_counter()
        for self.iter, self.batch in enumerate(self.dl, self.first_iter):
            self.data_wait_s += perf_counter() - start
            self._one_batch()
            start = perf_counter()
        if self.iter < 0:
            part = "training" if self.training else "validation"
            raise EmptyLoaderError(
                f"The {part} loader gave no batch: it is empty, or drop_last dropped its only batch."
            )

    def _one_batch(self) -> None:
        self.xb, self.yb = split_batch(self.batch, self.n_inp)
        self._level(BATCH, self._do_batch)

    def _do_batch(self) -> None:
        self.pred = self.predict()
        self._event(Event.AFTER_PRED)
        if self.purpose is Purpose.PREDICT:
            return
        self.loss = self._checked_loss()
        self._event(Event.AFTER_LOSS)
        if self.training:
            self._level(BACKWARD, self.backward)
            self._level(STEP, self.step)
            self.zero_grad()

    def _checked_loss(self) -> Tensor:
        try:
            return self.get_loss()
        except CancelException:
            raise
        except Exception as err:
            err.add_note(
                f"nntrain: the loss was given pred {describe(self.pred)} and target {describe(self.yb or self.xb)}"
            )
            raise
