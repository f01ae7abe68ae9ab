"""The callbacks that every Learner has."""

from nntrain.callbacks.device import CastToTensor, DeviceCallback
from nntrain.callbacks.mode import TrainEvalCallback
from nntrain.core.callback import Callback
from nntrain.recorder import Recorder


def default_callbacks() -> list[Callback]:
    """Returns new callbacks: device placement, tensor casting, train/eval mode and the recorder."""
    return [DeviceCallback(), CastToTensor(), TrainEvalCallback(), Recorder()]
