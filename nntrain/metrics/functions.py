"""Metric functions of predictions and labels; the results stay on the device of the inputs."""

from typing import Any

import torch
from torch import Tensor

from nntrain.metrics.calls import unwrapped


def accuracy(pred: Tensor, target: Tensor, axis: int = 1) -> Tensor:
    """Returns the fraction of items (0 to 1) whose highest-scoring class is the label.

    Args:
        pred: class scores `(items, classes, ...)`.
        target: class indices `(items, ...)`.
        axis: axis of the classes.

    Raises:
        ValueError: if the shapes do not match, or if there is only one class.
    """
    _check_classes(pred, axis)
    best = pred.argmax(dim=axis)
    return (best == _shaped_like(best, target)).mean(dtype=torch.float32)


def error_rate(pred: Tensor, target: Tensor, axis: int = 1) -> Tensor:
    """Returns the fraction of items (0 to 1) that are misclassified: 1 - `accuracy`."""
    return 1 - accuracy(pred, target, axis)


def top_k_accuracy(pred: Tensor, target: Tensor, k: int = 5, axis: int = 1) -> Tensor:
    """Returns the fraction of items (0 to 1) whose label is among the `k` highest-scoring classes.

    Args:
        pred: class scores `(items, classes, ...)`.
        target: class indices `(items, ...)`.
        k: number of highest-scoring classes to consider.
        axis: axis of the classes.

    Raises:
        ValueError: if the shapes do not match, if there is only one class, or if there are fewer
            than `k` classes.
    """
    _check_classes(pred, axis)
    if not 1 <= k <= pred.shape[axis]:
        raise ValueError(
            f"k={k} of top_k_accuracy must be between 1 and the number of classes, "
            f"{pred.shape[axis]}."
        )
    best = pred.topk(k, dim=axis).indices
    target = _shaped_like(best.select(axis, 0), target).unsqueeze(axis)
    return (best == target).any(dim=axis).mean(dtype=torch.float32)


def accuracy_multi(
    pred: Tensor, target: Tensor, thresh: float = 0.5, sigmoid: bool = True
) -> Tensor:
    """Returns the fraction of correct labels (0 to 1) for multi-label data.

    Args:
        pred: scores `(items, labels)`; `(items,)` or `(items, 1)` for a single binary label.
        target: 0 or 1, with as many elements as `pred`.
        thresh: a score above this value predicts 1, as in fastai.
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
    """Returns the root mean squared error, in units of the target.

    A Learner computes this metric on all predictions of an epoch.
    """
    return mse(pred, target).sqrt()


def r2_score(pred: Tensor, target: Tensor) -> Tensor:
    """Returns the coefficient of determination (R2), at most 1.

    A Learner computes this metric on all predictions of an epoch. As in scikit-learn, the result
    for a constant target is 1 if all predictions are exact and 0 if they are not.
    """
    target = _shaped_like(pred, target).to(pred.dtype)
    residual = (target - pred).square().sum()
    total = (target - target.mean()).square().sum()
    constant = (total == 0) & residual.isfinite()
    return torch.where(constant, (residual == 0).to(total.dtype), 1 - residual / total)


def is_of_whole_set(func: Any) -> bool:
    """Returns whether a function or partial is `rmse` or `r2_score`.

    These functions are not means over items, so they need all predictions of an epoch.
    """
    return any(unwrapped(func) is known for known in (rmse, r2_score))


def _check_classes(pred: Tensor, axis: int) -> None:
    if pred.dim() < 2 or pred.size(axis) == 1:
        raise ValueError(
            f"Predictions of shape {tuple(pred.shape)} must have at least two classes in axis "
            f"{axis}: pass a score for each class, or use accuracy_multi for a binary label."
        )


def _shaped_like(pred: Tensor, target: Tensor) -> Tensor:
    # Broadcasting (items,) against (items, 1) would compare every item with every other item.
    if pred.shape == target.shape:
        return target
    if [n for n in pred.shape if n != 1] != [n for n in target.shape if n != 1]:
        raise ValueError(
            f"The shapes of the predictions {tuple(pred.shape)} and of the labels "
            f"{tuple(target.shape)} do not match: pass one label for each prediction."
        )
    return target.reshape(pred.shape)
