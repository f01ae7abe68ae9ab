"""Statistics of a model in training, per layer: activations, gradients, weights and updates.

They are computed on the device and written to one buffer allocated before the fit. The buffer is
read back many rows at a time: on request, when it is full, and at the end of the fit.
"""

from nntrain.statistics.activations import ActivationStats, activation_statistics
from nntrain.statistics.base import History, Statistics
from nntrain.statistics.histograms import (
    N_BINS,
    bin_positions,
    histogram,
    histogram_edges,
    signed_log,
)
from nntrain.statistics.modules import ROOT, Modules
from nntrain.statistics.parameters import (
    GradientStats,
    ParameterStatistics,
    UpdateStats,
    WeightStats,
)

__all__ = [
    "N_BINS",
    "ROOT",
    "ActivationStats",
    "GradientStats",
    "History",
    "Modules",
    "ParameterStatistics",
    "Statistics",
    "UpdateStats",
    "WeightStats",
    "activation_statistics",
    "bin_positions",
    "histogram",
    "histogram_edges",
    "signed_log",
]
