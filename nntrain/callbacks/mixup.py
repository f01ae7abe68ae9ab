"""MixUp: trains on weighted averages of pairs of items."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from nntrain.core.batch import batch_size, map_tensors
from nntrain.core.callback import Callback, Purpose

if TYPE_CHECKING:
    from nntrain.learner import Learner

LossFunc = Callable[..., Any]


class MixUp(Callback):
    """Mixes each item of a training batch with a partner item from the same batch.

    The mixed item is `weight * item + (1 - weight) * partner`. For each item, `weight` is
    `max(w, 1 - w)`, where `w` is drawn from Beta(alpha, alpha). Floating-point labels are mixed in
    the same way. For other labels, the loss is computed once with the label of the item and once
    with the label of the partner, and the two losses are mixed. If the loss function has no
    `reduction` setting, all items of a batch use the same weight. Validation is unchanged. Training
    metrics use the label with the larger weight. The random numbers come from torch's generator for
    the device, so the seed determines them. With the same seed, the mixing matches fastai's
    `MixUp`.

    Args:
        alpha: parameter of the Beta distribution. A small value leaves most items almost unchanged;
            1 draws the weights uniformly.

    Raises:
        ValueError: if `alpha` is not positive.
        TypeError: if an input is an integer tensor, which cannot be mixed.

    Source: Zhang et al., 2018, https://arxiv.org/abs/1710.09412.
    """

    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT, Purpose.LR_FIND})

    def __init__(self, alpha: float = 0.4) -> None:
        if not alpha > 0:
            raise ValueError(
                f"alpha={alpha} must be positive: it is the parameter of the Beta distribution."
            )
        self.alpha = alpha
        self._original: LossFunc | None = None
        self._reduction: str | None = None
        self._weight = torch.empty(0)
        self._partners: tuple[Any, ...] = ()

    def before_fit(self, learn: Learner) -> None:
        """Replaces the loss function of the learner with a function that mixes losses."""
        self._original, self._partners = learn.loss_func, ()
        self._reduction = reduction_of(learn.loss_func)
        self._unreduced = without_reduction(learn.loss_func) if self._reduction else learn.loss_func
        alpha = torch.tensor(float(self.alpha), device=learn.device)
        self._beta = torch.distributions.Beta(alpha, alpha)
        learn.loss_func = self._loss

    def before_batch(self, learn: Learner) -> None:
        """Mixes the inputs, and the labels if they are floating-point tensors."""
        self._partners = ()
        if not learn.training:
            return
        size = batch_size(learn.xb)
        self._weight = self._draw(size if self._reduction else 1)
        shuffle = torch.randperm(size, device=learn.device)
        learn.xb = map_tensors(partial(_mix_input, shuffle, self._weight), learn.xb)
        if all(isinstance(y, Tensor) and y.is_floating_point() for y in learn.yb):
            learn.yb = tuple(_mix_with(shuffle, self._weight, y) for y in learn.yb)
        else:
            self._partners = map_tensors(lambda y: y[shuffle], learn.yb)

    def _draw(self, n: int) -> Tensor:
        weight = self._beta.sample((n,))
        return torch.maximum(weight, 1 - weight)

    def _loss(self, pred: Any, *target: Any) -> Any:
        assert self._original is not None
        if not self._partners:
            return self._original(pred, *target)
        loss = _lerp_parts(
            self._unreduced(pred, *self._partners), self._unreduced(pred, *target), self._weight
        )
        if self._reduction is None or self._reduction == "none":
            return loss
        return loss.mean() if self._reduction == "mean" else loss.sum()

    def after_batch(self, learn: Learner) -> None:
        """Releases the labels of the partner items."""
        self._partners = ()

    def cleanup_fit(self, learn: Learner) -> None:
        """Restores the loss function of the learner."""
        if self._original is not None:
            learn.loss_func = self._original
        self._original, self._partners = None, ()


def _mix_with(shuffle: Tensor, weight: Tensor, items: Tensor) -> Tensor:
    return torch.lerp(items[shuffle], items, _for_items(weight, items))


def _mix_input(shuffle: Tensor, weight: Tensor, items: Tensor) -> Tensor:
    if not items.is_floating_point():
        raise TypeError(
            f"MixUp needs floating-point inputs but got {items.dtype}: mix the embeddings instead."
        )
    return _mix_with(shuffle, weight, items)


def _for_items(weight: Tensor, items: Tensor) -> Tensor:
    return weight.to(items.dtype).view(-1, *[1] * (items.dim() - 1))


def _lerp_parts(first: Any, second: Any, weight: Tensor) -> Any:
    if isinstance(first, Mapping):
        return {name: _lerp_parts(part, second[name], weight) for name, part in first.items()}
    return torch.lerp(
        first, second, _for_items(weight, first) if first.dim() else weight[0].to(first.dtype)
    )


def reduction_of(loss_func: LossFunc) -> str | None:
    """Returns the `reduction` setting of a loss function, or `None` if the function has none."""
    if isinstance(loss_func, nn.Module):
        return getattr(loss_func, "reduction", None)
    parameter = _parameters(loss_func).get("reduction")
    return None if parameter is None else str(parameter.default)


def _parameters(func: LossFunc) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(func).parameters
    except ValueError:  # raised for built-in functions that have no signature
        return {}


def without_reduction(loss_func: LossFunc) -> LossFunc:
    """Returns a copy of the loss module, or a partial of the function, with `reduction="none"`."""
    if not isinstance(loss_func, nn.Module):
        return partial(loss_func, reduction="none")
    each = copy.copy(loss_func)
    each.reduction = "none"  # type: ignore[assignment]
    return each
