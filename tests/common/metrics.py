"""Test data for metrics from tests/reference/metrics.json, and learners that use this data."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nntrain import Learner
from tests.common.reference import reference
from tests.common.toys import Lists, batches


def data_of(name: str) -> tuple[Tensor, Tensor]:
    """Returns predictions and targets of the data set `classes`, `binary`, `labels` or `values`."""
    data = reference("metrics")["data"][name]
    return torch.tensor(data["pred"]), torch.tensor(data["target"])


def _mean_loss(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.flatten(1)[:, 0] - target.float().reshape(len(target), -1)[:, 0]).abs().mean()


def seen(pred: Tensor, target: Tensor, *metrics: Any, bs: int = 16) -> dict[str, float]:
    """Returns the metrics that a learner records for the given predictions, in batches of `bs`."""
    learn = Learner(
        nn.Identity(),
        Lists([], batches(pred, target, bs)),
        _mean_loss,
        metrics=metrics,
        device="cpu",
    )
    return learn.validate()


def a_batch(pred: Any = None, *targets: Tensor, loss: Any = None) -> Any:
    """Returns a stand-in for a learner with the attributes that a metric reads."""
    return SimpleNamespace(pred=pred, xb=(torch.zeros(1),), yb=targets, loss=loss)


def mean_of(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the mean of the predictions and ignores the labels."""
    return pred.double().mean()
