"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nntrain.core.callback import Callback, Purpose

if TYPE_CHECKING:
    from nntrain.learner import Learner


class EMA(Callback):
    """Keeps an exponential moving average of the parameters and validates with it.

    After each optimizer step, `average = decay * average + (1 - decay) * parameters`. The average
    starts with the parameters after the first step, as in `torch.optim.swa_utils.AveragedModel`.
    The model holds the average from validation until training continues, so the best model is
    saved with the weights that were measured. The model keeps the average when the fit ends or is
    cancelled; after an error it holds the trained weights. Buffers, such as those of batch
    normalization, are not averaged.

    Args:
        decay: weight of the past average in each step, at least 0 and less than 1.

    Raises:
        ValueError: if `decay` is out of that range.

    Source: Polyak and Juditsky, 1992, https://doi.org/10.1137/0330046; in this form Tarvainen and
    Valpola, 2017, https://arxiv.org/abs/1703.01780.
    """

    order: ClassVar[int] = 65
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay={decay} must be at least 0 and less than 1: it is the weight of the past "
                "average in each step."
            )
        self.decay = decay
        self._average_in = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._other: list[Tensor] = []
        self._swapped = False
        self._skipped = False

    def before_fit(self, learn: Learner) -> None:
        """Clears the average."""
        self._other, self._swapped, self._skipped = [], False, False

    def before_train(self, learn: Learner) -> None:
        """Restores the trained weights."""
        if self._swapped:
            self._swap(learn)

    def after_cancel_step(self, learn: Learner) -> None:
        """Records that the optimizer did not step."""
        self._skipped = True

    def after_step(self, learn: Learner) -> None:
        """Updates the average with the new parameters."""
        skipped, self._skipped = self._skipped, False
        if skipped:
            return
        params = [param.detach() for param in learn.model.parameters()]
        if self._other:
            self._average_in(self._other, params, 0)  # a constant decay ignores the count
        else:
            self._other = [param.clone() for param in params]

    def before_validate(self, learn: Learner) -> None:
        """Puts the average in the model."""
        if not self._swapped:
            self._swap(learn)

    def after_cancel_fit(self, learn: Learner) -> None:
        """Restores the trained weights, so that the fit can continue from a checkpoint."""
        if self._swapped:
            self._swap(learn)

    def after_fit(self, learn: Learner) -> None:
        """Leaves the average in the model."""
        if not self._swapped:
            self._swap(learn)
        self._other, self._swapped = [], False

    def cleanup_fit(self, learn: Learner) -> None:
        """Restores the trained weights after an error."""
        if self._swapped:
            self._swap(learn)
        self._other = []

    @torch.no_grad()
    def _swap(self, learn: Learner) -> None:
        # The contents are swapped, not the tensors, because the optimizer, compiled code and CUDA
        # graphs refer to the memory of the parameters.
        if not self._other:
            return
        for param, other in zip(learn.model.parameters(), self._other, strict=True):
            kept = param.clone()
            param.copy_(other)
            other.copy_(kept)
        self._swapped = not self._swapped

    def state_dict(self) -> dict[str, Any]:
        """Returns the weights that the model does not hold, and whether it holds the average."""
        return {"other": list(self._other), "swapped": self._swapped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self._other = [tensor.clone() for tensor in state["other"]]
        self._swapped = state["swapped"]
