"""Metrics that are averaged over batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nntrain.core.batch import batch_size
from nntrain.metrics.base import Metric, Part
from nntrain.metrics.calls import MetricFunc, TorchMetric, as_function, call, func_name
from nntrain.metrics.functions import is_of_whole_set
from nntrain.metrics.means import SmoothMean, WeightedMean

if TYPE_CHECKING:
    from nntrain.learner import Learner


class _MeanMetric(Metric):
    """Metric that averages a scalar over batches."""

    def __init__(self, name: str, part: Part, mean: WeightedMean) -> None:
        super().__init__(name, part)
        self._mean = mean

    def reset(self) -> None:
        """Resets the metric."""
        self._mean.reset()

    @property
    def value(self) -> Tensor | None:
        """Mean over the batches so far, as a scalar tensor; `None` before the first batch."""
        return self._mean.value

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the running mean."""
        return self._mean.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self._mean.load_state_dict(state)


class AvgMetric(_MeanMetric):
    """Mean of `func(pred, target)` over batches, weighted by batch size.

    Args:
        func: plain function, torchmetrics functional, or `torchmetrics.Metric` (which is reset for
            each batch). `func` must return the mean over the items of a batch; for other metrics,
            such as F1 or R2, use `AccumMetric`.
        name: name of the metric; by default the name of `func`.
        part: where to record the metric: `train`, `valid` or `both`.

    Raises:
        ValueError: if `func` is `rmse` or `r2_score`, which are not means over items. In
            `accumulate`, if `func` returns more than one number.
    """

    def __init__(
        self, func: MetricFunc | TorchMetric, *, name: str | None = None, part: Part = "both"
    ) -> None:
        if is_of_whole_set(func):
            raise ValueError(
                f"{func_name(func)} is not a mean over items: use AccumMetric({func_name(func)})."
            )
        self.func = as_function(func)
        super().__init__(name or func_name(func), part, WeightedMean())

    def accumulate(self, learn: Learner) -> None:
        """Adds the value of the current batch to the mean."""
        self._mean.add(_called(self.name, self.func, learn), batch_size(learn.yb or learn.xb))


class AvgLoss(_MeanMetric):
    """Mean of the loss over batches, weighted by batch size."""

    def __init__(self, *, name: str = "loss", part: Part = "both") -> None:
        super().__init__(name, part, WeightedMean())

    def accumulate(self, learn: Learner) -> None:
        """Adds the loss of the current batch to the mean."""
        self._mean.add(_mean_of(learn.loss), batch_size(learn.yb or learn.xb))


class AvgSmoothMetric(_MeanMetric):
    """Exponential moving average of `func(pred, target)` over batches.

    `beta` is the smoothing factor: a larger `beta` averages over more batches.
    """

    def __init__(
        self,
        func: MetricFunc | TorchMetric,
        beta: float = 0.98,
        *,
        name: str | None = None,
        part: Part = "both",
    ) -> None:
        self.func = as_function(func)
        super().__init__(name or f"{func_name(func)}_smooth", part, SmoothMean(beta))

    def accumulate(self, learn: Learner) -> None:
        """Adds the value of the current batch to the mean."""
        self._mean.add(_called(self.name, self.func, learn))


class AvgSmoothLoss(_MeanMetric):
    """Exponential moving average of the loss over batches, with smoothing factor `beta`."""

    def __init__(
        self, beta: float = 0.98, *, name: str = "loss_smooth", part: Part = "train"
    ) -> None:
        super().__init__(name, part, SmoothMean(beta))

    def accumulate(self, learn: Learner) -> None:
        """Adds the loss of the current batch to the mean."""
        self._mean.add(_mean_of(learn.loss))


def _called(name: str, func: MetricFunc, learn: Learner) -> Tensor:
    value = call(name, func, (_detached(learn.pred), *(learn.yb or learn.xb)))
    # Keep a Python number on the CPU: the default device may not support double precision.
    return (
        _detached(value)
        if isinstance(value, Tensor)
        else torch.tensor(value, dtype=torch.float64, device="cpu")
    )


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


def _mean_of(loss: Tensor) -> Tensor:
    loss = loss.detach()
    return loss.mean() if loss.dim() else loss
