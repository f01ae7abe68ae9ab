"""Reduces the learning rate when a metric stops improving."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from nntrain.callbacks.monitor import Mode, MonitorCallback, checked_patience
from nntrain.core.optimizer import get_hyper, param_groups, set_hyper

if TYPE_CHECKING:
    from nntrain.learner import Learner

_log = logging.getLogger(__name__)


class ReduceLROnPlateau(MonitorCallback):
    """Multiplies the learning rates by `factor` after every `patience` epochs without improvement.

    Use it with a constant learning rate, because a schedule that sets the rate before each batch
    would override the reduction. `patience` has the same meaning as in fastai; torch's scheduler
    waits one epoch longer. `factor` has the same meaning as in torch.

    Args:
        monitor: name of the recorded metric.
        patience: number of epochs without improvement before each reduction.
        factor: factor by which each learning rate is multiplied, between 0 and 1.
        min_lr: lower bound of the learning rates.
        min_delta: minimum change that counts as an improvement, in units of the metric.
        mode: `"min"` or `"max"`; `None` infers it from the name.

    Raises:
        ValueError: if `factor` is not between 0 and 1, or `min_lr` is negative.
        LookupError: if the metric was not recorded in an epoch; the message lists the recorded
            metrics.
    """

    order: ClassVar[int] = 71

    def __init__(
        self,
        monitor: str = "valid/loss",
        *,
        patience: int = 1,
        factor: float = 0.1,
        min_lr: float = 0.0,
        min_delta: float = 0.0,
        mode: Mode | None = None,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1:
            raise ValueError(
                f"factor={factor} must be between 0 and 1: the learning rates are multiplied by it."
            )
        if not min_lr >= 0:
            raise ValueError(f"min_lr={min_lr} must be at least 0.")
        self.patience, self.factor, self.min_lr = checked_patience(patience), factor, min_lr

    def act(self, learn: Learner, wait: int) -> None:
        """Reduces the learning rates after every `patience` epochs without improvement."""
        if wait == 0 or wait % self.patience or learn.opt is None:
            return
        old = [get_hyper(group, "lr") for group in param_groups(learn.opt)]
        new = [min(lr, max(lr * self.factor, self.min_lr)) for lr in old]
        if new != old:
            set_hyper(learn.opt, "lr", new)
            _log.info(
                "epoch %d: lr reduced to %s, because %s has not improved for %d epoch(s)",
                learn.epoch,
                new,
                self.monitor,
                wait,
            )
