"""Converts functions and torchmetrics objects to metrics, and checks metric names."""

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
    """Creates the metrics of a Learner.

    Each entry of a `torchmetrics.MetricCollection` is converted to a separate metric.

    Raises:
        TypeError: if `metrics` is not a list, or an entry is not a metric.
        ValueError: if two metrics have the same name, or if a metric is named `loss`.
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
    """Creates a `Metric` from a metric, a torchmetrics object, or a function of `(pred, target)`.

    A function is wrapped in an `AvgMetric`. A torchmetrics object, `rmse` and `r2_score` are
    wrapped in an `AccumMetric`. A `Metric` is returned unchanged.

    Raises:
        TypeError: if `metric` is none of these.
    """
    if isinstance(metric, type):
        raise TypeError(
            f"{metric.__name__} is a class, not a metric: pass an instance, {metric.__name__}(...)."
        )
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, nn.ModuleDict):
        raise TypeError(
            f"A {type(metric).__name__} contains several metrics: "
            "pass it to Learner(metrics=[...]), or pass each of its metrics separately."
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
    """Checks that a named part of the loss can be recorded next to the metrics.

    Raises:
        ValueError: if `part` is not a scalar, if a metric already uses the name, or if trackers do
            not accept the name.
    """
    check_name(name)
    if part.dim():
        raise ValueError(
            f"Part {name!r} of the loss has the shape {tuple(part.shape)} but must be one number: "
            "sum or average the values."
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
                f"as '{part}/{name}': pass a different name= to one of them."
            )


def _owner(name: str) -> str:
    return "the loss itself, which is always recorded" if name == "loss" else "another metric"
