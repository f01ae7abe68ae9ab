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
    """Accumulates gradients over several batches and steps the optimizer once per `n_acc` items.

    The optimizer steps as soon as a group of batches contains at least `n_acc` items. The
    accumulated gradient equals the gradient of one large batch. As in fastai, the loss of each
    batch is multiplied by `batch size / n_acc`, so the loss must be a mean over items. If a group
    contains more than `n_acc` items, its gradient is proportionally larger. The recorded loss is
    not scaled. An incomplete group at the end of an epoch continues in the next epoch. At the end
    of the fit, the gradients of an incomplete group are discarded.

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
        """Resets the item count."""
        self.count = 0

    def before_backward(self, learn: Learner) -> None:
        """Scales the loss for the backward pass."""
        self._loss, self._size = learn.loss, batch_size(learn.yb or learn.xb)
        learn.loss = learn.loss * (self._size / self.n_acc)

    def after_cancel_backward(self, learn: Learner) -> None:
        """Excludes the batch from the item count, because the batch contributed no gradient."""
        self._size = 0

    def after_backward(self, learn: Learner) -> None:
        """Restores the unscaled loss."""
        if self._loss is not None:
            learn.loss, self._loss = self._loss, None

    def before_step(self, learn: Learner) -> None:
        """Skips the optimizer step and `zero_grad` until the group has at least `n_acc` items."""
        self.count += self._size
        if self.count < self.n_acc:
            raise CancelBatchException("The gradients are still being accumulated.")
        self.count = 0

    def after_cancel_step(self, learn: Learner) -> None:
        """Resets the item count, because the gradients are zeroed after a cancelled step."""
        self.count = 0

    def cleanup_fit(self, learn: Learner) -> None:
        """Releases the loss tensor."""
        self._loss = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the item count of the current group; the gradients are saved with the model."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self.count = state["count"]
