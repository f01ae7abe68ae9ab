"""Metrics that are computed on all predictions of an epoch together."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from nntrain.metrics.base import Metric, Part
from nntrain.metrics.calls import MetricFunc, TorchMetric, as_function, call, func_name

if TYPE_CHECKING:
    from nntrain.learner import Learner

Activation: TypeAlias = Literal["no", "softmax", "sigmoid", "binary_softmax"]
"""The function to apply to the predictions before computing the metric.

`binary_softmax` returns the probability of the last class.
"""


class AccumMetric(Metric):
    """Metric that is computed on all predictions and labels of an epoch, such as F1 or ROC AUC.

    The activation is applied to the predictions first. Without an activation, the argmax over
    `dim_argmax` is applied instead, if `dim_argmax` is set. Finally, the threshold is applied. The
    predictions stay on the device until training or validation ends.

    Args:
        func: function of `(pred, target)`, torchmetrics functional, or `torchmetrics.Metric`.
        dim_argmax: axis of the argmax; for a softmax, the axis of the classes (default -1).
        activation: `no`, `softmax`, `sigmoid` or `binary_softmax`.
        thresh: threshold; predictions are converted to True if they are at least this value.
        to_np: whether to pass NumPy arrays to `func`.
        invert_arg: whether to call `func(target, pred)`, as scikit-learn expects.
        flatten: whether to flatten predictions and labels, which must then have the same length.
        name: name of the metric; by default the name of `func`.
        part: where to record the metric: `train`, `valid` or `both`.
        kwargs: keyword arguments of `func`.

    Raises:
        ValueError: if the activation is unknown. In `accumulate`, if the argmax is taken over only
            one class. In `value`, if the flattened predictions and labels differ in length, or if
            `func` returns more than one number.
        TypeError: in `accumulate`, if predictions or labels are not tensors.
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
            raise ValueError(
                f"activation={activation!r} must be one of {', '.join(get_args(Activation))}."
            )
        self.func = functools.partial(as_function(func), **kwargs)
        self.dim_argmax, self.activation, self.thresh = dim_argmax, activation, thresh
        self.to_np, self.invert_arg, self.flatten = to_np, invert_arg, flatten
        self.reset()

    def reset(self) -> None:
        """Resets the metric."""
        self._batches: list[tuple[Tensor, ...]] = []

    def accumulate(self, learn: Learner) -> None:
        """Stores the predictions and labels of a batch."""
        targets = learn.yb or learn.xb
        if not all(isinstance(part, Tensor) for part in (learn.pred, *targets)):
            got = ", ".join(type(part).__name__ for part in (learn.pred, *targets))
            raise TypeError(
                f"Metric {self.name!r} needs tensors as predictions and labels, but got "
                f"{got}: use an AvgMetric."
            )
        batch = (self._transform(learn.pred.detach()), *targets)
        self._batches.append(tuple(part.flatten() for part in batch) if self.flatten else batch)

    def _transform(self, pred: Tensor) -> Tensor:
        pred = self._activated(pred)
        return pred if self.thresh is None else pred >= self.thresh

    def _activated(self, pred: Tensor) -> Tensor:
        if self.activation == "sigmoid":
            return pred.sigmoid()
        self._check_classes(pred)
        if self.activation != "no":
            pred = pred.softmax(dim=-1 if self.dim_argmax is None else self.dim_argmax)
            return pred[:, -1] if self.activation == "binary_softmax" else pred
        return pred if self.dim_argmax is None else pred.argmax(dim=self.dim_argmax)

    def _check_classes(self, pred: Tensor) -> None:
        if self.dim_argmax is not None and pred.dim() and pred.size(self.dim_argmax) == 1:
            raise ValueError(
                f"Metric {self.name!r} takes the argmax over classes, but the predictions "
                f"of shape {tuple(pred.shape)} have only one class in axis {self.dim_argmax}: "
                "set is_class=False (skm_to_fastai) or dim_argmax=None."
            )

    @property
    def value(self) -> Tensor | float | None:
        """Metric over all stored batches; `None` if no batch was stored."""
        if not self._batches:
            return None
        args: list[Any] = [_joined(column) for column in zip(*self._batches, strict=True)]
        self._check_lengths(*args)
        if self.to_np:
            args = [_to_numpy(arg) for arg in args]
        if self.invert_arg:
            args.reverse()
        return call(self.name, self.func, args)

    def _check_lengths(self, pred: Tensor, *targets: Tensor) -> None:
        for target in targets:
            if self.flatten and len(pred) != len(target):
                raise ValueError(
                    f"Metric {self.name!r} got {len(pred)} predictions for {len(target)} labels: "
                    "set dim_argmax or flatten=False."
                )

    def state_dict(self) -> dict[str, Any]:
        """Returns the stored predictions and labels."""
        return {"batches": [list(batch) for batch in self._batches]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
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
    """Creates a metric from a scikit-learn function.

    Args:
        func: function from `sklearn.metrics`; it is called as `func(target, pred)` with NumPy
            arrays.
        is_class: whether `func` expects class indices rather than scores or regression values. If
            true, predictions are converted to class indices with an argmax over `axis`, unless
            `thresh` is set.
        thresh: for multi-label data, the threshold to apply after the activation (default sigmoid).
        axis: axis of the classes.
        activation: activation to apply to the predictions first. A softmax over `axis` replaces the
            argmax.
        flatten: whether to flatten predictions and labels. Set `False` if `func` needs the axis of
            the classes or labels.
        name: name of the metric; by default the name of `func`.
        part: where to record the metric: `train`, `valid` or `both`.
        kwargs: keyword arguments of `func`.
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


def _joined(batches: Sequence[Tensor]) -> Tensor:
    # Batches restored from a checkpoint may be on a different device.
    device = batches[-1].device
    return torch.cat([batch.to(device) for batch in batches])


def _to_numpy(tensor: Tensor) -> Any:
    tensor = tensor.cpu()  # NumPy has no bfloat16
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
