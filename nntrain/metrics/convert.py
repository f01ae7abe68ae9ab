"""Making metrics of what a user gives, and no two of one name."""

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
    """Makes the metrics of a Learner; a `torchmetrics.MetricCollection` gives one for each of its entries.

    Raises:
        TypeError: if one is no metric, or they are not in a list.
        ValueError: if two would be recorded under one name, or one under `loss`.
    """
    if not isinstance(metrics, Iterable) or isinstance(metrics, nn.ModuleDict | Mapping | str):
        raise TypeError(
            f"metrics must be a list of metrics, such as [accuracy], but is a {type(metrics).__name__}."
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
    """Makes a `Metric` of what a user may give: itself, a torchmetrics object, or a function of `(pred, target)`.

    A function becomes an `AvgMetric`; a torchmetrics object, `rmse` and `r2_score` an `AccumMetric`.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(metric, type):
        raise TypeError(
            f"{metric.__name__} is a class, not a metric: give an instance of it, {metric.__name__}(...)."
        )
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, nn.ModuleDict):
        raise TypeError(
            f"A {type(metric).__name__} is several metrics: give it to Learner(metrics=[...]), or its entries one by one."
        )
    if isinstance(metric, TorchMetric):
        return AccumMetric(metric, flatten=False)
    if is_of_whole_set(metric):
        return AccumMetric(metric)
    if callable(metric):
        return AvgMetric(metric)
    raise TypeError(
        f"{metric!r} is no metric: give a function of (pred, target), a torchmetrics.Metric or a Metric."
    )


def check_loss_part(name: str, part: Tensor, metrics: Iterable[Metric]) -> None:
    """Checks that a named part of the loss can be recorded beside the metrics.

    Raises:
        ValueError: if its name is taken or trackers refuse it, or it is not a scalar.
    """
    check_name(name)
    if part.dim():
        raise ValueError(
            f"Part {name!r} of the loss is a tensor {tuple(part.shape)}: a part must be one number, so reduce it."
        )
    if name == "loss" or name in [metric.name for metric in metrics]:
        raise ValueError(
            f"Part {name!r} of the loss has the name of {_owner(name)}: rename one of the two."
        )


def _check_names(names: Sequence[str], part: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Metric {name!r} has the name of {_owner(name)}, so both would be recorded as '{part}/{name}': "
                "give it another one by name=."
            )


def _owner(name: str) -> str:
    return "the loss itself, which is always recorded" if name == "loss" else "another metric"
