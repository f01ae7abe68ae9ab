"""What a metric is tested on: the data of tests/reference/metrics.json, and a learner that gives it to the metric."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nntrain import Learner
from tests.common.reference import reference
from tests.common.toys import Lists, batches


def data_of(name: str) -> tuple[Tensor, Tensor]:
    """Predictions and labels: of three `classes`, `binary`, of several `labels`, or of `values`."""
    data = reference("metrics")["data"][name]
    return torch.tensor(data["pred"]), torch.tensor(data["target"])


def _mean_loss(pred: Tensor, target: Tensor) -> Tensor:
    return (pred.flatten(1)[:, 0] - target.float().reshape(len(target), -1)[:, 0]).abs().mean()


def seen(pred: Tensor, target: Tensor, *metrics: Any, bs: int = 16) -> dict[str, float]:
    """What a Learner records for metrics over these predictions, in batches of which the last is smaller."""
    learn = Learner(
        nn.Identity(),
        Lists([], batches(pred, target, bs)),
        _mean_loss,
        metrics=metrics,
        device="cpu",
    )
    return learn.validate()


def a_batch(pred: Any = None, *targets: Tensor, loss: Any = None) -> Any:
    """As much of a learner as a metric sees."""
    return SimpleNamespace(pred=pred, xb=(torch.zeros(1),), yb=targets, loss=loss)


def mean_of(pred: Tensor, target: Tensor) -> Tensor:
    """A function of the predictions alone."""
    return pred.double().mean()
