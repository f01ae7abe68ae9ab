"""Limiting the gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn

from nntrain.core.callback import Callback

if TYPE_CHECKING:
    from nntrain.learner import Learner


class GradientClip(Callback):
    """Scales the gradients down so that their norm, over all parameters at once, is at most `max_norm`.

    With `GradientAccumulation` it is the accumulated gradient that is clipped, once per step.

    Args:
        max_norm: the largest norm.
        norm_type: the p of the p-norm; `inf` takes the largest magnitude.

    Raises:
        ValueError: if `max_norm` is not positive.

    Source: Pascanu et al., 2013, https://arxiv.org/abs/1211.5063.
    """

    order: ClassVar[int] = 12

    def __init__(self, max_norm: float = 1.0, norm_type: float = 2.0) -> None:
        if not max_norm > 0:
            raise ValueError(
                f"max_norm={max_norm} must be positive: the largest norm that the gradients may have."
            )
        self.max_norm, self.norm_type = max_norm, norm_type

    def before_step(self, learn: Learner) -> None:
        """Clips; nothing is read back."""
        nn.utils.clip_grad_norm_(learn.model.parameters(), self.max_norm, self.norm_type)
