"""Writes `report.html`, a single file with the figures of a study; needs no network."""

from __future__ import annotations

import html
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optuna import Study, visualization
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from nntrain.config.door import open_text
from nntrain.sweeps.report.results import REPORT, final_table, value_names
from nntrain.sweeps.spec.plan import SweepPlan

if TYPE_CHECKING:
    import plotly.graph_objects as go

_STYLE = (
    "body{font-family:sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}"
    "pre{overflow-x:auto}"
)


def figures(plan: SweepPlan, study: Study) -> dict[str, go.Figure]:
    """Returns the figures of a study by name; figures without data are omitted.

    With one objective, the figures are the optimization history, the intermediate values, the
    parameter importances, and the parallel coordinates. With several objectives, the only figure
    is the Pareto front.
    """
    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    found: dict[str, go.Figure] = {}
    if len(plan.directions) == 1:
        found |= _of_one(study, trials, done, value_names(plan)[0])
    elif done:
        found["front"] = visualization.plot_pareto_front(study, target_names=value_names(plan))
    return found


def _of_one(
    study: Study, trials: Sequence[FrozenTrial], done: Sequence[FrozenTrial], name: str
) -> dict[str, go.Figure]:
    found: dict[str, go.Figure] = {}
    if done:
        found["history"] = visualization.plot_optimization_history(study, target_name=name)
    if any(
        trial.intermediate_values and trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        for trial in trials
    ):
        found["intermediate_values"] = visualization.plot_intermediate_values(study)
    if (
        len({tuple(trial.params.items()) for trial in done}) > 1
        and len({trial.values[0] for trial in done}) > 1
    ):
        found["importances"] = _importances(study, name)
    if done and done[0].params:
        found["parallel_coordinates"] = visualization.plot_parallel_coordinate(
            study, target_name=name
        )
    return found


def _importances(study: Study, name: str) -> go.Figure:
    return visualization.plot_param_importances(study, target_name=name)


def write_report(plan: SweepPlan, study: Study) -> dict[str, go.Figure]:
    """Writes the report to the study's folder; returns the figures in the report.

    Raises:
        ImportError: if plotly is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # ignore warnings about too few trials or equal values: the figures already show this
        warnings.simplefilter("ignore", UserWarning)
        drawn = figures(plan, study)
    trials = study.get_trials(deepcopy=False)
    table = html.escape("\n".join(final_table(plan, trials)))
    name = html.escape(plan.study_name)
    head = f"<title>{name}</title><style>{_STYLE}</style><h1>{name}</h1><pre>{table}</pre>"
    _write_page(plan.folder / REPORT, head, list(drawn.values()))
    return drawn


def write_figure(path: Path, figure: go.Figure) -> None:
    """Writes a figure as an HTML file that needs no network, without secrets."""
    _write_page(path, "", [figure])


def _write_page(path: Path, head: str, drawn: Sequence[go.Figure]) -> None:
    with open_text(path) as file:
        file.write(f"<!doctype html><meta charset=utf-8>{head}\n")
        if drawn:
            from plotly.offline import get_plotlyjs

            file.write_as_is(f"<script>{get_plotlyjs()}</script>\n")
        for figure in drawn:
            file.write(figure.to_html(full_html=False, include_plotlyjs=False) + "\n")
