"""Functions of predictions and labels that stay on the device."""

from typing import Any

import torch
from torch import Tensor

from nntrain.metrics.calls import unwrapped


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
        raise ValueError(
            f"top_k_accuracy has k={k} for {pred.shape[axis]} classes: k must be from 1 to the number of classes."
        )
    best = pred.topk(k, dim=axis).indices
    target = _shaped_like(best.select(axis, 0), target).unsqueeze(axis)
    return (best == target).any(dim=axis).mean(dtype=torch.float32)


def accuracy_multi(
    pred: Tensor, target: Tensor, thresh: float = 0.5, sigmoid: bool = True
) -> Tensor:
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


def is_of_whole_set(func: Any) -> bool:
    """Whether a function, or what a partial is made of, is no mean over items: `rmse` or `r2_score`."""
    return any(unwrapped(func) is known for known in (rmse, r2_score))


def _check_classes(pred: Tensor, axis: int) -> None:
    if pred.dim() < 2 or pred.size(axis) == 1:
        raise ValueError(
            f"The predictions {tuple(pred.shape)} have no two classes in axis {axis}: give a score for each class, "
            "or use accuracy_multi for a yes-or-no label."
        )


def _shaped_like(pred: Tensor, target: Tensor) -> Tensor:
    # Broadcasting (items,) with (items, 1) would compare each item with every other.
    if pred.shape == target.shape:
        return target
    if [n for n in pred.shape if n != 1] != [n for n in target.shape if n != 1]:
        raise ValueError(
            f"The predictions {tuple(pred.shape)} and labels {tuple(target.shape)} do not match in shape."
        )
    return target.reshape(pred.shape)
