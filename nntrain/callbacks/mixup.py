"""MixUp: training on weighted means of two items."""

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
    """Mixes each item of a training batch with another: `share * item + (1 - share) * partner`.

    The share is `max(s, 1 - s)` with `s` drawn from Beta(alpha, alpha) for each item. Labels of
    floating type are mixed in the same way; for other labels, the losses to both are mixed. A loss
    without a `reduction` setting gets one share for the whole batch. Validation is unchanged.
    Training metrics see the label with the larger share. The random numbers come from torch's
    generator of the device, so they follow the seed; they are the same as in fastai's `MixUp`.

    Args:
        alpha: parameter of the Beta distribution; a small value leaves most items almost unchanged,
            1 draws the shares uniformly.

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
        self._share = torch.empty(0)
        self._partners: tuple[Any, ...] = ()

    def before_fit(self, learn: Learner) -> None:
        """Replaces the loss of the learner by one that can be mixed."""
        self._original, self._partners = learn.loss_func, ()
        self._reduction = reduction_of(learn.loss_func)
        self._unreduced = without_reduction(learn.loss_func) if self._reduction else learn.loss_func
        alpha = torch.tensor(float(self.alpha), device=learn.device)
        self._beta = torch.distributions.Beta(alpha, alpha)
        learn.loss_func = self._loss

    def before_batch(self, learn: Learner) -> None:
        """Mixes the inputs, and the labels if they are of floating type."""
        self._partners = ()
        if not learn.training:
            return
        size = batch_size(learn.xb)
        self._share = self._draw(size if self._reduction else 1)
        shuffle = torch.randperm(size, device=learn.device)
        learn.xb = map_tensors(partial(_mix_input, shuffle, self._share), learn.xb)
        if all(isinstance(y, Tensor) and y.is_floating_point() for y in learn.yb):
            learn.yb = tuple(_mix_with(shuffle, self._share, y) for y in learn.yb)
        else:
            self._partners = map_tensors(lambda y: y[shuffle], learn.yb)

    def _draw(self, n: int) -> Tensor:
        share = self._beta.sample((n,))
        return torch.maximum(share, 1 - share)

    def _loss(self, pred: Any, *target: Any) -> Any:
        assert self._original is not None
        if not self._partners:
            return self._original(pred, *target)
        loss = _lerp_parts(
            self._unreduced(pred, *self._partners), self._unreduced(pred, *target), self._share
        )
        if self._reduction is None or self._reduction == "none":
            return loss
        return loss.mean() if self._reduction == "mean" else loss.sum()

    def after_batch(self, learn: Learner) -> None:
        """Releases the partners' labels."""
        self._partners = ()

    def cleanup_fit(self, learn: Learner) -> None:
        """Restores the loss of the learner."""
        if self._original is not None:
            learn.loss_func = self._original
        self._original, self._partners = None, ()


def _mix_with(shuffle: Tensor, share: Tensor, items: Tensor) -> Tensor:
    return torch.lerp(items[shuffle], items, _for_items(share, items))


def _mix_input(shuffle: Tensor, share: Tensor, items: Tensor) -> Tensor:
    if not items.is_floating_point():
        raise TypeError(
            f"MixUp needs floating-point inputs but got {items.dtype}: mix the embeddings instead."
        )
    return _mix_with(shuffle, share, items)


def _for_items(share: Tensor, items: Tensor) -> Tensor:
    return share.to(items.dtype).view(-1, *[1] * (items.dim() - 1))


def _lerp_parts(first: Any, second: Any, share: Tensor) -> Any:
    if isinstance(first, Mapping):
        return {name: _lerp_parts(part, second[name], share) for name, part in first.items()}
    return torch.lerp(
        first, second, _for_items(share, first) if first.dim() else share[0].to(first.dtype)
    )


def reduction_of(loss_func: LossFunc) -> str | None:
    """Returns the reduction of a loss: `"mean"`, `"sum"` or `"none"`; `None` if not known."""
    if isinstance(loss_func, nn.Module):
        return getattr(loss_func, "reduction", None)
    parameter = _parameters(loss_func).get("reduction")
    return None if parameter is None else str(parameter.default)


def _parameters(func: LossFunc) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(func).parameters
    except ValueError:  # some builtins have no signature
        return {}


def without_reduction(loss_func: LossFunc) -> LossFunc:
    """Returns the loss with `reduction="none"`: a copy of a module, or a partial of a function."""
    if not isinstance(loss_func, nn.Module):
        return partial(loss_func, reduction="none")
    each = copy.copy(loss_func)
    each.reduction = "none"  # type: ignore[assignment]
    return each
