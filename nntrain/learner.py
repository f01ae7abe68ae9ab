"""The Learner, which combines a model, data, a loss, an optimizer and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from nntrain import checkpoint, lr_finder, schedule
from nntrain.callbacks.defaults import default_callbacks
from nntrain.callbacks.predictions import GatherPreds
from nntrain.core import dispatch
from nntrain.core.batch import Loaders
from nntrain.core.callback import Callback, Purpose
from nntrain.core.device import resolve_device
from nntrain.core.loop import Loop
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
from nntrain.losses import total_and_parts
from nntrain.metrics import Metric, as_metrics
from nntrain.recorder import Recorder, find_recorder
from nntrain.result import FitResult
from nntrain.summary import summarize


class Learner:
    """Trains a model and calls callbacks at each event of the training loop.

    Callbacks can read and change the attributes below, and can skip parts of the loop by raising a
    cancel exception. Subclasses can override `predict`, `get_loss`, `backward`, `step` and
    `zero_grad`.

    Args:
        model: the model, called with the inputs of a batch. If the input is a mapping, its items
            are passed as keyword arguments.
        dls: the data loaders: an object with the iterables `train` and `valid`.
        loss_func: called with predictions and labels, or with predictions and inputs if a batch has
            no labels. Returns a scalar, or a mapping of named scalars whose sum is the loss.
        lr: the learning rate: one value, a sequence with one value per parameter group, or a
            `slice` (see `group_lrs`).
        opt_func: creates the optimizer from parameter groups and `lr`, like the classes in
            `torch.optim`. The optimizer needs the methods `step` and `zero_grad`.
        metrics: functions of `(pred, target)`, torchmetrics functionals or objects, or `Metric`s.
        cbs: callbacks to add to the defaults (device, casting, train/eval mode, recorder).
        wd: weight decay; `None` uses the optimizer's default.
        device: device to train on; `None` selects the accelerator, or the CPU if there is no
            accelerator.
        splitter: function that splits the model's parameters into groups.
    """

    opt: Optimizer | None
    dl: Iterable[Any]
    """The data loader that the loop is iterating over."""
    n_epoch: int
    epoch: int
    iter: int
    """Index of the current batch in this epoch."""
    n_iter: int | None
    """Number of batches in this part of the epoch; `None` if the loader has no length."""
    train_iter: int
    """Number of training batches so far, over all fits."""
    pct_train: float
    """Progress of this fit, from 0 to 1."""
    training: bool
    batch: Any
    xb: tuple[Any, ...]
    yb: tuple[Any, ...]
    pred: Any
    loss: Tensor
    loss_parts: Mapping[str, Tensor]
    purpose: Purpose
    loop: Loop | None
    """The running loop; `None` when nothing is running."""
    result: FitResult
    """The result of the latest fit; set before `after_fit` and `cleanup_fit` are called."""
    start_epoch: int
    """Index of the first epoch of this fit."""
    first_iter: int
    """Index of the first batch in this part of the epoch; nonzero after a mid-epoch resume."""
    data_wait_s: float
    """Time spent waiting for data in this part of the epoch, in seconds."""
    tracker: RunLog
    """Logs metrics, figures and files from callbacks. Without a tracker, it only checks them."""

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
        self.loop = None
        self.cbs: list[Callback] = []
        self.add_cbs([*default_callbacks(), *cbs])

    # --- callbacks

    def add_cb(self, cb: Callback) -> Learner:
        """Adds one callback and calls its `after_create`."""
        if self.loop is not None:
            raise RuntimeError(
                f"{type(cb).__name__} cannot be added during a fit: "
                "pass it to fit(cbs=...), or add it before the fit."
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
        if self.loop is not None:
            raise RuntimeError(
                "Callbacks cannot be removed during a fit: remove them before or after."
            )
        self.cbs = [known for known in self.cbs if not _matches(known, cb)]
        return self

    def remove_cbs(self, cbs: Iterable[Callback | type[Callback]]) -> Learner:
        """Removes callbacks."""
        for cb in cbs:
            self.remove_cb(cb)
        return self

    @contextmanager
    def added_cbs(self, *cbs: Callback) -> Iterator[Learner]:
        """Context manager that adds callbacks and removes them when the block ends."""
        before = self.cbs
        try:
            yield self.add_cbs(cbs)
        finally:
            self.cbs = before

    @property
    def recorder(self) -> Recorder:
        """The `Recorder` callback, which stores losses, learning rates and metrics.

        Raises:
            LookupError: if the recorder was removed.
        """
        if (recorder := find_recorder(self.cbs)) is None:
            raise LookupError("The Learner has no Recorder: add one with add_cb(Recorder()).")
        return recorder

    # --- the steps for one batch; subclasses can override them

    def predict(self) -> Any:
        """Calls the model with the inputs `xb`; the items of a mapping become keyword arguments."""
        if isinstance(self.xb[0], dict):
            return self.model(**self.xb[0])
        return self.model(*self.xb)

    def get_loss(self) -> Tensor:
        """Returns the loss of the predictions.

        The loss function is called with the labels, or with the inputs if there are no labels.
        """
        loss = self.loss_func(self.pred, *(self.yb or self.xb))
        total, self.loss_parts = total_and_parts(loss)
        return total

    def backward(self) -> None:
        """Computes the gradients of the loss."""
        self.loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        """Updates the parameters."""
        assert self.opt is not None
        self.opt.step()

    def zero_grad(self) -> None:
        """Resets the gradients."""
        assert self.opt is not None
        self.opt.zero_grad()

    def create_opt(self) -> Optimizer:
        """Moves the model to the learner's device and creates a new optimizer for it."""
        self.model.to(self.device)
        self.opt = make_optimizer(self.model, self.opt_func, self.lr, self.wd, self.splitter)
        return self.opt

    def prepare_opt(self, lr: LearningRate | None, wd: float | None, reset: bool) -> None:
        """Prepares the optimizer for a fit.

        Args:
            lr: learning rate; `None` uses the learner's.
            wd: weight decay; `None` does not change it.
            reset: create a new optimizer even if the learner already has one.
        """
        opt = self.create_opt() if self.opt is None or reset else self.opt
        n_group = len(param_groups(opt))
        if n_group or lr is not None:
            set_hyper(opt, "lr", group_lrs(self.lr if lr is None else lr, n_group))
        if wd is not None:
            set_hyper(opt, "weight_decay", wd)
        # A fit that is cancelled between the backward pass and the step leaves gradients behind.
        self.model.zero_grad()

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
        """Trains the model and returns how the fit ended.

        Args:
            n_epoch: total number of epochs. Schedules span all of them.
            lr: learning rate for this fit; `None` uses the learner's.
            wd: weight decay for this fit; `None` uses the learner's.
            cbs: callbacks for this fit only.
            reset_opt: create a new optimizer instead of reusing the current one.
            start_epoch: index of the first epoch to train; the epochs before it are skipped.

        Raises:
            ValueError: if `n_epoch` is not an integer of at least 0, `start_epoch` is not between 0
                and `n_epoch`, or a learning rate is negative or not finite.
        """
        _check_epochs(n_epoch, start_epoch)
        with self.added_cbs(*(cbs or ())):
            self.prepare_opt(lr, self.wd if wd is None else wd, reset_opt)
            self.n_epoch, self.start_epoch = n_epoch, start_epoch
            self.epoch, self.iter, self.pct_train = start_epoch, 0, 0.0
            if (recorder := find_recorder(self.cbs)) is not None:
                recorder.clear()
            return Loop(self, Purpose.FIT).fit()

    fit_one_cycle = schedule.fit_one_cycle
    fit_flat_cos = schedule.fit_flat_cos
    fit_sgdr = schedule.fit_sgdr
    lr_find = lr_finder.lr_find
    save = checkpoint.save_model
    load = checkpoint.load_model
    summary = summarize
    show_training_loop = dispatch.show_training_loop

    def validate(
        self, dl: Iterable[Any] | None = None, *, cbs: Sequence[Callback] = ()
    ) -> dict[str, float]:
        """Returns the metrics on a loader (default: validation set), as `{"valid/loss": ...}`."""
        with self.added_cbs(*cbs):
            Loop(self, Purpose.VALIDATE).validate(self._valid_or(dl))
        return dict(self.recorder.row)

    def get_preds(
        self, dl: Iterable[Any] | None = None, *, cbs: Sequence[Callback] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the predictions `(items, ...)` and the labels for a loader, on the CPU.

        The default loader is the validation set. Labels are `None` for unlabeled data.
        """
        gather_preds = GatherPreds()
        with self.added_cbs(gather_preds, *cbs):
            Loop(self, Purpose.PREDICT).validate(self._valid_or(dl))
        return gather_preds.collected()

    def _valid_or(self, dl: Iterable[Any] | None) -> Iterable[Any]:
        chosen = self.dls.valid if dl is None else dl
        if chosen is None:
            raise ValueError("The Learner has no validation set: pass a loader.")
        return chosen


def _check_epochs(n_epoch: int, start_epoch: int) -> None:
    if not (isinstance(n_epoch, Integral) and n_epoch >= 0):
        raise ValueError(f"n_epoch={n_epoch} must be an integer of at least 0.")
    if not 0 <= start_epoch <= n_epoch:
        raise ValueError(f"start_epoch={start_epoch} must be from 0 to n_epoch={n_epoch}.")


def _matches(cb: Callback, wanted: Callback | type[Callback]) -> bool:
    return isinstance(cb, wanted) if isinstance(wanted, type) else cb is wanted
