"""Exponential moving average of the parameters."""

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
    """Computes an exponential moving average of the parameters and uses it for validation.

    After each optimizer step, `average = decay * average + (1 - decay) * parameters`. As in
    `torch.optim.swa_utils.AveragedModel`, the average is initialized with the parameters after the
    first step. Validation runs with the average in place of the trained parameters, so the best
    model is saved with the same weights that were validated. The trained parameters are restored
    before training continues. When the fit ends or is cancelled, the average remains in the model.
    After an error, the trained parameters remain in the model. Buffers, such as batch normalization
    statistics, are not averaged.

    Args:
        decay: weight of the previous average in each step, at least 0 and less than 1.

    Raises:
        ValueError: if `decay` is outside that range.

    Source: Polyak and Juditsky, 1992, https://doi.org/10.1137/0330046; this form is from Tarvainen
    and Valpola, 2017, https://arxiv.org/abs/1703.01780.
    """

    order: ClassVar[int] = 65
    purposes: ClassVar[frozenset[Purpose]] = frozenset({Purpose.FIT})

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(
                f"decay={decay} must be at least 0 and less than 1: it is the weight of the "
                "previous average in each step."
            )
        self.decay = decay
        self._average_in = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._other: list[Tensor] = []
        self._swapped = False
        self._skipped = False

    def before_fit(self, learn: Learner) -> None:
        """Resets the average."""
        self._other, self._swapped, self._skipped = [], False, False

    def before_train(self, learn: Learner) -> None:
        """Restores the trained parameters."""
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
            self._average_in(self._other, params, 0)  # step count, ignored
        else:
            self._other = [param.clone() for param in params]

    def before_validate(self, learn: Learner) -> None:
        """Replaces the parameters of the model with the average."""
        if not self._swapped:
            self._swap(learn)

    def after_cancel_fit(self, learn: Learner) -> None:
        """Restores the trained parameters, so that `Checkpoint` saves them."""
        if self._swapped:
            self._swap(learn)

    def after_fit(self, learn: Learner) -> None:
        """Puts the average into the model and discards the trained parameters."""
        if not self._swapped:
            self._swap(learn)
        self._other, self._swapped = [], False

    def cleanup_fit(self, learn: Learner) -> None:
        """Restores the trained parameters if an error ended the fit."""
        if self._swapped:
            self._swap(learn)
        self._other = []

    @torch.no_grad()
    def _swap(self, learn: Learner) -> None:
        # Swap the values, not the tensors: the optimizer, compiled code and CUDA graphs have
        # references to the memory of the parameters.
        if not self._other:
            return
        for param, other in zip(learn.model.parameters(), self._other, strict=True):
            kept = param.clone()
            param.copy_(other)
            other.copy_(kept)
        self._swapped = not self._swapped

    def state_dict(self) -> dict[str, Any]:
        """Returns the swapped-out parameters and whether the average is in the model."""
        return {"other": list(self._other), "swapped": self._swapped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self._other = [tensor.clone() for tensor in state["other"]]
        self._swapped = state["swapped"]
