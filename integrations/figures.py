"""The figures that a tracked run draws at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nntrain import plots
from nntrain.statistics import ActivationStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from nntrain.integrations.callback import Figures
    from nntrain.learner import Learner


def _of_activations(
    draw: Callable[[ActivationStats], Figure],
) -> Callable[[Learner], Figure | None]:
    """Draws the activation statistics of a learner that has some."""

    def figure(learn: Learner) -> Figure | None:
        stats = next((cb for cb in learn.cbs if isinstance(cb, ActivationStats)), None)
        return draw(stats) if stats is not None and len(stats.history().steps) else None

    return figure


FIGURES: Figures = {
    "plots/loss.png": lambda learn: plots.plot_loss(learn.recorder),
    "plots/lr.png": lambda learn: plots.plot_lrs(learn.recorder),
    "plots/activations.png": _of_activations(plots.plot_layer_stats),
    "plots/activation_histograms.png": _of_activations(plots.plot_histograms),
    "plots/dead_units.png": _of_activations(plots.plot_dead),
}
"""Losses and schedules of a run, and three figures of its activation statistics, if any."""
