"""Saving the best model of a fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nntrain.callbacks.monitor import Mode, MonitorCallback

if TYPE_CHECKING:
    from nntrain.learner import Learner

_log = logging.getLogger(__name__)


class SaveModel(MonitorCallback):
    """Saves the model, in one atomic step, after each epoch in which a metric is better than ever before in this fit.

    What is not finite is never saved: a metric that is NaN does not count as better, and weights with NaN are not written.
    A fit in which nothing was saved restores nothing. One that is resumed with another `path` restores from the old file,
    and writes the new one, if nothing better came after.

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

    def __init__(
        self,
        path: str | Path = "best.pt",
        *,
        monitor: str = "valid/loss",
        mode: Mode | None = None,
        min_delta: float = 0.0,
        with_opt: bool = False,
        restore_best: bool = True,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.path, self.with_opt, self.restore_best = Path(path), with_opt, restore_best
        self.saved: Path | None = None
        """The file with the best of this fit, if there is one."""

    def before_fit(self, learn: Learner) -> None:
        """Forgets what an earlier fit saved."""
        self.saved = None

    def act(self, learn: Learner, wait: int) -> None:
        """Saves the best so far."""
        if wait:
            return
        if not all_finite(learn.model):
            _log.warning(
                "epoch %d: not saved, the model has weights that are not finite", learn.epoch
            )
            return
        self._save(learn)
        _log.info("epoch %d: best %s so far, saved to %s", learn.epoch, self.monitor, self.path)

    def _save(self, learn: Learner) -> None:
        self.saved = learn.save(self.path, with_opt=self.with_opt).absolute()

    def after_fit(self, learn: Learner) -> None:
        """Restores the best, if there is one."""
        if not self.restore_best or self.saved is None:
            return
        if not self.saved.is_file():
            _log.warning("the best model is not restored: %s is gone", self.saved)
            return
        learn.load(self.saved, with_opt=self.with_opt)
        if self.saved != self.path.absolute():
            self._save(learn)

    def state_dict(self) -> dict[str, Any]:
        """The path of the best so far."""
        return {"saved": None if self.saved is None else str(self.saved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.saved = None if state["saved"] is None else Path(state["saved"])


def all_finite(model: nn.Module) -> bool:
    """Whether every floating-point parameter and buffer is finite; one read of the device."""
    tensors = [tensor for tensor in model.state_dict().values() if isinstance(tensor, torch.Tensor)]
    finite = [torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]
    return not finite or bool(torch.stack([flag.to(finite[0].device) for flag in finite]).all())
