"""Conversion of functions and torchmetrics objects to metrics, and checks of their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nntrain.metrics.accumulated import AccumMetric
from nntrain.metrics.averaged import AvgMetric
from nntrain.metrics.base import Metric, check_name
from nntrain.metrics.calls import TorchMetric
from nntrain.metrics.functions import is_of_whole_set


def as_metrics(metrics: Iterable[Any]) -> list[Metric]:
    """Makes the metrics of a Learner; each entry of a `torchmetrics.MetricCollection` becomes one.

    Raises:
        TypeError: if `metrics` is not a list, or an entry is not a metric.
        ValueError: if two metrics have the same name, or one is called `loss`.
    """
    if not isinstance(metrics, Iterable) or isinstance(metrics, nn.ModuleDict | Mapping | str):
        raise TypeError(
            "metrics must be a list of metrics, such as [accuracy], "
            f"but got a {type(metrics).__name__}."
        )
    made = [made for metric in metrics for made in _each(metric)]
    for part, training in (("train", True), ("valid", False)):
        _check_names(["loss", *(metric.name for metric in made if metric.active(training))], part)
    return made


def _each(metric: Any) -> Iterator[Metric]:
    if isinstance(metric, nn.ModuleDict) and isinstance(metric, TorchMetric):
        for name, entry in metric.items():
            yield AccumMetric(entry, flatten=False, name=name)
    else:
        yield as_metric(metric)


def as_metric(metric: Any) -> Metric:
    """Makes a `Metric` from a metric, a torchmetrics object, or a function of `(pred, target)`.

    A function becomes an `AvgMetric`; a torchmetrics object, `rmse` or `r2_score` becomes an
    `AccumMetric`; a `Metric` is returned unchanged.

    Raises:
        TypeError: if `metric` is anything else.
    """
    if isinstance(metric, type):
        raise TypeError(
            f"{metric.__name__} is a class, not a metric: pass an instance, {metric.__name__}(...)."
        )
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, nn.ModuleDict):
        raise TypeError(
            f"A {type(metric).__name__} holds several metrics: pass it to Learner(metrics=[...]), "
            "or pass its entries one by one."
        )
    if isinstance(metric, TorchMetric):
        return AccumMetric(metric, flatten=False)
    if is_of_whole_set(metric):
        return AccumMetric(metric)
    if callable(metric):
        return AvgMetric(metric)
    raise TypeError(
        f"{metric!r} is not a metric: "
        "pass a function of (pred, target), a torchmetrics.Metric or a Metric."
    )


def check_loss_part(name: str, part: Tensor, metrics: Iterable[Metric]) -> None:
    """Checks that a named part of the loss can be recorded along with the metrics.

    Raises:
        ValueError: if its name is taken, if trackers reject the name, or if it is not a scalar.
    """
    check_name(name)
    if part.dim():
        raise ValueError(
            f"Part {name!r} of the loss is a tensor {tuple(part.shape)} but must be one number: "
            "reduce it."
        )
    if name == "loss" or name in [metric.name for metric in metrics]:
        raise ValueError(
            f"Part {name!r} of the loss has the same name as {_owner(name)}: rename one of them."
        )


def _check_names(names: Sequence[str], part: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Metric {name!r} has the same name as {_owner(name)}, so both would be recorded "
                f"as '{part}/{name}': set another name with name=."
            )


def _owner(name: str) -> str:
    return "the loss itself, which is always recorded" if name == "loss" else "another metric"
