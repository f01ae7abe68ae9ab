"""Losses in addition to torch's own, and losses with named parts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def total_and_parts(loss: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Returns the sum of a loss and its detached parts by name; a plain tensor has no parts.

    Raises:
        TypeError: if the loss is neither a tensor nor a mapping.
    """
    if isinstance(loss, Tensor):
        return loss, {}
    if not isinstance(loss, Mapping):
        kind = type(loss).__name__
        raise TypeError(f"The loss must be a tensor or a mapping of named tensors but is {kind}.")
    return torch.stack(list(loss.values())).sum(), {name: loss[name].detach() for name in loss}


class MultiLoss(nn.Module):
    """A weighted sum of named losses; each is recorded as `train/NAME` and `valid/NAME`.

    Each loss is called with the predictions and all labels and returns a scalar; its weighted value
    is recorded. Losses that are modules move to the device with this one.

    Args:
        losses: the losses by name.
        weights: the factor of each loss by name; 1 if not given.

    Raises:
        ValueError: if `losses` is empty, or a weight names no loss; the message lists the names.
    """

    def __init__(
        self,
        losses: Mapping[str, Callable[..., Tensor]],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.losses, self.weights = dict(losses), dict(weights or {})
        self.parts = nn.ModuleList(
            loss for loss in self.losses.values() if isinstance(loss, nn.Module)
        )
        if not self.losses:
            raise ValueError("MultiLoss needs at least one loss.")
        for name in self.weights:
            if name not in self.losses:
                known = ", ".join(self.losses)
                raise ValueError(
                    f"MultiLoss has a weight for the unknown loss {name!r}; it has {known}."
                )

    def forward(self, pred: Any, *targets: Any) -> dict[str, Tensor]:
        """Returns the weighted value of each loss by name."""
        return {
            name: loss(pred, *targets) * self.weights.get(name, 1.0)
            for name, loss in self.losses.items()
        }
