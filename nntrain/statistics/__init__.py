"""Statistics of a model in training, by layer: activations, gradients, weights and updates.

They are computed on the device, into one buffer made before the fit, and read back many rows at a time: when they are
asked for, when the buffer is full, and when the fit ends.
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
