"""Switches between train and eval mode, and counts training batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nntrain.core.callback import Callback

if TYPE_CHECKING:
    from torch import nn

    from nntrain.learner import Learner


class TrainEvalCallback(Callback):
    """Switches the model between train and eval mode, and updates `train_iter` and `pct_train`.

    When the fit ends for any reason, the `training` flag of each module is restored.
    """

    order: ClassVar[int] = -10

    def __init__(self) -> None:
        self._modes: dict[nn.Module, bool] = {}

    def before_fit(self, learn: Learner) -> None:
        """Stores the `training` flag of each module."""
        self._modes = {module: module.training for module in learn.model.modules()}

    def before_train(self, learn: Learner) -> None:
        """Switches the model to train mode."""
        learn.model.train()
        learn.pct_train = learn.epoch / learn.n_epoch

    def before_validate(self, learn: Learner) -> None:
        """Switches the model to eval mode."""
        learn.model.eval()

    def after_batch(self, learn: Learner) -> None:
        """Updates `train_iter` and `pct_train` after a training batch."""
        if not learn.training:
            return
        learn.train_iter += 1
        if learn.n_iter:
            learn.pct_train = (learn.epoch + (learn.iter + 1) / learn.n_iter) / learn.n_epoch

    def cleanup_fit(self, learn: Learner) -> None:
        """Restores the `training` flag of each module."""
        for module, training in self._modes.items():
            module.training = training
        self._modes = {}
