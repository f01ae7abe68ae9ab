"""Calling what a user gives as a metric: a plain function, a torchmetrics functional, or a torchmetrics object."""

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
    """What is used of a `torchmetrics.Metric`."""

    def update(self, preds: Any, target: Any) -> None:
        """Takes a batch."""

    def compute(self) -> Any:
        """The value over what was taken."""

    def reset(self) -> None:
        """Forgets what was taken."""

    def to(self, device: Any) -> Any:
        """Moves the metric's state."""


def unwrapped(func: Any) -> Any:
    """What a partial, of partials even, is made of; anything else is itself."""
    while isinstance(func, functools.partial):
        func = func.func
    return func


def func_name(func: Any) -> str:
    """The name under which a function or torchmetrics object is recorded: its own, in snake case."""
    func = unwrapped(func)
    name = getattr(func, "__name__", None) or type(func).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).strip("_<>").lower()


def as_function(func: MetricFunc | TorchMetric) -> MetricFunc:
    """Makes a function of a torchmetrics object; it forgets what it saw before and after each call."""
    return functools.partial(_compute, func) if isinstance(func, TorchMetric) else func


def _compute(metric: TorchMetric, pred: Tensor, *targets: Tensor, **kwargs: Any) -> Any:
    metric.to(pred.device)
    metric.reset()
    metric.update(pred, *targets, **kwargs)
    value = metric.compute()
    metric.reset()
    return value


def call(name: str, func: MetricFunc, args: Sequence[Any]) -> Tensor | float:
    """What the function of metric `name` gives, as `as_number`; to an error it adds which metric, and what it was given.

    Raises:
        ValueError: if it is not one number.
    """
    try:
        value = func(*args)
    except Exception as err:
        shapes = [
            f"{arg.dtype} {arg.shape}" if isinstance(arg, np.ndarray) else describe(arg)
            for arg in args
        ]
        err.add_note(f"nntrain: metric {name!r} was given {' and '.join(shapes)}")
        raise
    return as_number(name, value)


def as_number(name: str, value: Any) -> Tensor | float:
    """What a metric gave, as a scalar tensor on its device or a Python number; this reads nothing.

    Raises:
        ValueError: if it is not one number.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(()) if value.dim() else value
    if isinstance(value, Real | np.generic):
        return float(value)
    got = f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(f"Metric {name!r} gave a {got}: a metric must be one number, so reduce it.")
