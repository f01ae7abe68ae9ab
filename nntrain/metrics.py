"""Metrics: what is computed from predictions and labels, and how it is averaged, without reading the device per batch."""

from __future__ import annotations

import functools
import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from nntrain.batch import batch_size, describe

if TYPE_CHECKING:
    from nntrain.learner import Learner

Part: TypeAlias = Literal["train", "valid", "both"]
"""The part of an epoch on which a metric is recorded."""

Activation: TypeAlias = Literal["no", "softmax", "sigmoid", "binary_softmax"]
"""What is applied to predictions before a metric sees them; `binary_softmax` gives the last class's probability."""

MetricFunc: TypeAlias = Callable[..., Any]
"""A function of `(pred, target)`."""

_FOLD = 1024
_BAD_CHARACTERS = re.compile(r"\s*[^\w\-. :/]+\s*")


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

    NaN stays NaN. Values are added up in double precision (single where the device has no other), in groups of 1024, so
    that the memory does not grow with the epoch.
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
            self._total, self._weight = self._sums()
            self._values, self._weights = [], []

    def _sums(self) -> tuple[Tensor | float, float]:
        if not self._values:
            return self._total, self._weight
        values = _column(self._values)
        weights = torch.tensor(self._weights, dtype=values.dtype).to(values.device, non_blocking=True)
        return self._total + (values * weights).sum(), self._weight + sum(self._weights)

    @property
    def value(self) -> Tensor | None:
        """The mean, on the device of what was added; `None` if nothing was."""
        total, weight = self._sums()
        return total / weight if isinstance(total, Tensor) else None

    def state_dict(self) -> dict[str, Any]:
        """The totals and the values not yet added to them, apart, so that a resumed sum rounds as the uninterrupted one."""
        recent = torch.stack(self._values) if self._values else None
        return {"total": self._total, "weight": self._weight, "recent": recent, "recent_weights": list(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._total, self._weight = state["total"], state["weight"]
        self._values, self._weights = _scalars(state["recent"]), list(state["recent_weights"])


class SmoothMean:
    """An exponentially weighted mean of scalar tensors, debiased as in Adam; the value is fastai's `AvgSmoothLoss`.

    Source: Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980, section 3.

    Raises:
        ValueError: if `beta`, the weight of the past, is not in 0 to 1 (without 1).
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
            self._mean, self._count = self._means()
            self._values = []

    def _means(self) -> tuple[Tensor | float, int]:
        if not self._values:
            return self._mean, self._count
        values, n = _column(self._values), len(self._values)
        weights = (1 - self.beta) * self.beta ** torch.arange(n - 1, -1, -1, dtype=torch.float64)
        recent = (values * weights.to(values.dtype).to(values.device, non_blocking=True)).sum()
        return self._mean * self.beta**n + recent, self._count + n

    @property
    def value(self) -> Tensor | None:
        """The debiased mean; `None` if nothing was added."""
        mean, count = self._means()
        return mean / (1 - self.beta**count) if isinstance(mean, Tensor) else None

    def state_dict(self) -> dict[str, Any]:
        """The mean and the values not yet in it, apart, so that a resumed mean rounds as the uninterrupted one."""
        return {"mean": self._mean, "count": self._count, "recent": torch.stack(self._values) if self._values else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._mean, self._count, self._values = state["mean"], state["count"], _scalars(state["recent"])


def _column(values: Sequence[Tensor]) -> Tensor:
    # A checkpoint may have put the older values on another device than the newest.
    device = values[-1].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack([value.to(device) for value in values]).to(dtype)


def _scalars(column: Tensor | None) -> list[Tensor]:
    return [] if column is None else list(column.unbind())


class Metric(ABC):
    """Something recorded once per part of an epoch: reset, given each batch, then read.

    `accumulate` must not read the device (no `item()`, no `float()`); the recorder reads `value` after the epoch.

    Args:
        name: what it is recorded as, after `train/` or `valid/`.
        part: the part of the epoch on which it is recorded: `train`, `valid` or `both`.

    Raises:
        ValueError: if trackers would refuse the name, or `part` is none of the three.
    """

    def __init__(self, name: str, part: Part = "both") -> None:
        self.name = name
        if part not in get_args(Part):
            raise ValueError(f"part={part!r} of metric {name!r} must be 'train', 'valid' or 'both'.")
        self.part: Part = part

    @property
    def name(self) -> str:
        """What it is recorded as, after `train/` or `valid/`."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        check_name(name)
        self._name = name

    def active(self, training: bool) -> bool:
        """Whether the metric is recorded in this part of the epoch."""
        return self.part == "both" or (self.part == "train") == training

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

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class _MeanMetric(Metric):
    """A metric that is a mean over batches of a scalar."""

    def __init__(self, name: str, part: Part) -> None:
        super().__init__(name, part)
        self._mean: WeightedMean | SmoothMean
        self.reset()

    @property
    def value(self) -> Tensor | None:
        """The mean over the batches taken, as a scalar tensor on its device."""
        return self._mean.value

    def state_dict(self) -> dict[str, Any]:
        """The mean so far."""
        return self._mean.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._mean.load_state_dict(state)


class _FunctionMetric(_MeanMetric):
    """A mean of what a function of `(pred, target)` gives for each batch."""

    func: MetricFunc

    def _scalar_of(self, learn: Learner) -> Tensor:
        args = (_detached(learn.pred), *(learn.yb or learn.xb))
        value = as_number(self.name, _call(self.name, self.func, args))
        return _detached(value) if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


class AvgMetric(_FunctionMetric):
    """The mean over batches of `func(pred, target)`, weighted by batch size.

    Args:
        func: a plain function, a torchmetrics functional, or a `torchmetrics.Metric`, which is reset for each batch. It
            returns the mean over the items of its batch; where it is no such mean (F1, R2), use `AccumMetric`.
        name: name of the metric; by default that of `func`.
        part: the part of the epoch on which it is recorded.

    Raises:
        ValueError: at creation, for `rmse` and `r2_score`, which are no means over items; in a batch, if `func` returns
            more than one number.
    """

    _mean: WeightedMean

    def __init__(self, func: MetricFunc | TorchMetric, *, name: str | None = None, part: Part = "both") -> None:
        if _is_of_whole_set(func):
            raise ValueError(f"{func_name(func)} is no mean over items: use AccumMetric({func_name(func)}).")
        self.func = _as_function(func)
        super().__init__(name or func_name(func), part)

    def reset(self) -> None:
        """Forgets all batches."""
        self._mean = WeightedMean()

    def accumulate(self, learn: Learner) -> None:
        """Computes the function for a batch."""
        self._mean.add(self._scalar_of(learn), batch_size(learn.yb or learn.xb))


class AvgLoss(_MeanMetric):
    """The mean of the loss, weighted by batch size."""

    _mean: WeightedMean

    def __init__(self, *, name: str = "loss", part: Part = "both") -> None:
        super().__init__(name, part)

    def reset(self) -> None:
        """Forgets all batches."""
        self._mean = WeightedMean()

    def accumulate(self, learn: Learner) -> None:
        """Takes the loss of a batch."""
        self._mean.add(_mean_of(learn.loss), batch_size(learn.yb or learn.xb))


class AvgSmoothMetric(_FunctionMetric):
    """The exponentially weighted mean over batches of `func(pred, target)`; `beta` is the weight of the past."""

    _mean: SmoothMean

    def __init__(
        self, func: MetricFunc | TorchMetric, beta: float = 0.98, *, name: str | None = None, part: Part = "both"
    ) -> None:
        self.func, self.beta = _as_function(func), beta
        super().__init__(name or f"{func_name(func)}_smooth", part)

    def reset(self) -> None:
        """Forgets all batches."""
        self._mean = SmoothMean(self.beta)

    def accumulate(self, learn: Learner) -> None:
        """Computes the function for a batch."""
        self._mean.add(self._scalar_of(learn))


class AvgSmoothLoss(_MeanMetric):
    """The exponentially weighted mean of the loss; `beta` is the weight of the past."""

    _mean: SmoothMean

    def __init__(self, beta: float = 0.98, *, name: str = "loss_smooth", part: Part = "train") -> None:
        self.beta = beta
        super().__init__(name, part)

    def reset(self) -> None:
        """Forgets all batches."""
        self._mean = SmoothMean(self.beta)

    def accumulate(self, learn: Learner) -> None:
        """Takes the loss of a batch."""
        self._mean.add(_mean_of(learn.loss))


class AccumMetric(Metric):
    """A metric of all predictions and labels of a part of the epoch at once, such as F1 or ROC AUC.

    The activation comes first; without one, the argmax; then the threshold.

    Args:
        func: a function of `(pred, target)`, a torchmetrics functional, or a `torchmetrics.Metric`.
        dim_argmax: axis to take the argmax over; of a softmax, the axis of the classes (then -1 if not given).
        activation: `no`, `softmax`, `sigmoid` or `binary_softmax`.
        thresh: predictions become whether they reach this threshold.
        to_np: hand NumPy arrays to `func`.
        invert_arg: call `func(target, pred)`, as scikit-learn expects.
        flatten: flatten predictions and labels, which must then have as many items.
        name: name of the metric; by default that of `func`.
        part: the part of the epoch; the predictions are kept on the device until its end.
        kwargs: handed to `func`.

    Raises:
        ValueError: at creation, for an unknown activation; when read, if the flattened predictions and labels differ in
            length, or `func` returns more than one number.
        TypeError: in a batch, if predictions or labels are no tensors.
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
        part: Part = "valid",
        **kwargs: Any,
    ) -> None:
        super().__init__(name or func_name(func), part)
        if activation not in get_args(Activation):
            raise ValueError(f"activation={activation!r} must be one of {', '.join(get_args(Activation))}.")
        self.func, self.kwargs = _as_function(func), kwargs
        self.dim_argmax, self.activation, self.thresh = dim_argmax, activation, thresh
        self.to_np, self.invert_arg, self.flatten = to_np, invert_arg, flatten
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._batches: list[tuple[Tensor, ...]] = []

    def accumulate(self, learn: Learner) -> None:
        """Keeps the predictions and labels of a batch."""
        targets = learn.yb or learn.xb
        if not all(isinstance(part, Tensor) for part in (learn.pred, *targets)):
            got = ", ".join(type(part).__name__ for part in (learn.pred, *targets))
            raise TypeError(
                f"Metric {self.name!r} keeps predictions and labels that are tensors but got {got}: use an AvgMetric."
            )
        batch = (self._transform(learn.pred.detach()), *targets)
        self._batches.append(tuple(part.flatten() for part in batch) if self.flatten else batch)

    def _transform(self, pred: Tensor) -> Tensor:
        pred = self._activated(pred)
        return pred if self.thresh is None else pred >= self.thresh

    def _activated(self, pred: Tensor) -> Tensor:
        if self.activation == "sigmoid":
            return pred.sigmoid()
        if self.activation != "no":
            pred = pred.softmax(dim=-1 if self.dim_argmax is None else self.dim_argmax)
            return pred[:, -1] if self.activation == "binary_softmax" else pred
        return pred if self.dim_argmax is None else pred.argmax(dim=self.dim_argmax)

    @property
    def value(self) -> Tensor | float | None:
        """The function of everything that was kept."""
        if not self._batches:
            return None
        args: list[Any] = [torch.cat(column) for column in zip(*self._batches, strict=True)]
        self._check_lengths(*args)
        if self.to_np:
            args = [_to_numpy(arg) for arg in args]
        if self.invert_arg:
            args.reverse()
        return as_number(self.name, _call(self.name, functools.partial(self.func, **self.kwargs), args))

    def _check_lengths(self, pred: Tensor, *targets: Tensor) -> None:
        for target in targets:
            if self.flatten and len(pred) != len(target):
                raise ValueError(
                    f"Metric {self.name!r} has {len(pred)} predictions for {len(target)} labels: "
                    "set dim_argmax, or flatten=False."
                )

    def state_dict(self) -> dict[str, Any]:
        """The predictions and labels so far."""
        return {"batches": [list(batch) for batch in self._batches]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._batches = [tuple(batch) for batch in state["batches"]]


def skm_to_fastai(
    func: MetricFunc,
    *,
    is_class: bool = True,
    thresh: float | None = None,
    axis: int = -1,
    activation: Activation | None = None,
    flatten: bool = True,
    name: str | None = None,
    part: Part = "valid",
    **kwargs: Any,
) -> AccumMetric:
    """Makes a metric of a scikit-learn function, called as `func(labels, predictions)` on NumPy arrays.

    Args:
        func: from `sklearn.metrics`.
        is_class: whether it takes classes (not scores); then the argmax over `axis` is taken unless `thresh` is given.
        thresh: for several labels at once: an activation (default sigmoid), then this threshold.
        axis: the axis of the classes.
        activation: applied to the predictions first; a softmax is over `axis` and replaces the argmax.
        flatten: flatten predictions and labels; `False` where `func` needs the axis of the classes or labels.
        name: name of the metric; by default that of `func`.
        part: the part of the epoch on which it is recorded.
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
        flatten=flatten,
        name=name,
        part=part,
        **kwargs,
    )


def accuracy(pred: Tensor, target: Tensor, axis: int = 1) -> Tensor:
    """The share of items whose largest score is at the label, 0 to 1.

    Args:
        pred: scores `(items, classes, ...)`.
        target: classes `(items, ...)`.
        axis: the axis of the classes.

    Raises:
        ValueError: if there is no label for each prediction, or only one class.
    """
    _check_classes(pred, axis)
    best = pred.argmax(dim=axis)
    return (best == _shaped_like(best, target)).mean(dtype=torch.float32)


def error_rate(pred: Tensor, target: Tensor, axis: int = 1) -> Tensor:
    """The share of items whose largest score is not at the label: 1 - `accuracy`."""
    return 1 - accuracy(pred, target, axis)


def top_k_accuracy(pred: Tensor, target: Tensor, k: int = 5, axis: int = 1) -> Tensor:
    """The share of items whose label is among the `k` largest scores, 0 to 1.

    Args:
        pred: scores `(items, classes, ...)`.
        target: classes `(items, ...)`.
        k: how many of the largest scores count.
        axis: the axis of the classes.

    Raises:
        ValueError: if there is no label for each prediction, only one class, or less than `k`.
    """
    _check_classes(pred, axis)
    if not 1 <= k <= pred.shape[axis]:
        raise ValueError(f"top_k_accuracy has k={k} for {pred.shape[axis]} classes: k must be from 1 to the number of classes.")
    best = pred.topk(k, dim=axis).indices
    target = _shaped_like(best.select(axis, 0), target).unsqueeze(axis)
    return (best == target).any(dim=axis).mean(dtype=torch.float32)


def accuracy_multi(pred: Tensor, target: Tensor, thresh: float = 0.5, sigmoid: bool = True) -> Tensor:
    """The share of labels that are right where an item may have several, 0 to 1.

    Args:
        pred: scores `(items, labels)`, or `(items,)` or `(items, 1)` for one yes-or-no label.
        target: 0 or 1, with as many elements.
        thresh: from which value a prediction counts as yes; as in fastai it must be exceeded.
        sigmoid: whether to apply a sigmoid to `pred` first.

    Raises:
        ValueError: if `pred` and `target` differ in the number of elements.
    """
    scores = pred.sigmoid() if sigmoid else pred
    return ((scores > thresh) == _shaped_like(scores, target).bool()).mean(dtype=torch.float32)


def mse(pred: Tensor, target: Tensor) -> Tensor:
    """The mean squared error, in the squared units of the target; both have as many elements."""
    return (pred - _shaped_like(pred, target)).square().mean()


def mae(pred: Tensor, target: Tensor) -> Tensor:
    """The mean absolute error, in the units of the target; both have as many elements."""
    return (pred - _shaped_like(pred, target)).abs().mean()


def rmse(pred: Tensor, target: Tensor) -> Tensor:
    """The root of the mean squared error, in the units of the target; as a metric, over the whole set."""
    return mse(pred, target).sqrt()


def r2_score(pred: Tensor, target: Tensor) -> Tensor:
    """The coefficient of determination, at most 1; as a metric, over the whole set.

    A constant target gives 1 if it was predicted exactly, else 0, as in scikit-learn.
    """
    target = _shaped_like(pred, target).to(pred.dtype)
    residual = (target - pred).square().sum()
    total = (target - target.mean()).square().sum()
    constant = (total == 0) & residual.isfinite()
    return torch.where(constant, (residual == 0).to(total.dtype), 1 - residual / total)


_OF_WHOLE_SET: tuple[MetricFunc, ...] = (rmse, r2_score)


def as_metrics(metrics: Iterable[Any]) -> list[Metric]:
    """Makes the metrics of a Learner; a `torchmetrics.MetricCollection` gives one for each of its entries.

    Raises:
        TypeError: if one is no metric, or they are not in a list.
        ValueError: if two would be recorded under one name, or one under `loss`.
    """
    if not isinstance(metrics, Iterable) or isinstance(metrics, nn.ModuleDict | Mapping | str):
        raise TypeError(f"metrics must be a list of metrics, such as [accuracy], but is a {type(metrics).__name__}.")
    made = [made for metric in metrics for made in _each(metric)]
    for part, training in (("train", True), ("valid", False)):
        taken = ["loss"]
        for metric in made:
            if metric.active(training):
                _check_free(metric.name, taken, part)
                taken.append(metric.name)
    return made


def _each(metric: Any) -> Iterator[Metric]:
    if isinstance(metric, nn.ModuleDict) and isinstance(metric, TorchMetric):
        for name, entry in metric.items():
            yield AccumMetric(entry, flatten=False, name=name)
    else:
        yield as_metric(metric)


def as_metric(metric: Any) -> Metric:
    """Makes a `Metric` of what a user may give: itself, a torchmetrics object, or a function of `(pred, target)`.

    A function becomes an `AvgMetric`; a torchmetrics object, `rmse` and `r2_score` an `AccumMetric`.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(metric, type):
        raise TypeError(f"{metric.__name__} is a class, not a metric: give an instance of it, {metric.__name__}(...).")
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, nn.ModuleDict):
        raise TypeError(
            f"A {type(metric).__name__} is several metrics: give it to Learner(metrics=[...]), or its entries one by one."
        )
    if isinstance(metric, TorchMetric):
        return AccumMetric(metric, flatten=False)
    if _is_of_whole_set(metric):
        return AccumMetric(metric)
    if callable(metric):
        return AvgMetric(metric)
    raise TypeError(f"{metric!r} is no metric: give a function of (pred, target), a torchmetrics.Metric or a Metric.")


def func_name(func: Any) -> str:
    """The name under which a function or torchmetrics object is recorded: its own, in snake case."""
    func = _unwrapped(func)
    name = getattr(func, "__name__", None) or type(func).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).strip("_<>").lower()


def check_name(name: str) -> None:
    """Checks that trackers take `name` as (the end of) a metric's key; the rule is MLflow's.

    Raises:
        ValueError: if they would not; the message suggests one that they take.
    """
    cleaned = posixpath.normpath(_BAD_CHARACTERS.sub("_", name)).strip("_./ ") or "metric"
    if _BAD_CHARACTERS.search(name) or posixpath.normpath(f"x/{name}") != f"x/{name}":
        raise ValueError(
            f"Metric name {name!r} must be of letters, digits, underscores, dashes, periods, spaces, colons and "
            f"single slashes between them: rename it, for example to {cleaned!r}."
        )


def check_loss_part(name: str, part: Tensor, metrics: Iterable[Metric]) -> None:
    """Checks that a named part of the loss can be recorded beside the metrics.

    Raises:
        ValueError: if its name is taken or trackers refuse it, or it is not a scalar.
    """
    check_name(name)
    if part.dim():
        raise ValueError(f"Part {name!r} of the loss is a tensor {tuple(part.shape)}: a part must be one number, so reduce it.")
    if name == "loss" or name in [metric.name for metric in metrics]:
        raise ValueError(f"Part {name!r} of the loss has the name of {_owner(name)}: rename one of the two.")


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


def _check_free(name: str, taken: Collection[str], part: str) -> None:
    if name in taken:
        raise ValueError(
            f"Metric {name!r} has the name of {_owner(name)}, so both would be recorded as '{part}/{name}': "
            "give it another one by name=."
        )


def _owner(name: str) -> str:
    return "the loss itself, which is always recorded" if name == "loss" else "another metric"


def _unwrapped(func: Any) -> Any:
    while isinstance(func, functools.partial):
        func = func.func
    return func


def _is_of_whole_set(func: Any) -> bool:
    return any(_unwrapped(func) is known for known in _OF_WHOLE_SET)


def _as_function(func: MetricFunc | TorchMetric) -> MetricFunc:
    return functools.partial(_compute, func) if isinstance(func, TorchMetric) else func


def _compute(metric: TorchMetric, pred: Tensor, *targets: Tensor, **kwargs: Any) -> Any:
    metric.to(pred.device)
    metric.reset()
    metric.update(pred, *targets, **kwargs)
    value = metric.compute()
    metric.reset()
    return value


def _call(name: str, func: MetricFunc, args: Sequence[Any]) -> Any:
    try:
        return func(*args)
    except Exception as err:
        shapes = [f"{arg.dtype} {arg.shape}" if isinstance(arg, np.ndarray) else describe(arg) for arg in args]
        err.add_note(f"nntrain: metric {name!r} was given {' and '.join(shapes)}")
        raise


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


def _mean_of(loss: Tensor) -> Tensor:
    loss = loss.detach()
    return loss.mean() if loss.dim() else loss


def _to_numpy(tensor: Tensor) -> Any:
    tensor = tensor.cpu()  # NumPy has no bfloat16
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _check_classes(pred: Tensor, axis: int) -> None:
    if pred.dim() < 2 or pred.shape[axis] == 1:
        raise ValueError(
            f"The predictions {tuple(pred.shape)} have no two classes in axis {axis}: give a score for each class, "
            "or use accuracy_multi for a yes-or-no label."
        )


def _shaped_like(pred: Tensor, target: Tensor) -> Tensor:
    # Broadcasting (items,) with (items, 1) would compare each item with every other.
    if pred.shape == target.shape:
        return target
    if [n for n in pred.shape if n != 1] != [n for n in target.shape if n != 1]:
        raise ValueError(f"The predictions {tuple(pred.shape)} and labels {tuple(target.shape)} do not match in shape.")
    return target.reshape(pred.shape)
