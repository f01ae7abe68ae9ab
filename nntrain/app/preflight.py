"""The check of the first batch: the mistakes that users make, found in seconds and told in one sentence each."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from nntrain.callbacks.monitor import MonitorCallback
from nntrain.config.errors import ConfigError
from nntrain.config.hints import first_line, nearest
from nntrain.core.batch import EmptyLoaderError, describe, n_batches
from nntrain.core.callback import Callback, Purpose
from nntrain.core.events import CancelTrainException, CancelValidException
from nntrain.metrics.calls import unwrapped
from nntrain.snapshot import leave_no_trace, mock_fit

if TYPE_CHECKING:
    from nntrain.learner import Learner
    from nntrain.metrics import Metric

_MISFITS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, UserWarning)
"""What torch and NumPy raise for shapes and types that do not fit."""

TIMES = ("time/epoch_s", "time/batch_ms", "time/data_wait_ms")
"""What the recorder adds to losses and metrics."""


class _Stage(Enum):
    """Whose code runs: that of a callback or of the loop, the model, or the loss."""

    OTHER = "other"
    MODEL = "model"
    LOSS = "loss"


@dataclass
class _Progress:
    stage: _Stage = _Stage.OTHER


class _BeforeOthers(Callback):
    """Notes that the model or the loss is done, before any other callback sees its result."""

    order: ClassVar[int] = -1000

    def __init__(self, progress: _Progress) -> None:
        self.progress = progress

    def after_pred(self, learn: Learner) -> None:
        """The model did its part."""
        self.progress.stage = _Stage.OTHER

    def after_loss(self, learn: Learner) -> None:
        """The loss did its part; checks what it gave."""
        self.progress.stage = _Stage.OTHER
        _check_loss(learn)


class _AfterOthers(Callback):
    """Checks the batch that the model will see, notes who comes next, and ends the part after its first batch."""

    order: ClassVar[int] = 1000

    def __init__(self, progress: _Progress) -> None:
        self.progress = progress
        self.names: list[str] = []

    def before_batch(self, learn: Learner) -> None:
        """Checks the values; the model comes next."""
        _check_finite(learn)
        self.progress.stage = _Stage.MODEL

    def after_pred(self, learn: Learner) -> None:
        """The loss comes next."""
        self.progress.stage = _Stage.LOSS

    def after_loss(self, learn: Learner) -> None:
        """Tries the metrics, and notes what the recorder is going to record of such batches."""
        part = "train" if learn.training else "valid"
        metrics = [metric for metric in learn.metrics if metric.active(learn.training)]
        for metric in metrics:
            _check_metric(learn, metric)
        self.names += [
            f"{part}/{name}"
            for name in ("loss", *learn.loss_parts, *(metric.name for metric in metrics))
        ]

    def after_batch(self, learn: Learner) -> None:
        """One batch is enough."""
        raise CancelTrainException if learn.training else CancelValidException


def check_first_batch(learn: Learner) -> list[str]:
    """Runs one training batch and one validation batch through the whole loop, and leaves no trace of it.

    Returns the names under which losses and metrics are going to be recorded.

    Metrics take these batches but are not read, since one batch may be too few for their value. Trackers and whatever else
    does not take part in `Purpose.CHECK` are not run.

    Raises:
        ConfigError: if a set is empty or smaller than a batch that must be full, the data hold NaN or infinity, the model
            does not fit its input, the loss or a metric does not fit the predictions, or the loss is not one number or has
            no gradient.
    """
    _check_not_empty(learn.dls.train, "training")
    if learn.dls.valid is not None:
        _check_not_empty(learn.dls.valid, "validation")
    progress = _Progress()
    after_others = _AfterOthers(progress)
    with (
        leave_no_trace(learn),
        learn.added_cbs(_BeforeOthers(progress), after_others),
        _broadcast_is_an_error(),
    ):
        try:
            mock_fit(learn, Purpose.CHECK, 1)
        except EmptyLoaderError as err:
            raise ConfigError(str(err)) from err
        except _MISFITS as err:
            if progress.stage is _Stage.OTHER or isinstance(
                err, ConfigError | torch.OutOfMemoryError
            ):
                raise
            raise ConfigError(_misfit(learn, progress.stage, err)) from err
    return after_others.names


def check_monitors(learn: Learner, recorded: list[str]) -> None:
    """Checks that what callbacks monitor is going to be recorded.

    Args:
        learn: the learner.
        recorded: the names of losses and metrics, as `check_first_batch` gives them.

    Raises:
        ConfigError: for the first callback whose metric is not among them.
    """
    names = [*recorded, *TIMES]
    for cb in learn.cbs:
        if isinstance(cb, MonitorCallback) and cb.monitor not in names:
            raise ConfigError(
                f"{type(cb).__name__}(monitor={cb.monitor!r}) is not going to be recorded: {nearest(cb.monitor, names)}"
            )


@contextmanager
def _broadcast_is_an_error() -> Iterator[None]:
    """Makes an error of torch's warning that a loss compares `(batch, 1)` with `(batch,)`, that is each with each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Using a target size", category=UserWarning)
        yield


def _check_not_empty(loader: Any, part: str) -> None:
    if n_batches(loader) != 0:
        return
    if isinstance(loader, DataLoader) and (n_item := n_batches(loader.dataset)):
        raise ConfigError(
            f"The {part} set is smaller than one batch: batch_size={loader.batch_size} is larger than len(dataset)={n_item} "
            f"and drop_last leaves the incomplete batch out; set batch_size to at most {n_item}, or drop_last=False."
        )
    raise ConfigError(
        f"The {part} set is empty: its loader has no batch; check the path, split or filter that made it."
    )


def _check_finite(learn: Learner) -> None:
    part = "training" if learn.training else "validation"
    named = [*_named_tensors(learn.xb, "input"), *_named_tensors(learn.yb, "label")]
    for name, tensor in named:
        n_bad = int((~tensor.isfinite()).sum())
        if n_bad:
            raise ConfigError(
                f"The first {part} batch has NaN or infinity in {n_bad} of the {tensor.numel()} values of {name}: "
                "clean the data, or replace these values in the dataset."
            )


def _named_tensors(values: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every dense tensor of a nest with a name for people: `input 0`, `input 0 'pixel_values'`."""
    if isinstance(values, Tensor) and values.layout is torch.strided:
        yield name, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _named_tensors(value, f"{name} {key!r}")
    elif isinstance(values, tuple | list):
        for i, value in enumerate(values):
            yield from _named_tensors(value, f"{name} {i}")


def _check_loss(learn: Learner) -> None:
    if learn.loss.numel() != 1:
        raise ConfigError(
            f"The loss {_name(learn.loss_func)} gave {describe(learn.loss)} where one number was expected: "
            "take the mean of it, as reduction='mean' does."
        )
    if learn.training and not learn.loss.requires_grad:
        raise ConfigError(
            f"The loss {_name(learn.loss_func)} has no gradient: no trainable parameter takes part in it; compute it from "
            "the model's predictions without detach(), item(), argmax() or no_grad()."
        )


def _check_metric(learn: Learner, metric: Metric) -> None:
    metric.reset()
    try:
        metric.accumulate(learn)
    except _MISFITS as err:
        if isinstance(err, torch.OutOfMemoryError):
            raise
        raise ConfigError(
            f"metrics.{metric.name} does not fit {_outcome(learn)}: {first_line(err)}"
        ) from err
    metric.reset()


def _name(func: Any) -> str:
    func = unwrapped(func)
    return getattr(func, "__name__", None) or type(func).__name__


def _misfit(learn: Learner, stage: _Stage, err: Exception) -> str:
    if stage is _Stage.MODEL:
        model = type(learn.model).__name__
        return f"The model {model} does not fit its input {describe(learn.xb)}: {first_line(err)}{_place(err)}"
    return f"The loss {_name(learn.loss_func)} does not fit {_outcome(learn)}: {first_line(err)}"


def _outcome(learn: Learner) -> str:
    pred, target = describe(learn.pred), describe(learn.yb or learn.xb)
    return (
        f"the output of the model {type(learn.model).__name__}: pred is {pred}, target is {target}"
    )


def _place(err: Exception) -> str:
    """Where the innermost code that is neither torch's nor ours was, in parentheses; nothing if there is none."""
    places = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in traceback.walk_tb(err.__traceback__)
        if str(frame.f_globals.get("__name__")).split(".")[0] not in ("torch", "nntrain")
    ]
    return places[-1] if places else ""
