"""Metrics: what is computed from predictions and labels, and how it is averaged, without reading the device per batch."""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from nntrain.batch import batch_size

if TYPE_CHECKING:
    from nntrain.learner import Learner

Part: TypeAlias = Literal["train", "valid", "both"]
"""The part of an epoch on which a metric is recorded."""

Activation: TypeAlias = Literal["no", "softmax", "sigmoid", "binary_softmax"]
"""What is applied to predictions before a metric sees them; `binary_softmax` gives the second class's probability."""

MetricFunc: TypeAlias = Callable[..., Any]
"""A function of `(pred, target)`."""

_FOLD = 1024


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


class WeightedMean:
    """A mean of scalar tensors that stay on their device; a batch costs two appends, and nothing is read back.

    NaN stays NaN. Values are added up in groups of 1024, so the memory does not grow with the epoch.
    """

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._weights: list[float] = []
        self._total: Tensor | float = 0.0
        self._weight = 0.0

    def add(self, value: Tensor, weight: float) -> None:
        """Takes a scalar with its weight, usually the batch size."""
        self._values.append(value)
        self._weights.append(weight)
        if len(self._values) == _FOLD:
            self._fold()

    def _fold(self) -> None:
        values = torch.stack(self._values)
        values = values if values.is_floating_point() else values.float()
        weights = torch.tensor(self._weights, dtype=values.dtype).to(values.device, non_blocking=True)
        self._total = self._total + (values * weights).sum()
        self._weight += sum(self._weights)
        self._values, self._weights = [], []

    @property
    def value(self) -> Tensor | None:
        """The mean, on the device of what was added; `None` if nothing was."""
        if self._values:
            self._fold()
        return self._total / self._weight if isinstance(self._total, Tensor) else None

    def state_dict(self) -> dict[str, Any]:
        """The total and the weight so far."""
        if self._values:
            self._fold()
        return {"total": self._total, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._values, self._weights = [], []
        self._total, self._weight = state["total"], state["weight"]


class SmoothMean:
    """An exponentially weighted mean of scalar tensors, debiased as in Adam; the value is fastai's `AvgSmoothLoss`.

    Source: Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980, section 3.
    """

    def __init__(self, beta: float) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be at least 0 and less than 1 but got {beta}.")
        self.beta = beta
        self._values: list[Tensor] = []
        self._mean: Tensor | float = 0.0
        self._count = 0

    def add(self, value: Tensor) -> None:
        """Takes a scalar."""
        self._values.append(value)
        if len(self._values) == _FOLD:
            self._fold()

    def _fold(self) -> None:
        values = torch.stack(self._values)
        values = values if values.is_floating_point() else values.float()
        n = len(self._values)
        weights = (1 - self.beta) * self.beta ** torch.arange(n - 1, -1, -1, dtype=torch.float64)
        recent = (values * weights.to(values.dtype).to(values.device, non_blocking=True)).sum()
        self._mean = self._mean * self.beta**n + recent
        self._count += n
        self._values = []

    @property
    def value(self) -> Tensor | None:
        """The debiased mean; `None` if nothing was added."""
        if self._values:
            self._fold()
        return self._mean / (1 - self.beta**self._count) if isinstance(self._mean, Tensor) else None

    def state_dict(self) -> dict[str, Any]:
        """The mean and the count so far."""
        if self._values:
            self._fold()
        return {"mean": self._mean, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._values = []
        self._mean, self._count = state["mean"], state["count"]


class Metric(ABC):
    """Something recorded once per part of an epoch: reset, given each batch, then read.

    `accumulate` must not read the device (no `item()`, no `float()`); the recorder reads `value` after the epoch.
    """

    def __init__(self, name: str, on: Part = "both") -> None:
        if on not in ("train", "valid", "both"):
            raise ValueError(f"on={on!r} of metric {name!r} must be 'train', 'valid' or 'both'.")
        self.name = name
        self.on: Part = on

    def active(self, training: bool) -> bool:
        """Whether the metric is recorded in this part of the epoch."""
        return self.on == "both" or (self.on == "train") == training

    @abstractmethod
    def reset(self) -> None:
        """Forgets all batches."""

    @abstractmethod
    def accumulate(self, learn: Learner) -> None:
        """Takes the batch that `learn` holds."""

    @property
    @abstractmethod
    def value(self) -> Any:
        """The value over the batches taken: a number or scalar tensor; `None` if there were none."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint within an epoch keeps."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class _MeanMetric(Metric):
    """A metric that is a mean over batches of a scalar."""

    def __init__(self, name: str, on: Part) -> None:
        super().__init__(name, on)
        self._mean: WeightedMean | SmoothMean
        self.reset()

    @property
    def value(self) -> Tensor | None:
        """The mean over the batches taken, as a scalar tensor on its device."""
        return self._mean.value

    def state_dict(self) -> dict[str, Any]:
        """The mean so far."""
        return self._mean.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._mean.load_state_dict(state)


class AvgMetric(_MeanMetric):
    """The mean over batches of `func(pred, target)`, weighted by batch size.

    `func` may be a plain function or a torchmetrics functional, and should return the mean over its batch.
    """

    _mean: WeightedMean

    def __init__(self, func: MetricFunc, *, name: str | None = None, on: Part = "both") -> None:
        self.func = func
        super().__init__(name or func_name(func), on)

    def reset(self) -> None:
        """Forgets all batches."""
        self._mean = WeightedMean()

    def accumulate(self, learn: Learner) -> None:
        """Computes the function for a batch."""
        self._mean.add(_call(self.func, learn), batch_size(learn.yb or learn.xb))


class AvgLoss(_MeanMetric):
    """The mean of the loss, weighted by batch size."""

    _mean: WeightedMean

    def __init__(self, *, name: str = "loss", on: Part = "both") -> None:
        super().__init__(name, on)

    def reset(self) -> None:
        """Forgets all batches."""
        self._mean = WeightedMean()

    def accumulate(self, learn: Learner) -> None:
        """Takes the loss of a batch."""
        self._mean.add(_mean_of(learn.loss), batch_size(learn.yb or learn.xb))


class AvgSmoothMetric(_MeanMetric):
    """The exponentially weighted mean over batches of `func(pred, target)`; `beta` is the weight of the past."""

    _mean: SmoothMean

    def __init__(self, func: MetricFunc, beta: float = 0.98, *, name: str | None = None, on: Part = "both") -> None:
        self.func, self.beta = func, beta
        super().__init__(name or f"{func_name(func)}_smooth", on)

    def reset(self) -> None:
        """Forgets all batches."""
        self._mean = SmoothMean(self.beta)

    def accumulate(self, learn: Learner) -> None:
        """Computes the function for a batch."""
        self._mean.add(_call(self.func, learn))


class AvgSmoothLoss(_MeanMetric):
    """The exponentially weighted mean of the loss; `beta` is the weight of the past."""

    _mean: SmoothMean

    def __init__(self, beta: float = 0.98, *, name: str = "loss_smooth", on: Part = "train") -> None:
        self.beta = beta
        super().__init__(name, on)

    def reset(self) -> None:
        """Forgets all batches."""
        self._mean = SmoothMean(self.beta)

    def accumulate(self, learn: Learner) -> None:
        """Takes the loss of a batch."""
        self._mean.add(_mean_of(learn.loss))


class AccumMetric(Metric):
    """A metric of all predictions and labels of a part of the epoch at once, such as F1 or ROC AUC.

    Args:
        func: a function of `(pred, target)`, a torchmetrics functional, or a `torchmetrics.Metric`.
        dim_argmax: axis to take the argmax over; also that of a softmax (then -1 if not given).
        activation: applied to the predictions first.
        thresh: predictions become whether they reach this threshold.
        to_np: hand NumPy arrays to `func`.
        invert_arg: call `func(target, pred)`, as scikit-learn expects.
        flatten: flatten predictions and labels, which must then have as many items.
        name: name of the metric; by default that of `func`.
        on: the part of the epoch; the predictions are kept on the device until its end.
        kwargs: handed to `func`.

    Raises:
        ValueError: when read, if the flattened predictions and labels differ in length.
    """

    def __init__(
        self,
        func: MetricFunc | TorchMetric,
        *,
        dim_argmax: int | None = None,
        activation: Activation = "no",
        thresh: float | None = None,
        to_np: bool = False,
        invert_arg: bool = False,
        flatten: bool = True,
        name: str | None = None,
        on: Part = "valid",
        **kwargs: Any,
    ) -> None:
        super().__init__(name or func_name(func), on)
        self.func, self.kwargs = func, kwargs
        self.dim_argmax, self.activation, self.thresh = dim_argmax, activation, thresh
        self.to_np, self.invert_arg, self.flatten = to_np, invert_arg, flatten
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._preds: list[Tensor] = []
        self._targets: list[Tensor] = []

    def accumulate(self, learn: Learner) -> None:
        """Keeps the predictions and labels of a batch."""
        pred = self._transform(learn.pred.detach())
        target = (learn.yb or learn.xb)[0]
        self._preds.append(pred.flatten() if self.flatten else pred)
        self._targets.append(target.flatten() if self.flatten else target)

    def _transform(self, pred: Tensor) -> Tensor:
        if self.activation in ("softmax", "binary_softmax"):
            pred = pred.softmax(dim=-1 if self.dim_argmax is None else self.dim_argmax)
        if self.activation == "binary_softmax":
            return self._cut(pred[:, -1])
        if self.activation == "sigmoid":
            return self._cut(pred.sigmoid())
        if self.dim_argmax is not None:
            return pred.argmax(dim=self.dim_argmax)
        return self._cut(pred)

    def _cut(self, pred: Tensor) -> Tensor:
        return pred if self.thresh is None else pred >= self.thresh

    @property
    def value(self) -> Any:
        """The function of everything that was kept."""
        if not self._preds:
            return None
        pred, target = torch.cat(self._preds), torch.cat(self._targets)
        if self.flatten and len(pred) != len(target):
            raise ValueError(
                f"Metric {self.name!r} has {len(pred)} predictions for {len(target)} labels: set dim_argmax, or flatten=False."
            )
        if isinstance(self.func, TorchMetric):
            return _compute(self.func, pred, target)
        args = (pred.cpu().numpy(), target.cpu().numpy()) if self.to_np else (pred, target)
        return self.func(*(reversed(args) if self.invert_arg else args), **self.kwargs)

    def state_dict(self) -> dict[str, Any]:
        """The predictions and labels so far."""
        return {"preds": list(self._preds), "targets": list(self._targets)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._preds, self._targets = list(state["preds"]), list(state["targets"])


def skm_to_fastai(
    func: MetricFunc,
    *,
    is_class: bool = True,
    thresh: float | None = None,
    axis: int = -1,
    activation: Activation | None = None,
    name: str | None = None,
    on: Part = "valid",
    **kwargs: Any,
) -> AccumMetric:
    """Makes a metric of a scikit-learn function, called as `func(labels, predictions)` on NumPy arrays.

    Args:
        func: from `sklearn.metrics`.
        is_class: whether it takes classes (not scores); then the argmax over `axis` is taken unless `thresh` is given.
        thresh: for several labels at once: an activation (default sigmoid), then this threshold.
        axis: the axis of the classes.
        activation: applied to the predictions first.
        name: name of the metric; by default that of `func`.
        on: the part of the epoch on which it is recorded.
        kwargs: handed to `func`.
    """
    if activation is None:
        activation = "sigmoid" if is_class and thresh is not None else "no"
    dim_argmax = axis if is_class and thresh is None else None
    return AccumMetric(
        func,
        dim_argmax=dim_argmax,
        activation=activation,
        thresh=thresh,
        to_np=True,
        invert_arg=True,
        name=name,
        on=on,
        **kwargs,
    )


def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    """The share of items whose largest prediction `(items, classes, ...)` is at the label `(items, ...)`."""
    return (pred.argmax(dim=1) == target).float().mean()


def as_metric(metric: Any) -> Metric:
    """Makes a `Metric` of what a user may give: itself, a torchmetrics object, or a function of `(pred, target)`.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, TorchMetric):
        return AccumMetric(metric, flatten=False)
    if callable(metric):
        return AvgMetric(metric)
    raise TypeError(f"{metric!r} is no metric: give a function of (pred, target), a torchmetrics.Metric or a Metric.")


def func_name(func: Any) -> str:
    """The name under which a function or torchmetrics object is recorded: its own, in snake case."""
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", None) or type(func).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).strip("_<>").lower()


def _mean_of(loss: Tensor) -> Tensor:
    loss = loss.detach()
    return loss.mean() if loss.dim() else loss


def _call(func: MetricFunc, learn: Learner) -> Tensor:
    pred = learn.pred.detach() if isinstance(learn.pred, Tensor) else learn.pred
    value = func(pred, *(learn.yb or learn.xb))
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)


def _compute(metric: TorchMetric, pred: Tensor, target: Tensor) -> Any:
    metric.to(pred.device)
    metric.reset()
    metric.update(pred, target)
    value = metric.compute()
    metric.reset()
    return value
