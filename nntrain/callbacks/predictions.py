"""Collects predictions and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from nntrain.core.callback import Callback

if TYPE_CHECKING:
    from nntrain.learner import Learner


class GatherPreds(Callback):
    """Collects the predictions and labels of all batches on the CPU."""

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
                "get_preds needs a model that returns a tensor, "
                f"but this model returned a {type(learn.pred).__name__}."
            )
        self._preds.append(learn.pred.detach().cpu())
        if learn.yb:
            self._targets.append(learn.yb[0].cpu())

    def collected(self) -> tuple[Tensor, Tensor | None]:
        """Returns all predictions and labels in order. For unlabeled data, labels are `None`."""
        return torch.cat(self._preds), torch.cat(self._targets) if self._targets else None
