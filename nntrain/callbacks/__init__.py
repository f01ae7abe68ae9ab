"""Built-in callbacks for training."""

from nntrain.callbacks.accumulation import GradientAccumulation
from nntrain.callbacks.checkpointing import Checkpoint
from nntrain.callbacks.clipping import GradientClip
from nntrain.callbacks.debug import EventTrace, ShortEpoch, SingleBatch
from nntrain.callbacks.device import CastToTensor, DeviceCallback
from nntrain.callbacks.ema import EMA
from nntrain.callbacks.lr_scheduler import LRScheduler
from nntrain.callbacks.mixup import MixUp
from nntrain.callbacks.mode import TrainEvalCallback
from nntrain.callbacks.plateau import ReduceLROnPlateau
from nntrain.callbacks.progress import Progress
from nntrain.callbacks.saving import SaveModel
from nntrain.callbacks.signals import StopOnSignal
from nntrain.callbacks.stopping import EarlyStopping, StopOnNaN, TimeLimit

__all__ = [
    "EMA",
    "CastToTensor",
    "Checkpoint",
    "DeviceCallback",
    "EarlyStopping",
    "EventTrace",
    "GradientAccumulation",
    "GradientClip",
    "LRScheduler",
    "MixUp",
    "Progress",
    "ReduceLROnPlateau",
    "SaveModel",
    "ShortEpoch",
    "SingleBatch",
    "StopOnNaN",
    "StopOnSignal",
    "TimeLimit",
    "TrainEvalCallback",
]
