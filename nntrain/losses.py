"""Losses that consist of several named parts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def total_and_parts(loss: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Returns the total loss and a dict of its detached parts. A plain tensor has no parts.

    Raises:
        TypeError: if the loss is neither a tensor nor a mapping.
    """
    if isinstance(loss, Tensor):
        return loss, {}
    if not isinstance(loss, Mapping):
        kind = type(loss).__name__
        raise TypeError(
            f"The loss must be a tensor or a mapping of names to tensors but is {kind}."
        )
    return torch.stack(list(loss.values())).sum(), {name: loss[name].detach() for name in loss}


class MultiLoss(nn.Module):
    """A weighted sum of named losses; each is recorded as `train/NAME` and `valid/NAME`.

    Each loss is called with the predictions and all labels, and must return a scalar. The recorded
    value is the weighted one. Losses that are modules are registered as submodules, so they move to
    the device together with this module.

    Args:
        losses: maps names to losses.
        weights: maps names to weights; the default weight is 1.

    Raises:
        ValueError: if `losses` is empty, or `weights` contains a name that `losses` does not.
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
                    f"MultiLoss got a weight for the unknown loss {name!r}: choose from {known}."
                )

    def forward(self, pred: Any, *targets: Any) -> dict[str, Tensor]:
        """Returns a dict of the weighted losses."""
        return {
            name: loss(pred, *targets) * self.weights.get(name, 1.0)
            for name, loss in self.losses.items()
        }
