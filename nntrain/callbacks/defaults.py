"""Callbacks that every Learner uses."""

from nntrain.callbacks.device import CastToTensor, DeviceCallback
from nntrain.callbacks.mode import TrainEvalCallback
from nntrain.core.callback import Callback
from nntrain.recorder import Recorder


def default_callbacks() -> list[Callback]:
    """Creates the callbacks for device placement, tensor casting, train/eval mode and recording."""
    return [DeviceCallback(), CastToTensor(), TrainEvalCallback(), Recorder()]
