"""Figures that are plotted and recorded at the end of a tracked run."""

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
    """Returns a function that plots the activation statistics of a learner.

    The function returns `None` if the learner has not gathered such statistics.
    """

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
"""Plots of the losses and learning rates, and of the activation statistics if there are any."""
