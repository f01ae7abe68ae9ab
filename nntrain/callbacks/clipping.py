"""Gradient clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn

from nntrain.core.callback import Callback

if TYPE_CHECKING:
    from nntrain.learner import Learner


class GradientClip(Callback):
    """Scales the gradients down so that their total norm over all parameters is at most `max_norm`.

    With `GradientAccumulation`, the accumulated gradient is clipped once per optimizer step.

    Args:
        max_norm: maximum norm of the gradients.
        norm_type: p of the p-norm; `inf` selects the maximum norm.

    Raises:
        ValueError: if `max_norm` is not positive.

    Source: Pascanu et al., 2013, https://arxiv.org/abs/1211.5063.
    """

    order: ClassVar[int] = 12

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0) -> None:
        if not max_norm > 0:
            raise ValueError(
                f"max_norm={max_norm} must be positive: it is the maximum norm of the gradients."
            )
        self.max_norm, self.norm_type = max_norm, norm_type

    def before_step(self, learn: Learner) -> None:
        """Clips the gradients without synchronizing with the device."""
        nn.utils.clip_grad_norm_(learn.model.parameters(), self.max_norm, self.norm_type)
