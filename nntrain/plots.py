"""Plots of a fit as matplotlib figures. Save a figure with `figure.savefig("loss.png")`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nntrain.statistics import N_BINS, bin_positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nntrain.recorder import Recorder
    from nntrain.statistics import ActivationStats, History

_PANEL = (3.2, 2.4)
_PANELS_A_ROW = 4
_LEGEND_ROWS = 16
_LEGEND_WIDTH = 1.3


def new_figure(width: float, height: float) -> Figure:
    """Creates an empty figure; `width` and `height` are in inches.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed; the message says how to install it.
    """
    try:
        from matplotlib.figure import Figure as MplFigure
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            "Plots need matplotlib: pip install 'nntrain[plots]'.", name=err.name
        ) from err
    figure: Figure = MplFigure(figsize=(width, height), layout="constrained")
    return figure


def plot_loss(recorder: Recorder) -> Figure:
    """Plots the raw and smoothed loss per training batch, and the validation loss per epoch.

    Raises:
        ValueError: if the recorder has no batches.
    """
    if not len(losses := recorder.losses):
        raise ValueError("The recorder has no losses to plot: train with fit() first.")
    figure = new_figure(7, 4)
    axes = figure.subplots()
    steps = range(1, len(losses) + 1)
    axes.plot(
        steps,
        losses.tolist(),
        color="tab:blue",
        linewidth=0.8,
        alpha=0.5,
        label="train, each batch",
    )
    axes.plot(
        steps,
        recorder.smooth_losses.tolist(),
        color="tab:blue",
        linewidth=1.8,
        label="train, smoothed",
    )
    _plot_valid(axes, recorder)
    axes.set(title="Loss", xlabel="training batch", ylabel="loss")
    _finish(axes)
    return figure


def _plot_valid(axes: Axes, recorder: Recorder) -> None:
    points = [
        (end, row["valid/loss"])
        for end, row in zip(recorder.epoch_ends, recorder.rows, strict=True)
        if "valid/loss" in row
    ]
    if points:
        ends, losses = zip(*points, strict=True)
        axes.plot(
            ends, losses, color="tab:orange", marker="o", markersize=4, label="valid, end of epoch"
        )


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", framealpha=0.8)


def plot_lrs(recorder: Recorder) -> Figure:
    """Plots the learning rate and the momentum (if used) of each parameter group per batch.

    Raises:
        ValueError: if the recorder has no learning rates.
    """
    if not any(recorder.lrs.values()):
        raise ValueError(
            "The recorder has no learning rates to plot: "
            "train with fit() and an optimizer with param_groups first."
        )
    panels = {"Learning rate": recorder.lrs, "Momentum": recorder.moms}
    panels = {title: groups for title, groups in panels.items() if groups}
    figure = new_figure(5 * len(panels), 3.6)
    for axes, (title, groups) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _plot_groups(axes, groups)
        axes.set(title=title, xlabel="training batch", ylabel=title.lower())
        _finish(axes)
    return figure


def _plot_groups(axes: Axes, groups: Mapping[str, Sequence[float]]) -> None:
    for name, values in groups.items():
        axes.plot(
            range(1, len(values) + 1), values, label=f"group {name}" if len(groups) > 1 else None
        )


def _recorded(stats: ActivationStats) -> History:
    history = stats.history()
    if not history.steps:
        raise ValueError(
            "ActivationStats has no activations to plot: "
            "train with the callback ActivationStats() first."
        )
    return history


def _layer_colors(n: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](i / max(n - 1, 1) * 0.93) for i in range(n)]


def _plot_by_layer(axes: Axes, history: History, values: Tensor) -> None:
    for i, (layer, color) in enumerate(
        zip(history.layers, _layer_colors(len(history.layers)), strict=True)
    ):
        axes.plot(history.steps, values[:, i].tolist(), color=color, linewidth=1.2, label=layer)
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)


def _layer_figure(width: float, history: History) -> Figure:
    return new_figure(width + _LEGEND_WIDTH * _legend_columns(history.layers), 4)


def _legend_columns(layers: Sequence[str]) -> int:
    return math.ceil(len(layers) / _LEGEND_ROWS)


def _layer_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        title="layer",
        fontsize="small",
        ncols=_legend_columns(labels),
    )


def plot_layer_stats(stats: ActivationStats) -> Figure:
    """Plots the mean and standard deviation of each layer's output per batch (first layer darkest).

    Raises:
        ValueError: if `stats` has no recorded activations.
    """
    history = _recorded(stats)
    figure = _layer_figure(9, history)
    for axes, (name, title) in zip(
        figure.subplots(1, 2), {"mean": "Mean", "std": "Standard deviation"}.items(), strict=True
    ):
        _plot_by_layer(axes, history, history.values[name])
        axes.set(title=f"{title} of activations", xlabel="training batch", ylabel=title.lower())
    _layer_legend(figure, axes)
    return figure


def plot_dead(stats: ActivationStats) -> Figure:
    """Plots the percentage of units in each layer that were 0 for a whole batch.

    Raises:
        ValueError: if `stats` has no recorded activations.
    """
    history = _recorded(stats)
    figure = _layer_figure(6, history)
    axes = figure.subplots()
    _plot_by_layer(axes, history, 100 * history.values["dead_frac"])
    axes.set(
        title="Dead units (0 for the whole batch)",
        xlabel="training batch",
        ylabel="units (%)",
        ylim=(-3, 103),
    )
    _layer_legend(figure, axes)
    return figure


def plot_histograms(stats: ActivationStats) -> Figure:
    """Plots how the distribution of each layer's activations changes, one panel per layer.

    The x axis is the training batch. The y axis is the activation on the scale of
    `nntrain.statistics.signed_log`, with the same range in all panels. The color is
    `log(1 + count)`, divided by its maximum in the layer. A healthy layer shows a broad, constant
    band. A bright line at 0 shows activations that ReLU set to 0.

    Raises:
        ValueError: if `stats` has no recorded activations.
    """
    history, counts = _recorded(stats), torch.log1p(stats.histograms().nan_to_num())
    n_row = math.ceil(len(history.layers) / _PANELS_A_ROW)
    n_col = math.ceil(len(history.layers) / n_row)
    figure = new_figure(_PANEL[0] * n_col + 1, _PANEL[1] * n_row + 0.4)
    panels = figure.subplots(n_row, n_col, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, layer, image in zip(panels, history.layers, counts.unbind(1), strict=False):
        mesh = _draw_histogram(axes, history.steps, image / image.max().clamp(min=math.log(2)))
        axes.set_title(layer, fontsize="medium")
    _label_histograms(panels, len(history.layers), n_col, counts)
    figure.colorbar(
        mesh,
        ax=panels.tolist(),
        label="log(1 + count), scaled to 1",
        shrink=1 / n_row,
        anchor=(0, 1),
    )
    figure.suptitle("Distribution of activations over training")
    return figure


def _draw_histogram(axes: Axes, steps: Sequence[int], image: Tensor) -> Any:
    half = (steps[-1] - steps[0]) / max(len(steps) - 1, 1) / 2 or 0.5
    extent = (steps[0] - half, steps[-1] + half, 0, N_BINS)
    return axes.imshow(
        image.T.numpy(), aspect="auto", origin="lower", extent=extent, vmin=0, vmax=1, cmap="magma"
    )


def _label_histograms(panels: Any, n_layer: int, n_col: int, counts: Tensor) -> None:
    used = counts.sum((0, 1)).nonzero().flatten().tolist() or [0, N_BINS - 1]
    ticks = [-100.0, -10.0, -1.0, -0.1, 0.0, 0.1, 1.0, 10.0, 100.0]
    panels[0].set_yticks(
        bin_positions(torch.tensor(ticks)).tolist(), [f"{tick:g}" for tick in ticks]
    )
    panels[0].set_ylim(used[0] - 1, used[-1] + 2)
    for i, axes in enumerate(panels):
        axes.set_visible(i < n_layer)
        if i % n_col == 0:
            axes.set_ylabel("activation")
        if i + n_col >= n_layer:
            axes.set_xlabel("training batch")
            axes.tick_params(labelbottom=True)
