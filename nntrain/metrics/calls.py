"""Calls plain metric functions, torchmetrics functionals and torchmetrics objects."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from torch import Tensor

from nntrain.core.batch import describe

MetricFunc: TypeAlias = Callable[..., Any]
"""A function of `(pred, target)`."""


@runtime_checkable
class TorchMetric(Protocol):
    """Methods of `torchmetrics.Metric` that nntrain uses."""

    def update(self, preds: Any, target: Any) -> None:
        """Updates the state with a batch."""

    def compute(self) -> Any:
        """Returns the value over all batches so far."""

    def reset(self) -> None:
        """Resets the metric."""

    def to(self, device: Any) -> Any:
        """Moves the state to a device."""


def unwrapped(func: Any) -> Any:
    """Unwraps nested `functools.partial` objects; returns any other object unchanged."""
    while isinstance(func, functools.partial):
        func = func.func
    return func


def func_name(func: Any) -> str:
    """Returns the name of a function, or of the class of a torchmetrics object, in snake case."""
    func = unwrapped(func)
    name = getattr(func, "__name__", None) or type(func).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).strip("_<>").lower()


def as_function(func: MetricFunc | TorchMetric) -> MetricFunc:
    """Wraps a torchmetrics object in a function that resets it before and after each call."""
    return functools.partial(_compute, func) if isinstance(func, TorchMetric) else func


def _compute(metric: TorchMetric, pred: Tensor, *targets: Tensor, **kwargs: Any) -> Any:
    metric.to(pred.device)
    metric.reset()
    metric.update(pred, *targets, **kwargs)
    value = metric.compute()
    metric.reset()
    return value


def call(name: str, func: MetricFunc, args: Sequence[Any]) -> Tensor | float:
    """Calls the function of a metric and converts the result with `as_number`.

    If the function raises an exception, a note with the metric's name and the shapes of the
    arguments is added to the exception.

    Raises:
        ValueError: if the result is not one number.
    """
    try:
        value = func(*args)
    except Exception as err:
        shapes = [
            f"{arg.dtype} {arg.shape}" if isinstance(arg, np.ndarray) else describe(arg)
            for arg in args
        ]
        err.add_note(f"nntrain: metric {name!r} was called with {' and '.join(shapes)}")
        raise
    return as_number(name, value)


def as_number(name: str, value: Any) -> Tensor | float:
    """Converts the value of a metric to a scalar tensor or a float, without a device sync.

    Raises:
        ValueError: if the value is not one number.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(()) if value.dim() else value
    if isinstance(value, Real | np.generic):
        return float(value)
    got = f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"Metric {name!r} returned a {got} but must return one number: "
        "average the values, or return only one of them."
    )
