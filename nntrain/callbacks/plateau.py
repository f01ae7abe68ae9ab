"""Lowering the learning rate when a metric stops improving."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar

from nntrain.callbacks.monitor import Mode, MonitorCallback, checked_patience
from nntrain.core.optimizer import get_hyper, param_groups, set_hyper

if TYPE_CHECKING:
    from nntrain.learner import Learner

_log = logging.getLogger(__name__)


class ReduceLROnPlateau(MonitorCallback):
    """Multiplies the learning rates by `factor` each time that a metric has not improved for `patience` more epochs.

    It is for a constant learning rate: a schedule that sets the rate before each batch overrules it. The waiting is
    that of fastai's callback (torch's scheduler waits one epoch longer for the same `patience`), the factor is torch's.

    Args:
        monitor: name of the metric, as it is recorded.
        patience: epochs without an improvement.
        factor: what each learning rate is multiplied by, between 0 and 1.
        min_lr: no learning rate is brought below this.
        min_delta: an improvement must be larger than this, in the unit of the metric.
        mode: `"min"` or `"max"`; `None` tells it from the name.

    Raises:
        ValueError: if the factor is not between 0 and 1, or `min_lr` is negative.
        LookupError: after an epoch in which the metric was not recorded; the message lists what was.
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
                f"factor={factor} must be between 0 and 1: learning rates are multiplied by it (0.1: a tenth)."
            )
        if not min_lr >= 0:
            raise ValueError(f"min_lr={min_lr} must be at least 0.")
        self.patience, self.factor, self.min_lr = checked_patience(patience), factor, min_lr

    def act(self, learn: Learner, wait: int) -> None:
        """Lowers the rates when the patience is spent, and waits as long again."""
        if wait == 0 or wait % self.patience or learn.opt is None:
            return
        old = [get_hyper(group, "lr") for group in param_groups(learn.opt)]
        new = [min(lr, max(lr * self.factor, self.min_lr)) for lr in old]
        if new != old:
            set_hyper(learn.opt, "lr", new)
            _log.info(
                "epoch %d: %s has not improved for %d epochs, lr is now %s",
                learn.epoch,
                self.monitor,
                wait,
                new,
            )
