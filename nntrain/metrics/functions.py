"""Metric functions of predictions and labels; the results stay on the device."""

from typing import Any

import torch
from torch import Tensor

from nntrain.metrics.calls import unwrapped


def accuracy(pred: Tensor, target: Tensor, axis: int = 1) -> Tensor:
    """Returns the share of items whose largest score is at the label, 0 to 1.

    Args:
        pred: scores `(items, classes, ...)`.
        target: classes `(items, ...)`.
        axis: axis of the classes.

    Raises:
        ValueError: if the shapes do not match, or there is only one class.
    """
    _check_classes(pred, axis)
    best = pred.argmax(dim=axis)
    return (best == _shaped_like(best, target)).mean(dtype=torch.float32)


def error_rate(pred: Tensor, target: Tensor, axis: int = 1) -> Tensor:
    """Returns the share of items whose largest score is not at the label: 1 - `accuracy`."""
    return 1 - accuracy(pred, target, axis)


def top_k_accuracy(pred: Tensor, target: Tensor, k: int = 5, axis: int = 1) -> Tensor:
    """Returns the share of items whose label is among the `k` largest scores, 0 to 1.

    Args:
        pred: scores `(items, classes, ...)`.
        target: classes `(items, ...)`.
        k: number of largest scores that count.
        axis: axis of the classes.

    Raises:
        ValueError: if the shapes do not match, or there is only one class or fewer than `k`.
    """
    _check_classes(pred, axis)
    if not 1 <= k <= pred.shape[axis]:
        raise ValueError(
            f"k={k} of top_k_accuracy must be from 1 to the number of classes, {pred.shape[axis]}."
        )
    best = pred.topk(k, dim=axis).indices
    target = _shaped_like(best.select(axis, 0), target).unsqueeze(axis)
    return (best == target).any(dim=axis).mean(dtype=torch.float32)


def accuracy_multi(
    pred: Tensor, target: Tensor, thresh: float = 0.5, sigmoid: bool = True
) -> Tensor:
    """Returns the share of correct labels for multi-label data, 0 to 1.

    Args:
        pred: scores `(items, labels)`; `(items,)` or `(items, 1)` for one yes-or-no label.
        target: 0 or 1, with as many elements as `pred`.
        thresh: a prediction above this value counts as yes, as in fastai.
        sigmoid: whether to apply a sigmoid to `pred` first.

    Raises:
        ValueError: if `pred` and `target` differ in the number of elements.
    """
    scores = pred.sigmoid() if sigmoid else pred
    return ((scores > thresh) == _shaped_like(scores, target).bool()).mean(dtype=torch.float32)


def mse(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared error, in squared units of the target."""
    return (pred - _shaped_like(pred, target)).square().mean()


def mae(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the mean absolute error, in units of the target."""
    return (pred - _shaped_like(pred, target)).abs().mean()


def rmse(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the root of the mean squared error, in units of the target.

    As a metric, it is computed over the whole set.
    """
    return mse(pred, target).sqrt()


def r2_score(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the coefficient of determination, at most 1.

    As a metric, it is computed over the whole set. For a constant target it is 1 if the prediction
    is exact and 0 otherwise, as in scikit-learn.
    """
    target = _shaped_like(pred, target).to(pred.dtype)
    residual = (target - pred).square().sum()
    total = (target - target.mean()).square().sum()
    constant = (total == 0) & residual.isfinite()
    return torch.where(constant, (residual == 0).to(total.dtype), 1 - residual / total)


def is_of_whole_set(func: Any) -> bool:
    """Returns whether a function or partial is `rmse` or `r2_score`.

    These are not means over items and need the whole set.
    """
    return any(unwrapped(func) is known for known in (rmse, r2_score))


def _check_classes(pred: Tensor, axis: int) -> None:
    if pred.dim() < 2 or pred.size(axis) == 1:
        raise ValueError(
            f"The predictions {tuple(pred.shape)} must have at least two classes in axis {axis}: "
            "pass a score for each class, or use accuracy_multi for a yes-or-no label."
        )


def _shaped_like(pred: Tensor, target: Tensor) -> Tensor:
    # Broadcasting (items,) with (items, 1) would compare each item with every other.
    if pred.shape == target.shape:
        return target
    if [n for n in pred.shape if n != 1] != [n for n in target.shape if n != 1]:
        raise ValueError(
            f"The shapes of the predictions {tuple(pred.shape)} and of the labels "
            f"{tuple(target.shape)} do not match: pass one label for each prediction."
        )
    return target.reshape(pred.shape)
