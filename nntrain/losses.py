"""Losses beside torch's own."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


class MultiLoss(nn.Module):
    """Several losses, weighted and named: the Learner trains on their sum and records each as `train/NAME`, `valid/NAME`.

    Each loss is called with the predictions and all labels, and returns a scalar; what is recorded is its weighted value.
    Losses that are modules move to the device with this one.

    Args:
        losses: the losses by name.
        weights: the factor of each loss by name; 1 for one that is not named.

    Raises:
        ValueError: if there is no loss, or a weight for none; the message names those there are.
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
            raise ValueError("MultiLoss got no loss: give it at least one.")
        for name in self.weights:
            if name not in self.losses:
                raise ValueError(
                    f"MultiLoss has a weight for {name!r} but no such loss: it has {', '.join(self.losses)}."
                )

    def forward(self, pred: Any, *targets: Any) -> dict[str, Tensor]:
        """The weighted value of each loss by name."""
        return {
            name: loss(pred, *targets) * self.weights.get(name, 1.0)
            for name, loss in self.losses.items()
        }
