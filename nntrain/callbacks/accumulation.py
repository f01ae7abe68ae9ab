"""Gradient accumulation over several batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from nntrain.core.batch import batch_size
from nntrain.core.callback import Callback
from nntrain.core.events import CancelBatchException

if TYPE_CHECKING:
    from nntrain.learner import Learner


class GradientAccumulation(Callback):
    """Accumulates gradients and steps once at least `n_acc` items have been seen.

    The accumulated gradient equals the gradient of one large batch. Each batch is weighted by its
    size divided by `n_acc`, as in fastai, so the loss must be a mean over items. If the batch sizes
    add up to more than `n_acc`, the gradient is larger in proportion. The recorded loss is not
    weighted. A group that is unfinished at the end of an epoch continues in the next epoch; the
    last unfinished group of the fit is dropped.

    Args:
        n_acc: number of items per optimizer step.

    Raises:
        ValueError: if `n_acc` is less than 1.
    """

    order: ClassVar[int] = 10

    def __init__(self, n_acc: int = 32) -> None:
        if n_acc < 1:
            raise ValueError(
                f"n_acc={n_acc} must be at least 1: it is the number of items per optimizer step."
            )
        self.n_acc = n_acc
        self.count = 0
        self._size = 0
        self._loss: Tensor | None = None

    def before_fit(self, learn: Learner) -> None:
        """Starts a group."""
        self.count = 0

    def before_backward(self, learn: Learner) -> None:
        """Weights the loss for the backward pass."""
        self._loss, self._size = learn.loss, batch_size(learn.yb or learn.xb)
        learn.loss = learn.loss * (self._size / self.n_acc)

    def after_cancel_backward(self, learn: Learner) -> None:
        """Does not count a batch without a gradient."""
        self._size = 0

    def after_backward(self, learn: Learner) -> None:
        """Restores the unweighted loss."""
        if self._loss is not None:
            learn.loss, self._loss = self._loss, None

    def before_step(self, learn: Learner) -> None:
        """Skips the step and the zeroing of the gradients until the group has enough items."""
        self.count += self._size
        if self.count < self.n_acc:
            raise CancelBatchException("The gradients are still being accumulated.")
        self.count = 0

    def after_cancel_step(self, learn: Learner) -> None:
        """Starts a group, because a step that another callback cancels zeroes the gradients too."""
        self.count = 0

    def cleanup_fit(self, learn: Learner) -> None:
        """Releases the loss."""
        self._loss = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of items in the group so far; the model holds their gradients."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self.count = state["count"]
