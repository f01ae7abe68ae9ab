"""Callbacks, one concern a module."""

from nntrain.callbacks.device import CastToTensor, DeviceCallback
from nntrain.callbacks.mode import TrainEvalCallback

__all__ = ["CastToTensor", "DeviceCallback", "TrainEvalCallback"]
