"""A minimal training loop for PyTorch with callbacks, Hydra configs, tracking and pruned sweeps.

Names are imported on first use, so `import nntrain` does not import torch. Add each new name to
both lists below: type checkers and editors read the first list, and Python uses the second.
"""

from typing import TYPE_CHECKING

from nntrain.lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nntrain.callbacks import EMA as EMA
    from nntrain.callbacks import Checkpoint as Checkpoint
    from nntrain.callbacks import EarlyStopping as EarlyStopping
    from nntrain.callbacks import GradientAccumulation as GradientAccumulation
    from nntrain.callbacks import GradientClip as GradientClip
    from nntrain.callbacks import LRScheduler as LRScheduler
    from nntrain.callbacks import MixUp as MixUp
    from nntrain.callbacks import Progress as Progress
    from nntrain.callbacks import ReduceLROnPlateau as ReduceLROnPlateau
    from nntrain.callbacks import SaveModel as SaveModel
    from nntrain.callbacks import StopOnNaN as StopOnNaN
    from nntrain.callbacks import StopOnSignal as StopOnSignal
    from nntrain.callbacks import TimeLimit as TimeLimit
    from nntrain.core.callback import Callback as Callback
    from nntrain.core.callback import Purpose as Purpose
    from nntrain.core.events import CancelBackwardException as CancelBackwardException
    from nntrain.core.events import CancelBatchException as CancelBatchException
    from nntrain.core.events import CancelEpochException as CancelEpochException
    from nntrain.core.events import CancelException as CancelException
    from nntrain.core.events import CancelFitException as CancelFitException
    from nntrain.core.events import CancelStepException as CancelStepException
    from nntrain.core.events import CancelTrainException as CancelTrainException
    from nntrain.core.events import CancelValidException as CancelValidException
    from nntrain.core.events import Event as Event
    from nntrain.data import DataLoaders as DataLoaders
    from nntrain.integrations.run import track as track
    from nntrain.learner import Learner as Learner
    from nntrain.losses import MultiLoss as MultiLoss
    from nntrain.metrics import AccumMetric as AccumMetric
    from nntrain.metrics import AvgLoss as AvgLoss
    from nntrain.metrics import AvgMetric as AvgMetric
    from nntrain.metrics import AvgSmoothLoss as AvgSmoothLoss
    from nntrain.metrics import AvgSmoothMetric as AvgSmoothMetric
    from nntrain.metrics import Metric as Metric
    from nntrain.metrics import accuracy as accuracy
    from nntrain.metrics import accuracy_multi as accuracy_multi
    from nntrain.metrics import error_rate as error_rate
    from nntrain.metrics import mae as mae
    from nntrain.metrics import mse as mse
    from nntrain.metrics import r2_score as r2_score
    from nntrain.metrics import rmse as rmse
    from nntrain.metrics import skm_to_fastai as skm_to_fastai
    from nntrain.metrics import top_k_accuracy as top_k_accuracy
    from nntrain.recorder import Recorder as Recorder
    from nntrain.result import FitResult as FitResult
    from nntrain.result import StopReason as StopReason
    from nntrain.statistics import ActivationStats as ActivationStats
    from nntrain.statistics import GradientStats as GradientStats
    from nntrain.statistics import UpdateStats as UpdateStats
    from nntrain.statistics import WeightStats as WeightStats
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "nntrain.callbacks": (
                "Checkpoint EMA EarlyStopping GradientAccumulation GradientClip LRScheduler MixUp "
                "Progress ReduceLROnPlateau SaveModel StopOnNaN StopOnSignal TimeLimit"
            ),
            "nntrain.core.callback": "Callback Purpose",
            "nntrain.core.events": (
                "CancelBackwardException CancelBatchException CancelEpochException CancelException "
                "CancelFitException CancelStepException CancelTrainException CancelValidException "
                "Event"
            ),
            "nntrain.data": "DataLoaders",
            "nntrain.integrations.run": "track",
            "nntrain.learner": "Learner",
            "nntrain.losses": "MultiLoss",
            "nntrain.metrics": (
                "AccumMetric AvgLoss AvgMetric AvgSmoothLoss AvgSmoothMetric Metric accuracy "
                "accuracy_multi error_rate mae mse r2_score rmse skm_to_fastai top_k_accuracy"
            ),
            "nntrain.recorder": "Recorder",
            "nntrain.result": "FitResult StopReason",
            "nntrain.statistics": "ActivationStats GradientStats UpdateStats WeightStats",
        },
    )
