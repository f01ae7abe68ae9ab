"""Saves and restores the best model of a fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nntrain.callbacks.monitor import Mode, MonitorCallback
from nntrain.callbacks.write_errors import OnError, WriteErrors
from nntrain.core.partial import remove_partial

if TYPE_CHECKING:
    from nntrain.learner import Learner

_log = logging.getLogger(__name__)


class SaveModel(MonitorCallback):
    """Saves the model after each epoch that improves a metric, and restores the best model.

    The file is written atomically. A NaN or infinite metric is never an improvement, and a model
    with NaN or infinite weights is never saved. If no model was saved, no model is restored. If a
    fit is resumed with a different `path` and does not improve, the best model is restored from the
    old path and saved to the new path.

    If a model cannot be written, for example on a full disk, and `on_error` is `"warn"`, the file
    keeps the best model that could be written, and later epochs are compared with that model.

    Args:
        path: path of the file, relative to the working directory; each fit overwrites it.
        monitor: name of the recorded metric.
        mode: `"min"` or `"max"`; `None` infers it from the name.
        min_delta: minimum change that counts as an improvement, in units of the metric.
        with_opt: whether to save and restore the optimizer state as well.
        restore_best: whether to load the best model when the fit ends or is cancelled; it is not
            loaded after an error.
        on_error: what to do if the file cannot be written: `"warn"` logs a warning and continues
            training; `"stop"` raises.

    Raises:
        ValueError: if `on_error` is unknown.
        LookupError: if the metric was not recorded in an epoch; the message lists the recorded
            metrics.
        CheckpointWriteError: if the file cannot be written and `on_error` is `"stop"`.
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
        on_error: OnError = "warn",
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.path, self.with_opt, self.restore_best = Path(path), with_opt, restore_best
        self.saved: Path | None = None
        """Path of the best model of this fit; `None` until a model is saved."""
        self._errors = WriteErrors(self, on_error)
        self._unsaved: set[int] = set()

    def before_fit(self, learn: Learner) -> None:
        """Resets the path of the best model, and removes partial files of killed processes."""
        self.saved = None
        self._unsaved = set()
        self._errors.reset()
        remove_partial(self.path.parent)

    def act(self, learn: Learner, wait: int) -> None:
        """Saves the model if this epoch is the best so far."""
        if wait:
            return
        if not all_finite(learn.model):
            _log.warning(
                "epoch %d: the model has NaN or infinite weights and was not saved", learn.epoch
            )
            return
        if self._save(learn):
            _log.info("epoch %d: best %s so far, saved to %s", learn.epoch, self.monitor, self.path)
        else:
            self._unsaved.add(learn.epoch)

    def is_ignored(self, row: Mapping[str, float]) -> bool:
        """Returns whether the model of this epoch could not be written."""
        return row.get("epoch") in self._unsaved

    def _save(self, learn: Learner) -> bool:
        with self._errors.handled():
            self.saved = learn.save(self.path, with_opt=self.with_opt).absolute()
            return True
        return False

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
        """Returns the path of the best model, and the epochs that could not be written."""
        saved = None if self.saved is None else str(self.saved)
        return {"saved": saved, "unsaved": sorted(self._unsaved)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self.saved = None if state["saved"] is None else Path(state["saved"])
        self._unsaved = set(state.get("unsaved", ()))  # missing in version 0.1.0

    def cleanup_fit(self, learn: Learner) -> None:
        """Logs how many models could not be written."""
        self._errors.report()


def all_finite(model: nn.Module) -> bool:
    """Returns whether all floating-point parameters and buffers are finite (one device sync)."""
    tensors = [tensor for tensor in model.state_dict().values() if isinstance(tensor, torch.Tensor)]
    finite = [torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]
    return not finite or bool(torch.stack([flag.to(finite[0].device) for flag in finite]).all())
