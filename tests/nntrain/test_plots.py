"""Plots show the recorded numbers without changing pyplot; errors say what is missing."""

import math
import sys
from io import BytesIO
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from nntrain import Callback, CancelEpochException, Learner, Recorder, plots
from nntrain.core.optimizer import split_by_children
from nntrain.statistics import ActivationStats, bin_positions, histogram_edges
from tests.common.toys import Lists, digits_lists, digits_mlp, toy_learner


def trained(*cbs: Callback, n_epoch: int = 2, **kwargs: Any) -> Learner:
    data = digits_lists()
    dls = Lists(list(data.train)[:6], list(data.valid or [])[:1])
    options: dict[str, Any] = {
        "model": digits_mlp(),
        "loss_func": nn.functional.cross_entropy,
        "lr": 0.1,
    }
    learn = toy_learner(dls, cbs=cbs, **(options | kwargs))
    learn.fit(n_epoch)
    return learn


def drawn(figure: Figure) -> Figure:
    figure.savefig(BytesIO(), format="png", dpi=40)
    return figure


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
    }


def labels(axes: Axes) -> tuple[str, str, str]:
    return axes.get_title(), axes.get_xlabel(), axes.get_ylabel()


def test_plot_loss_shows_raw_and_smoothed_losses_and_validation_at_the_ends_of_epochs() -> None:
    recorder = trained().recorder
    [axes] = drawn(recorder.plot_loss()).axes
    assert lines(axes) == {
        "train, each batch": (list(range(1, 13)), recorder.losses.tolist()),
        "train, smoothed": (list(range(1, 13)), recorder.smooth_losses.tolist()),
        "valid, end of epoch": ([6, 12], [row["valid/loss"] for row in recorder.rows]),
    }
    assert labels(axes) == ("Loss", "training batch", "loss")
    assert axes.get_legend() is not None


def test_validation_points_stay_at_their_epochs_after_a_cancelled_epoch() -> None:
    class CutShort(Callback):
        def before_batch(self, learn: Learner) -> None:
            if learn.training and (learn.epoch, learn.iter) == (1, 2):
                raise CancelEpochException

    recorder = trained(CutShort(), n_epoch=3).recorder
    assert recorder.epoch_ends == [6, 8, 14]
    [axes] = plots.plot_loss(recorder).axes
    assert lines(axes)["valid, end of epoch"][0] == [6, 14]


def test_epoch_ends_are_kept_in_the_state() -> None:
    recorder, restored = trained().recorder, Recorder()
    restored.load_state_dict(recorder.state_dict())
    assert restored.epoch_ends == [6, 12]


def test_plot_loss_without_validation_has_no_validation_line() -> None:
    learn = toy_learner(Lists([(torch.ones(4, 1), torch.ones(4, 1))], None))
    learn.fit(1)
    assert list(lines(drawn(plots.plot_loss(learn.recorder)).axes[0])) == [
        "train, each batch",
        "train, smoothed",
    ]


def test_plot_lrs_shows_learning_rate_and_momentum_by_group() -> None:
    learn = trained(opt_func=torch.optim.Adam, splitter=split_by_children, n_epoch=0)
    learn.fit_one_cycle(2, slice(1e-3, 1e-1))
    recorder = learn.recorder
    lrs, moms = drawn(recorder.plot_lrs()).axes
    assert labels(lrs) == ("Learning rate", "training batch", "learning rate")
    assert labels(moms) == ("Momentum", "training batch", "momentum")
    for axes, groups in ((lrs, recorder.lrs), (moms, recorder.moms)):
        assert {name: values for name, (_, values) in lines(axes).items()} == {
            f"group {g}": v for g, v in groups.items()
        }
        assert axes.get_legend() is not None


def test_plot_lrs_of_one_group_without_momentum_is_one_panel_without_legend() -> None:
    class Plain:
        def __init__(self, params: Any, lr: float) -> None:
            self.param_groups = [{"params": list(group["params"]), "lr": lr} for group in params]

        def step(self) -> None: ...

        def zero_grad(self) -> None: ...

    [axes] = drawn(plots.plot_lrs(trained(opt_func=Plain).recorder)).axes
    assert axes.get_title() == "Learning rate"
    assert axes.get_legend() is None


@pytest.fixture
def stats() -> ActivationStats:
    stats = ActivationStats(every=2)
    trained(stats)
    return stats


def test_plot_layer_stats_shows_mean_and_std_of_each_layer(stats: ActivationStats) -> None:
    figure = drawn(plots.plot_layer_stats(stats))
    history = stats.history()
    for axes, name, title in zip(
        figure.axes, ("mean", "std"), ("Mean", "Standard deviation"), strict=True
    ):
        assert labels(axes) == (f"{title} of activations", "training batch", title.lower())
        values = history.values[name]
        assert lines(axes) == {
            layer: (history.steps, values[:, i].tolist()) for i, layer in enumerate(history.layers)
        }
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]


def test_plot_dead_shows_percent(stats: ActivationStats) -> None:
    [axes] = drawn(plots.plot_dead(stats)).axes
    shares = stats.history().values["dead_frac"][:, 1]
    assert shares.max() > 0
    assert lines(axes)["1"] == ([1, 3, 5, 7, 9, 11], (100 * shares).tolist())
    assert axes.get_ylabel() == "units (%)"


def test_plot_histograms_has_a_panel_per_layer_with_the_log_of_the_counts(
    stats: ActivationStats,
) -> None:
    figure = drawn(plots.plot_histograms(stats))
    *panels, colorbar = figure.axes
    assert [axes.get_title() for axes in panels] == ["0", "1", "2"]
    counts = torch.log1p(stats.histograms())
    for i, axes in enumerate(panels):
        [image] = axes.images
        assert torch.equal(
            torch.as_tensor(image.get_array()), (counts[:, i] / counts[:, i].max()).T
        )
        assert list(image.get_extent()) == [0, 12, 0, 81]
    assert (panels[0].get_ylabel(), panels[0].get_xlabel()) == ("activation", "training batch")
    assert colorbar.get_ylabel() == "log(1 + count), scaled to 1"


def test_histogram_ticks_are_at_the_positions_of_their_bins() -> None:
    edges = histogram_edges()
    assert bin_positions(edges).tolist() == pytest.approx(list(range(82)))
    assert bin_positions(torch.tensor([0.0, 1e9])).tolist() == pytest.approx([40.5, 81])


@pytest.mark.parametrize("n_layer", [1, 5])
def test_layers_with_nan_and_layers_that_never_run_can_be_drawn(
    n_layer: int,
) -> None:
    class Idle(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self[0](x)
            return out * math.nan

    stats = ActivationStats()
    trained(stats, model=Idle(*(nn.Linear(64, 10) for _ in range(n_layer))))
    visible = [axes for axes in drawn(plots.plot_histograms(stats)).axes if axes.get_visible()]
    assert len(visible) == n_layer + 1
    drawn(plots.plot_layer_stats(stats))
    drawn(plots.plot_dead(stats))


def test_a_layer_that_runs_in_every_second_batch_shows_those_batches() -> None:
    class EverySecond(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.sometimes, self.n = nn.Linear(64, 10), nn.ReLU(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n += self.training
            out: torch.Tensor = self.always(x)
            if self.n % 2:
                out = self.sometimes(out)
            return out

    stats = ActivationStats()
    trained(stats, model=EverySecond(), n_epoch=1)
    figure = drawn(plots.plot_histograms(stats))
    columns = torch.as_tensor(figure.axes[1].images[0].get_array()).amax(0)
    assert (columns > 0).tolist() == [True, False] * 3
    assert columns.max() == 1


@pytest.mark.parametrize("plot", [plots.plot_layer_stats, plots.plot_dead, plots.plot_histograms])
def test_statistics_without_rows_are_an_error(plot: Any) -> None:
    with pytest.raises(ValueError, match="train with the callback ActivationStats"):
        plot(ActivationStats())


@pytest.mark.parametrize("plot", [plots.plot_loss, plots.plot_lrs])
def test_a_recorder_without_batches_is_an_error(plot: Any) -> None:
    with pytest.raises(ValueError, match="to plot: train with fit"):
        plot(Recorder())


def test_without_matplotlib_the_error_is_one_line_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = trained().recorder
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^Plots need matplotlib: pip install 'nntrain\[plots\]'\.$"
    ):
        recorder.plot_loss()


def test_plotting_does_not_change_the_global_state_of_pyplot(stats: ActivationStats) -> None:
    import matplotlib.pyplot as plt

    plots.plot_histograms(stats)
    assert plt.get_fignums() == []
