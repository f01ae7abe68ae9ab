"""Checks the first batch before training, and explains common mistakes in one sentence."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nntrain.callbacks.monitor import MonitorCallback
from nntrain.config.errors import ConfigError
from nntrain.config.hints import first_line, nearest
from nntrain.core.batch import EmptyLoaderError, describe, n_batches
from nntrain.core.callback import Purpose
from nntrain.core.events import Event
from nntrain.core.loop import Loop
from nntrain.core.snapshot import leave_no_trace, mock_fit
from nntrain.metrics.calls import unwrapped

if TYPE_CHECKING:
    from nntrain.learner import Learner
    from nntrain.metrics import Metric

_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, UserWarning)
"""Exceptions that PyTorch and NumPy raise for wrong shapes and types."""

TIMES = ("time/epoch_s", "time/batch_ms", "time/data_wait_ms")
"""The timing metrics that `Recorder` adds to each row."""


class _FirstBatch(Loop):
    """Runs one training batch and one validation batch, and checks the inputs and outputs."""

    def __init__(self, learn: Learner) -> None:
        super().__init__(learn, Purpose.CHECK)
        self.names: list[str] = []

    def batches(self) -> Iterable[Any]:
        """Returns only the first batch."""
        return islice(super().batches(), 1)

    def call(self, event: Event) -> None:
        """Calls the callbacks, then checks inputs in `before_batch` and metrics in `after_loss`."""
        super().call(event)
        if event is Event.BEFORE_BATCH:
            _check_finite(self.learn)
        elif event is Event.AFTER_LOSS:
            self._check_metrics()

    def predict(self) -> Any:
        """Returns the predictions; raises a `ConfigError` if the model rejects its input."""
        learn = self.learn
        with _explained(lambda err: _model_misfit(learn, err)):
            return super().predict()

    def get_loss(self) -> Tensor:
        """Returns the loss; raises a `ConfigError` if the loss function rejects the predictions."""
        learn = self.learn
        with _explained(lambda err: f"The loss {_name(learn.loss_func)} {_misfit(learn, err)}"):
            learn.loss = super().get_loss()
        _check_loss(learn)
        return learn.loss

    def _check_metrics(self) -> None:
        learn, part = self.learn, "train" if self.learn.training else "valid"
        metrics = [metric for metric in learn.metrics if metric.active(learn.training)]
        for metric in metrics:
            _check_metric(learn, metric)
        names = ("loss", *learn.loss_parts, *(metric.name for metric in metrics))
        self.names += [f"{part}/{name}" for name in names]


def check_first_batch(learn: Learner) -> list[str]:
    """Runs one training batch and one validation batch, then restores the learner.

    Metrics are updated but not computed, because one batch may not be enough data. Callbacks
    without `Purpose.CHECK` in their `purposes`, such as trackers, are not called.

    Returns:
        The names of the losses and metrics that a fit will record.

    Raises:
        ConfigError: if a dataset is empty or yields no full batch; if the data contains NaN or
            infinity; if the model, the loss or a metric rejects the shapes or types; or if the loss
            is not a scalar or does not require a gradient.
    """
    _check_not_empty(learn.dls.train, "training")
    if learn.dls.valid is not None:
        _check_not_empty(learn.dls.valid, "validation")
    with leave_no_trace(learn), _broadcast_is_an_error():
        loop = _FirstBatch(learn)
        try:
            mock_fit(loop, 1)
        except EmptyLoaderError as err:
            raise ConfigError(str(err)) from err
    return loop.names


def check_monitors(learn: Learner, recorded: list[str]) -> None:
    """Checks that all metrics monitored by callbacks will be recorded.

    Args:
        learn: the learner.
        recorded: the names of losses and metrics, as returned by `check_first_batch`.

    Raises:
        ConfigError: for the first callback whose metric will not be recorded.
    """
    names = [*recorded, *TIMES]
    for cb in learn.cbs:
        if isinstance(cb, MonitorCallback) and cb.monitor not in names:
            raise ConfigError(
                f"{type(cb).__name__}(monitor={cb.monitor!r}) will not be recorded: "
                f"{nearest(cb.monitor, names)}"
            )


@contextmanager
def _explained(message: Callable[[Exception], str]) -> Iterator[None]:
    """Converts exceptions caused by wrong shapes or types to a `ConfigError`."""
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except _MISFITS as err:
        raise ConfigError(message(err)) from err


@contextmanager
def _broadcast_is_an_error() -> Iterator[None]:
    """Turns PyTorch's warning about unintended broadcasting in a loss into an exception."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size", category=UserWarning)
        yield


def _check_not_empty(loader: Any, part: str) -> None:
    if n_batches(loader) != 0:
        return
    if isinstance(loader, DataLoader) and (n_item := n_batches(loader.dataset)):
        raise ConfigError(
            f"The {part} set has only {n_item} items, but batch_size={loader.batch_size} and "
            "drop_last drops incomplete batches: "
            f"set batch_size to at most {n_item}, or drop_last=False."
        )
    raise ConfigError(
        f"The {part} set is empty: check the path, split or filter that creates the dataset."
    )


def _check_finite(learn: Learner) -> None:
    part = "training" if learn.training else "validation"
    named = [*_named_tensors(learn.xb, "input"), *_named_tensors(learn.yb, "label")]
    for name, tensor in named:
        n_bad = int((~tensor.isfinite()).sum())
        if n_bad:
            raise ConfigError(
                f"The first {part} batch contains NaN or infinity in {n_bad} of the "
                f"{tensor.numel()} values of {name}: remove or replace these values in the dataset."
            )


def _named_tensors(values: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yields all dense tensors in a batch with names, such as `input 0` or `input 0 'pixels'`."""
    if isinstance(values, Tensor) and values.layout is torch.strided:
        yield name, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _named_tensors(value, f"{name} {key!r}")
    elif isinstance(values, tuple | list):
        for i, value in enumerate(values):
            yield from _named_tensors(value, f"{name} {i}")


def _check_loss(learn: Learner) -> None:
    name = _name(learn.loss_func)
    if learn.loss.numel() != 1:
        raise ConfigError(
            f"The loss {name} must return a scalar but returned {describe(learn.loss)}: "
            "compute the mean, for example with reduction='mean'."
        )
    if learn.training and not learn.loss.requires_grad:
        raise ConfigError(
            f"The loss {name} has no gradient because it does not depend on trainable parameters: "
            "compute it from the model's predictions without detach(), item(), argmax() or "
            "no_grad()."
        )


def _check_metric(learn: Learner, metric: Metric) -> None:
    metric.reset()
    with _explained(lambda err: f"metrics.{metric.name} {_misfit(learn, err)}"):
        metric.accumulate(learn)
    metric.reset()


def _name(func: Any) -> str:
    func = unwrapped(func)
    return getattr(func, "__name__", None) or type(func).__name__


def _model_misfit(learn: Learner, err: Exception) -> str:
    model, given = type(learn.model).__name__, describe(learn.xb)
    return f"The model {model} rejected its input {given}: {first_line(err)}{_place(err)}"


def _misfit(learn: Learner, err: Exception) -> str:
    pred, target = describe(learn.pred), describe(learn.yb or learn.xb)
    return (
        f"rejected the output of the model {type(learn.model).__name__}: "
        f"pred is {pred}, target is {target}: {first_line(err)}"
    )


def _place(err: Exception) -> str:
    """Returns the file and line of the innermost traceback frame in user code, in parentheses."""
    places = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in traceback.walk_tb(err.__traceback__)
        if str(frame.f_globals.get("__name__")).split(".")[0] not in ("torch", "nntrain")
    ]
    return places[-1] if places else ""
