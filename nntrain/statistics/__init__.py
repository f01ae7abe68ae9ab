"""Per-layer statistics during training: activations, gradients, weights and updates.

Statistics are computed on the device and written to a buffer, which is allocated before the fit.
The buffer is copied to the CPU on request, when it is full, and at the end of the fit.
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
