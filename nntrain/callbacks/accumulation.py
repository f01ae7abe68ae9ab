"""Adding up the gradients of several batches before the optimizer steps."""

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
    """Steps only when at least `n_acc` items have been seen; the gradient is then that of one batch of all these items.

    Each batch's gradient is weighted by its share of `n_acc`, as fastai does; so the loss must be a mean over items, and
    where the batch sizes do not add up to `n_acc` the gradient is larger in proportion. The recorded loss is not weighted.
    A group that an epoch leaves unfinished goes on in the next one; the fit's last unfinished group is dropped.

    Args:
        n_acc: items for each step of the optimizer.

    Raises:
        ValueError: if `n_acc` is less than 1.
    """

    order: ClassVar[int] = 10

    def __init__(self, n_acc: int = 32) -> None:
        if n_acc < 1:
            raise ValueError(
                f"n_acc={n_acc} must be at least 1: the number of items for each step of the optimizer."
            )
        self.n_acc = n_acc
        self.count = 0
        self._size = 0
        self._loss: Tensor | None = None

    def before_fit(self, learn: Learner) -> None:
        """Begins a group."""
        self.count = 0

    def before_backward(self, learn: Learner) -> None:
        """Weights the loss for the backward pass."""
        self._loss, self._size = learn.loss, batch_size(learn.yb or learn.xb)
        learn.loss = learn.loss * (self._size / self.n_acc)

    def after_cancel_backward(self, learn: Learner) -> None:
        """A batch without a gradient counts for nothing."""
        self._size = 0

    def after_backward(self, learn: Learner) -> None:
        """Puts the loss back as it was."""
        if self._loss is not None:
            learn.loss, self._loss = self._loss, None

    def before_step(self, learn: Learner) -> None:
        """Skips the step, and the zeroing of the gradients, until there are enough items."""
        self.count += self._size
        if self.count < self.n_acc:
            raise CancelBatchException("The gradients are still being accumulated.")
        self.count = 0

    def after_cancel_step(self, learn: Learner) -> None:
        """Begins a group: a step that another callback cancels zeroes the gradients all the same."""
        self.count = 0

    def cleanup_fit(self, learn: Learner) -> None:
        """Lets go of the loss."""
        self._loss = None

    def state_dict(self) -> dict[str, Any]:
        """The number of items in the group so far; their gradients are the model's."""
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.count = state["count"]
