"""Callbacks that move data to the device and convert tensor subclasses to plain tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from nntrain.core.batch import map_tensors, to_device
from nntrain.core.callback import Callback

if TYPE_CHECKING:
    from nntrain.learner import Learner


class DeviceCallback(Callback):
    """Moves the model and each batch to `learn.device`; batches are copied asynchronously."""

    order: ClassVar[int] = -50

    def before_fit(self, learn: Learner) -> None:
        """Moves the model, and the loss function if it is a module (it may have class weights)."""
        learn.model.to(learn.device)
        if isinstance(learn.loss_func, nn.Module):
            learn.loss_func.to(learn.device)

    def before_batch(self, learn: Learner) -> None:
        """Moves the inputs and labels, including nested tensors."""
        device = learn.device
        for part in (*learn.xb, *learn.yb):
            if not isinstance(part, Tensor) or part.device != device:
                learn.xb, learn.yb = to_device(learn.xb, device), to_device(learn.yb, device)
                return


class CastToTensor(Callback):
    """Converts tensor subclasses in a batch to plain tensors, for speed and compatibility."""

    order: ClassVar[int] = -40

    def before_batch(self, learn: Learner) -> None:
        """Converts the inputs and labels."""
        for part in (*learn.xb, *learn.yb):
            if type(part) is not Tensor:
                learn.xb, learn.yb = map_tensors(_plain, learn.xb), map_tensors(_plain, learn.yb)
                return


def _plain(tensor: Tensor) -> Tensor:
    return tensor if type(tensor) is Tensor else tensor.as_subclass(torch.Tensor)
