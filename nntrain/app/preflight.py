"""The check of the first batch: it finds common mistakes early and explains each in a sentence."""

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
"""The exceptions of torch and NumPy for wrong shapes and types."""

TIMES = ("time/epoch_s", "time/batch_ms", "time/data_wait_ms")
"""The times that the recorder adds to losses and metrics."""


class _FirstBatch(Loop):
    """A loop that stops after one batch of each part, and checks what goes in and comes out."""

    def __init__(self, learn: Learner) -> None:
        super().__init__(learn, Purpose.CHECK)
        self.names: list[str] = []

    def batches(self) -> Iterable[Any]:
        """Returns the first batch alone."""
        return islice(super().batches(), 1)

    def call(self, event: Event) -> None:
        """Calls the callbacks, then checks what they made of the batch and the loss."""
        super().call(event)
        if event is Event.BEFORE_BATCH:
            _check_finite(self.learn)
        elif event is Event.AFTER_LOSS:
            self._check_metrics()

    def predict(self) -> Any:
        """Returns the predictions; explains why the model does not fit its input."""
        learn = self.learn
        with _explained(lambda err: _model_misfit(learn, err)):
            return super().predict()

    def get_loss(self) -> Tensor:
        """Returns the loss, checked; explains why the loss does not fit the predictions."""
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
    """Runs one training batch and one validation batch through the loop, without leaving a trace.

    Metrics see these batches but are not read, as one batch may be too few for a value. Trackers
    and other callbacks that do not take part in `Purpose.CHECK` are not called.

    Returns the names of the losses and metrics that a fit will record.

    Raises:
        ConfigError: if a set is empty, or smaller than a batch that must be full; if the data has
            NaN or infinity; if the model does not fit its input, or the loss or a metric the
            predictions; or if the loss is not one number or has no gradient.
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
    """Checks that the metrics which callbacks monitor will be recorded.

    Args:
        learn: the learner.
        recorded: the names of losses and metrics, from `check_first_batch`.

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
    """Turns an exception for a wrong shape or type into a `ConfigError`."""
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except _MISFITS as err:
        raise ConfigError(message(err)) from err


@contextmanager
def _broadcast_is_an_error() -> Iterator[None]:
    """Raises torch's warning about a loss that compares each item of a batch with all others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size", category=UserWarning)
        yield


def _check_not_empty(loader: Any, part: str) -> None:
    if n_batches(loader) != 0:
        return
    if isinstance(loader, DataLoader) and (n_item := n_batches(loader.dataset)):
        raise ConfigError(
            f"The {part} set is smaller than one batch: batch_size={loader.batch_size} is larger "
            f"than len(dataset)={n_item} and drop_last drops the incomplete batch; "
            f"set batch_size to at most {n_item}, or drop_last=False."
        )
    raise ConfigError(
        f"The {part} set is empty: its loader has no batch; "
        "check the path, split or filter that made it."
    )


def _check_finite(learn: Learner) -> None:
    part = "training" if learn.training else "validation"
    named = [*_named_tensors(learn.xb, "input"), *_named_tensors(learn.yb, "label")]
    for name, tensor in named:
        n_bad = int((~tensor.isfinite()).sum())
        if n_bad:
            raise ConfigError(
                f"The first {part} batch has NaN or infinity in {n_bad} of the {tensor.numel()} "
                f"values of {name}: clean the data, or replace these values in the dataset."
            )


def _named_tensors(values: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yields every dense tensor of a batch with a name: `input 0`, `input 0 'pixel_values'`."""
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
            f"The loss {name} returned {describe(learn.loss)} instead of one number: "
            "take the mean, as reduction='mean' does."
        )
    if learn.training and not learn.loss.requires_grad:
        raise ConfigError(
            f"The loss {name} has no gradient because no trainable parameter takes part in it: "
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
    return f"The model {model} does not fit its input {given}: {first_line(err)}{_place(err)}"


def _misfit(learn: Learner, err: Exception) -> str:
    pred, target = describe(learn.pred), describe(learn.yb or learn.xb)
    return (
        f"does not fit the output of the model {type(learn.model).__name__}: "
        f"pred is {pred}, target is {target}: {first_line(err)}"
    )


def _place(err: Exception) -> str:
    """Returns the innermost line of the user's own code in parentheses, if there is any."""
    places = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in traceback.walk_tb(err.__traceback__)
        if str(frame.f_globals.get("__name__")).split(".")[0] not in ("torch", "nntrain")
    ]
    return places[-1] if places else ""
