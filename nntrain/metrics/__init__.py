"""Metrics that accumulate on the device and are read once per epoch."""

from nntrain.metrics.accumulated import AccumMetric, skm_to_fastai
from nntrain.metrics.averaged import AvgLoss, AvgMetric, AvgSmoothLoss, AvgSmoothMetric
from nntrain.metrics.base import Metric
from nntrain.metrics.calls import as_number, func_name
from nntrain.metrics.convert import as_metric, as_metrics, check_loss_part
from nntrain.metrics.functions import (
    accuracy,
    accuracy_multi,
    error_rate,
    mae,
    mse,
    r2_score,
    rmse,
    top_k_accuracy,
)
from nntrain.metrics.means import SmoothMean, WeightedMean

__all__ = [
    "AccumMetric",
    "AvgLoss",
    "AvgMetric",
    "AvgSmoothLoss",
    "AvgSmoothMetric",
    "Metric",
    "SmoothMean",
    "WeightedMean",
    "accuracy",
    "accuracy_multi",
    "as_metric",
    "as_metrics",
    "as_number",
    "check_loss_part",
    "error_rate",
    "func_name",
    "mae",
    "mse",
    "r2_score",
    "rmse",
    "skm_to_fastai",
    "top_k_accuracy",
]
