"""Gathering predictions and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nntrain.core.callback import Callback

if TYPE_CHECKING:
    from nntrain.learner import Learner


class GatherPreds(Callback):
    """Keeps the predictions and labels of every batch, on the CPU."""

    order: ClassVar[int] = 50

    def __init__(self) -> None:
        self._preds: list[Tensor] = []
        self._targets: list[Tensor] = []

    def after_pred(self, learn: Learner) -> None:
        """Copies the predictions and labels of the batch to the CPU.

        Raises:
            TypeError: if the model does not return a tensor.
        """
        if not isinstance(learn.pred, Tensor):
            raise TypeError(
                "get_preds needs a model that returns a tensor "
                f"but got {type(learn.pred).__name__}."
            )
        self._preds.append(learn.pred.detach().cpu())
        if learn.yb:
            self._targets.append(learn.yb[0].cpu())

    def collected(self) -> tuple[Tensor, Tensor | None]:
        """Returns the predictions and labels of all batches, in order; `None` without labels."""
        return torch.cat(self._preds), torch.cat(self._targets) if self._targets else None
