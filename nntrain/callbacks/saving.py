"""Saving the best model of a fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from nntrain.callbacks.monitor import Mode, MonitorCallback

if TYPE_CHECKING:
    from nntrain.learner import Learner

_log = logging.getLogger(__name__)


class SaveModel(MonitorCallback):
    """Saves the model, in one atomic step, after each epoch in which a metric is better than ever before in this fit.

    What is not finite is never saved: neither a metric that is NaN counts as better, nor weights with NaN are written. If
    no epoch was better than none, there is no file and nothing is restored.

    Args:
        path: the file; a relative path begins at the working directory. Each fit writes it anew.
        monitor: name of the metric, as it is recorded.
        mode: `"min"` or `"max"`; `None` tells it from the name.
        min_delta: an improvement must be larger than this, in the unit of the metric.
        with_opt: save, and restore, the optimizer's state as well.
        restore_best: give the model the saved weights when the fit ends, cancelled or not (not after an error).

    Raises:
        LookupError: after an epoch in which the metric was not recorded; the message lists what was.
    """

    order: ClassVar[int] = 70

    def __init__(
        self,
        path: str | Path = "best_model.pt",
        *,
        monitor: str = "valid/loss",
        mode: Mode | None = None,
        min_delta: float = 0.0,
        with_opt: bool = False,
        restore_best: bool = True,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.path, self.with_opt, self.restore_best = Path(path), with_opt, restore_best
        self.best_epoch: int | None = None

    def before_fit(self, learn: Learner) -> None:
        """Forgets the best epoch of an earlier fit."""
        self.best_epoch = None

    def act(self, learn: Learner, wait: int) -> None:
        """Saves the best so far."""
        if wait:
            return
        if not all_finite(learn.model):
            _log.warning("epoch %d: not saved, the model has weights that are not finite", learn.epoch)
            return
        learn.save(self.path, with_opt=self.with_opt)
        self.best_epoch = learn.epoch
        _log.info("epoch %d: best %s so far, saved to %s", learn.epoch, self.monitor, self.path)

    def after_fit(self, learn: Learner) -> None:
        """Restores the best, if there is one."""
        if self.restore_best and self.best_epoch is not None:
            learn.load(self.path, with_opt=self.with_opt)

    def state_dict(self) -> dict[str, Any]:
        """The epoch of which the file holds the weights."""
        return {"best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.best_epoch = state["best_epoch"]


def all_finite(model: nn.Module) -> bool:
    """Whether every floating-point parameter and buffer is finite; one read of the device."""
    tensors = [tensor for tensor in model.state_dict().values() if isinstance(tensor, torch.Tensor)]
    finite = [torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]
    return not finite or bool(torch.stack([flag.to(finite[0].device) for flag in finite]).all())
