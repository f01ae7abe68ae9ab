"""Saves and restores the best model of a fit."""

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
    """Saves the model after each epoch that improves a metric, and restores the best model.

    The file is written atomically. A NaN or infinite metric is never an improvement, and a model
    with NaN or infinite weights is never saved. If no model was saved, no model is restored. If a
    fit is resumed with a different `path` and does not improve, the best model is restored from the
    old path and saved to the new path.

    Args:
        path: path of the file, relative to the working directory; each fit overwrites it.
        monitor: name of the recorded metric.
        mode: `"min"` or `"max"`; `None` infers it from the name.
        min_delta: minimum change that counts as an improvement, in units of the metric.
        with_opt: whether to save and restore the optimizer state as well.
        restore_best: whether to load the best model when the fit ends or is cancelled; it is not
            loaded after an error.

    Raises:
        LookupError: if the metric was not recorded in an epoch; the message lists the recorded
            metrics.
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
        """Path of the best model of this fit; `None` until a model is saved."""

    def before_fit(self, learn: Learner) -> None:
        """Resets the path of the best model."""
        self.saved = None

    def act(self, learn: Learner, wait: int) -> None:
        """Saves the model if this epoch is the best so far."""
        if wait:
            return
        if not all_finite(learn.model):
            _log.warning(
                "epoch %d: the model has NaN or infinite weights and was not saved", learn.epoch
            )
            return
        self._save(learn)
        _log.info("epoch %d: best %s so far, saved to %s", learn.epoch, self.monitor, self.path)

    def _save(self, learn: Learner) -> None:
        self.saved = learn.save(self.path, with_opt=self.with_opt).absolute()

    def after_fit(self, learn: Learner) -> None:
        """Restores the best model, if one was saved."""
        if not self.restore_best or self.saved is None:
            return
        if not self.saved.is_file():
            _log.warning("the best model was not restored: %s does not exist", self.saved)
            return
        learn.load(self.saved, with_opt=self.with_opt)
        if self.saved != self.path.absolute():
            self._save(learn)

    def state_dict(self) -> dict[str, Any]:
        """Returns the path of the best model so far."""
        return {"saved": None if self.saved is None else str(self.saved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self.saved = None if state["saved"] is None else Path(state["saved"])


def all_finite(model: nn.Module) -> bool:
    """Returns whether all floating-point parameters and buffers are finite (one device sync)."""
    tensors = [tensor for tensor in model.state_dict().values() if isinstance(tensor, torch.Tensor)]
    finite = [torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]
    return not finite or bool(torch.stack([flag.to(finite[0].device) for flag in finite]).all())
