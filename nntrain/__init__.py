"""nntrain: a minimal event Learner for PyTorch, configured by Hydra, with tracking and pruned sweeps."""

from nntrain.core.callback import Callback, Purpose
from nntrain.core.events import (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    Event,
)
from nntrain.learner import Learner
from nntrain.metrics import (
    AccumMetric,
    AvgLoss,
    AvgMetric,
    AvgSmoothLoss,
    AvgSmoothMetric,
    Metric,
    accuracy,
    skm_to_fastai,
)
from nntrain.recorder import Recorder
from nntrain.result import FitResult, StopReason

__version__ = "0.1.0"

__all__ = [
    "AccumMetric",
    "AvgLoss",
    "AvgMetric",
    "AvgSmoothLoss",
    "AvgSmoothMetric",
    "Callback",
    "CancelBackwardException",
    "CancelBatchException",
    "CancelEpochException",
    "CancelException",
    "CancelFitException",
    "CancelStepException",
    "CancelTrainException",
    "CancelValidException",
    "Event",
    "FitResult",
    "Learner",
    "Metric",
    "Purpose",
    "Recorder",
    "StopReason",
    "accuracy",
    "skm_to_fastai",
]
